"""Tokenising a corpus: `predict` against transformers' Xcodec2Model file by file, same weights, in turns.

    python -m benchmarks.corpus_tokenising [--scale 0.25] [--num_files 40] [--rounds 3] [--num_processes 2]

Ours is everything that `python run.py predict` does after reading its config: reading and decoding audio shards,
batches of similar lengths bounded in seconds, features, codes, writing token shards. transformers' side consists of
calls of `encode` only: its audio and features are in memory, and its codes stay there. The codes are first compared
with its codes file by file; in padded batches of --batch_size, in the order of the corpus, its codes differ (it does
not mask padding) and only their time is used. With --num_processes, `processes` is ours in so many processes of one
thread, as `--trainer.devices` starts them, each with its part of the corpus; they run already, like the rest.
Weights are random, in the published architecture with widths and numbers of layers times --scale; lengths are
distributed like LJSpeech's. Nothing is compiled.
"""

import argparse
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import soundfile
import torch
import transformers
from torch import Tensor, nn

from benchmarks.codec_inference import LEAST_EQUAL, SAMPLE_RATE, SPREAD, about, pad_inputs, same_weights, share_equal
from benchmarks.scaffold import median_seconds, options, report
from callbacks.token_shards import TokenShardWriter
from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.sources.source import Recording
from modules.api import Audio
from modules.codec.generator import CodecGenerator
from modules.tokeniser_module import CodecTokeniser
from tests.toys.codec_references import HOP, noise_items, reference_inputs


class SyntheticUtterances:
    """A Source of noise with a varying envelope, in lengths distributed like LJSpeech's."""

    def __init__(self, num_files: int, longest_seconds: float, part: int = 0, num_parts: int = 1) -> None:
        self.part, self.num_parts = part, num_parts
        self.num_recordings = len(range(part, num_files, num_parts))
        places = np.linspace(0, len(SPREAD) - 1, num_files)
        parts = np.random.default_rng(0).permutation(np.interp(places, range(len(SPREAD)), SPREAD))
        self.lengths = [round(part * longest_seconds * SAMPLE_RATE) for part in parts]

    def recordings(self) -> Iterator[Recording]:
        for number, length in list(enumerate(self.lengths))[self.part :: self.num_parts]:
            audio = Audio(noise_items(length, seed=number)[0][0], SAMPLE_RATE)
            yield Recording(f"u{number:03}", audio, "noise", "none", "en", "synthetic", "CC0-1.0", "train")

    def credits(self) -> str:
        return "Noise."


@dataclass
class LoadedCodec:
    """In place of a CodecCheckpoint: a codec that is in memory."""

    codec: CodecGenerator

    def load(self) -> CodecGenerator:
        return self.codec


def tokenise(codec: CodecGenerator, shards: Path, tokens: Path, batch_seconds: float) -> None:
    """Do what `predict` does."""
    module = CodecTokeniser(LoadedCodec(codec))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=[TokenShardWriter(tokens)],
    )
    data = AudioDataModule(shards, evaluation_batch_size=64, evaluation_batch_seconds=batch_seconds)
    trainer.predict(module, data, return_predictions=False)


def read_audio(shards: Path) -> dict[str, Tensor]:
    index = ShardIndex.load(shards / "train", "audio")
    reader = ShardReader(index)
    waves = (soundfile.read(io.BytesIO(reader.read(place)["flac"]), dtype="float32")[0] for place in range(len(index)))
    return {str(key): torch.from_numpy(wave) for key, wave in zip(index.keys, waves, strict=True)}


OWN: dict[str, CodecGenerator] = {}  # of a worker process


def start_worker(scale: float) -> None:
    torch.set_num_threads(1)
    settle()
    OWN["codec"] = same_weights(scale)[1]


def tokenise_part(shards: Path, tokens: Path, batch_seconds: float) -> None:
    quiet = io.StringIO()
    with torch.inference_mode(), redirect_stdout(quiet), redirect_stderr(quiet):
        tokenise(OWN["codec"], shards, tokens, batch_seconds)


