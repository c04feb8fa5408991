"""A recogniser of few words for any language: dynamic time warping against a recording of each.

Shapes: T audio samples, F frames of 10 ms, C cepstral coefficients, S template frames of all words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from modules.api import Audio
from modules.audio import read_audio
from modules.verifiers.audio import resampled

SAMPLE_RATE = 16_000
HOP, WINDOW, FFT_SIZE = 160, 400, 512
NUM_MELS, NUM_CEPSTRA = 26, 13
MEL_HERTZ = (80.0, 7_000.0)
FLOOR_DECIBELS = 60.0  # bands further below the loudest frame count as equally silent
SPEECH_DECIBELS = 30.0  # frames less far below the loudest are speech
NOISE_QUANTILE = 0.05  # of the frames' levels: the clip's background
NOISE_MARGIN_DECIBELS = 6.0
PAUSE_DECIBELS = (-45.0, -15.0)  # bounds of the level, relative to the loudest frame, below which a frame is a pause
SILENT_DECIBELS = -50.0  # of the loudest frame's spectrum: digital silence and rounding
DECIBELS_PER_COST = 8.0  # a frame this much louder costs as much as one of unrelated speech
SLOPE_FRAMES = 3  # to each side
MIN_TEMPLATE_FRAMES = 5


class WordTemplates:
    """Recognises words of a closed vocabulary in connected speech: the sequence of templates and pauses that warps onto
    the clip at the least cost (one-stage dynamic programming, Ney 1984, doi:10.1109/TASSP.1984.1164320).

    Nothing is trained, so it serves languages without a recogniser, and its errors are independent of those of neural
    models. The warping is between half and twice a template's speed. It compares spectra, so it prefers the voice of
    the templates: use it for this voice, or give templates of the wanted one. Every sound is heard as pause or as one
    of the words: an error rate says how often the wanted word was the most similar one, not whether it is intelligible
    (studies/new_language has clips that Whisper cannot write down and this recogniser can).

    Args:
        model: Folder of LANGUAGE/WORD.wav, the recording of one word without others; further ones of the same word are
            LANGUAGE/WORD.2.wav and so on (`python -m datamodules.word_recordings` writes digits).
        word_penalty: Cost of each word, in frames of unrelated speech: higher for fewer insertions, lower for fewer
            deletions.

    Raises (on use):
        FileNotFoundError: The folder holds no recordings.
        ValueError: There are no templates of a language, or one is silent or too short.
    """

    families = frozenset({"dtw"})

    def __init__(self, model: Path, word_penalty: float = 4.0) -> None:
        if not word_penalty >= 0:
            raise ValueError(f"Expected `word_penalty` to be at least 0, but got {word_penalty}.")
        self.model = Path(model)
        self.word_penalty = word_penalty
        self._loaded: dict[str, Templates] = {}

    @cached_property
    def _files(self) -> list[Path]:
        files = sorted(self.model.glob("*/*.wav"))
        if not files:
            raise FileNotFoundError(f"Expected `model` to hold recordings LANGUAGE/WORD.wav, but got {self.model}.")
        return files

    @cached_property
    def model_hash(self) -> str:
        """Hash of all templates with their languages and words."""
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(f"{file.parent.name}/{file.name}\n".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    @property
    def files_hash(self) -> str:
        """There are no files besides the templates."""
        return self.model_hash

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """One text per clip, words separated by spaces; empty for silence. Raises ValueError for a language without
        templates."""
        templates = self._templates(language)
        return [templates.recognise(resampled(audio, SAMPLE_RATE), self.word_penalty) for audio in audios]

    def _templates(self, language: str) -> Templates:
        if language not in self._loaded:
            files = [file for file in self._files if file.parent.name == language]
            if not files:
                known = ", ".join(sorted({file.parent.name for file in self._files}))
                raise ValueError(
                    f"Expected `language` to have templates in {self.model} ({known}), but got {language!r}."
                )
            self._loaded[language] = Templates.read(files)
        return self._loaded[language]

    def flops(self, seconds: float) -> float:
        """Distances of all frames to all template frames; 3 operations per coefficient. Spectra and search add little.

        Before the first use of a language, 600 template frames are assumed (ten words of 0.6 s).
        """
        num_states = max([len(one.frames_SC) for one in self._loaded.values()], default=600)
        return 100 * seconds * num_states * 3 * 2 * NUM_CEPSTRA


@dataclass(frozen=True)
class Templates:
    """The templates of a language, one after another.

    Args:
        words: Word of each template.
        starts: Index of each template's first frame.
        frames_SC: Features of all, scaled.
        scale_C: Factor of each coefficient: the inverse of its deviation.
        mean_C: Mean speech frame, the recording channel's spectrum.
    """

    words: list[str]
    starts: np.ndarray
    frames_SC: np.ndarray
    scale_C: np.ndarray
    mean_C: np.ndarray

    @classmethod
    def read(cls, files: Sequence[Path]) -> Templates:
        words, recordings = [], []
        for file in files:
            found = features(resampled(read_audio(file), SAMPLE_RATE))
            if found is None or len(trimmed := found.trimmed()) < MIN_TEMPLATE_FRAMES:
                raise ValueError(f"Expected a recording of at least 0.05 s of sound, but got `{file}`.")
            words.append(file.name.partition(".")[0])
            recordings.append((found, trimmed))
        frames_SC = np.concatenate([trimmed for _, trimmed in recordings])
        scale_C = 1 / np.maximum(frames_SC.std(axis=0), 1e-3)
        starts = np.cumsum([0, *(len(trimmed) for _, trimmed in recordings)])[:-1]
        mean_C = np.mean([found.mean_C for found, _ in recordings], axis=0)
        return cls(words, starts, frames_SC * scale_C, scale_C, mean_C)

    def recognise(self, samples_T: np.ndarray, word_penalty: float) -> str:
        heard = features(samples_T)
        if heard is None:
            return ""
        frames_FC = (heard.frames_FC - heard.mean_C + self.mean_C) * self.scale_C  # as through the templates' channel
        path = cheapest_words(distances(frames_FC, self.frames_SC), heard.pause_costs_F, self.starts, word_penalty)
        return " ".join(self.words[template] for template in path)


@dataclass(frozen=True)
class Features:
    """Cepstra and their slopes (F, C); the cost of each frame as a pause (F,), 0 below the background's level; the mean
    speech frame (C,), whose slopes are 0."""

    frames_FC: np.ndarray
    pause_costs_F: np.ndarray
    mean_C: np.ndarray

    def trimmed(self) -> np.ndarray:
        """The frames from the first to the last one above the background's level."""
        loud = np.flatnonzero(self.pause_costs_F)
        return self.frames_FC[loud[0] : loud[-1] + 1]


