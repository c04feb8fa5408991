"""studies/new_language: amounts of speech are nested, and the page's numbers are those of the runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from datamodules.shards.shards import ShardIndex, ShardReader, ShardWriter
from studies.new_language.collect import curve_table, draw, gather, points, tables
from studies.new_language.minutes import write_minutes

FRAME_RATE = 50
SECONDS = 6


def write_tokens(folder: Path, num_samples: int) -> None:
    with ShardWriter(folder, "tokens", {"frame_rate": FRAME_RATE, "codebook_size": 8}) as writer:
        for number in range(num_samples):
            codes = np.full(FRAME_RATE * SECONDS, number % 8, np.uint16)
            about = {"text": f"слово {number}", "speaker": "x", "source": "y", "language": "ru"}
            writer.write(f"one_{number:03d}", {"codes.npy": codes, "json": about}, len(codes), about["text"])


def write_run(folder: Path, values: dict[int, float], finished: bool = True) -> None:
    with SummaryWriter(str(folder / "tensorboard")) as log:
        for step, value in values.items():
            log.add_scalar("val/bits_per_second_of_audio", value, step - 1)
    (folder / "stage_fit.json").write_text(json.dumps({"finished": finished}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    write_tokens(runs / "tokens/train", 60)
    write_tokens(runs / "tokens/held_out", 10)
    for minutes in (1, 3):
        write_minutes(runs / "tokens", minutes)
    write_run(runs / "scratch_1_0", {50: 500.0, 100: 450.0, 150: 470.0})
    write_run(runs / "grown_1_0", {50: 400.0, 100: 410.0, 150: 440.0})
    write_run(runs / "grown_all_0", {50: 390.0, 100: 360.0})
    write_run(runs / "grown_all_1", {50: 380.0, 100: 340.0})
    write_run(runs / "grown_all_2", {50: 100.0}, finished=False)
    (runs / "base").mkdir()
    return runs


def test_amounts_are_nested_and_whole(runs: Path) -> None:
    """Guards against amounts that are other recordings, which would compare recordings instead of amounts, and against
    samples that lose a file on the way."""
    one, three, whole = (ShardIndex.load(runs / "tokens" / name, "tokens") for name in ("train_1", "train_3", "train"))
    assert [len(one), len(three), len(whole)] == [10, 30, 60]
    assert set(one.keys) < set(three.keys) < set(whole.keys)
    place = whole.keys.tolist().index(one.keys[0])
    copied, original = ShardReader(one).read(0), ShardReader(whole).read(place)
    assert copied["codes.npy"] == original["codes.npy"] and copied["json"] == original["json"]
    assert sorted(one.keys) != sorted(whole.keys)[:10], "the first by name are of few kinds"


def test_the_table_holds_the_lowest_value_of_each_seed(runs: Path, tmp_path: Path) -> None:
    """Guards against the value at the end, after the fit of few minutes has gone too far, shown as what they bought,
    and a run that is not finished."""
    found = gather(runs)
    rows = points(found)
    assert [(row["start"], row["minutes"], row["lowest"], row["steps"], row["last"]) for row in rows] == [
        ("grown", 1.0, [400.0], [50], [440.0]),
        ("scratch", 1.0, [450.0], [100], [470.0]),
        ("grown", 6.0, [360.0, 340.0], [100, 100], [360.0, 340.0]),
    ]
    lines = curve_table(found)
    assert "| 6.0 | from a model of other languages | 2 | 350 (340 to 360) | 100, 100 | 350 (340 to 360) |" in lines
    (tmp_path / "results.json").write_text(json.dumps(found))
    assert tables(tmp_path) == {"curves": lines}
    draw(found, tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 1000