def settle() -> None:
    """Silence what libraries print."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def read_codes(tokens: Path) -> dict[str, Tensor]:
    index = ShardIndex.load(tokens / "train", "tokens")
    reader = ShardReader(index)
    codes = (np.load(io.BytesIO(reader.read(place)["codes.npy"])) for place in range(len(index)))
    return {
        str(key): torch.from_numpy(codes_S.astype(np.int64)) for key, codes_S in zip(index.keys, codes, strict=True)
    }


def measure(
    given: argparse.Namespace, model: nn.Module, codec: CodecGenerator, folder: Path, pool: Any
) -> dict[str, object]:
    shards = folder / "audio"
    prepare_audio_shards([SyntheticUtterances(given.num_files, given.longest_seconds)], shards, SAMPLE_RATE, "flac")
    audio = read_audio(shards)
    inputs = [reference_inputs(samples_T, HOP // 2) for samples_T in audio.values()]
    starts = range(0, len(inputs), given.batch_size) if given.batch_size else ()
    padded = [pad_inputs(inputs[start : start + given.batch_size]) for start in starts]
    tokenise(codec, shards, folder / "first", given.batch_seconds)
    made = read_codes(folder / "first")
    right = [model.encode(**item).audio_codes[0, 0].long() for item in inputs]
    equal = share_equal(right, [made[key] for key in audio])
    if equal < LEAST_EQUAL:
        raise AssertionError(f"Expected the codes that transformers gives, but {equal:.4%} are equal.")
    ways = {
        "ours": lambda: tokenise(codec, shards, Path(tempfile.mkdtemp(dir=folder)), given.batch_seconds),
        "one_by_one": lambda: [model.encode(**item) for item in inputs],
        "padded_batches": lambda: [model.encode(**batch) for batch in padded],
    }
    if not padded:
        del ways["padded_batches"]
    if pool is not None:
        parts = [folder / f"part{number}" for number in range(given.num_processes)]
        for number, part in enumerate(parts):
            source = SyntheticUtterances(given.num_files, given.longest_seconds, number, len(parts))
            prepare_audio_shards([source], part, SAMPLE_RATE, "flac")

        def in_processes() -> list[Path]:
            targets = [Path(tempfile.mkdtemp(dir=folder)) for _ in parts]
            settings = zip(parts, targets, [given.batch_seconds] * len(parts), strict=True)
            pool.starmap(tokenise_part, list(settings))
            return targets

        of_parts = {key: codes for target in in_processes() for key, codes in read_codes(target).items()}
        equal = min(equal, share_equal(right, [of_parts[key] for key in audio]))
        if equal < LEAST_EQUAL:
            raise AssertionError(f"Expected the same codes of each process, but {equal:.4%} are equal.")
        ways["processes"] = in_processes
    medians = median_seconds(ways, given.rounds, time.process_time if given.clock == "cpu" else time.perf_counter)
    seconds = sum(len(samples_T) for samples_T in audio.values()) / SAMPLE_RATE
    return {
        "codes_equal": equal,
        "audio_seconds": round(seconds, 1),
        "files_per_second": {name: round(len(audio) / value, 3) for name, value in medians.items()},
        "audio_seconds_per_second": {name: round(seconds / value, 3) for name, value in medians.items()},
        "ours_over": {name: round(value / medians["ours"], 3) for name, value in medians.items() if name != "ours"},
        "best_over_one_by_one": round(
            medians["one_by_one"] / min(medians["ours"], medians.get("processes", np.inf)), 3
        ),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--num_files", type=int, default=40)
    parser.add_argument("--longest_seconds", type=float, default=8.0)
    parser.add_argument("--batch_seconds", type=float, default=30.0)
    parser.add_argument("--batch_size", type=int, default=8, help="of transformers' padded batches; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_processes", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: seconds of all threads")
    parser.add_argument("--num_threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    settle()
    model, codec = same_weights(given.scale)
    quiet = io.StringIO()  # hides the output of preparing and predicting
    workers = (
        get_context("spawn").Pool(given.num_processes, start_worker, (given.scale,))
        if given.num_processes > 1
        else nullcontext()
    )
    with (
        workers as pool,
        tempfile.TemporaryDirectory() as folder,
        torch.inference_mode(),
        redirect_stdout(quiet),
        redirect_stderr(quiet),
    ):
        result = measure(given, model, codec, Path(folder), pool)
    settings = {
        name: getattr(given, name)
        for name in ("num_files", "longest_seconds", "batch_seconds", "batch_size", "clock", "num_processes")
    }
    report(result | settings | about(given, codec), given.json)


if __name__ == "__main__":
    main()
