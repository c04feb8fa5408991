"""studies/demo/collect.py: the numbers of the pages are those of the runs."""

import csv
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from studies.demo import collect

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMNS = (
    "algorithm,selector,judge,n,score,low,high,num_prompts,num_unjudged,num_runaways,score_judged_only,prompt_set,flops"
)


def write_marker(path: Path, seconds: float, finished: bool = True, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"seed_everything": seed, "precision": "auto", "trainer": {"max_steps": 3200, "precision": None}}
    about = {"hash": "0" * 64, "config": config, "finished": finished, "seconds": seconds, "peak_gb": 1.234}
    about["date"] = "2026-11-27"
    path.write_text(json.dumps(about))


def write_curve(path: Path, score: float) -> None:
    with path.open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS.split(","))
        for prompts in ("4 digits", "6 to 8 digits"):
            for n, own in ((1, score), (16, score + 0.09)):
                for judge, shown in (("whisper", own), ("speaker", 0.1)):
                    for selector in ("random", "pocketsphinx"):
                        value = score if selector == "random" and judge == "whisper" else shown
                        line = [n, value, value - 0.05, value + 0.01, 32, 0, 0, value, prompts, 1.0]
                        writer.writerow(["best_of_n", selector, judge, *line])


def write_run(root: Path, seed: int, wer: float = 0.05, score: float = 0.9) -> Path:
    """What `make demo` leaves, as far as the collector reads it."""
    run = root / "runs/demo"
    for folder, name, seconds in (
        ("codec", "fit", 661.26), ("codec_evaluation", "test", 60.0), ("tokens", "predict", 30.0),
        ("lm", "fit", 300.0), ("report", "test", 300.0), ("lm.superseded_1", "fit", 9e9),
    ):  # fmt: skip
        write_marker(run / folder / f"stage_{name}.json", seconds, seed=seed)
    for name in ("codec", "lm"):
        (run / name / "tensorboard").mkdir()
        (run / name / "tensorboard/config.yaml").write_text("trainer: {max_steps: 3200, precision: bf16-mixed}\n")
    point = {"value": 0.5, "low": 0.4, "high": 0.6, "num": 25, "num_unjudged": 0}
    row = dict.fromkeys(("stoi", "pesq_nb", "pesq_wb", "bit_rate"), point) | {"wer": point | {"value": wer}}
    nothing = {key: {"value": None, "low": None, "high": None, "num": 0, "num_unjudged": 25} for key in row}
    table = {"systems": {"codec": row, "recording": row | {"wer": point | {"value": 0.0375}}, "Opus 6k": nothing}}
    (run / "codec_evaluation/codec_evaluation.json").write_text(json.dumps(table))
    write_curve(run / "report/curve.csv", score)
    return root


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study and the front page, which the collector writes to."""
    shutil.copytree(REPOSITORY / "studies/demo", tmp_path / "demo")
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    monkeypatch.setattr(collect, "HERE", tmp_path / "demo")
    monkeypatch.setattr(collect, "FRONT_PAGE", tmp_path / "README.md")
    return tmp_path


def collected(pages: Path, monkeypatch: pytest.MonkeyPatch, *seeds: str) -> dict:
    options = [word for seed in seeds for word in ("--seed", seed)]
    monkeypatch.setattr("sys.argv", ["collect", *options, "--profiles", str(pages / "profile")])
    collect.main()
    return json.loads((pages / "demo/results.json").read_text())


def test_the_front_page_is_rendered_from_the_json() -> None:
    """Guards against numbers of the repository's README that are of another run, or edited by hand."""
    found = json.loads((REPOSITORY / "studies/demo/results.json").read_text())
    page = (REPOSITORY / "README.md").read_text()
    before, rest = page.split("<!-- demo -->")
    emptied = f"{before}<!-- demo -->\n<!-- end of demo -->{rest.split('<!-- end of demo -->')[1]}"
    assert collect.front_page(found, emptied) == page


