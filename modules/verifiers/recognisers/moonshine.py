"""Moonshine: a small recogniser of English on onnxruntime, and the probability that it gives to a text.

Shapes: T audio samples, F frames of the encoder, S tokens, V vocabulary.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modules.api import Audio
from modules.threads import num_cores
from modules.verifiers.audio import resampled
from modules.verifiers.model_files import content_hash, package_folder

SAMPLE_RATE = 16_000
MAX_SECONDS = 30  # of its training
INSTALL = "--no-deps moonshine-voice==0.1.0"  # the last version that contains its model
START, END, FIRST_BYTE = 1, 2, 3  # tokens
MAX_TOKENS_PER_SECOND = 6.5  # bounds repetitions, as its authors recommend
TOKENS_PER_SECOND = 4  # of speech, to compute FLOPs
# The convolutions before the encoder: samples between two outputs, kernel, channels in and out in widths (0: one).
CONVOLUTIONS = ((64, 127, 0, 1), (192, 7, 1, 2), (384, 3, 2, 1))


class Moonshine:
    """Moonshine (Jeffries et al., arXiv 2410.15608): encoder and decoder without padding, so that short clips cost
    little. The package moonshine-voice 0.1.0 contains the English model of 27M parameters; its own program is not used.

    Decoded greedily; clips above 30 s in pieces of equal length. Licence of the model and its package: MIT.

    Args:
        model: A folder with encoder_model.ort, decoder_model_merged.ort and tokenizer.bin; None: that of the package.
        silence_seconds: Silence before and after each clip. Synthetic speech often begins and ends at once, where the
            model is less certain of the words (studies/voice).
        noise_db: Level of faint noise relative to the clip's peak; None: no noise. Synthetic silence often has none.
        num_workers: Clips in parallel, each by one thread; 0 is one per core.
    """

    families = frozenset({"moonshine"})
    max_seconds = MAX_SECONDS

    def __init__(
        self,
        model: str | None = None,
        silence_seconds: float = 0.3,
        noise_db: float | None = -45.0,
        num_workers: int = 0,
    ) -> None:
        if not 0 <= silence_seconds <= 1:
            raise ValueError(f"Expected `silence_seconds` in [0, 1], but got {silence_seconds}.")
        self.model, self.num_workers = model, num_workers
        self.silence_seconds, self.noise_db = silence_seconds, noise_db

    @cached_property
    def _folder(self) -> Path:
        folder = Path(self.model) if self.model else package_folder("moonshine_voice", INSTALL) / "assets" / "tiny-en"
        for name in ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"):
            if not (folder / name).is_file():
                advice = "" if self.model else f": pip install {INSTALL}"
                raise FileNotFoundError(f"Expected a Moonshine model with {name} in {folder}{advice}")
        return folder

    @cached_property
    def model_hash(self) -> str:
        """Hash of the weights."""
        return content_hash(self._folder / f"{name}.ort" for name in ("encoder_model", "decoder_model_merged"))

    @cached_property
    def files_hash(self) -> str:
        """Hash of the vocabulary."""
        return content_hash([self._folder / "tokenizer.bin"])

    @cached_property
    def _network(self) -> "_Network":
        return _Network(self._folder)

    @cached_property
    def _vocabulary(self) -> "Vocabulary":
        return Vocabulary((self._folder / "tokenizer.bin").read_bytes())

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """One text per clip; raises ValueError for a language other than English."""
        self._check(language)
        self._network, self._vocabulary  # noqa: B018 - load once here, not in several threads
        with ThreadPoolExecutor(self.num_workers or num_cores()) as pool:
            return list(pool.map(self._text, audios))

    def log_probabilities(self, audios: Sequence[Audio], texts: Sequence[str], language: str) -> list[np.ndarray]:
        """For each clip log P(token | earlier tokens, clip) of its text's tokens and of the end: (S,) float64 in nats.

        A text is read as the model writes: with a capital first and a mark last, otherwise as it is. Clips are not cut:
        beyond `max_seconds` the model is out of its range. Raises ValueError for a language other than English.
        """
        self._check(language)
        self._network  # noqa: B018 - load once here, not in several threads
        tokens = {text: [START, *self._vocabulary.tokens(written(text)), END] for text in texts}

        def of(audio: Audio, text: str) -> np.ndarray:
            return self._network.log_probabilities(self._heard(resampled(audio, SAMPLE_RATE)), tokens[text])

        with ThreadPoolExecutor(self.num_workers or num_cores()) as pool:
            return list(pool.map(of, audios, texts))

    def _check(self, language: str) -> None:
        if language != "en":
            raise ValueError(f"Expected `language` to be 'en' for Moonshine, but got {language!r}.")

    def _text(self, audio: Audio) -> str:
        samples_T = resampled(audio, SAMPLE_RATE)
        pieces = np.array_split(samples_T, max(1, math.ceil(len(samples_T) / (MAX_SECONDS * SAMPLE_RATE))))
        texts = (
            self._vocabulary.text(self._network.greedy(self._heard(piece_T))) for piece_T in pieces if piece_T.any()
        )
        return " ".join(filter(None, texts))

    def _heard(self, samples_T: np.ndarray) -> np.ndarray:
        """The clip at 16 kHz with silence around it, and noise of seed 0."""
        padded_T = np.pad(samples_T, round(self.silence_seconds * SAMPLE_RATE))
        if self.noise_db is None:
            return padded_T
        noise_T = np.random.default_rng(0).standard_normal(len(padded_T), dtype=np.float32)
        return padded_T + np.float32(10 ** (self.noise_db / 20) * np.abs(padded_T).max()) * noise_T

    def flops(self, seconds: float) -> float:
        """2 x weights x positions and 4 x width x positions attended per attention; 4 tokens per second of speech, an
        end, and keys and values of the encoder's output once per layer of the decoder."""
        network = self._network
        width, num_layers, vocabulary = network.width, network.num_layers, len(self._vocabulary.pieces)
        samples = (seconds + 2 * self.silence_seconds) * SAMPLE_RATE
        convolutions = sum(
            2 * samples / hop * kernel * max(1, before * width) * after * width
            for hop, kernel, before, after in CONVOLUTIONS
        )
        frames, tokens = samples / CONVOLUTIONS[-1][0], TOKENS_PER_SECOND * seconds + 1
        encoder = frames * num_layers * (2 * 12 * width**2 + 4 * width * frames)
        keys_and_values = frames * num_layers * 2 * 2 * width**2
        decoder = tokens * num_layers * (2 * (4 + 2 + 12) * width**2 + 4 * width * (frames + tokens / 2))
        return convolutions + encoder + keys_and_values + decoder + tokens * 2 * width * vocabulary


