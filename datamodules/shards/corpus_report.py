"""report.html of a prepared folder: the page of modules/report/corpus_page.py, filled from its indices."""

import base64
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from datamodules.shards.quality import MEASURES, QualityControl, rows_to_hear
from datamodules.shards.samples import read_samples
from datamodules.shards.shards import ShardIndex, ShardReader
from modules.api import Audio
from modules.atomic_file import write_whole
from modules.report.corpus_page import CorpusExample, CorpusTables, Measured, corpus_page

NAME = "report.html"
MAX_SOURCES = 5  # in the title
NUM_WORST, NUM_RANDOM = 2, 6  # recordings to hear: by each measure, and of all


def write_report(
    folder: Path,
    splits: Sequence[str],
    quality: QualityControl,
    settings: Mapping[str, Any],
    skipped: Sequence[tuple[str, str]],
    verdicts: Mapping[str, Sequence[str]],
    refused: Sequence[Mapping[str, Any]],
    credits: str,
) -> None:
    """Write the report. `verdicts`: keys by verdict; `refused`: examples of recordings that the quality control has
    refused, as UnitWriter keeps them."""
    indices = [index for split in splits if (index := _loaded(folder / split)) is not None]
    thresholds, rate = quality.thresholds(), int(settings["sample_rate"])
    sources = sorted({str(source) for index in indices for source, _ in index.speakers})
    names = sorted({name for index in indices for name in index.measures}, key=_order)
    columns = {name: np.concatenate([_column(index, name) for index in indices]) for name in names}
    tables = CorpusTables(
        title=f"Corpus: {', '.join(sources[:MAX_SOURCES])}{', ...' if len(sources) > MAX_SOURCES else ''}",
        settings=settings,
        splits={index.folder.name: (len(index), float(index.lengths.sum()) / rate / 3600) for index in indices},
        measures=[
            Measured(name, values_N, MEASURES.get(name, ""), thresholds.get(name, ()))
            for name, values_N in columns.items()
        ],
        hours_by=_hours(indices, rate),
        skipped=skipped,
        verdicts=verdicts,
        examples=[*_refused(refused), *_examples(indices, columns)],
        credits=credits,
    )
    write_whole(folder / NAME, corpus_page(tables))


def _loaded(folder: Path) -> ShardIndex | None:
    try:
        return ShardIndex.load(folder, "audio")
    except ValueError:  # nothing of it is used
        return None


def _order(name: str) -> tuple[bool, int, str]:
    """Measures in their own order, then published scores by name."""
    return name not in MEASURES, list(MEASURES).index(name) if name in MEASURES else 0, name


def _column(index: ShardIndex, name: str) -> np.ndarray:
    return np.asarray(index.measures.get(name, np.full(len(index), np.nan)), dtype=np.float64)


def _hours(indices: Sequence[ShardIndex], rate: int) -> dict[str, dict[str, float]]:
    hours: dict[str, Counter[str]] = defaultdict(Counter)
    for index in indices:
        hours_N = index.lengths / rate / 3600
        for name, number_of, values in (
            ("speaker", index.speaker_of, [name for _, name in index.speakers]),
            ("language", index.language_of, index.languages),
            ("licence", index.license_of, index.licenses),
        ):
            totals = np.bincount(number_of, weights=hours_N, minlength=len(values))
            hours[name].update({str(value): float(total) for value, total in zip(values, totals, strict=True) if total})
    return {name: dict(of_name) for name, of_name in hours.items()}


def _examples(indices: Sequence[ShardIndex], columns: Mapping[str, np.ndarray]) -> list[CorpusExample]:
    keys = [str(key) for index in indices for key in index.keys]
    starts = np.cumsum([0, *map(len, indices)])
    readers = [ShardReader(index) for index in indices]
    examples = []
    for place, reasons in rows_to_hear(keys, columns, NUM_WORST, NUM_RANDOM).items():
        number = int(np.searchsorted(starts, place, side="right")) - 1
        index, row = indices[number], place - int(starts[number])
        files = readers[number].read(row)
        about = json.loads(files["json"])
        audio = Audio(torch.from_numpy(read_samples(index, row, files)), index.header["sample_rate"])
        measures = {name: float(values_N[place]) for name, values_N in columns.items()}
        examples.append(CorpusExample(keys[place], audio, about["text"], about["speaker"], reasons, measures))
    return examples


def _refused(refused: Sequence[Mapping[str, Any]]) -> list[CorpusExample]:
    examples = []
    for one in refused:
        samples_T, rate = soundfile.read(io.BytesIO(base64.b64decode(one["flac"])), dtype="float32")
        audio = Audio(torch.from_numpy(samples_T), rate)
        examples.append(
            CorpusExample(one["key"], audio, one["text"], one["speaker"], [f"refused: {one['reason']}"], {})
        )
    return examples
