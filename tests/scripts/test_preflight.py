"""The checks before the demo, and the Makefile's order of installation."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import preflight

REPOSITORY = Path(__file__).resolve().parents[2]


def test_it_needs_nothing_but_an_old_python() -> None:
    """Guards against a preflight that itself fails on a fresh machine."""
    source = (REPOSITORY / "scripts/preflight.py").read_text()
    tree = ast.parse(source, feature_version=(3, 7))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_each_check_names_what_is_missing_and_a_remedy(tmp_path: Path) -> None:
    """Guards against a failure deep inside pip or apt, minutes later, instead of an error at the start."""

    def nothing(name: str) -> None:
        return None

    def offline(pin: str) -> str:
        raise OSError("no route to host")

    missing = [
        preflight.check_python((3, 9, 2)),
        preflight.check_disk(10.0**9),
        preflight.check_compiler(nothing),
        preflight.check_compiler(lambda name: f"/usr/bin/{name}", tmp_path),
        preflight.check_index(offline),
        preflight.check_recordings(tmp_path, nothing),
    ]
    for check in missing:
        assert check.problem, check.name
        assert check.remedy, check.name
    lines = preflight.report(missing)
    assert lines.count("MISSING") == len(missing)
    for expected in (
        "3.11",
        "python3-dev",
        "Python.h",
        "HTTPS_PROXY",
        "no route to host",
        "asterisk-core-sounds-en-g722",
    ):
        assert expected in lines


def test_existing_requirements_are_no_problem(tmp_path: Path) -> None:
    """Guards against a demo that does not start where it would have worked, in particular offline from the cache."""
    (tmp_path / "Python.h").touch()
    (tmp_path / "packages").mkdir()
    for part in ("", "-g722"):
        (tmp_path / f"packages/asterisk-core-sounds-en{part}_1.6.1-1_all.deb").touch()
    there = [
        preflight.check_python((3, 11, 0)),
        preflight.check_disk(0.0, tmp_path),
        preflight.check_compiler(lambda name: f"/usr/bin/{name}", tmp_path),
        preflight.check_index(lambda pin: f"fetched {pin}"),
        preflight.check_recordings(tmp_path, lambda name: None),
        preflight.check_recordings(tmp_path / "empty", lambda name: f"/usr/bin/{name}"),
        preflight.check_memory(10.0**6),  # too little memory is a note: the figure is an estimate
        preflight.check_comparisons(lambda name: None),
    ]
    assert there[-1].finding.startswith("Opus; Codec2's rows are left out")
    assert not [check.name for check in there if check.problem]


def test_an_installed_machine_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against accessing the package index in a second, offline run."""
    monkeypatch.setattr(preflight, "installed", lambda package: True)
    monkeypatch.setattr(preflight, "fetch_from_index", lambda pin: pytest.fail("asked the package index"))
    assert {check.name for check in preflight.checks(install_only=False)} >= {"python", "disk", "recordings"}


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_installs_torch_first_and_only_once(tmp_path: Path) -> None:
    """Guards against pip installing another torch for a package that came first, and against a second run going
    online."""
    for path in (REPOSITORY / "Makefile", *REPOSITORY.glob("requirements*.txt")):
        shutil.copy(path, tmp_path)

    def planned() -> list[str]:
        run = subprocess.run(["make", "-n", "test"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return run.stdout.splitlines()

    lines = planned()
    steps = [
        "preflight.py --install",
        "-m venv",
        "torch==",
        "-r requirements.txt",
        "--no-deps -r",
        "-r requirements-files.txt &&",
        "touch",
        "-r requirements-test.txt",
        "-m pytest",
    ]
    positions = [next(i for i, line in enumerate(lines) if step in line) for step in steps]
    assert positions == sorted(positions)

    (tmp_path / ".venv").mkdir()
    for line in lines:
        if line.startswith("touch"):
            (tmp_path / line.split()[-1]).touch()
    assert not [line for line in planned() if "pip" in line]
    with (tmp_path / "requirements.txt").open("a") as file:
        file.write("another==1.0\n")
    assert [line for line in planned() if "pip" in line]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_clean_keeps_what_was_trained_and_fetched(tmp_path: Path) -> None:
    """Guards against `make clean` that deletes trained models, and `make distclean` that deletes without asking."""
    for path in (REPOSITORY / "Makefile", *REPOSITORY.glob("requirements*.txt")):
        shutil.copy(path, tmp_path)
    kept = ["cache/shards/000000.tar", "data/corpus/a.wav", "runs/demo/codec/checkpoints/last.ckpt"]
    for name in (*kept, ".ruff_cache/a", "modules/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    def left(*command: str, answer: str = "") -> tuple[str, list[str]]:
        run = subprocess.run(["make", *command], cwd=tmp_path, input=answer, capture_output=True, text=True)
        folders = ("cache", "data", "modules", "runs", ".ruff_cache")
        files = [path for folder in folders for path in (tmp_path / folder).rglob("*") if path.is_file()]
        return run.stdout, sorted(str(path.relative_to(tmp_path)) for path in files)

    assert left("clean")[1] == kept
    said, files = left("distclean", answer="n\n")
    assert files == kept and re.search(r"deletes, for good:\n\S+\s+runs\n\S+\s+cache\n", said)
    assert left("distclean", answer="y\n")[1] == left("distclean", "YES=1")[1] == ["data/corpus/a.wav"]


def test_the_shell_scripts_parse() -> None:
    """Guards against a syntax error in a script that no other test runs."""
    for path in [
        REPOSITORY / ".ci/run",
        *sorted((REPOSITORY / "scripts").rglob("*.sh")),
        *sorted((REPOSITORY / "studies").rglob("*.sh")),
    ]:
        subprocess.run(["bash", "-n", str(path)], check=True)
