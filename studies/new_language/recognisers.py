"""How often recognisers mistake recorded digits: as they are, damaged, and resynthesised by the demo's codec.

    python -m studies.new_language.recognisers --output studies/new_language/recognisers.json

The strings are composed of the recordings that are the templates of WordTemplates, with other pauses and gains: only
the damaged ones say how it hears what is not identical. Word error rates over all strings, with their counts.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.sources.asterisk import AsteriskSource
from datamodules.sources.digits import NumeralsSource
from modules.api import Audio
from modules.codec.formats.checkpoints import CodecCheckpoint
from modules.recognition import Recogniser
from modules.verifiers.recognisers.normalise import BasicWords, Digits
from modules.verifiers.recognisers.pocketsphinx import Pocketsphinx
from modules.verifiers.recognisers.whisper import FasterWhisper
from modules.verifiers.recognisers.word_templates import WordTemplates
from studies.collected import date_and_machine, write_json

LANGUAGES = ("en", "es", "fr", "it", "ru")
RATE = 16_000


def damages(codec: CodecCheckpoint) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What is done to a clip, by name."""
    from scipy.signal import butter, resample, sosfilt

    def noisy(decibels: float) -> Callable[[np.ndarray], np.ndarray]:
        noise = np.random.default_rng(0)
        return lambda clip_T: (
            clip_T + noise.standard_normal(len(clip_T)) * np.sqrt((clip_T**2).mean()) * 10 ** (-decibels / 20)
        )

    def resynthesised(clip_T: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            audio_BT = torch.from_numpy(clip_T).float()[None]
            codes_BS, num_codes_B = codec.encode(audio_BT, torch.tensor([len(clip_T)]))
            return codec.decode(codes_BS, num_codes_B)[0].numpy()

    low_pass = butter(4, 2000, fs=RATE, output="sos")
    return {
        "recordings": lambda clip_T: clip_T,
        "15 % slower, lower": lambda clip_T: resample(clip_T, round(len(clip_T) * 1.15)),
        "15 % faster, higher": lambda clip_T: resample(clip_T, round(len(clip_T) / 1.15)),
        "low-pass of 2 kHz": lambda clip_T: sosfilt(low_pass, clip_T),
        "white noise at 20 dB": noisy(20),
        "white noise at 10 dB": noisy(10),
        "the demo's codec": resynthesised,
    }


def errors(recogniser: Recogniser, clips: Sequence[np.ndarray], texts: Sequence[str], language: str) -> dict[str, Any]:
    """Word error rate and counts: English by `Digits`, which knows number words, the others by `BasicWords`."""
    import jiwer

    audios = [Audio(torch.from_numpy(np.ascontiguousarray(clip_T)).float(), RATE) for clip_T in clips]
    normalise = (lambda text: " ".join(Digits()(text))) if language == "en" else BasicWords()
    heard = [normalise(text) for text in recogniser.transcribe(audios, language)]
    counted = jiwer.process_words(list(texts), heard)
    return {
        "error": counted.wer,
        "substitutions": counted.substitutions,
        "insertions": counted.insertions,
        "deletions": counted.deletions,
        "num_words": sum(len(text.split()) for text in texts),
        "num_strings_heard_right": sum(map(str.__eq__, texts, heard)),
        "num_strings": len(texts),
        "heard": heard,
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    changes = damages(CodecCheckpoint(given.codec))
    templates = WordTemplates(given.templates)
    others: dict[str, tuple[Recogniser, Sequence[str]]] = {}
    if given.whisper:
        others["Whisper base"] = (
            FasterWhisper(given.whisper, device="cpu", num_workers=1, window_seconds=15),
            LANGUAGES,
        )
    others["Whisper tiny.en"] = (FasterWhisper(device="cpu", num_workers=1, window_seconds=15), ("en",))
    others["pocketsphinx"] = (Pocketsphinx(), ("en",))
    found: dict[str, Any] = {**date_and_machine(), "templates": {}, "others": {}}
    for language in given.languages:
        source = AsteriskSource(given.cache, [language])
        strings = NumeralsSource(source, language, given.strings, 4, 6, "test", seed=7, grid_seconds=0.0)
        recordings = list(strings.recordings())
        clips, texts = [one.audio.samples_T.numpy() for one in recordings], [one.text for one in recordings]
        for name, change in changes.items():
            changed = [change(clip_T) for clip_T in clips]
            found["templates"].setdefault(language, {})[name] = errors(templates, changed, texts, language)
            for other, (recogniser, languages) in others.items():
                if language in languages and name in ("recordings", "the demo's codec"):
                    few = slice(given.few)
                    own = found["others"].setdefault(other, {}).setdefault(language, {})
                    own[name] = errors(recogniser, changed[few], texts[few], language)
        print(
            language, {name: round(one["error"], 3) for name, one in found["templates"][language].items()}, flush=True
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path("cache/asterisk"))
    parser.add_argument("--templates", type=Path, default=Path("cache/digit_words"))
    parser.add_argument("--codec", type=Path, default=Path("runs/demo/codec/checkpoints/last.ckpt"))
    parser.add_argument("--whisper", default="base", help="a multilingual Whisper; '' for none")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES)
    parser.add_argument("--strings", type=int, default=30)
    parser.add_argument("--few", type=int, default=12, help="strings for the other recognisers")
    parser.add_argument("--output", type=Path, default=Path("studies/new_language/recognisers.json"))
    given = parser.parse_args()
    write_json(measure(given), given.output)


if __name__ == "__main__":
    main()
