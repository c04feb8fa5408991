"""CodecEvaluation: what is left of held-out recordings after the codec, beside other codecs. The sums: codec_table.py.

Shapes: B utterances, T audio samples, S code frames.
"""

import hashlib
import math
import platform
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from tqdm import tqdm

from callbacks.codec_table import (
    Estimate,
    Judgement,
    Utterance,
    formatted_table,
    judge,
    summarise,
    write_evaluation,
    write_judgements,
    write_table,
)
from callbacks.media import log_audio
from modules.api import Audio, AudioBatch, Codec, Resynthesiser, pad_rows
from modules.search.identity import plain
from modules.verifiers.normalise import Normaliser
from modules.verifiers.transcript import Recogniser

RECORDING = "recording"
PACKAGES = ("torch", "lightning", "pystoi", "pesq", "jiwer", "faster-whisper", "transformers", "av", "soxr")


@dataclass(frozen=True)
class PromptSelection:
    """Which recordings of the test split are judged.

    Args:
        language: Two-letter code; the recogniser is told it.
        min_seconds: Shortest recording.
        min_words: Fewest words of the transcript, separated by spaces.
        exclude_keys: Regular expression; a recording whose whole key it matches is left out.
    """

    language: str = "en"
    min_seconds: float = 1.5
    min_words: int = 3
    exclude_keys: str = r"en_digits_\d"

    def reason_against(self, key: str, metadata: dict[str, Any], seconds: float) -> str:
        """Why the recording is left out; empty where it is judged."""
        if metadata["language"] != self.language:
            return f"language is not {self.language}"
        if re.fullmatch(self.exclude_keys, key):
            return f"key matches {self.exclude_keys}"
        if seconds < self.min_seconds:
            return f"shorter than {self.min_seconds} s"
        return f"fewer than {self.min_words} words" if len(metadata["text"].split()) < self.min_words else ""


