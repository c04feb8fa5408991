"""CodecEvaluation: codec quality on held-out recordings, compared with other codecs (codec_table.py computes it)."""

import math
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from callbacks.media import log_audio, log_figure
from datamodules.shards.shards import by_hash
from modules.api import Audio, Verifier
from modules.batches import AudioBatch
from modules.evaluation.card import described_data, described_judges, described_run, described_systems, utterance_hash
from modules.evaluation.judge import EvaluatedRecording, Judgement, judge, summarise, verify
from modules.evaluation.quoted_table import QuotedTable
from modules.evaluation.results import EvaluatedCodecs, write_results
from modules.evaluation.systems import CodecUnderTest, Heard, Original, Resynthesiser, gathered_systems, hear
from modules.members import check_members
from modules.pitch import median_pitch, predicts_opinions
from modules.recognition import Normaliser, Recogniser
from modules.report.codec_page import codec_page, finite
from modules.report.figures import mel_figure
from modules.search.analysis.expected_best_of_n import ends_of
from modules.statistics import Estimate


@dataclass(frozen=True)
class PromptSelection:
    """Selects the recordings of the test split to evaluate.

    Args:
        language: Two-letter code, passed to the recogniser.
        min_seconds: Minimum length of a recording.
        min_words: Minimum number of words of the transcript, separated by spaces.
        exclude_keys: Regular expression; recordings whose whole key matches are excluded.
    """

    language: str = "en"
    min_seconds: float = 1.5
    min_words: int = 3
    exclude_keys: str = r"en_digits_\d"

    def reason_against(self, key: str, metadata: dict[str, Any], seconds: float) -> str:
        """Reason to exclude the recording; empty if it is evaluated."""
        if metadata.get("language") != self.language:
            return f"language is not {self.language}"
        if re.fullmatch(self.exclude_keys, key):
            return f"key matches {self.exclude_keys}"
        if seconds < self.min_seconds:
            return f"shorter than {self.min_seconds} s"
        return f"fewer than {self.min_words} words" if len(metadata["text"].split()) < self.min_words else ""


