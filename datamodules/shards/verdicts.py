"""Verdicts that need the whole corpus: which kept recordings an index leaves out. No shard is rewritten for them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.shards.quality import QualityControl, worst

REPEATED_KEY, DUPLICATE = "another recording has this key", "duplicate audio"
HELD_OUT_TEXT, REPEATED_TEXT = "text of a held-out recording", "text repeated by its speaker"
BEYOND_HOURS = "beyond the hours asked for"


@dataclass(frozen=True)
class CorpusRows:
    """Kept recordings of all splits, in the plan's order. `contents` and `texts` are hashes, `texts` "" without text;
    `speakers` (source, name)."""

    keys: Sequence[str]
    splits: Sequence[str]
    seconds: np.ndarray
    contents: Sequence[str]
    texts: Sequence[str]
    speakers: Sequence[tuple[str, str]]
    measures: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.keys)


def verdicts_of(rows: CorpusRows, quality: QualityControl, hours: float = 0.0) -> list[str]:
    """The reason why each recording is left out, "" if it is used. Of recordings that exclude each other the one with
    the smallest key stays."""
    verdicts = [""] * len(rows)

    def leave_out(numbers: Iterable[int], reason: str) -> None:
        for number in numbers:
            verdicts[number] = verdicts[number] or reason

    leave_out(_repeated(rows, rows.keys, verdicts), REPEATED_KEY)
    if quality.duplicate_audio:
        leave_out(_repeated(rows, rows.contents, verdicts), DUPLICATE)
    if quality.held_out_texts:
        tested = {text for text, split in zip(rows.texts, rows.splits, strict=True) if split != "train" and text}
        leave_out((n for n, text in enumerate(rows.texts) if rows.splits[n] == "train" and text in tested),
                  HELD_OUT_TEXT)  # fmt: skip
    if quality.repeated_text:
        said = [(speaker, text) if text else () for speaker, text in zip(rows.speakers, rows.texts, strict=True)]
        leave_out(_repeated(rows, said, verdicts), REPEATED_TEXT)
    for name, share in quality.drop_worst.items():
        values = rows.measures.get(name)
        if values is None:
            raise ValueError(
                f"Expected `drop_worst` to name measures or published scores of the corpus, {sorted(rows.measures)}, "
                f"but got {name!r}."
            )
        used = sorted((n for n, verdict in enumerate(verdicts) if not verdict), key=lambda n: rows.keys[n])
        is_worst = worst(name, values[used], share)
        leave_out((n for n, is_one in zip(used, is_worst, strict=True) if is_one),
                  f"among the worst {100 * share:g} % by {name}")  # fmt: skip
    if hours:
        left = hours * 3600
        for number, verdict in enumerate(verdicts):
            if not verdict and left <= 0:
                verdicts[number] = BEYOND_HOURS
            elif not verdict:
                left -= rows.seconds[number]
    return verdicts


def _repeated(rows: CorpusRows, values: Sequence[object], verdicts: Sequence[str]) -> list[int]:
    """Recordings whose value another one has, which has a smaller key or, with the same key, comes first."""
    groups: dict[object, list[int]] = defaultdict(list)
    for number, value in enumerate(values):
        if value and not verdicts[number]:
            groups[value].append(number)
    repeated = []
    for numbers in groups.values():
        if len(numbers) > 1:
            first = min(numbers, key=lambda number: (rows.keys[number], number))
            repeated += [number for number in numbers if number != first]
    return repeated