class CodecEvaluation(Callback):
    """Judges the module's codec on the test split: word error rate, STOI, PESQ and bit rate, with intervals.

    Test batches are AudioBatch; the module's `generator` is the Codec. Every comparison that is installed, and the
    recording itself (as 16-bit PCM), stand in the same table. Writes `folder`/codec_table.csv, codec_utterances.csv and
    codec_evaluation.json ({"systems": {NAME: {METRIC: {value, low, high, num, num_unjudged}}}, what was run}), prints
    the table and logs "codec/METRIC/SYSTEM". `table` holds the Estimates after the test, on rank 0 only.

    With several ranks each judges the utterances of its batches.

    Args:
        folder: Where the files go.
        recogniser: Speech to text.
        normaliser: Applied to transcripts and to what was recognised before words are compared.
        comparisons: Other codecs. One with `available` False is left out, with a line that says what to install.
        selection: Which recordings of the split are judged.
        name: The module's row in the table.
        batch_size: Utterances that the codec and the recogniser are handed at once.
        num_logged: Utterances whose audio goes to the loggers, the first by key.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: Two systems of one name; no recording of the split is to be judged.
    """

    def __init__(
        self,
        folder: Path,
        recogniser: Recogniser,
        normaliser: Normaliser,
        comparisons: list[Resynthesiser] | None = None,
        selection: PromptSelection = PromptSelection(),  # frozen
        name: str = "codec",
        batch_size: int = 8,
        num_logged: int = 4,
        seed: int = 0,
        num_resamples: int = 2000,
    ) -> None:
        names = [RECORDING, name, *(comparison.name for comparison in comparisons or [])]
        if len(set(names)) < len(names):
            raise ValueError(f"Expected `comparisons` and `name` to have names of their own, but got {names}.")
        self.folder, self.name = Path(folder), name
        self.recogniser, self.normaliser = recogniser, normaliser
        self.comparisons, self.selection = comparisons or [], selection
        self.batch_size, self.num_logged = batch_size, num_logged
        self.seed, self.num_resamples = seed, num_resamples
        self.table: dict[str, dict[str, Estimate]] | None = None
        self._utterances: list[Utterance] = []
        self._left_out: Counter[str] = Counter()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.table, self._utterances, self._left_out = None, [], Counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioBatch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Collect what is to be judged."""
        sample_rate = trainer.datamodule.sample_rate
        rows = zip(batch.keys, batch.metadata, batch.num_samples_B.tolist(), batch.audio_BT.cpu(), strict=True)
        for key, metadata, num_samples, audio_T in rows:
            reason = self.selection.reason_against(key, metadata, num_samples / sample_rate)
            if reason:
                self._left_out[reason] += 1
            else:
                self._utterances.append(Utterance(key, metadata["text"], Audio(audio_T[:num_samples], sample_rate)))

    @torch.inference_mode()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        systems = [one for one in self.comparisons if getattr(one, "available", True)]
        judgements, left_out = [], self._left_out
        total = len(self._utterances) * (2 + len(systems))
        with tqdm(total=total, unit="clip", disable=not trainer.is_global_zero) as bar:
            for row in self._judged(trainer, pl_module, systems, bar):
                judgements.append(row)
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (judgements, left_out))
            judgements = [row for rows, _ in gathered for row in rows]
            left_out = sum((counts for _, counts in gathered), Counter())
        if not judgements:
            raise ValueError(f"Expected recordings that {self.selection} accepts, but got none: {dict(left_out)}.")
        if trainer.is_global_zero:
            self.table = summarise(judgements, self.seed, self.num_resamples)
            self._report(trainer, pl_module, judgements, left_out)

    def _judged(
        self, trainer: Trainer, pl_module: LightningModule, comparisons: Sequence[Resynthesiser], bar: tqdm
    ) -> Iterator[Judgement]:
        """Every system on every utterance of this rank, a batch at a time."""
        utterances = sorted(self._utterances, key=lambda one: (one.audio.samples_T.numel(), one.key))
        logged = sorted(one.key for one in utterances)[: self.num_logged] if trainer.is_global_zero else []
        for start in range(0, len(utterances), self.batch_size):
            batch = utterances[start : start + self.batch_size]
            originals = [one.audio for one in batch]
            heard = {
                RECORDING: [(audio, 16.0 * audio.samples_T.numel()) for audio in originals],
                self.name: resynthesise(pl_module.generator, originals, pl_module.device),
            }
            heard |= {one.name: [one.resynthesise(audio) for audio in originals] for one in comparisons}
            for system, pairs in heard.items():
                bar.set_description(system)
                audios, num_bits = zip(*pairs, strict=True)
                yield from judge(
                    system, batch, audios, num_bits, self.recogniser, self.normaliser, self.selection.language
                )
                bar.update(len(batch))
                for utterance, audio in zip(batch, audios, strict=True):
                    if utterance.key in logged:
                        log_audio(trainer.loggers, f"codec/{utterance.key}/{system}", audio, trainer.global_step)

    def _report(
        self, trainer: Trainer, pl_module: LightningModule, judgements: Sequence[Judgement], left_out: Counter[str]
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_table(self.table, self.folder / "codec_table.csv")
        write_judgements(judgements, self.folder / "codec_utterances.csv")
        description = self._description(pl_module, judgements, left_out)
        write_evaluation(self.table, description, self.folder / "codec_evaluation.json")
        print(f"\n{description['num_prompts']} prompts, {description['seconds']:.0f} s; left out: {dict(left_out)}")
        print(formatted_table(self.table))
        for name, requirement in description["missing_comparisons"].items():
            print(f"{name}: left out, needs {requirement}")
        print(f"{self.folder}: codec_table.csv, codec_utterances.csv, codec_evaluation.json", flush=True)
        scalars = {
            f"codec/{metric}/{system}": estimate.value
            for system, estimates in self.table.items()
            for metric, estimate in estimates.items()
            if not math.isnan(estimate.value)
        }
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)
            logger.save()

    def _description(
        self, pl_module: LightningModule, judgements: Sequence[Judgement], left_out: Counter[str]
    ) -> dict[str, Any]:
        """What was run, as JSON holds it."""
        codec = pl_module.generator
        own = [row for row in judgements if row.system == self.name]
        missing = [one for one in self.comparisons if not getattr(one, "available", True)]
        return {
            "num_prompts": len(own),
            "seconds": sum(row.seconds for row in own),
            "selection": asdict(self.selection),
            "num_left_out": dict(left_out),
            "codec": {
                "name": self.name,
                "model_hash": weights_hash(codec),
                "fingerprint": codec.fingerprint,
                "frame_rate": codec.frame_rate,
                "codebook_size": codec.codebook_size,
            },
            "missing_comparisons": {one.name: getattr(one, "requirement", "") for one in missing},
            "recogniser": plain({**public(self.recogniser), "model_hash": self.recogniser.model_hash}),
            "normaliser": self.normaliser.name,
            "interval": f"95 %, percentile bootstrap over utterances, {self.num_resamples} resamples",
            "seed": self.seed,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "date": date.today().isoformat(),
        }


def resynthesise(codec: Codec, audios: Sequence[Audio], device: torch.device) -> list[tuple[Audio, float]]:
    """The audios (of one rate, the encoder's) after the codec, at the codec's rate, and the bits of their codes."""
    audio_BT, num_samples_B = pad_rows([audio.samples_T for audio in audios])
    codes_BS, num_codes_B = codec.encode(audio_BT.to(device), num_samples_B.to(device))
    decoded_BT = codec.decode(codes_BS, num_codes_B).float().cpu()
    pairs = []
    for audio, decoded_T, num_codes in zip(audios, decoded_BT, num_codes_B.tolist(), strict=True):
        length = round(audio.samples_T.numel() * codec.sample_rate / audio.sample_rate)
        pairs.append((Audio(decoded_T[:length], codec.sample_rate), num_codes * math.log2(codec.codebook_size)))
    return pairs


def public(value: object) -> dict[str, Any]:
    """The class and the public attributes of an object."""
    settings = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return {"class": type(value).__qualname__, **settings}


def weights_hash(network: nn.Module) -> str:
    """sha256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