class CodecEvaluation(Callback):
    """Evaluates the module's codec on the test split: columns of the Llasa paper's Table 1 and more, with intervals.

    Word error rate, STOI, PESQ, bit rate, the verifiers' scores (such as speaker similarity and DNSMOS), code usage and
    perplexity, and the speed of each system, one utterance at a time. Test batches are AudioBatch; the module's
    `generator` is the Codec. The table includes all installed comparisons and the recording itself (as 16-bit PCM).
    Scores of verifiers that predict opinion scores are also shown by the pitch of the recordings (codec_pitch.csv).
    Writes `folder`/codec_table.csv and .md, codec_utterances.csv and the evaluation card codec_evaluation.json
    ({"systems": {NAME: {METRIC: {value, low, high, num, num_unjudged}}}, description of the run}), prints the table and
    logs "codec/METRIC/SYSTEM". After the test `table` and `results` are available, on rank 0 only.

    With several ranks each evaluates the utterances of its batches.

    Args:
        folder: Output folder.
        recogniser: Speech recogniser; null omits word error rates, for voices in unsupported languages.
        normaliser: Applied to transcripts and recognised texts before words are compared.
        comparisons: Other codecs. One that is not installed is omitted, with a line that names what to install; one
            with `with_codec` and no codec of its own uses the codec under test.
        verifiers: Score every system, with the recording as `reference`; each is a column.
        quoted: CSV of published rows, shown with the table (codec_columns.QuotedTable).
        selection: Which recordings of the split are evaluated.
        name: The module's row in the table.
        batch_size: Utterances per call of the recogniser.
        num_logged: Number of utterances whose audio is logged and included in the page, by the hash of their keys.
        seed: Seed of the bootstrap.
        num_resamples: Number of bootstrap resamples.

    Raises:
        ValueError: Two systems or two verifiers have the same name; no recording of the split is selected.
    """

    def __init__(
        self,
        folder: Path,
        recogniser: Recogniser | None,
        normaliser: Normaliser,
        comparisons: list[Resynthesiser] | None = None,
        verifiers: list[Verifier] | None = None,
        quoted: Path | None = None,
        selection: PromptSelection = PromptSelection(),  # frozen
        name: str = "codec",
        batch_size: int = 8,
        num_logged: int = 4,
        seed: int = 0,
        num_resamples: int = 2000,
    ) -> None:
        self.folder, self.name = Path(folder), name
        self.recogniser, self.normaliser = recogniser, normaliser
        self.comparisons, self.verifiers, self.selection = comparisons or [], verifiers or [], selection
        self.quoted = Path(quoted) if quoted else None
        self.batch_size, self.num_logged = batch_size, num_logged
        self.seed, self.num_resamples = seed, num_resamples
        self.results: EvaluatedCodecs | None = None
        self._utterances: list[EvaluatedRecording] = []
        self._left_out: Counter[str] = Counter()
        self._examples: list[tuple[EvaluatedRecording, dict[str, Audio]]] = []

    @property
    def _opinion_judges(self) -> list[str]:
        return [one.facts.name for one in self.verifiers if predicts_opinions(one)]

    @property
    def table(self) -> dict[str, dict[str, Estimate]] | None:
        return self.results.table if self.results else None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.quoted:
            QuotedTable.read(self.quoted)  # fail early
        for comparison in self.comparisons:
            check_members(comparison, Resynthesiser, "comparison")
        names = [Original.facts.name, self.name, *(comparison.facts.name for comparison in self.comparisons)]
        if len(set(names)) < len(names):
            raise ValueError(f"Expected `comparisons` and `name` to have distinct names, but got {names}.")
        for verifier in self.verifiers:
            check_members(verifier, Verifier, "verifier")
        columns = [verifier.facts.name for verifier in self.verifiers]
        if len(set(columns)) < len(columns):
            raise ValueError(f"Expected `verifiers` to have distinct names, but got {columns}.")
        self.results, self._utterances, self._left_out, self._examples = None, [], Counter(), []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioBatch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Collect the utterances to evaluate."""
        sample_rate = trainer.datamodule.sample_rate
        rows = zip(batch.keys, batch.metadata, batch.num_samples_B.tolist(), batch.audio_BT.float().cpu(), strict=True)
        for key, metadata, num_samples, audio_T in rows:
            reason = self.selection.reason_against(key, metadata, num_samples / sample_rate)
            if reason:
                self._left_out[reason] += 1
            else:
                self._utterances.append(
                    EvaluatedRecording(key, metadata["text"], Audio(audio_T[:num_samples], sample_rate))
                )

    @torch.inference_mode()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        under_test = CodecUnderTest(pl_module.generator, self.name, trainer.datamodule.sample_rate, pl_module.device)
        systems = gathered_systems(under_test, self.comparisons)
        judgements, left_out = [], self._left_out
        hashes = {utterance.key: utterance_hash(utterance) for utterance in self._utterances}
        with tqdm(total=len(self._utterances) * len(systems), unit="clip", disable=not trainer.is_global_zero) as bar:
            judgements.extend(self._judged(trainer, systems, bar))
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (judgements, left_out, hashes))
            judgements = [row for rows, _, _ in gathered for row in rows]
            left_out = sum((counts for _, counts, _ in gathered), Counter())
            hashes = {key: value for _, _, some in gathered for key, value in some.items()}
        if not judgements:
            raise ValueError(f"Expected recordings that {self.selection} accepts, but got none: {dict(left_out)}.")
        if trainer.is_global_zero:
            self.results = self._results(trainer, systems, judgements, left_out, hashes)
            write_results(self.results, self.folder)
            self._log(trainer, self.results)

    def _results(
        self,
        trainer: Trainer,
        systems: Sequence[Resynthesiser],
        judgements: list[Judgement],
        left_out: Counter[str],
        hashes: dict[str, str],
    ) -> EvaluatedCodecs:
        facts = {system.facts.name: system.facts for system in systems}
        sizes = {name: int(one.codebook_size) for name, one in facts.items() if not math.isnan(one.codebook_size)}
        ends = {verifier.facts.name: ends_of(verifier) for verifier in self.verifiers}
        return EvaluatedCodecs(
            summarise(judgements, self.seed, self.num_resamples, sizes, ends),
            facts,
            judgements,
            self._description(trainer, systems, judgements, left_out, hashes),
            QuotedTable.read(self.quoted) if self.quoted else None,
            sorted(self._examples, key=lambda pair: pair[0].key),
            self._opinion_judges,
        )

    def _judged(self, trainer: Trainer, systems: Sequence[Resynthesiser], bar: tqdm) -> Iterator[Judgement]:
        """Evaluate every system on every utterance of this rank, one batch at a time."""
        utterances = sorted(self._utterances, key=lambda one: (one.audio.samples_T.numel(), one.key))
        keys = [one.key for one in utterances]
        logged = [keys[place] for place in by_hash(keys)[: self.num_logged]] if trainer.is_global_zero else []
        for system in systems[1:] if utterances else []:
            hear(system, utterances[0].audio)  # loads the weights; not timed
        for start in range(0, len(utterances), self.batch_size):
            batch = utterances[start : start + self.batch_size]
            heard: dict[str, list[Heard]] = {}
            for system in systems:
                bar.set_description(system.facts.name)
                heard[system.facts.name] = [hear(system, utterance.audio) for utterance in batch]
            for utterance, *ones in zip(batch, *heard.values(), strict=True):
                if utterance.key in logged:
                    audios = {system: one.audio for system, one in zip(heard, ones, strict=True)}
                    self._examples.append((utterance, audios))
            bar.set_description("verifiers")
            for system, rows in self._scored(batch, heard):
                bar.set_description(system)
                yield from rows
                bar.update(len(batch))

    def _scored(
        self, batch: Sequence[EvaluatedRecording], heard: dict[str, list[Heard]]
    ) -> Iterator[tuple[str, list[Judgement]]]:
        """The batch's rows, system by system."""
        language = self.selection.language
        scores = [
            verify(utterance, {name: ones[place].audio for name, ones in heard.items()}, self.verifiers, language)
            for place, utterance in enumerate(batch)
        ]
        is_pitch_asked = bool(self._opinion_judges)
        pitches = [median_pitch(utterance.audio) if is_pitch_asked else math.nan for utterance in batch]
        for system, ones in heard.items():
            audios, num_bits = [one.audio for one in ones], [one.num_bits for one in ones]
            rows = judge(system, batch, audios, num_bits, self.recogniser, self.normaliser, language)
            yield (
                system,
                [
                    replace(
                        row,
                        encode_seconds=one.encode_seconds,
                        decode_seconds=one.decode_seconds,
                        codes_QS=one.codes_QS,
                        pitch=pitch,
                        scores=by_system[system],
                    )
                    for row, one, pitch, by_system in zip(rows, ones, pitches, scores, strict=True)
                ],
            )

    def _log(self, trainer: Trainer, results: EvaluatedCodecs) -> None:
        for utterance, audios in results.examples:
            for system, audio in audios.items():
                log_audio(trainer.loggers, f"codec/{utterance.key}/{system}", audio, trainer.global_step)
        scalars = {
            f"codec/{metric}/{system}": estimate.value
            for system, estimates in results.table.items()
            for metric, estimate in estimates.items()
            if not math.isnan(estimate.value)
        }
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)
            logger.save()

    def _description(
        self,
        trainer: Trainer,
        systems: Sequence[Resynthesiser],
        judgements: Sequence[Judgement],
        left_out: Counter[str],
        hashes: dict[str, str],
    ) -> dict[str, Any]:
        """Description of the run, JSON serialisable."""
        own = [row for row in judgements if row.system == self.name]
        data = described_data(trainer.datamodule, hashes, self.selection, left_out)
        return {
            "num_prompts": len(own),
            "seconds": sum(row.seconds for row in own),
            "selection": data.pop("selection"),
            "num_left_out": data.pop("num_left_out"),
            "data": data,
            **described_systems(systems[1], systems, self.comparisons),
            **described_judges(self.recogniser, self.normaliser, self.verifiers),
            **described_run(trainer.strategy.root_device, self.seed, self.num_resamples),
        }