class _Network:
    """Encoder and decoder in onnxruntime, one thread each; can be called from several threads."""

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("This recogniser needs onnxruntime: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(str(folder / f"{name}.ort"), options, providers=["CPUExecutionProvider"])
            for name in ("encoder_model", "decoder_model_merged")
        )
        shapes = {one.name: one.shape for one in self._decoder.get_inputs() if one.name.startswith("past_key_values.")}
        self._cache_names, (_, self._num_heads, _, self._head_size) = list(shapes), next(iter(shapes.values()))
        self._outputs = [one.name for one in self._decoder.get_outputs()]
        self.width, self.num_layers = self._num_heads * self._head_size, len(shapes) // 4

    def greedy(self, samples_T: np.ndarray) -> list[int]:
        """Tokens, each the most likely after those before it, without start and end."""
        frames_1FD, tokens = self._encoded(samples_T), [START]
        cache: Mapping[str, np.ndarray] | None = None
        for _ in range(2 + int(MAX_TOKENS_PER_SECOND * len(samples_T) / SAMPLE_RATE)):
            logits_SV, cache = self._decoded(frames_1FD, len(samples_T), tokens[-1:], cache)
            tokens.append(int(logits_SV[-1].argmax()))
            if tokens[-1] == END:
                return tokens[1:-1]
        return tokens[1:]

    def log_probabilities(self, samples_T: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
        """log P of all tokens but the first, each given those before it: (S - 1,) float64 in nats."""
        logits_SV, _ = self._decoded(self._encoded(samples_T), len(samples_T), tokens[:-1], None)
        logits_SV = logits_SV.astype(np.float64) - logits_SV.max(axis=1, keepdims=True)
        log_probabilities_SV = logits_SV - np.log(np.exp(logits_SV).sum(axis=1, keepdims=True))
        return log_probabilities_SV[np.arange(len(tokens) - 1), tokens[1:]]

    def _encoded(self, samples_T: np.ndarray) -> np.ndarray:
        feed = {"input_values": samples_T[None], "attention_mask": np.ones((1, len(samples_T)), np.int64)}
        return self._encoder.run(None, feed)[0]

    def _decoded(
        self, frames_1FD: np.ndarray, num_samples: int, tokens: Sequence[int], cache: Mapping[str, np.ndarray] | None
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """(S, V) logits after each token, and the attention's keys and values up to them."""
        nothing = np.zeros((1, self._num_heads, 0, self._head_size), np.float32)
        feed: dict[str, Any] = {
            "input_ids": np.array([tokens], np.int64),
            "encoder_hidden_states": frames_1FD,
            "encoder_attention_mask": np.ones((1, num_samples), np.int64),  # of samples: the decoder takes its steps
            "use_cache_branch": np.array([cache is not None]),
            **(cache or dict.fromkeys(self._cache_names, nothing)),
        }
        found = dict(zip(self._outputs, self._decoder.run(None, feed), strict=True))
        after = {name: found[name.replace("past_key_values", "present")] for name in self._cache_names}
        if cache is not None:  # with a cache the encoder's keys and values are not returned again
            after |= {name: kept for name, kept in cache.items() if ".encoder." in name}
        return found["logits"][0], after


class Vocabulary:
    """Pieces of byte-pair encoding, as SentencePiece merges them: of two neighbours the pair with the lowest number.

    Args:
        content: The pieces one after the other, each after its length in bytes: one byte, or two from 128 on.
    """

    def __init__(self, content: bytes) -> None:
        self.pieces: list[bytes] = []
        start = 0
        while start < len(content):
            size, start = content[start], start + 1
            if size >= 128:
                size, start = size - 128 + 128 * content[start], start + 1
            self.pieces.append(content[start : start + size])
            start += size
        first = FIRST_BYTE + 256
        if self.pieces[FIRST_BYTE:first] != [bytes([byte]) for byte in range(256)]:
            raise ValueError(f"Expected the 256 bytes to be pieces {FIRST_BYTE} to {first - 1} of tokenizer.bin.")
        self._numbers = {piece: number for number, piece in enumerate(self.pieces) if number >= first}

    def tokens(self, text: str) -> list[int]:
        """Numbers of the text's pieces."""
        pieces = [character.encode() for character in f" {text}".replace(" ", "\u2581")]
        while True:
            pairs = [self._numbers.get(one + other) for one, other in itertools.pairwise(pieces)]
            lowest = min((number for number in pairs if number is not None), default=None)
            if lowest is None:
                break
            place = pairs.index(lowest)
            pieces[place : place + 2] = [self.pieces[lowest]]
        # A character without a piece of its own is its bytes.
        tokens: list[int] = []
        for piece in pieces:
            tokens += [self._numbers[piece]] if piece in self._numbers else [FIRST_BYTE + byte for byte in piece]
        return tokens

    def text(self, tokens: Sequence[int]) -> str:
        """The text of the tokens; markers such as <<ST_1>> count as nothing."""
        pieces = b"".join(self.pieces[token] for token in tokens if not self.pieces[token].startswith(b"<<ST_"))
        return pieces.decode(errors="replace").replace("\u2581", " ").strip()


def written(text: str) -> str:
    """The text as the model writes: with a capital first, and a mark at the end of the sentence last."""
    text = " ".join(text.split()).rstrip(",;: ")
    is_ended = text.rstrip("\"')]\u201d\u2019").endswith((".", "?", "!", "\u2026"))
    return text[:1].upper() + text[1:] + ("" if is_ended else ".")
