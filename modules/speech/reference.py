"""A recording as the voice prompt of zero-shot speech: checked, trimmed and transcribed.

C channels, T audio samples, F frames of 20 ms every 10 ms, W windows, D embedding dimensions.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from modules.api import Audio
from modules.recognition import Recogniser
from modules.verifiers.recognisers.normalise import UNSPACED, BasicWords
from modules.verifiers.speaker import SpeakerEncoder

READ_SECONDS = 120.0  # of a longer recording only the beginning is read, which bounds the memory
MIN_SPEECH_SECONDS = 0.5
MARGIN_SECONDS = 0.05  # of silence kept before and after the speech
MIN_PAUSE_SECONDS = 0.15  # shorter ones are closures of stops
FRAME_SECONDS, HOP_SECONDS = 0.02, 0.01
SILENT_DB, QUIET_DB, RAISED_DB = -60.0, -45.0, -26.0  # levels of speech; full scale is 0 dB
MIN_CONTRAST_DB = 6.0  # between the loudest and the background: 2 dB in steady noise
MIN_RATE = 16_000
MAX_CLIPPED_SHARE = 0.001
SIMILAR_CHANNELS = 0.9
VOICE_WINDOW_SECONDS = 3.0
# Between parts of about 3 s, by Resemblyzer, on recordings spliced from five prompt voices (5, 8, 12 s): below it are
# 4, 7, 1 % of 100 with one voice, 96, 98, 100 % of 54 with two by halves, 20, 94, 96 % with another last quarter.
MIN_VOICE_SIMILARITY = 0.7
READABLE = "Give a wav, flac, ogg, mp3 or m4a file."
FIRST_SECONDS = 1.0


@dataclass(frozen=True)
class Reference:
    """A voice prompt. `text` is the transcript of exactly what is left in `audio`; `notes` say in one line each what
    was done to the recording or noticed in it."""

    audio: Audio
    text: str
    notes: tuple[str, ...]


def read_reference(
    path: Path,
    text: str | None,
    language: str,
    recogniser: Recogniser | None,
    encoder: SpeakerEncoder | None = None,
    max_seconds: float = 12.0,
) -> Reference:
    """Read a recording in any format of libsndfile or FFmpeg as a voice prompt, mono at its own sample rate.

    Silence before and after the speech is removed, and more than `max_seconds` are cut off at a pause. Without a
    `text`, or if the recording was cut and the text no longer fits, the recogniser transcribes what is left.

    Args:
        path: The recording.
        text: Its transcript; None or blank: to be transcribed.
        language: Language of the recording.
        recogniser: Transcribes it; None: there is none for the language.
        encoder: Compares the voice in different places of the recording; None: not compared.
        max_seconds: Longest prompt.

    Raises:
        ValueError: There is no such recording, it cannot be read, is silent, has too little speech, or has no
            transcript that fits. The message is one line and says what to do.
    """
    text = " ".join((text or "").split())
    samples_CT, sample_rate, seconds = _read(path)
    notes: list[str] = []
    if sample_rate < MIN_RATE:
        notes.append(f"low sample rate: {sample_rate} Hz holds nothing above {sample_rate / 2000:g} kHz")
    share = clipped_share(samples_CT)
    if share > MAX_CLIPPED_SHARE:
        notes.append(f"clipped: {100 * share:.2g} % of samples at full scale, which the voice will copy")
    samples_T = _mono(samples_CT, notes)
    levels = Levels(samples_T, sample_rate)
    if levels.loud_db < SILENT_DB:
        read = f" in its first {READ_SECONDS:g} s" if seconds > READ_SECONDS else ""
        raise ValueError(
            f"Expected the voice recording `{path}` to hold speech, but got silence{read}: it reaches "
            f"{levels.loud_db:.0f} dB of full scale. Record it again, louder."
        )
    if levels.loud_db - levels.background_db < MIN_CONTRAST_DB:
        notes.append("its level hardly changes: is it noise instead of speech?")
    samples_T, is_cut = _trimmed(samples_T, levels, seconds, max_seconds, path, notes)
    samples_T = _raised(samples_T, levels.speech_db, notes)
    audio = Audio(torch.from_numpy(np.ascontiguousarray(samples_T)), sample_rate)
    if is_cut and text:
        notes.append("the given text belongs to the whole recording: transcribed again")
    if is_cut or not text:
        text = _transcribed(audio, path, language, recogniser, bool(text), max_seconds)
        names = ", ".join(sorted(recogniser.families)) if recogniser else ""
        notes.append(f"transcribed ({names}): {text!r}")
    if encoder is not None:
        notes += _voice_notes(audio, encoder)
    return Reference(audio, text, tuple(notes))


def _read(path: Path) -> tuple[np.ndarray, int, float]:
    """The beginning of a recording as (C, T) float32, its sample rate, and the seconds of all of it."""
    import soundfile

    if not path.is_file():
        raise ValueError(f"Expected a voice recording, but got no file at `{path}`. Check the path.")
    with open(path, "rb") as stream:
        try:
            with soundfile.SoundFile(stream) as file:
                num_samples = round(READ_SECONDS * file.samplerate)
                # In blocks of seconds: a damaged header may promise more samples than there are.
                blocks = [file.read(file.samplerate, dtype="float32", always_2d=True)]
                while len(blocks[-1]) == file.samplerate and sum(map(len, blocks)) < num_samples:
                    blocks.append(file.read(file.samplerate, dtype="float32", always_2d=True))
                samples_CT = np.concatenate(blocks).T
                sample_rate, seconds = file.samplerate, file.frames / file.samplerate
        except soundfile.SoundFileError:
            stream.seek(0)
            samples_CT, sample_rate, seconds = _read_by_ffmpeg(path, stream)
    if not samples_CT.size:
        raise ValueError(f"Expected the voice recording `{path}` to hold speech, but got no samples. {READABLE}")
    if not np.isfinite(samples_CT).all():
        raise ValueError(f"Expected the voice recording `{path}` to be finite, but got NaN or infinity. {READABLE}")
    return samples_CT, sample_rate, seconds


def _read_by_ffmpeg(path: Path, stream: BinaryIO) -> tuple[np.ndarray, int, float]:
    """As `_read`, with PyAV."""
    import av

    chunks: list[np.ndarray] = []
    try:
        with av.open(stream, "r") as container:
            if not container.streams.audio:
                raise ValueError(f"Expected a voice recording, but got no sound in `{path}`. {READABLE}")
            track = container.streams.audio[0]
            num_samples = round(READ_SECONDS * track.rate)
            resampler = av.AudioResampler(format="fltp", layout=track.layout, rate=track.rate)
            for frame in container.decode(track):
                chunks += [one.to_ndarray() for one in resampler.resample(frame)]
                if sum(chunk.shape[1] for chunk in chunks) >= num_samples:
                    break
            known = (container.duration or 0) / 1e6  # microseconds
            sample_rate = track.rate
    except av.error.FFmpegError as error:
        raise ValueError(
            f"Expected a voice recording, but got `{path}`, which neither libsndfile nor FFmpeg can read. {READABLE}"
        ) from error
    samples_CT = np.concatenate(chunks, axis=1) if chunks else np.zeros((1, 0), np.float32)
    return samples_CT.astype(np.float32), sample_rate, max(known, samples_CT.shape[1] / sample_rate)


def clipped_share(samples_CT: np.ndarray) -> float:
    """Share of a channel's samples at full scale, or at its own highest value below, in runs of three or more; the
    largest of the channels."""
    shares = []
    for samples_T in samples_CT:
        limit = min(1.0, float(np.abs(samples_T).max())) * (1 - 5e-5)  # one step of 16 bits is 3e-5
        starts, stops = _runs(np.abs(samples_T) >= max(limit, 1e-3))
        lengths = stops - starts
        shares.append(float(lengths[lengths >= 3].sum()) / len(samples_T))
    return max(shares)


def _mono(samples_CT: np.ndarray, notes: list[str]) -> np.ndarray:
    """The mean of the channels; the loudest one if the others are silent or cancel it."""
    if len(samples_CT) == 1:
        return samples_CT[0]
    name = "stereo" if len(samples_CT) == 2 else f"{len(samples_CT)} channels"
    mean_T = samples_CT.mean(axis=0)
    powers_C = (samples_CT.astype(np.float64) ** 2).mean(axis=1)
    loudest_T = samples_CT[int(powers_C.argmax())]
    if (mean_T.astype(np.float64) ** 2).mean() < 0.3 * powers_C.max():  # a silent one of two leaves a quarter
        notes.append(f"{name}: only the loudest channel used, since the others are silent or cancel it")
        return loudest_T
    scale = math.sqrt(powers_C.max() * powers_C.min()) * samples_CT.shape[1]
    quietest_T = samples_CT[int(powers_C.argmin())]
    similarity = float(loudest_T.astype(np.float64) @ quietest_T) / scale if scale else 0.0
    differ = f", which differ (similarity {similarity:.2f})" if similarity < SIMILAR_CHANNELS else ""
    notes.append(f"{name}: channels averaged{differ}")
    return mean_T


class Levels:
    """Where a recording holds speech, by its level relative to its own loudest speech and its own background.

    A frame is speech if it is less than 40 dB below the loudest and 6 dB above the background (the level that a tenth
    of the frames do not reach), for 60 ms or longer. Levels are medians over 60 ms: a click is no speech. A constant
    offset is ignored.
    """

    def __init__(self, samples_T: np.ndarray, sample_rate: int) -> None:
        self.num_samples, self.sample_rate = len(samples_T), sample_rate
        power_T = (samples_T.astype(np.float64) - samples_T.mean(dtype=np.float64)) ** 2
        sums_T = np.concatenate([[0.0], np.cumsum(power_T)])
        starts_F = np.arange(0, max(1, self.num_samples - self._samples(FRAME_SECONDS) + 1), self._samples(HOP_SECONDS))
        stops_F = np.minimum(starts_F + self._samples(FRAME_SECONDS), self.num_samples)
        power_F = np.maximum(sums_T[stops_F] - sums_T[starts_F], 0.0) / (stops_F - starts_F)
        levels_F = 10 * np.log10(power_F + 1e-12)
        self.levels_F = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(levels_F, 2, "edge"), 5), axis=1)
        self.loud_db = float(self.levels_F.max())
        self.background_db = max(float(np.quantile(self.levels_F, 0.1)), self.loud_db - 60)
        threshold = max(self.loud_db - 40, min(self.background_db + 6, self.loud_db - 12))
        starts, stops = _runs(self.levels_F > threshold)
        is_long = stops - starts >= 0.06 / HOP_SECONDS
        self.starts, self.stops = starts[is_long], stops[is_long]  # runs of frames that are speech

    def _samples(self, seconds: float) -> int:
        return max(1, round(seconds * self.sample_rate))

    @property
    def speech_seconds(self) -> float:
        return float((self.stops - self.starts).sum()) * HOP_SECONDS

    @cached_property
    def speech_db(self) -> float:
        """Mean level of the speech."""
        parts = [self.levels_F[start:stop] for start, stop in zip(self.starts, self.stops, strict=True)]
        return 10 * math.log10(float((10 ** (np.concatenate(parts) / 10)).mean()))

    @property
    def speech(self) -> tuple[float, float]:
        """Seconds where the first speech begins and the last ends, with the margin."""
        first, last = self.starts[0] * HOP_SECONDS, (self.stops[-1] - 1) * HOP_SECONDS + FRAME_SECONDS
        return max(0.0, first - MARGIN_SECONDS), min(self.num_samples / self.sample_rate, last + MARGIN_SECONDS)

    def cut(self, earliest: float, latest: float) -> tuple[float, bool]:
        """Seconds of a cut in [earliest, latest]: just after the beginning of the longest pause that begins there,
        else at the quietest frame. And whether it is a pause."""
        stops = (self.stops[:-1] - 1) * HOP_SECONDS + FRAME_SECONDS
        lengths = self.starts[1:] * HOP_SECONDS - stops
        is_usable = (stops >= earliest) & (stops + MARGIN_SECONDS <= latest) & (lengths >= MIN_PAUSE_SECONDS)
        if is_usable.any():
            best = int(np.where(is_usable, lengths, 0).argmax())
            return float(stops[best]) + MARGIN_SECONDS, True
        first, last = int(earliest / HOP_SECONDS), int(latest / HOP_SECONDS) - 1
        return (first + int(self.levels_F[first:last].argmin())) * HOP_SECONDS, False


def _runs(is_in: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops of the runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_in.astype(np.int8), [0]])))
    return edges[::2], edges[1::2]


def _trimmed(
    samples_T: np.ndarray, levels: Levels, seconds: float, max_seconds: float, path: Path, notes: list[str]
) -> tuple[np.ndarray, bool]:
    """The samples without silence around the speech and no longer than `max_seconds`; whether speech may be cut off."""
    speech_seconds = levels.speech_seconds
    if speech_seconds < MIN_SPEECH_SECONDS:
        raise ValueError(
            f"Expected the voice recording `{path}` to hold at least {MIN_SPEECH_SECONDS} s of speech, but got "
            f"{speech_seconds:.1f} s. Record a sentence or two (3 to 12 s)."
        )
    start, stop = levels.speech
    read_seconds = len(samples_T) / levels.sample_rate
    is_long = stop - start > max_seconds
    is_cut = is_long or (read_seconds >= READ_SECONDS and seconds > read_seconds + 0.1)
    after = f", {seconds - stop:.1f} s after" if not is_cut else ""
    if start > 2 * MARGIN_SECONDS or (not is_cut and read_seconds - stop > 2 * MARGIN_SECONDS):
        notes.append(f"silence trimmed: {start:.1f} s before{after}")
    if is_long:
        stop, is_pause = levels.cut(start + max_seconds * 2 / 3, start + max_seconds)
        place = "at a pause" if is_pause else "within speech: there is no pause near"
        notes.append(f"cut from {seconds:.1f} s to {stop - start:.1f} s {place}")
    elif is_cut:
        notes.append(f"cut from {seconds:.1f} s to {stop - start:.1f} s: only its first {READ_SECONDS:g} s are read")
    return samples_T[round(start * levels.sample_rate) : round(stop * levels.sample_rate)], is_cut


def _raised(samples_T: np.ndarray, speech_db: float, notes: list[str]) -> np.ndarray:
    """The samples as they are, unless their speech is far below what a model has heard."""
    if speech_db >= QUIET_DB:
        return samples_T
    gain = min(10 ** ((RAISED_DB - speech_db) / 20), 0.9 / float(np.abs(samples_T).max()))
    notes.append(f"quiet: speech at {speech_db:.0f} dB of full scale, raised by {20 * math.log10(gain):.0f} dB")
    return samples_T * np.float32(gain)


def _transcribed(
    audio: Audio, path: Path, language: str, recogniser: Recogniser | None, has_text: bool, max_seconds: float
) -> str:
    """The recogniser's transcript. Raises ValueError without a recogniser for the language, and without a word."""
    todo = "Give `--voice-text`, or `--recogniser` with a multilingual Whisper."
    what = f"Expected the transcript of the voice recording `{path}`"
    if has_text:
        todo = f"Shorten the recording to {max_seconds:g} s and its text with it, or give `--recogniser`."
        what = f"Expected the transcript of the first {audio.seconds:.1f} s of the voice recording `{path}`"
    if recogniser is None:
        raise ValueError(f"{what}, but got no recogniser for {language!r}: the packaged one is English only. {todo}")
    try:
        text = " ".join(recogniser.transcribe([audio], language)[0].split())
    except ValueError as error:
        raise ValueError(f"{what}, but got: {' '.join(str(error).split())} {todo}") from error
    if not words_of(text):
        raise ValueError(f"{what}, but no word was heard in it. Is it speech in {language!r}? {todo}")
    return text


