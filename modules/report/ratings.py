"""Scores of a listening test: the listeners' files as a table and a figure with 95 % intervals over texts.

    python -m modules.report.ratings ratings-*.csv --key OUTPUT/key.csv --output OUTPUT

The files come from the page of modules/report/listening_page.py, whose key.csv says whose clip is whose. A text's score
is the mean of its ratings (over listeners and takes), a class's the mean of its texts. Writes OUTPUT/scores.csv,
OUTPUT/agreement.csv and OUTPUT/scores.png. Lines that cannot be used are counted and named.

Shapes: U texts.
"""

import argparse
import csv
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from modules.atomic_file import write_whole
from modules.evaluation.quoted_table import EMPTY, aligned
from modules.report.listening_page import LANGUAGES, MAX_NAMED, SCORES, KeyRow
from modules.statistics import interval_label, mean_estimate

ENDS = (float(min(SCORES)), float(max(SCORES)))
ALL_CLASSES = "all classes"
COLUMNS = ("listener", "clip", "score")


@dataclass(frozen=True)
class Rating:
    listener: str
    clip: str
    score: int


@dataclass(frozen=True)
class ClassScore:
    """Mean score of one model in one class, NaN without ratings, with its 95 % interval over texts."""

    language: str
    text_class: str
    model: str
    mean: float
    low: float
    high: float
    num_texts: int
    num_ratings: int
    num_listeners: int


@dataclass(frozen=True)
class Agreement:
    """How far the listeners of one language agree on the clips that several of them rated.

    `share_equal`: of all pairs of ratings of one clip. `alpha`: Krippendorff's; NaN if no clip has two ratings.
    """

    language: str
    num_listeners: int
    num_ratings: int
    num_shared_clips: int
    share_equal: float
    alpha: float


def read_key(path: Path) -> dict[str, KeyRow]:
    """Lines of key.csv by clip. Raises FileNotFoundError, and ValueError if it is another table."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = tuple(KeyRow.__dataclass_fields__)
    if not rows or any(tuple(row) != names or None in row.values() for row in rows):
        raise ValueError(f"Expected the key.csv of a listening page, with the columns {names}, but got {path}.")
    return {row["clip"]: KeyRow(**row | {"seed": int(row["seed"])}) for row in rows}


def read_ratings(paths: Sequence[Path], clips: Iterable[str]) -> tuple[list[Rating], list[str]]:
    """Ratings of the known clips, and a reason for every line that is not used. Of a listener's ratings of one clip, as
    in two downloads, the last one counts; an equal one before it is no reason.

    Raises FileNotFoundError, and ValueError if a file has other columns.
    """
    known = set(clips)
    ratings: dict[tuple[str, str], Rating] = {}
    where: dict[tuple[str, str], str] = {}
    unused: list[str] = []
    for path in paths:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        if not lines or tuple(lines[0].strip().split(",")) != COLUMNS:
            raise ValueError(f"Expected {path} to begin with the line {','.join(COLUMNS)}, but got {lines[:1]}.")
        for number, line in enumerate(lines[1:], 2):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            rating = parsed(line)
            if isinstance(rating, str):
                unused.append(f"{place}: {rating}")
            elif rating.clip not in known:
                unused.append(f"{place}: a clip that is not in the key")
            else:
                pair = rating.listener, rating.clip
                if pair in ratings and ratings[pair] != rating:
                    unused.append(f"{where[pair]}: replaced by {place}")
                ratings[pair], where[pair] = rating, place
    return list(ratings.values()), unused


def parsed(line: str) -> Rating | str:
    """A line of a listener's file, or what is wrong with it."""
    try:
        fields = next(csv.reader([line], strict=True), [])
    except csv.Error:
        return "a quote that does not end"
    if len(fields) != len(COLUMNS):
        return f"{len(fields)} fields of {len(COLUMNS)}"
    listener, clip, score = (field.strip() for field in fields)
    if score not in map(str, SCORES):
        return f"no score of {min(SCORES)} to {max(SCORES)}"
    return Rating(listener, clip, int(score)) if listener else "no listener"


