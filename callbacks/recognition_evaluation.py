"""RecognitionEvaluation: ASR error rates of the language model, in `trainer.test`."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from modules.api import Codec, Prompt, SamplingSettings
from modules.atomic_file import write_whole
from modules.batches import NamesPromptSets, PromptBatch
from modules.evaluation.judge import METRIC_ENDS
from modules.evaluation.quoted_table import EMPTY, QuotedTable
from modules.provenance import plain
from modules.recognition import Normaliser, error_rate
from modules.report.quoted_rows import QuotedRows, as_text
from modules.search.growth import candidate_seed
from modules.search.identity import check_codec
from modules.search.voices import with_voice_codes
from modules.statistics import Estimate, ratio_estimate
from modules.tokens import Utterance


@dataclass(frozen=True)
class HeardPrompt:
    """One recording: its text, the model's transcript, and whether the transcript ended; `errors` and the `length` of
    the text, in words or characters (NaN if the text is empty after normalisation)."""

    prompt_set: int
    key: str
    text: str
    heard: str
    ended: bool
    errors: float
    length: int


class RecognitionEvaluation(Callback):
    """Transcribes the recordings of the test prompts with the language model, and counts the errors.

    Every test dataloader is a prompt set; its batches are PromptBatch whose prompts have a `reference`, which `codec`
    encodes. The datamodule may name the sets (`prompt_set_names`). The module under test provides `sampler(settings,
    answer="text")`, `prompt_format` and `model_hash`. Writes `folder`/understanding.json: the error rate of each set
    (all errors over all words or characters, with its bootstrap interval over recordings) and every transcript; logs
    "understanding/SET". `rates` has the estimates after the test. A transcript that never ended is scored unchanged.

    Args:
        codec: Encodes the recordings; must be the codec that the model was trained with.
        normaliser: Applied to both texts before comparison.
        folder: Output folder.
        unit: Unit of the error rate; modules.verifiers.recognisers.normalise.Digits gives one string of digits: use
            characters.
        sampling: Sampling settings; greedy by default.
        max_new_tokens: Maximum number of text tokens of a transcript, including the end token.
        seed: Seed of sampling and of the bootstrap.
        num_resamples: Number of bootstrap resamples.
        quoted: Published rows to print next to ours; its columns name "SET/word error" or "SET/character error".

    Raises:
        ValueError: The codec is not the model's; a prompt has no recording; `quoted` does not match the sets.
        FileNotFoundError: There is no file of quoted rows.
    """

    def __init__(
        self,
        codec: Codec,
        normaliser: Normaliser,
        folder: Path,
        unit: Literal["word", "character"] = "word",
        sampling: SamplingSettings = SamplingSettings(top_k=1),  # noqa: B008 (frozen)
        max_new_tokens: int = 256,
        seed: int = 0,
        num_resamples: int = 2000,
        quoted: QuotedRows | None = None,
    ) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"Expected `max_new_tokens` to be at least 1, but got {max_new_tokens}.")
        self.codec, self.normaliser, self.folder, self.unit = codec, normaliser, Path(folder), unit
        self.sampling, self.max_new_tokens = sampling, max_new_tokens
        self.seed, self.num_resamples = seed, num_resamples
        self.quoted = quoted
        self.rates: dict[str, Estimate] = {}
        self._heard: list[HeardPrompt] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rates, self._heard = {}, []
        if self.quoted is not None:
            data = getattr(trainer, "datamodule", None)
            names = data.prompt_set_names if isinstance(data, NamesPromptSets) else []
            self.quoted.check(names, [self._rate_name])
        codebook_size = pl_module.prompt_format.token_space.codebook_size
        check_codec(self.codec, codebook_size, pl_module.codec_fingerprint)

    @torch.inference_mode()
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(batch, PromptBatch):
            raise TypeError(f"Expected test batches to be PromptBatch, but got {type(batch).__name__}.")
        own = batch.prompts[trainer.global_rank :: trainer.world_size]
        spoken = with_voice_codes([replace(prompt, voice=Utterance("")) for prompt in own], self.codec)
        if not spoken:
            return
        sampler = pl_module.sampler(self.sampling, answer="text")
        seeds = [candidate_seed(self.seed, prompt.key, 0) for prompt in spoken]
        answers = sampler.extend(sampler.start(spoken), 1, self.max_new_tokens, seeds)
        for prompt, answer in zip(own, answers, strict=True):
            text = pl_module.prompt_format.answer_text(answer.codes_S.tolist())
            self._heard.append(self._compared(dataloader_idx, prompt, text, answer.stopped))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        heard = sorted(self._all_ranks(trainer), key=lambda one: (one.prompt_set, one.key))
        data = getattr(trainer, "datamodule", None)
        names = data.prompt_set_names if isinstance(data, NamesPromptSets) else None
        for number in sorted({one.prompt_set for one in heard}):
            rows = [one for one in heard if one.prompt_set == number]
            name = names[number] if names else f"recordings {number}"
            lengths = [one.length for one in rows]
            self.rates[name] = ratio_estimate(
                [one.errors for one in rows], lengths, self.seed, self.num_resamples, METRIC_ENDS["wer"]
            )
        if trainer.is_global_zero:
            self._write(pl_module, heard)
            for logger in trainer.loggers:
                logger.log_metrics({f"understanding/{name}": rate.value for name, rate in self.rates.items()}, step=0)
                logger.save()

    @property
    def _rate_name(self) -> str:
        return f"{self.unit} error"

    def _measured_row(self, table: QuotedTable) -> list[str]:
        """The rates in percent, in the columns of the quoted table."""
        rates = {f"{name}/{self._rate_name}": f"{100 * rate.value:.2f}" for name, rate in self.rates.items()}
        cells = [rates.get(self.quoted.columns.get(heading, ""), EMPTY) for heading in table.headings[1:]]
        return [f"measured: normaliser {self.normaliser.name}", *cells]

    def _compared(self, prompt_set: int, prompt: Prompt, heard: str, ended: bool) -> HeardPrompt:
        expected = self.normaliser(prompt.text).strip()
        length = len(expected.split()) if self.unit == "word" else len(expected)
        errors = error_rate(expected, self.normaliser(heard), self.unit) * length if length else math.nan
        return HeardPrompt(prompt_set, prompt.key, prompt.text, heard, ended, errors, length)

    def _all_ranks(self, trainer: Trainer) -> list[HeardPrompt]:
        if trainer.world_size == 1:
            return self._heard
        gathered: list[list[HeardPrompt]] = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(gathered, self._heard)
        return [one for part in gathered for one in part]

    def _write(self, pl_module: LightningModule, heard: Sequence[HeardPrompt]) -> None:
        content = {
            "error_rates": {name: asdict(rate) for name, rate in self.rates.items()},
            "num_never_ended": sum(not one.ended for one in heard),
            "unit": self.unit,
            "normaliser": self.normaliser.name,
            "sampling": plain(self.sampling),
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "model_hash": pl_module.model_hash,
            "codec_fingerprint": self.codec.fingerprint,
            "answers": [asdict(one) | {"errors": None if math.isnan(one.errors) else one.errors} for one in heard],
        }
        if self.quoted is not None:
            table = self.quoted.read()
            content["beside_quoted"] = {"measured": self._measured_row(table), "quoted": asdict(table)}
            print(f"\n{as_text(table, [self._measured_row(table)])}\n")
        path = self.folder / "understanding.json"
        write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        for name, rate in self.rates.items():
            print(
                f"{name}: {self.unit} error {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}], {rate.num} recordings"
            )
        print(f"{path}", flush=True)