def _voice_notes(audio: Audio, encoder: SpeakerEncoder) -> list[str]:
    similarity = lowest_similarity(audio, encoder)
    if similarity >= MIN_VOICE_SIMILARITY or math.isnan(similarity):
        return []
    return [f"seems to hold two voices: similarity {similarity:.2f} between its parts; use a recording of one"]


def lowest_similarity(audio: Audio, encoder: SpeakerEncoder) -> float:
    """Lowest cosine similarity between the speaker embeddings of two of the recording's parts of about 3 s. NaN for a
    recording that is too short for two, or without voice in two."""
    num_windows = round(audio.seconds / VOICE_WINDOW_SECONDS)
    if num_windows < 2:
        return math.nan
    parts = [Audio(part_T, audio.sample_rate) for part_T in audio.samples_T.tensor_split(num_windows)]
    embeddings = [one for one in encoder.embed(parts) if not isinstance(one, Exception)]
    if len(embeddings) < 2:
        return math.nan
    embeddings_WD = np.stack(embeddings)
    return float((embeddings_WD @ embeddings_WD.T).min())


def words_of(text: str, normaliser: Callable[[str], str] | None = None) -> list[str]:
    """The words of a text in lower case without punctuation; the characters of a script without spaces."""
    return re.findall(f"[{UNSPACED}]|[^{UNSPACED}\\s]+", (normaliser or BasicWords())(text))


