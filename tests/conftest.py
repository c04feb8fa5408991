"""Shared by all tests: few threads, seeds that do not depend on the order of tests, synthetic and real speech."""

import os
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that accesses a model hub fails at once, everywhere

import numpy as np
import pytest
import torch

from datamodules.sources.source import Recording
from modules.api import Audio

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_RATE = 16_000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def pytest_configure() -> None:
    torch.set_num_threads(1)  # tiny tensors: a second thread mostly waits


@pytest.fixture(autouse=True)
def _seeds() -> Iterator[None]:
    """The same random numbers for a test whether it runs alone or after others; restores thread settings."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test use the global state
    torch.manual_seed(0)
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


def speech_like(words: list[str], pitch: float, generator: torch.Generator) -> torch.Tensor:
    """Harmonics with two formants that depend on the word, 0.25 s per word with 0.06 s of near silence between;
    (T,)."""
    pieces = []
    for word in words:
        times = torch.arange(int(0.25 * SAMPLE_RATE)) / SAMPLE_RATE
        number = sum(map(ord, word))
        formants = 300 + 13 * (number % 41), 1100 + 29 * (number % 53)
        frequency = pitch * (1 + 0.05 * torch.sin(2 * torch.pi * 3 * times))
        phase = 2 * torch.pi * torch.cumsum(frequency, 0) / SAMPLE_RATE
        tone = torch.zeros_like(phase)
        for harmonic in range(1, int(4000 / pitch)):
            level = sum(1 / (1 + ((harmonic * pitch - formant) / 120) ** 2) for formant in formants)
            tone = tone + level * torch.sin(harmonic * phase)
        pause = 0.002 * torch.randn(int(0.06 * SAMPLE_RATE), generator=generator)
        pieces += [tone * torch.hann_window(times.numel()), pause]
    samples_T = torch.cat(pieces)
    return 0.4 * samples_T / samples_T.abs().max() + 0.001 * torch.randn(samples_T.numel(), generator=generator)


@pytest.fixture(scope="session")
def tiny_recordings() -> list[Recording]:
    """24 synthetic digit strings of 2 to 4 words by two voices, 16 kHz, 0.6 to 1.3 s, for tests without intelligible
    words."""
    generator = torch.Generator().manual_seed(7)
    recordings = []
    for number in range(24):
        count = 2 + number % 3
        words = [DIGITS[int(i)] for i in torch.randint(10, (count,), generator=generator)]
        pitch = (110.0, 190.0)[number % 2]
        recordings.append(
            Recording(
                key=f"tiny_{number:02d}",
                audio=Audio(speech_like(words, pitch, generator).float(), SAMPLE_RATE),
                text=" ".join(words),
                speaker=("low", "high")[number % 2],
                language="en",
                source="synthetic",
                license="CC0-1.0",
                split="held_out" if number % 6 == 0 else "train",
            )
        )
    return recordings


@pytest.fixture(scope="session")
def english_prompts() -> list[Recording]:
    """20 recorded English prompts of 1.5 to 6 s and at least three words, from the cache or downloaded into it."""
    from datamodules.sources.asterisk import AsteriskSource

    source = AsteriskSource(cache=REPOSITORY / "cache/asterisk", languages=("en",))
    try:
        recordings = (item for item in source.recordings() if isinstance(item, Recording))
        usable = (r for r in recordings if 1.5 <= r.audio.seconds <= 6 and len(r.text.split()) >= 3)
        prompts = list(islice(usable, 0, 160, 8))  # spread out: adjacent prompts have similar texts
    except (OSError, RuntimeError) as error:
        pytest.skip(f"the recorded prompts could not be had: {error}")
    assert len(prompts) == 20
    return prompts
