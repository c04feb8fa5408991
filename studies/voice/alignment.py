"""Errors of aligned word ends (AlignedSource) on speech whose times are known: held-out sentences spoken by flite.

    python -m studies.voice.alignment

Needs flite (apt-get install flite). Speaks the 200 test sentences of configs/voice/open/prepare.yaml in three voices
and aligns them twice: with the words that flite has spoken, and with the text as written, whose words differ from
flite's where numbers and abbreviations are read otherwise. The last word ends with the audio and is left out. For
comparison: ends in proportion to the characters. Writes alignment.json beside this file.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.sources.aligned import aligned_words
from datamodules.sources.flite import SPEAKERS, Flite
from datamodules.sources.source import Recording
from datamodules.sources.teacher import TeacherSource
from datamodules.sources.template_sentences import TemplateSentences
from datamodules.sources.wordnet import WordNetSentences
from modules.audio import message_of
from studies.collected import date_and_machine, write_json

HERE = Path(__file__).parent
NUM_SENTENCES = 200
NUM_TEMPLATES = 6000
CLOSE_MS = 50

Timed = Sequence[tuple[str, float]]


def sentences(voice: str) -> list[Recording]:
    """The test sentences of the open voice, with their exact `words`. Texts are as spoken."""
    texts = [WordNetSentences("examples"), WordNetSentences("definitions"), TemplateSentences(NUM_TEMPLATES)]
    source = TeacherSource(Flite(voice), texts, num_sentences=0, num_held_out=200, num_test=NUM_SENTENCES)
    spoken = [source.recording(key, item) for key, item in source.keyed_items() if item.split == "test"]
    return [recording for recording in spoken if isinstance(recording, Recording)]


def by_characters(recording: Recording) -> list[tuple[str, float]]:
    """The words with ends in proportion to the characters, each with the space after it."""
    words = recording.text.split()
    num_characters = list(accumulate(len(word) + 1 for word in words))
    return [
        (word, recording.audio.seconds * end / num_characters[-1])
        for word, end in zip(words, num_characters, strict=True)
    ]


def errors_ms(found: Timed, exact: Timed) -> list[float]:
    """Found minus exact ends of all words but the last."""
    return [1000 * (one - other) for (_, one), (_, other) in zip(found[:-1], exact[:-1], strict=True)]


def statistics(errors: Sequence[float]) -> dict[str, float | int]:
    sizes = np.abs(errors)
    named = {
        "mean_ms": np.mean(sizes),
        "median_ms": np.median(sizes),
        "p90_ms": np.quantile(sizes, 0.9),
        "bias_ms": np.median(errors),
    }
    rounded: dict[str, float | int] = {name: round(float(value), 1) for name, value in named.items()}
    return {"word_ends": len(sizes), **rounded, f"within_{CLOSE_MS}_ms": round(float(np.mean(sizes <= CLOSE_MS)), 4)}


def measured(recordings: Sequence[Recording]) -> dict[str, Any]:
    """Errors with the spoken text and of the shares by characters; what was refused; agreement from written text."""
    failures: list[dict[str, str]] = []
    errors: list[float] = []
    shared: list[float] = []
    num_same = num_other = 0
    seconds = -time.process_time()
    for recording in recordings:
        exact = [(word, end) for word, end in recording.more["words"]]
        try:
            errors += errors_ms(aligned_words(recording), exact)
            shared += errors_ms(by_characters(recording), exact)
        except ValueError as error:
            failures.append({"text": recording.text, "reason": message_of(error)})
    seconds += time.process_time()
    for recording in recordings:
        try:
            found = aligned_words(replace(recording, text=recording.more["written"]))
        except ValueError:
            continue
        is_same = [word for word, _ in found] == recording.text.split()
        num_same, num_other = num_same + is_same, num_other + (not is_same)
    return {
        "sentences": len(recordings),
        "hours": round(sum(recording.audio.seconds for recording in recordings) / 3600, 3),
        "refused": len(failures),
        "aligned": statistics(errors),
        "by_characters": statistics(shared),
        "from_written_text": {"same_words": num_same, "other_words": num_other},
        "real_time_factor": round(seconds / sum(recording.audio.seconds for recording in recordings), 4),
        "failures": failures,
    }


def main() -> None:
    release = subprocess.run(["flite", "--version"], capture_output=True, text=True).stdout  # its exit status is 1
    flite = release.partition("version: ")[2].split()[0]
    found = {
        **date_and_machine(),
        "command": "python -m studies.voice.alignment",
        "versions": {"flite": flite, "pocketsphinx": version("pocketsphinx")},
        "voices": {voice: measured(sentences(voice)) for voice in SPEAKERS},
    }
    write_json(found, HERE / "alignment.json")


if __name__ == "__main__":
    main()
