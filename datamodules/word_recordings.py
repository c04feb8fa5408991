"""Writes recordings of single words as LANGUAGE/WORD.wav, the templates of a recogniser of few words.

    python -m datamodules.word_recordings cache/asterisk cache/digit_words --languages es ru

They are the digits of the Asterisk prompts. For words or a voice of your own, put recordings of these names there.
"""

import argparse
import re
from pathlib import Path

from datamodules.sources.asterisk import AsteriskSource
from datamodules.sources.digits import trim_silence
from datamodules.sources.source import Recording
from modules.api import Audio
from modules.audio import write_wav


def write_digits(recordings: AsteriskSource, folder: Path) -> list[Path]:
    """Write LANGUAGE/0.wav to LANGUAGE/9.wav, without the silence around them; digits that are not certain are left
    out. Returns the files."""
    written = []
    for key, item in recordings.keyed_items():
        digit = re.fullmatch(r"([a-z]{2})_digits_(\d)", key)
        found = recordings.recording(key, item) if digit else None
        if digit is None or not isinstance(found, Recording):
            continue
        path = folder / digit[1] / f"{digit[2]}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = found.audio.sample_rate
        write_wav(Audio(trim_silence(found.audio.samples_T, rate), rate), path)
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="the packages of the Asterisk prompts, downloaded where missing")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--languages", nargs="+", default=["en", "es", "fr", "it", "ru"])
    given = parser.parse_args()
    written = write_digits(AsteriskSource(given.cache, given.languages), given.folder)
    print(f"{len(written)} recordings written to {given.folder}")


if __name__ == "__main__":
    main()
