"""scripts/steps.sh: the time left; and scripts/demo.sh with a stub in place of Python."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY

# A clock that stands still (bash loses its own with `unset`): a step takes as many seconds as its argument says.
CLOCK = "unset SECONDS; SECONDS=0; PYTHON=work; work() { SECONDS=$((SECONDS + $1)); }; source scripts/steps.sh; "
STUB = """#!/usr/bin/env bash
printf '%s|' "$@" >>calls; echo >>calls
if [[ " $* " == *" $FAILING "* ]]; then exit 2; fi
"""


def minutes_left(script: str) -> list[int]:
    done = subprocess.run(
        [shutil.which("bash"), "-euc", CLOCK + script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return [int(minutes) for minutes in re.findall(r"About (\d+) min left", done.stdout)]


def test_the_time_left_follows_this_machine() -> None:
    """Guards against minutes of another machine after the first step showed that this one is slower, against a resumed
    step that shortens all others, and against names that end alike."""
    plan = "plan the_codec 10; plan codec 5; plan lm 20; "
    assert minutes_left(plan + "step other 9; step the_codec 1200; step codec 600; step lm 2400") == [35, 50, 40]
    assert minutes_left(plan + "step the_codec 300; step codec 150; step lm 600") == [35, 25, 20]


def test_steps_that_were_finished_earlier_say_nothing_about_the_machine() -> None:
    """Guards against "0 min left" before hours of training, because the steps before it were skipped in seconds."""
    plan = "plan codec 10; plan tokens 1; plan lm 20; "
    assert minutes_left(plan + "step codec 6; step tokens 6; step lm 1200") == [31, 21, 20]


def demo(folder: Path, **environment: str) -> tuple[str, list[list[str]]]:
    """What the demo prints, and the commands that it runs."""
    (folder / "scripts").mkdir(exist_ok=True)
    for name in ("demo.sh", "steps.sh"):
        shutil.copy(REPOSITORY / "scripts" / name, folder / "scripts")
    (folder / "stub").write_text(STUB)
    (folder / "stub").chmod(0o755)
    (folder / "calls").unlink(missing_ok=True)
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/mine",
        "PYTHON": str(folder / "stub"),
        "FAILING": "none",
    } | environment
    done = subprocess.run(
        [shutil.which("bash"), "scripts/demo.sh"], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line.split("|")[:-1] for line in (folder / "calls").read_text().splitlines()]


def test_the_demo_says_the_sentence_and_how_long_it_takes(tmp_path: Path) -> None:
    """Guards against a sentence that a shell or make splits, one spoken by the model of the digits, and a plan that
    names other steps or minutes than the text."""
    sentence = "It's \"only\" $5, isn't it?"
    printed, calls = demo(tmp_path, SENTENCE=sentence)
    assert calls[-1] == ["run.py", "say", "--model", str(tmp_path / "voices/rms"), "--", sentence]
    assert calls[-2] == ["run.py", "say", "--model", "runs/demo", "four two seven"]
    planned = dict(re.findall(r"^    (\w+) +(\d+) min", printed, re.M))
    steps = re.findall(r"^== (\w+): python", printed, re.M)
    assert steps == ["preflight", *planned, "speech", "sentence"]
    assert sum(map(int, planned.values())) == int(re.search(r"about (\d+) min on two cores", printed)[1])
    for name in ("codec", "lm"):
        updates = re.search(rf"^    {name} .* (\d+) updates", printed, re.M)[1]
        assert f"max_steps: {updates}\n" in (REPOSITORY / f"configs/demo/{name}.yaml").read_text()


def test_a_seed_and_a_folder_of_its_own(tmp_path: Path) -> None:
    """Guards against three runs of one seed, and against a second run that moves the first one aside."""
    for seed in ("0", "1"):
        printed, calls = demo(tmp_path, SEED=seed, SUITE_ROOT="other")
        fits = [call for call in calls if call[1:2] == ["fit"]]
        assert [call[-2:] for call in fits] == [["--seed_everything", seed]] * 2
        assert f"{tmp_path}/other/runs/demo/report/index.html" in printed and (tmp_path / "other").is_dir()


def test_a_sentence_that_cannot_be_spoken_does_not_hide_the_report(tmp_path: Path) -> None:
    """Guards against twenty minutes that end without the path of the report."""
    printed, _ = demo(tmp_path, SENTENCE="нет", FAILING="нет")
    assert "Your sentence was not spoken" in printed and "runs/demo/report/index.html" in printed
    printed, _ = demo(tmp_path)
    assert "not spoken" not in printed


def test_a_step_that_fails_ends_the_script() -> None:
    """Guards against later steps on what a failed one left."""
    script = "PYTHON=false; source scripts/steps.sh; step codec x; echo went on"
    done = subprocess.run([shutil.which("bash"), "-eEuc", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1 and "went on" not in done.stdout and "Start again to continue" in done.stderr


def test_printed_commands_name_the_folder(tmp_path: Path) -> None:
    """Guards against commands that speak with another run's model."""
    printed, _ = demo(tmp_path, SUITE_ROOT="other run")
    folder = str(tmp_path / "other run").replace(" ", "\\ ")
    assert f"SUITE_ROOT={folder} " in printed and f"--logdir {folder}/runs" in printed
