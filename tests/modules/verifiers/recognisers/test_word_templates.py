"""WordTemplates: its search against every path, and recordings of known words in other surroundings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.word_recordings import write_digits
from modules.api import Audio
from modules.audio import write_wav
from modules.settings import constructor_settings
from modules.verifiers.recognisers.normalise import BasicWords
from modules.verifiers.recognisers.word_templates import WordTemplates, cheapest_words
from modules.verifiers.transcript import Transcript

RATE = 16_000
SWEEPS = {"up": (300, 2500), "down": (2500, 300), "high": (3000, 3200), "low": (400, 350)}


def sweep(word: str, seconds: float = 0.4) -> np.ndarray:
    """A word of an invented language: three harmonics whose pitch glides."""
    first, last = SWEEPS[word]
    times_T = np.arange(round(seconds * RATE)) / RATE
    phase_T = 2 * np.pi * (first * times_T + (last - first) * times_T**2 / (2 * seconds))
    return (np.sin(phase_T) + 0.5 * np.sin(1.5 * phase_T) + 0.2 * np.sin(2 * phase_T)) * np.hanning(len(times_T)) ** 0.3


def written(folder: Path) -> Path:
    """The folder, with a template of each sweep."""
    for word in SWEEPS:
        path = folder / "xx" / f"{word}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(Audio(torch.from_numpy(0.3 * sweep(word)).float(), RATE), path)
    return folder


def clip(words: list[tuple[str, float]], pause: float, gain: float, noise: float = 0.0) -> Audio:
    silence = np.zeros(round(pause * RATE))
    samples_T = np.concatenate([silence, *(part for word in words for part in (sweep(*word), silence))])
    samples_T = gain * samples_T + noise * np.random.default_rng(0).standard_normal(len(samples_T))
    return Audio(torch.from_numpy(samples_T).float(), RATE)


def every_path(costs_FS: np.ndarray, pause_costs_F: np.ndarray, starts: list[int], penalty: float) -> list[int]:
    """The cheapest sequence, by walking every path."""
    ends = [*starts[1:], costs_FS.shape[1]]
    found: list[tuple[float, list[int]]] = []

    def walk(frame: int, cost: float, words: list[int], place: int | None, is_first_stay: bool) -> None:
        if place is None or place == ends[words[-1]] - 1:
            if frame == len(costs_FS):
                found.append((cost, words))
                return
            walk(frame + 1, cost + pause_costs_F[frame], words, None, True)
            for word, start in enumerate(starts):
                walk(frame + 1, cost + penalty + costs_FS[frame, start], [*words, word], start, True)
        if place is not None and frame < len(costs_FS):
            if is_first_stay:
                walk(frame + 1, cost + costs_FS[frame, place], words, place, False)
            for other in (place + 1, place + 2):
                if other < ends[words[-1]]:
                    walk(frame + 1, cost + costs_FS[frame, other], words, other, True)

    walk(0, 0.0, [], None, True)
    return min(found)[1]


@pytest.mark.parametrize("seed", range(20))
def test_search_equals_the_best_of_every_path(seed: int) -> None:
    """Guards against a pruned, mixed-up or impossible path: a wrong start, a step of three, a frame held twice."""
    noise = np.random.default_rng(seed)
    costs_FS, pause_costs_F = noise.random((7, 6)), noise.random(7)
    starts = [0, 3, 4] if seed % 2 else [0, 2]
    penalty = 0.4 * noise.random()
    got = cheapest_words(costs_FS, pause_costs_F, np.array(starts), penalty)
    assert got == every_path(costs_FS, pause_costs_F, starts, penalty)


def test_words_are_found_at_other_speeds_levels_and_pauses(tmp_path: Path) -> None:
    """Guards against templates that fit only their own recording: each clip differs in tempo, level, pause and noise,
    has a word twice in a row, and is cut out of an alphabet in which two words differ in their order in time alone."""
    recogniser = WordTemplates(written(tmp_path))
    words = ["up", "down", "down", "low", "high", "up"]
    clips = [
        clip([(word, 0.3) for word in words], 0.05, 0.9),
        clip([(word, 0.6) for word in words], 0.30, 0.01),
        clip([(word, 0.4) for word in words], 0.00, 0.3),
        clip([(word, 0.4) for word in words], 0.15, 0.3, noise=0.01),
        clip([("low", 0.4)], 0.5, 0.3),
        Audio(torch.zeros(RATE), RATE),
    ]
    assert recogniser.transcribe(clips, "xx") == [" ".join(words)] * 4 + ["low", ""]
    resampled = Audio(clips[0].samples_T[::2].contiguous(), RATE // 2)
    assert recogniser.transcribe([resampled], "xx") == [" ".join(words)]


def test_penalty_hash_and_errors(tmp_path: Path) -> None:
    """Guards against scores stored under the wrong key: other templates, or the same under other words, are another
    judge, another place or penalty is not; and against a language that is judged with another's words."""
    recogniser = WordTemplates(written(tmp_path / "a"))
    moved = WordTemplates(written(tmp_path / "b"), word_penalty=1e6)
    assert recogniser.model_hash == moved.model_hash
    assert constructor_settings(recogniser) != constructor_settings(moved)
    assert moved.transcribe([clip([("up", 0.4)], 0.2, 0.3)], "xx") == [""]
    (tmp_path / "b/xx/up.wav").rename(tmp_path / "b/xx/upward.wav")
    assert WordTemplates(tmp_path / "b").model_hash != recogniser.model_hash
    assert Transcript(recogniser, BasicWords()).facts.families == {"dtw"}
    with pytest.raises(ValueError, match="templates"):
        recogniser.transcribe([Audio(torch.zeros(RATE), RATE)], "yy")
    with pytest.raises(FileNotFoundError, match="LANGUAGE/WORD"):
        WordTemplates(tmp_path / "none").transcribe([Audio(torch.zeros(RATE), RATE)], "xx")
    write_wav(Audio(torch.zeros(RATE), RATE), tmp_path / "a/xx/none.wav")
    with pytest.raises(ValueError, match="none"):
        WordTemplates(tmp_path / "a").transcribe([Audio(torch.zeros(RATE), RATE)], "xx")


def test_recorded_russian_digits(tmp_path: Path) -> None:
    """Guards against a recogniser that knows invented words only: recorded digits of a language without another one
    here, behind noise and a low-pass filter, with other pauses than their templates have."""
    from datamodules.sources.asterisk import AsteriskSource
    from datamodules.sources.digits import NumeralsSource

    prompts = AsteriskSource(Path(__file__).parents[4] / "cache/asterisk", ["ru"])
    try:
        written = write_digits(prompts, tmp_path)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"the recorded prompts could not be had: {error}")
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [f"ru/{digit}.wav" for digit in range(10)]
    source = NumeralsSource(prompts, "ru", 6, 4, 6, "test", grid_seconds=0.0)
    recordings = list(source.recordings())
    noise = np.random.default_rng(0)
    damaged = []
    for recording in recordings:
        samples_T = recording.audio.samples_T.numpy()
        smooth_T = np.convolve(samples_T, [0.25, 0.5, 0.25], "same")
        level = 0.05 * np.sqrt((samples_T**2).mean())
        noisy_T = smooth_T + level * noise.standard_normal(len(samples_T))
        damaged.append(Audio(torch.from_numpy(noisy_T).float(), recording.audio.sample_rate))
    assert WordTemplates(tmp_path).transcribe(damaged, "ru") == [recording.text for recording in recordings]