def test_numbers_of_three_seeds_reach_the_pages(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against one lucky seed on the front page, a score shown as an error, interval ends that are not reversed,
    stages that were moved aside, and results of earlier recipes that are lost."""
    earlier = json.loads((pages / "demo/results.json").read_text())["earlier"]
    picture = (pages / "demo/results.png").read_bytes()
    wers, scores = (0.061, 0.043, 0.05), (0.86, 0.9, 0.88)
    seeds = [
        f"{seed}={write_run(pages / str(seed), seed, wer, score)}"
        for seed, (wer, score) in enumerate(zip(wers, scores, strict=True))
    ]
    found = collected(pages, monkeypatch, *seeds)
    assert found["earlier"] == earlier
    error = found["seeds"]["1"]["digit_error"]["4 digits"]["n1"]
    assert {key: round(value, 6) for key, value in error.items()} == {
        "value": 0.1, "low": 0.09, "high": 0.15, "num": 32,
    }  # fmt: skip
    assert found["seeds"]["0"]["minutes"] == 22.5 and found["seeds"]["0"]["recipe"]["codec"]["planned_updates"] == 3200
    assert found["seeds"]["0"]["date"] == "2026-11-27"
    spread = found["spread"]["digit error, 4 digits, best of 16"]
    assert spread == pytest.approx({"lowest": 0.01, "mean": 0.03, "highest": 0.05})
    page = (pages / "demo/README.md").read_text()
    assert "codec: 3,200 updates in bf16-mixed; lm: 3,200" in page  # what `auto` came to
    assert "| codec, WER | 0.043 | 0.051 | 0.061 | 0.061 | 0.043 | 0.050 |" in page
    assert "| 4 digits, seed 2 | 0.120 [0.110, 0.170] | 0.030 [0.020, 0.080] | 32 |" in page
    assert "| Opus 6k | 0 | – |" in page, "a system that nothing could judge is a dash, not a crash"
    assert "| codec | 661, 661, 661 | 1.23, 1.23, 1.23 |" in page
    front = " ".join((pages / "README.md").read_text().split())
    assert "Seeds 0, 1 and 2, lowest to highest" in front and "take 22 minutes" in front
    assert "has 4.3 to 6.1 % word errors" in front
    assert "10.0 to 14.0 % of the digits wrong in one sample and 1.0 to 5.0 % when pocketsphinx" in front
    drawn = (pages / "demo/results.png").read_bytes()
    assert drawn.startswith(b"\x89PNG") and drawn != picture
    once = page
    assert collected(pages, monkeypatch) == found and (pages / "demo/README.md").read_text() == once


def test_runs_of_another_seed_or_unfinished_ones_are_refused(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against three copies of one seed, and numbers of a run that has not ended."""
    root = write_run(pages / "one", 0)
    with pytest.raises(ValueError, match="of seed 1, but got"):
        collected(pages, monkeypatch, f"0={root}", f"1={root}")
    write_marker(root / "runs/demo/lm/stage_fit.json", 5.0, finished=False)
    with pytest.raises(ValueError, match=r"none of these stages: \['lm'\]"):
        collected(pages, monkeypatch, f"0={root}")


def test_a_profile_is_read_per_step(tmp_path: Path) -> None:
    """Guards against the mean of a part that runs twice a step, and against a part of the other module's step."""
    report = tmp_path / "fit-codec.txt"
    report.write_text(
        "FIT Profiler Report\n\n"
        "|  Action  |  Mean duration (s)  |  Num calls  |  Total time (s)  |  Percentage %  |\n"
        "|  Total  |  -  |  100  |  9.0  |  100 %  |\n"
        "|  run_training_batch  |  0.4  |  10  |  4.0  |  44  |\n"
        "|  [Strategy]SingleDeviceStrategy.backward  |  0.1  |  20  |  2.0  |  22  |\n"
        "|  codec: generator  |  0.1  |  10  |  1.0  |  11  |\n"
        "|  codec: backward  |  0.1  |  20  |  2.0  |  22  |\n"
    )
    assert collect.step_profile(report) == {"step": 400.0, "generator, forward": 100.0, "generator, backward": 200.0}


def test_the_script_runs_each_seed_in_its_own_root_and_collects_them(tmp_path: Path) -> None:
    """Guards against seeds that share a folder, where the second finds its stages finished, and roots that the
    collector is not given."""
    (tmp_path / "studies/demo").mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "studies/demo/run.sh", tmp_path / "studies/demo")
    demo = tmp_path / "scripts/demo.sh"
    demo.write_text('#!/usr/bin/env bash\necho "demo $SEED $SUITE_ROOT" >>asked\n')
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\nprintf "%q " "$@" >>asked\necho >>asked\n')
    for script in (demo, python):
        script.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python)}
    subprocess.run(["bash", tmp_path / "studies/demo/run.sh"], check=True, timeout=60, env=environment)
    asked = [shlex.split(line) for line in (tmp_path / "asked").read_text().splitlines()]
    roots = {seed: Path(root) for what, seed, *root_ in asked if what == "demo" for root in root_}
    assert sorted(roots) == ["1", "2"] and len(set(roots.values())) == 2
    assert all((root / "cache").samefile(tmp_path / "cache") for root in roots.values())
    given = [collect.seed_and_root(word) for word in asked[-1] if "=" in word]
    expected = [(0, tmp_path), *((int(seed), root) for seed, root in roots.items())]
    assert [(seed, (tmp_path / root).resolve()) for seed, root in given] == expected