def begins_with_leak(
    heard: str, text: str, reference_text: str, normaliser: Callable[[str], str] | None = None
) -> bool:
    """Whether speech begins with words of its voice prompt before those of its text.

    The first k words heard are a leak if without them the rest fits the beginning of the text better, by at least half
    a word each, and they are the last k words of the reference, or half of them or more are words of the reference
    that the text has not. If nothing is left after them, none of them may be a word of the text. Words that sound alike
    ("for", "four") differ by the share of their letters.

    Args:
        heard: Transcript of the speech, or of its beginning.
        text: What should be spoken.
        reference_text: Transcript of the voice prompt.
        normaliser: Applied to all three, such as SpokenEnglish(), which unifies "7" and "seven"; None: BasicWords().
    """
    words, expected, spoken = (words_of(one, normaliser) for one in (heard, text, reference_text))
    known = _distance_to_beginning(words, expected)
    for k in range(1, min(len(words), len(spoken)) + 1):
        foreign = [word for word in words[:k] if word in spoken and word not in expected]
        is_reference = words[:k] == spoken[-k:] or 2 * len(foreign) >= k
        is_rest_text = k < len(words) or not set(words) & set(expected)
        if is_reference and is_rest_text and known - _distance_to_beginning(words[k:], expected) >= k / 2:
            return True
    return False