def class_scores(ratings: Sequence[Rating], key: Mapping[str, KeyRow], seed: int = 0) -> list[ClassScore]:
    """One row per language, class and model, in the order of the key; after the classes of a language, all of them."""
    by_clip: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_clip.setdefault(rating.clip, []).append(rating)
    pairs = list(dict.fromkeys((row.language, row.text_class) for row in key.values()))
    wanted = []
    for language in dict.fromkeys(language for language, _ in pairs):
        wanted += [pair for pair in pairs if pair[0] == language] + [(language, ALL_CLASSES)]
    models = sorted({row.model for row in key.values()})
    scores = []
    for language, text_class in wanted:
        for model in models:
            by_text: dict[str, list[Rating]] = {}
            for row in key.values():
                if (row.language, row.model) == (language, model) and text_class in (row.text_class, ALL_CLASSES):
                    by_text.setdefault(row.key, []).extend(by_clip.get(row.clip, []))
            scores.append(ClassScore(language, text_class, model, *_numbers(by_text.values(), seed)))
    return scores


def _numbers(ratings_U: Iterable[Sequence[Rating]], seed: int) -> tuple[float, float, float, int, int, int]:
    rated = [ratings for ratings in ratings_U if ratings]
    means_U = [sum(one.score for one in ratings) / len(ratings) for ratings in rated]
    mean = mean_estimate(means_U, seed, ends=ENDS)
    listeners = {one.listener for ratings in rated for one in ratings}
    return mean.value, mean.low, mean.high, len(means_U), sum(map(len, rated)), len(listeners)


def agreements(ratings: Sequence[Rating], key: Mapping[str, KeyRow]) -> list[Agreement]:
    """One row per language that somebody rated."""
    rows = []
    for language in dict.fromkeys(row.language for row in key.values()):
        own = [one for one in ratings if key[one.clip].language == language]
        by_clip: dict[Hashable, list[float]] = {}
        for one in own:
            by_clip.setdefault(one.clip, []).append(one.score)
        shared = [scores for scores in by_clip.values() if len(scores) > 1]
        num_pairs = sum(math.comb(len(scores), 2) for scores in shared)
        num_equal = sum(math.comb(number, 2) for scores in shared for number in Counter(scores).values())
        share = num_equal / num_pairs if num_pairs else math.nan
        if own:
            num_listeners = len({one.listener for one in own})
            rows.append(Agreement(language, num_listeners, len(own), len(shared), share, krippendorff_alpha(shared)))
    return rows


def krippendorff_alpha(units: Iterable[Sequence[float]]) -> float:
    """Krippendorff's alpha with the interval metric: 1 - observed over expected squared difference of two ratings.

    1: perfect agreement; 0: that of ratings dealt out by chance; below 0: systematic disagreement. `units`: the ratings
    of each clip; those with one are not used. NaN if none is left, or all ratings are equal. Krippendorff (2011),
    "Computing Krippendorff's Alpha-Reliability".
    """
    shared = [np.asarray(unit, dtype=np.float64) for unit in units if len(unit) > 1]
    if not shared:
        return math.nan
    # Over ordered pairs of n numbers, squared differences sum to 2 n^2 times the variance.
    observed = sum(2 * len(unit) ** 2 * unit.var() / (len(unit) - 1) for unit in shared)
    together = np.concatenate(shared)
    expected = 2 * len(together) ** 2 * together.var() / (len(together) - 1)
    return float(1 - observed / expected) if expected > 0 else math.nan


