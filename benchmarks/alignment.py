"""Errors of aligned word times against times that are known: of digit strings, from the composition, and of flite's
speech, from its own durations.

    python -m benchmarks.alignment [--num_strings 50] [--num_sentences 100] [--cache cache/asterisk] [--json FILE]

flite (a Debian package) is taken from PATH; without it, or with --num_sentences 0, only digit strings are measured.
Its sentences are texts of the recorded prompts, of five words or more, in four voices in turn. It prints no bounds of
words: they are counted off with the phonemes of each word spoken alone; sentences where the numbers differ are left
out.
Prints for starts and ends: the median and 90th percentile of the absolute error and the median error in seconds, and
the share within 50 ms; and how many sentences were refused, with their own words and with those of the next one.
"""

import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scaffold import machine, options, report
from datamodules.sources.asterisk import AsteriskSource
from datamodules.sources.digits import DIGIT_WORDS, compose, trim_silence
from datamodules.sources.source import Recording
from modules.api import Audio
from modules.audio import read_audio
from modules.frontend.alignment import PhonemeAligner, TimedWord
from modules.frontend.phonemes import pronunciations, spoken_words

VOICES = ("slt", "rms", "awb", "kal16")
MAX_ERROR_SECONDS = 0.05

Timed = tuple[Audio, list[TimedWord]]


def digit_strings(recordings: Sequence[Recording], num_strings: int, seed: int = 0) -> Iterator[Timed]:
    """Strings of 1 to 8 recorded digits with pauses of 40 to 160 ms, each with its words' times."""
    spoken = {recording.key: recording.audio for recording in recordings}
    sounds = [spoken[f"en_digits_{digit}"] for digit in range(10)]
    rate, noise = sounds[0].sample_rate, random.Random(seed)
    trimmed = [trim_silence(sound.samples_T, rate) for sound in sounds]
    for number in range(num_strings):
        digits = [noise.randrange(10) for _ in range(1 + number % 8)]
        words = [trimmed[digit] for digit in digits]
        pauses = [round(noise.uniform(0.04, 0.16) * rate) for _ in range(len(digits) + 1)]
        samples_T = compose(words, pauses, noise.uniform(0.5, 1.0))
        times, end = [], 0
        for digit, word, pause in zip(digits, words, pauses, strict=False):
            start, end = end + pause, end + pause + word.numel()
            times.append(TimedWord(DIGIT_WORDS[digit], start / rate, end / rate))
        yield Audio(samples_T, rate), times


def flite(*arguments: str) -> list[str]:
    return subprocess.run(["flite", *arguments], capture_output=True, text=True, check=True).stdout.split()


@cache
def num_phonemes(word: str) -> int:
    return sum(phoneme != "pau" for phoneme in flite("-voice", "kal16", "-ps", "-t", f"{word} ", "-o", "none"))


def flite_sentences(texts: Sequence[str], folder: Path) -> Iterator[Timed]:
    """Sentences of letters and plain punctuation as flite speaks them, each with its words' times."""
    usable = [text for text in texts if re.fullmatch(r"[A-Za-z',.?! ]+", text) and len(text.split()) >= 5]
    for number, text in enumerate(usable):
        file = folder / f"{number}.wav"
        printed = flite("-voice", VOICES[number % len(VOICES)], "-psdur", "-t", text, "-o", str(file))
        names, ends = zip(*(segment.split(":") for segment in printed), strict=True)
        bounds = [0.0, *map(float, ends)]
        phonemes = [index for index, name in enumerate(names) if name != "pau"]
        words = spoken_words(text)
        counts = [num_phonemes(word) for word in words]
        if sum(counts) != len(phonemes):
            continue
        lasts = np.cumsum(counts)
        yield (
            read_audio(file),
            [
                TimedWord(word, bounds[phonemes[last - count]], bounds[phonemes[last - 1] + 1])
                for word, count, last in zip(words, counts, lasts, strict=True)
            ],
        )


def statistics(errors: Sequence[float]) -> dict[str, float]:
    sizes = np.abs(errors)
    named = {
        "median": np.median(sizes),
        "p90": np.quantile(sizes, 0.9),
        "bias": np.median(errors),
        "within_50_ms": np.mean(sizes < MAX_ERROR_SECONDS),
    }
    return {name: round(float(value), 4) for name, value in named.items()}


def errors(aligner: PhonemeAligner, utterances: Sequence[Timed]) -> dict[str, Any]:
    """Errors of the starts and ends of the words, and how many utterances were refused."""
    starts, ends, num_refused, num_others_refused = [], [], 0, 0
    seconds = -time.process_time()
    for audio, words in utterances:
        try:
            found = aligner.align(audio, [word.word for word in words])
        except ValueError:
            num_refused += 1
            continue
        starts += [one.start - word.start for one, word in zip(found, words, strict=True)]
        ends += [one.end - word.end for one, word in zip(found, words, strict=True)]
    seconds += time.process_time()
    others = [*utterances[1:], *utterances[:1]]
    for (audio, words), (_, other_words) in zip(utterances, others, strict=True):
        spoken, other = ([word.word for word in either] for either in (words, other_words))
        try:
            aligner.align(audio, other)
        except ValueError:
            num_others_refused += spoken != other
    return {
        "utterances": len(utterances),
        "words": sum(len(words) for _, words in utterances),
        "refused": num_refused,
        "refused_with_other_words": num_others_refused,
        "start": statistics(starts),
        "end": statistics(ends),
        "real_time_factor": round(seconds / sum(audio.seconds for audio, _ in utterances), 4),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--num_strings", type=int, default=50)
    parser.add_argument("--num_sentences", type=int, default=100)
    parser.add_argument("--cache", type=Path, default=Path("cache/asterisk"))
    arguments = parser.parse_args()
    source = AsteriskSource(cache=arguments.cache, languages=("en",))
    recordings = [item for item in source.recordings() if isinstance(item, Recording)]
    aligner = PhonemeAligner(pronunciations)
    result: dict[str, Any] = {"digits": errors(aligner, list(digit_strings(recordings, arguments.num_strings)))}
    if arguments.num_sentences and shutil.which("flite"):
        texts = sorted({recording.text for recording in recordings})
        with tempfile.TemporaryDirectory() as folder:
            sentences = list(islice(flite_sentences(texts, Path(folder)), arguments.num_sentences))
        result["flite"] = errors(aligner, sentences)
    report({**result, **machine("pocketsphinx")}, arguments.json)


if __name__ == "__main__":
    main()