def leaks(
    spoken: Audio,
    text: str,
    reference: Reference,
    recogniser: Recogniser,
    language: str,
    normaliser: Callable[[str], str] | None = None,
) -> bool:
    """`begins_with_leak` of the transcript of the first second; a word that goes on is heard to its end, if it ends
    within another second."""
    levels = Levels(spoken.samples_T.detach().float().cpu().numpy(), spoken.sample_rate)
    seconds = FIRST_SECONDS if spoken.seconds > FIRST_SECONDS else spoken.seconds
    if spoken.seconds > 2 * FIRST_SECONDS:
        seconds, _ = levels.cut(FIRST_SECONDS, 2 * FIRST_SECONDS)
    first = Audio(spoken.samples_T[: round(seconds * spoken.sample_rate)], spoken.sample_rate)
    return begins_with_leak(recogniser.transcribe([first], language)[0], text, reference.text, normaliser)


def _distance_to_beginning(words: list[str], expected: list[str]) -> float:
    """Edit distance of the words to the nearest beginning of the expected ones; a substitution costs the share of
    letters that differ."""
    distances = [float(number) for number in range(len(expected) + 1)]
    for number, one in enumerate(words, 1):
        previous, distances = distances, [float(number)]
        for place, other in enumerate(expected, 1):
            change = previous[place - 1] + 1 - SequenceMatcher(None, one, other, autojunk=False).ratio()
            distances.append(min(change, previous[place] + 1, distances[-1] + 1))
    return min(distances)
