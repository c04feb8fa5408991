"""The codec's table as pure functions: judge resyntheses, put the judgements together, write and print them.

Shapes: B utterances, T audio samples.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.api import Audio, pad_rows
from modules.metrics import bootstrap_interval, pesq_scores, stoi_scores
from modules.verifiers.normalise import Normaliser
from modules.verifiers.transcript import Recogniser

METRIC_RATE = 16000  # Hz, at which all systems are judged: PESQ-WB knows no other


@dataclass(frozen=True)
class Utterance:
    """A recording that is judged, and what is said in it."""

    key: str
    text: str
    audio: Audio


@dataclass(frozen=True)
class Judgement:
    """What one system made of one utterance: a row of codec_utterances.csv.

    `reference` and `hypothesis` are normalised; `num_errors` are substituted, deleted and inserted words. NaN = could
    not be judged (no words in the reference; silence or too little speech for STOI and PESQ).
    """

    system: str
    key: str
    seconds: float
    num_bits: float
    num_words: int
    num_errors: float
    stoi: float
    pesq_nb: float
    pesq_wb: float
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Estimate:
    """A mean, or a ratio of sums, over the `num` judged utterances, with its 95 % bootstrap interval over them."""

    value: float
    low: float
    high: float
    num: int
    num_unjudged: int


def at_rate(audio: Audio, sample_rate: int, num_samples: int | None = None) -> Audio:
    """The audio resampled, then cut or padded at its end to `num_samples`, on the CPU and within [-1, 1]."""
    samples_T = audio.samples_T.detach().float().cpu()
    if audio.sample_rate != sample_rate:
        import soxr

        samples_T = torch.from_numpy(soxr.resample(samples_T.numpy(), audio.sample_rate, sample_rate))
    if num_samples is not None:
        samples_T = torch.nn.functional.pad(samples_T, (0, num_samples - samples_T.numel()))
    return Audio(samples_T.clamp(-1, 1), sample_rate)


def word_errors(reference: str, hypothesis: str) -> float:
    """Substituted, deleted and inserted words of normalised texts; NaN where the reference has no words."""
    import jiwer

    if not reference:
        return float("nan")
    words = jiwer.process_words(reference, hypothesis)
    return float(words.substitutions + words.deletions + words.insertions)


def judge(
    system: str,
    utterances: Sequence[Utterance],
    heard: Sequence[Audio],
    num_bits: Sequence[float],
    recogniser: Recogniser,
    normaliser: Normaliser,
    language: str,
) -> list[Judgement]:
    """What `system` made of the utterances: `heard` are its resyntheses, `num_bits` what their streams took.

    All are judged at 16 kHz. A resynthesis that is not finite has no STOI and PESQ, and is recognised with silence in
    the places of those samples.
    """
    originals = [at_rate(utterance.audio, METRIC_RATE) for utterance in utterances]
    heard = [
        at_rate(audio, METRIC_RATE, original.samples_T.numel())
        for audio, original in zip(heard, originals, strict=True)
    ]
    original_BT, num_samples_B = pad_rows([audio.samples_T for audio in originals])
    heard_BT, _ = pad_rows([audio.samples_T for audio in heard])
    pair = original_BT, heard_BT, num_samples_B, METRIC_RATE
    scores = zip(
        stoi_scores(*pair).tolist(),
        pesq_scores(*pair, mode="nb").tolist(),
        pesq_scores(*pair, mode="wb").tolist(),
        strict=True,
    )
    audible = [Audio(audio.samples_T.nan_to_num(0, 0, 0), METRIC_RATE) for audio in heard]
    hypotheses = recogniser.transcribe(audible, language)
    judgements = []
    for utterance, bits, hypothesis, values in zip(utterances, num_bits, hypotheses, scores, strict=True):
        reference, hypothesis = normaliser(utterance.text), normaliser(hypothesis)
        errors = word_errors(reference, hypothesis)
        about = system, utterance.key, utterance.audio.seconds, bits, len(reference.split()), errors
        judgements.append(Judgement(*about, *values, reference, hypothesis))
    return judgements


def ratio_estimate(
    numerators: Sequence[float], denominators: Sequence[float], seed: int, num_resamples: int = 2000
) -> Estimate:
    """Sum over sum, with a bootstrap interval that draws the pairs together (NaN in either: counted, left out)."""
    pairs = np.array([numerators, denominators], dtype=np.float64)
    judged = pairs[:, ~np.isnan(pairs).any(axis=0)]
    num, num_unjudged = judged.shape[1], pairs.shape[1] - judged.shape[1]
    if not num or not judged[1].sum():
        return Estimate(math.nan, math.nan, math.nan, num, num_unjudged)
    rows = np.random.default_rng(seed).integers(num, size=(num_resamples, num))
    low, high = np.quantile(judged[0][rows].sum(1) / judged[1][rows].sum(1), [0.025, 0.975])
    return Estimate(float(judged[0].sum() / judged[1].sum()), float(low), float(high), num, num_unjudged)


def mean_estimate(values: Sequence[float], seed: int, num_resamples: int = 2000) -> Estimate:
    """The mean of what could be judged."""
    array = np.array(values, dtype=np.float64)
    judged = array[~np.isnan(array)]
    low, high = bootstrap_interval(judged, seed, num_resamples)
    value = float(judged.mean()) if judged.size else math.nan
    return Estimate(value, low, high, judged.size, array.size - judged.size)


def summarise(judgements: Sequence[Judgement], seed: int, num_resamples: int = 2000) -> dict[str, dict[str, Estimate]]:
    """System -> metric (wer, stoi, pesq_nb, pesq_wb, bit_rate) -> Estimate, systems in the order of their first row.

    `wer` is that of the whole corpus, all errors over all words; `bit_rate` (bit/s) all bits over all seconds. The
    order of the rows of one system does not matter, and all systems are resampled with the same draws of utterances.
    """
    by_system: dict[str, list[Judgement]] = {}
    for row in judgements:
        by_system.setdefault(row.system, []).append(row)
    table = {}
    for system, rows in by_system.items():
        rows = sorted(rows, key=lambda row: row.key)
        column = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Judgement)}
        table[system] = {
            "wer": ratio_estimate(column["num_errors"], column["num_words"], seed, num_resamples),
            **{name: mean_estimate(column[name], seed, num_resamples) for name in ("stoi", "pesq_nb", "pesq_wb")},
            "bit_rate": ratio_estimate(column["num_bits"], column["seconds"], seed, num_resamples),
        }
    return table


def formatted_table(table: dict[str, dict[str, Estimate]]) -> str:
    """The table as aligned text: one row per system, values with their intervals; unjudged utterances are named."""
    rows = [["system", "bit/s", "WER %", "STOI", "PESQ-NB", "PESQ-WB"]]
    for system, estimates in table.items():
        rows.append([system, f"{estimates['bit_rate'].value:.0f}", _cell(estimates["wer"], 1, 100)])
        rows[-1] += [_cell(estimates["stoi"], 3), _cell(estimates["pesq_nb"], 2), _cell(estimates["pesq_wb"], 2)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]))
    lines += [
        f"{system}: {metric} of {estimate.num_unjudged} utterances could not be judged"
        for system, estimates in table.items()
        for metric, estimate in estimates.items()
        if estimate.num_unjudged
    ]
    return "\n".join(lines)


def write_table(table: dict[str, dict[str, Estimate]], path: Path) -> None:
    """One line per system and metric: system, metric, value, low, high, num, num_unjudged."""
    rows = [
        {"system": system, "metric": metric} | asdict(estimate)
        for system, estimates in table.items()
        for metric, estimate in estimates.items()
    ]
    _write_csv(rows, path)


def write_judgements(judgements: Sequence[Judgement], path: Path) -> None:
    """One line per system and utterance."""
    _write_csv([asdict(row) for row in judgements], path)


def write_evaluation(table: dict[str, dict[str, Estimate]], description: dict[str, Any], path: Path) -> None:
    """The table and what was run as strict JSON (NaN becomes null), under a temporary name first."""
    systems = {
        system: {
            metric: {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in asdict(one).items()}
            for metric, one in estimates.items()
        }
        for system, estimates in table.items()
    }
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(json.dumps({"systems": systems, **description}, indent=1, allow_nan=False), encoding="utf-8")
    partial.replace(path)


def _cell(estimate: Estimate, digits: int, factor: float = 1.0) -> str:
    value, low, high = (f"{factor * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
