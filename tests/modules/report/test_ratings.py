"""Scores of a listening test against naive computations, and files as listeners' programs damage them."""

import csv
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from modules.report.listening_page import KeyRow, key_table
from modules.report.ratings import (
    ALL_CLASSES,
    Rating,
    agreements,
    class_scores,
    krippendorff_alpha,
    main,
    read_key,
    read_ratings,
)

MODELS, LISTENERS = ("big", "small"), ("Anna", "Bo, the 2nd", "Chen")
TEXTS = [("zh", "Poetry", f"p{number}") for number in range(5)] + [
    ("en", "Questions", f"q{number}") for number in range(3)
]
TEXTS += [("en", "Emotions", "e0")]
KEY = {
    f"{model}{key}{seed}": KeyRow(f"{model}{key}{seed}", model, key, language, name, seed, "some.wav")
    for model in MODELS
    for language, name, key in TEXTS
    for seed in range(2 if key == "p0" else 1)
}


def drawn() -> list[Rating]:
    """Random scores; the listeners leave out a third of the clips, and nobody hears one text of the big model."""
    generator = np.random.default_rng(3)
    pairs = [
        (listener, clip) for listener in LISTENERS for clip in KEY if clip != "bigq20" and generator.random() < 0.8
    ]
    return [Rating(listener, clip, int(generator.integers(1, 4))) for listener, clip in pairs]


def test_means_are_those_of_a_naive_computation() -> None:
    """Guards against ratings in another model's or class's mean, texts that weigh by their number of ratings or takes,
    and counts of something else."""
    ratings = drawn()
    table = {(row.language, row.text_class, row.model): row for row in class_scores(ratings, KEY)}
    languages = [("zh", "Poetry"), ("zh", ALL_CLASSES), ("en", "Questions"), ("en", "Emotions"), ("en", ALL_CLASSES)]
    assert list(table) == [(*pair, model) for pair in languages for model in MODELS]
    for (language, name, model), row in table.items():
        means, raters, number = [], set(), 0
        for other, text_class, key in TEXTS:
            if other != language or name not in (text_class, ALL_CLASSES):
                continue
            scores = [one.score for one in ratings if one.clip in (f"{model}{key}0", f"{model}{key}1")]
            raters |= {one.listener for one in ratings if one.clip in (f"{model}{key}0", f"{model}{key}1")}
            number += len(scores)
            if scores:
                means.append(np.mean(scores))
        assert (row.num_texts, row.num_ratings, row.num_listeners) == (len(means), number, len(raters))
        assert row.mean == pytest.approx(np.mean(means)) and 1 <= row.low <= row.mean <= row.high <= 3
    assert table["en", "Questions", "big"].num_texts == 2


def test_nobody_heard_it() -> None:
    """Guards against a score of 0, or an error, for a class without ratings."""
    rows = class_scores([Rating("Anna", "bige00", 3)], KEY)
    known = [row for row in rows if row.num_ratings]
    assert {row.text_class for row in known} == {"Emotions", ALL_CLASSES} and {row.model for row in known} == {"big"}
    assert all(math.isnan(row.mean) for row in rows if row not in known)
    assert all(row.low < row.mean == 3 == row.high for row in known), "one text shows no range"


def test_alpha_is_the_published_one() -> None:
    """Guards against an agreement that ignores chance, or clips with one rating. Krippendorff (2011), example C: four
    observers, twelve units, missing values; interval metric .849."""
    lines = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[int(line[place]) for line in lines if line[place] != "."] for place in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.849, abs=5e-4)
    assert math.isnan(krippendorff_alpha([[1], [2]])) and math.isnan(krippendorff_alpha([[2, 2], [2, 2]]))