def score_figure(scores: Sequence[ClassScore]) -> bytes:
    """PNG: a panel per language, the classes along it, a mark with its interval for each model."""
    from matplotlib.figure import Figure

    from modules.report.figures import MARKS, PALETTE, png_bytes

    languages = list(dict.fromkeys(one.language for one in scores))
    models = list(dict.fromkeys(one.model for one in scores))
    figure = Figure(figsize=(9, 0.6 + 3.2 * len(languages)), layout="constrained")
    panels = figure.subplots(len(languages), 1, squeeze=False)[:, 0]
    for panel, language in zip(panels, languages, strict=True):
        own = [one for one in scores if one.language == language]
        classes = list(dict.fromkeys(one.text_class for one in own))
        for place, model in enumerate(models):
            line = [one for one in own if one.model == model]
            across = np.arange(len(classes)) + (place - (len(models) - 1) / 2) * 0.6 / len(models)
            means, lows, highs = np.array([(one.mean, one.low, one.high) for one in line]).T
            look = {"color": PALETTE[place % len(PALETTE)], "marker": MARKS[place % len(MARKS)], "label": model}
            panel.errorbar(across, means, [means - lows, highs - means], linestyle="none", capsize=2.5, **look)
        panel.set_xticks(range(len(classes)), [name.replace(" ", "\n") for name in classes], fontsize=8)
        panel.set(xlim=(-0.5, len(classes) - 0.5), ylim=(ENDS[0] - 0.05, ENDS[1] + 0.05), ylabel="score, 1 to 3")
        panel.set_yticks([1, 1.5, 2, 2.5, 3])
        panel.grid(axis="y", alpha=0.3)
        panel.set_title(LANGUAGES.get(language, language), loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8, ncols=len(models), loc="lower right", bbox_to_anchor=(1, 1))
    return png_bytes(figure, 110)


def as_text(scores: Sequence[ClassScore], agreement: Sequence[Agreement]) -> str:
    """For a terminal: a line per class, a column per model, and the listeners' agreement."""
    models = list(dict.fromkeys(one.model for one in scores))
    lines: dict[tuple[str, str], list[str]] = {}
    for one in scores:
        cell = f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}] ({one.num_ratings})" if one.num_ratings else EMPTY
        lines.setdefault((one.language, one.text_class), []).append(cell)
    rows = [[f"{language} {text_class}", *cells] for (language, text_class), cells in lines.items()]
    of_whom = [
        f"{one.language}: {one.num_listeners} listeners, {one.num_ratings} ratings; {one.num_shared_clips} clips rated "
        f"by several: {one.share_equal:.0%} of pairs equal, Krippendorff's alpha (interval) {one.alpha:.2f}"
        for one in agreement
    ]
    about = f"mean [{interval_label('texts')}] (ratings)"
    return "\n".join([aligned([["", *models], *rows]), about, *of_whom])


def _table(rows: Sequence[ClassScore] | Sequence[Agreement], kind: type) -> str:
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(kind.__dataclass_fields__)
    writer.writerows(astuple(row) for row in rows)
    return stream.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m modules.report.ratings", description=__doc__.split("\n\n")[0])
    parser.add_argument("ratings", type=Path, nargs="+", help="files that the listeners downloaded from the page")
    parser.add_argument("--key", type=Path, required=True, help="key.csv of the page")
    parser.add_argument("--output", type=Path, required=True, help="folder of scores.csv, agreement.csv, scores.png")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    given = parser.parse_args(arguments)
    try:
        key = read_key(given.key)
        ratings, unused = read_ratings(given.ratings, key)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    scores, agreement = class_scores(ratings, key, given.seed), agreements(ratings, key)
    write_whole(given.output / "scores.csv", _table(scores, ClassScore))
    write_whole(given.output / "agreement.csv", _table(agreement, Agreement))
    write_whole(given.output / "scores.png", score_figure(scores))
    print(as_text(scores, agreement))
    num_listeners = len({one.listener for one in ratings})
    print(f"{len(given.ratings)} files, {num_listeners} listeners, {len(ratings)} ratings used")
    if unused:
        more = "" if len(unused) <= MAX_NAMED else "; ..."
        print(f"{len(unused)} lines not used: {'; '.join(unused[:MAX_NAMED])}{more}")
    print(f"{given.output / 'scores.csv'}, {given.output / 'agreement.csv'}, {given.output / 'scores.png'}")


if __name__ == "__main__":
    main()