@cache
def _mel_filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(FFT_SIZE // 2 + 1, NUM_MELS, *MEL_HERTZ, SAMPLE_RATE).astype(np.float32)


@cache
def _cosines() -> np.ndarray:
    """(NUM_MELS, NUM_CEPSTRA), of the discrete cosine transform."""
    bands, orders = np.arange(NUM_MELS) + 0.5, np.arange(NUM_CEPSTRA)
    return np.cos(np.pi / NUM_MELS * bands[:, None] * orders).astype(np.float32) / NUM_MELS


def features(samples_T: np.ndarray) -> Features | None:
    """Features of a clip at 16 kHz, independent of its level; None for silence."""
    padded_T = np.pad(samples_T.astype(np.float32), WINDOW)
    windows_FT = np.lib.stride_tricks.sliding_window_view(padded_T, WINDOW)[::HOP] * np.hanning(WINDOW)
    powers = np.abs(np.fft.rfft(windows_FT, FFT_SIZE)) ** 2 @ _mel_filters()
    levels_F = 10 * np.log10(powers.sum(axis=1) + 1e-10)
    loudest = levels_F.max()
    if loudest < SILENT_DECIBELS:
        return None
    levels_F = levels_F - loudest
    cepstra_FC = np.maximum(10 * np.log10(powers + 1e-10) - loudest, -FLOOR_DECIBELS) @ _cosines()
    edged_FC = np.pad(cepstra_FC, ((SLOPE_FRAMES, SLOPE_FRAMES), (0, 0)), "edge")
    slopes_FC = edged_FC[2 * SLOPE_FRAMES :] - edged_FC[: -2 * SLOPE_FRAMES]
    mean_C = cepstra_FC[levels_F > -SPEECH_DECIBELS].mean(axis=0)
    background = np.clip(np.quantile(levels_F, NOISE_QUANTILE) + NOISE_MARGIN_DECIBELS, *PAUSE_DECIBELS)
    return Features(
        np.concatenate([cepstra_FC, slopes_FC], axis=1),
        np.maximum(levels_F - background, 0) / DECIBELS_PER_COST,
        np.concatenate([mean_C, np.zeros_like(mean_C)]),
    )


def distances(frames_FC: np.ndarray, templates_SC: np.ndarray) -> np.ndarray:
    """(F, S): Euclidean distances, scaled so that unrelated frames are about 1 apart."""
    squares = (frames_FC**2).sum(axis=1)[:, None] + (templates_SC**2).sum(axis=1) - 2 * frames_FC @ templates_SC.T
    return np.sqrt(np.maximum(squares, 0) / (2 * frames_FC.shape[1]))


def cheapest_words(costs_FS: np.ndarray, pause_costs_F: np.ndarray, starts: np.ndarray, penalty: float) -> list[int]:
    """The templates of the cheapest path, in order. A path gives every frame of the clip to a frame of a template or to
    a pause; within a template it moves on by 0, 1 or 2 frames, and never by 0 twice in a row.

    Args:
        costs_FS: Cost of each frame of the clip at each frame of the templates.
        pause_costs_F: Cost of each frame in a pause.
        starts: Index of the first frame of each template.
        penalty: Cost of each template.
    """
    num_frames, num_states = costs_FS.shape
    ends = np.append(starts[1:], num_states) - 1
    first, second = np.zeros(num_states, bool), np.zeros(num_states, bool)
    first[starts] = True
    second[np.minimum(starts + 1, ends)] = True
    # The cheapest paths within a template, by their last step (a move, or none), and the frame where it was entered.
    # `best` are those between templates, by the number of frames that they cover.
    moved, stayed = np.full(num_states, np.inf), np.full(num_states, np.inf)
    moved_since, stayed_since = np.zeros(num_states, int), np.zeros(num_states, int)
    best = np.zeros(num_frames + 1)
    last: list[tuple[int, int]] = [(-1, 0)] * (num_frames + 1)  # template that ends here (-1: a pause), its start
    for frame in range(num_frames):
        reached, since = np.where(stayed < moved, stayed, moved), np.where(stayed < moved, stayed_since, moved_since)
        one, two = np.roll(reached, 1), np.roll(reached, 2)
        one[first] = two[first] = two[second] = np.inf
        from_two = two < one
        now = np.where(from_two, two, one)
        now_since = np.where(from_two, np.roll(since, 2), np.roll(since, 1))
        now[first], now_since[first] = best[frame] + penalty, frame
        stayed, stayed_since = moved + costs_FS[frame], moved_since
        moved, moved_since = now + costs_FS[frame], now_since
        at_ends = np.minimum(moved[ends], stayed[ends])
        template = int(at_ends.argmin())
        in_pause = best[frame] + pause_costs_F[frame]
        if in_pause <= at_ends[template]:
            best[frame + 1], last[frame + 1] = in_pause, (-1, frame)
        else:
            end = ends[template]
            best[frame + 1] = at_ends[template]
            last[frame + 1] = (template, int((moved_since if moved[end] <= stayed[end] else stayed_since)[end]))
    words, frame = [], num_frames
    while frame:
        template, frame = last[frame]
        if template >= 0:
            words.append(template)
    return words[::-1]