class CodecReport(Callback):
    """Writes `FOLDER/report/index.html` (FOLDER is that of the CodecEvaluation callback) after the test.

    The page is self-contained: the table, quoted rows, audio players, mel spectrograms, the evaluation card. Loggers
    get the spectrograms.

    Args:
        title: The page's headline.
        credits: Text files (licences, credits of the data) that the page quotes in full, since it contains recordings.

    Raises:
        ValueError: The trainer does not have exactly one CodecEvaluation; a credits file does not exist. Raised before
            any work.
    """

    def __init__(self, title: str = "Codecs, measured", credits: list[Path] | None = None) -> None:
        self.title = title
        self.credits = [Path(path) for path in credits or []]
        self.page: Path | None = None  # set once it is written

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _evaluation_of(trainer)
        for path in self.credits:
            if not path.is_file():
                raise ValueError(f"Expected `credits` to name text files, but got {path}, which is not a file.")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation = _evaluation_of(trainer)
        results = evaluation.results
        if not trainer.is_global_zero or results is None:
            return
        credits = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in self.credits}
        page = codec_page(results, self.title, shlex.join(["python", *sys.orig_argv[1:]]), credits)
        self.page = evaluation.folder / "report" / "index.html"
        self.page.parent.mkdir(parents=True, exist_ok=True)
        self.page.write_text(page, encoding="utf-8")
        for utterance, audios in results.examples:
            figure = mel_figure([(system, finite(audio)) for system, audio in audios.items()])
            log_figure(trainer.loggers, f"mel/{utterance.key}", figure, trainer.global_step)
        for one in trainer.loggers:
            one.save()
        print(f"report: {self.page.resolve().as_uri()} ({len(page.encode()) / 1e6:.1f} MB)", flush=True)


def _evaluation_of(trainer: Trainer) -> CodecEvaluation:
    found = [one for one in trainer.callbacks if isinstance(one, CodecEvaluation)]
    if len(found) != 1:
        raise ValueError(f"Expected one CodecEvaluation among the trainer's `callbacks`, but got {len(found)}.")
    return found[0]
