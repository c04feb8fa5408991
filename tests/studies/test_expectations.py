"""studies/expectations: the curves of docs/what_to_expect.md are those that a fit logged."""

import json
import re
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from studies.expectations import collect
from studies.expectations.curves import NUM_POINTS, read_training, thinned, thinned_training

REPOSITORY = Path(__file__).resolve().parents[2]
START = 1_000_000_000.0


def write_attempt(
    run: Path, monkeypatch: pytest.MonkeyPatch, steps: range, begin: float, offset: float = 0.0, family: str = "mel"
) -> None:
    """An events file of a fit that began at `begin` seconds and logged every step, six seconds each: the training loss
    is 100 - step + offset, the held-out one, every 100 steps, is the step."""
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: START + begin)  # the time of the file and of its first event
        writer = SummaryWriter(str(run / "tensorboard"))
    for place, step in enumerate(steps):
        time = START + begin + 6 * (place + 1)
        writer.add_scalar(f"train/{family}", 100 - step + offset, step, walltime=time)
        writer.add_scalar("hp_metric", -1, 0, walltime=time)
        if (step + 1) % 100 == 0:
            writer.add_scalar(f"val/{family}", step, step, walltime=time)
            writer.add_scalar("val/code_perplexity", 7.0, step, walltime=time)
    writer.close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Killed after update 250, ten minutes' pause, resumed from the checkpoint of update 200, 400 updates."""
    run = tmp_path / "codec"
    write_attempt(run, monkeypatch, range(250), 0.0)
    write_attempt(run, monkeypatch, range(200, 400), 250 * 6 + 600, offset=0.5)
    config = {"seed_everything": 3, "trainer": {"max_steps": 500, "precision": None}}
    (run / "stage_fit.json").write_text(json.dumps({"config": config, "finished": False}))
    return run


def test_a_resumed_fit_is_one_curve_over_its_own_minutes(run: Path) -> None:
    """Guards against updates that are shown twice, values of lost updates, and a pause that counts as training."""
    training = read_training(run)
    assert training.num_attempts == 2 and training.updates == 400
    steps, minutes, values = zip(*training.curves["train/mel"], strict=True)
    assert list(steps) == list(range(1, 401))
    assert values[199] == 100 - 199 and values[200] == 100 - 200 + 0.5
    assert minutes[199] == pytest.approx(20.0) and minutes[200] == pytest.approx(25.1)
    assert training.minutes == minutes[-1] == pytest.approx((250 + 200) * 6 / 60)
    assert set(training.curves) == {"train/mel", "val/mel", "val/code_perplexity"}


def test_a_thinned_curve_keeps_both_ends_and_averages_training(run: Path) -> None:
    """Guards against a curve of single noisy batches, a json of thousands of points, and a lost beginning."""
    curve = [(step, step / 10, float(step % 2)) for step in range(1000)]
    few = thinned(curve, averaged=True)
    assert len(few) == NUM_POINTS and few[0] == curve[0] and few[-1][:2] == curve[-1][:2]
    assert all(0.4 < value < 0.6 for _, _, value in few[1:])
    picked = thinned(curve, averaged=False)
    assert len(picked) <= NUM_POINTS and set(picked) <= set(curve) and picked[-1] == curve[-1]
    found = thinned_training(run)
    assert (found["planned_updates"], found["precision"], found["seed"], found["finished"]) == (
        500,
        "32-true",
        3,
        False,
    )
    assert found["curves"]["val/mel"] == [[100, 10.0, 99.0], [200, 20.0, 199.0], [300, 35.0, 299.0], [400, 45.0, 399.0]]


def test_the_page_has_the_measured_recipe_and_says_which_are_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a table of another run than the json, a figure of a recipe that was not measured, and a fit of a
    codec shown as a language model."""
    page = tmp_path / "page.md"
    marks = "".join(f"<!-- {name} -->\n\n<!-- end of {name} -->\n" for name in (*collect.RECIPES, *collect.OTHERS))
    page.write_text(marks)
    monkeypatch.setattr(collect, "HERE", tmp_path)
    monkeypatch.setattr(collect, "PAGE", page)
    options = ["collect", "--recipe", "demo_codec", "--run", str(run), "--command", "SEED=3 make demo"]
    monkeypatch.setattr("sys.argv", options)
    collect.main()
    text = page.read_text()
    assert text.count("not measured yet") == len(collect.RECIPES) - 1
    block = text.split("<!-- demo_codec -->")[1].split("<!-- end")[0]
    assert "`SEED=3 make demo`" in block and "400 updates in 45 minutes, not finished (500 updates planned)" in block
    rows = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("| ")][1:]
    assert rows[0] == ["1", "0.1", "100", "–", "–"]
    assert len(rows) == 1 + 3 + 4 and [row[3:] for row in rows[1:4]] == [["–", "–"]] * 3
    validations = [" ".join([row[0], row[1], *row[3:]]) for row in rows[4:]]
    assert validations == ["100 10.0 99 7", "200 20.0 199 7", "300 35.0 299 7", "400 45.0 399 7"]
    assert (tmp_path / "demo_codec.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*lm.png"))
    monkeypatch.setattr("sys.argv", ["collect", "--recipe", "demo_lm", "--run", str(run)])
    with pytest.raises(ValueError, match="train/loss"):
        collect.main()


def test_the_committed_page_is_rendered_from_the_committed_json() -> None:
    """Guards against numbers in the guide that no json holds, and against a figure that is missing or left over."""
    text = (REPOSITORY / "docs/what_to_expect.md").read_text()
    emptied = re.sub(r"(<!-- (.+?) -->\n).*?(\n<!-- end of \2 -->)", r"\1\3", text, flags=re.DOTALL)
    assert collect.with_tables(emptied, collect.tables()) == text
    folder = REPOSITORY / "studies/expectations"
    measured = {path.stem for path in folder.glob("*.json")}
    assert measured <= collect.RECIPES.keys() and {path.stem for path in folder.glob("*.png")} == measured