def test_agreement_is_that_of_pairs() -> None:
    """Guards against pairs across clips or languages, and against a clip that counts as often as it has pairs."""
    ratings = drawn()
    rows = {row.language: row for row in agreements(ratings, KEY)}
    assert list(rows) == ["zh", "en"]
    for language, row in rows.items():
        own = [one for one in ratings if KEY[one.clip].language == language]
        by_clip = {clip: [one.score for one in own if one.clip == clip] for clip in KEY}
        pairs = [pair for scores in by_clip.values() for pair in itertools.combinations(scores, 2)]
        assert row.share_equal == pytest.approx(np.mean([first == second for first, second in pairs]))
        weighted = [
            2 * (first - second) ** 2 / (len(scores) - 1)
            for scores in by_clip.values()
            for first, second in itertools.combinations(scores, 2)
        ]
        together = [score for scores in by_clip.values() if len(scores) > 1 for score in scores]
        chance = np.mean([(first - second) ** 2 for first, second in itertools.combinations(together, 2)])
        assert row.alpha == pytest.approx(1 - sum(weighted) / len(together) / chance)
        assert (row.num_listeners, row.num_ratings) == (3, len(own))
        assert row.num_shared_clips == sum(len(scores) > 1 for scores in by_clip.values())


DAMAGED = {
    "Anna,bigp00": "2 fields of 3",
    "Anna,bigp00,3,4": "4 fields of 3",
    "Anna,bigp00,4": "no score of 1 to 3",
    "Anna,bigp00,": "no score of 1 to 3",
    "Anna,bigp00,2.5": "no score of 1 to 3",
    " ,bigp00,2": "no listener",
    "Anna,unknown,2": "not in the key",
    '"Anna,bigp00,2': "a quote that does not end",
    "\ufffd\ufffd": "1 fields of 3",
}


def test_damaged_lines_are_counted_and_the_others_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against a cut download that ends everything or is silently half used, and a listener who counts twice."""
    good = ['"Bo, the 2nd",bigp00,2', "", "Anna , bigp10 , 3"]
    first, second = tmp_path / "ratings-1.csv", tmp_path / "ratings-2.csv"
    first.write_bytes("\r\n".join(["\ufefflistener,clip,score", *good, *DAMAGED]).encode())
    second.write_text("listener,clip,score\nAnna,bigp10,3\nAnna,smallp00,1\nBo,bigp00,3\nBo,bigp00,1\nBo,bigp0")
    ratings, unused = read_ratings([first, second], KEY)
    assert sorted((one.listener, one.clip, one.score) for one in ratings) == [
        ("Anna", "bigp10", 3), ("Anna", "smallp00", 1), ("Bo", "bigp00", 1), ("Bo, the 2nd", "bigp00", 2)
    ]  # fmt: skip
    assert len(unused) == len(DAMAGED) + 2
    for line, (text, reason) in zip(unused, DAMAGED.items(), strict=False):
        assert reason in line and f"{first}:" in line, text
    assert unused[-2:] == [f"{second}:4: replaced by {second}:5", f"{second}:6: 2 fields of 3"]
    (tmp_path / "key.csv").write_text(key_table(list(KEY.values())))
    assert read_key(tmp_path / "key.csv") == KEY
    command = [str(first), str(second), "--key", str(tmp_path / "key.csv"), "--output", str(tmp_path / "out")]
    main(command)
    said = capsys.readouterr().out
    assert "2 files, 3 listeners, 4 ratings used" in said and "11 lines not used: " in said
    assert "zh: 3 listeners, 4 ratings; 1 clips rated by several: 0% of pairs equal" in said
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open()))
    assert {row["mean"] for row in rows if row["text_class"] == "Poetry"} == {"2.25", "1.0"}
    assert {row["mean"] for row in rows if row["language"] == "en"} == {"nan"}
    with pytest.raises(SystemExit):
        main([str(tmp_path / "key.csv"), *command[2:]])
    assert "to begin with the line listener,clip,score" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command[:2], "--key", str(first), "--output", str(tmp_path)])
    assert "Expected the key.csv of a listening page" in capsys.readouterr().err
