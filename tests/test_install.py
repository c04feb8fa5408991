"""An editable install in a separate environment, and commands that need none."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from llasa import PACKAGES
from tests.test_architecture import REPOSITORY, project_files

# `python -m NAME` of a module in this repository, in a page, a docstring, a script or a config.
COMMAND = re.compile(r"-m ((?:benchmarks|studies|scripts|modules|datamodules|callbacks)\.[\w.]*\w)")


def run(*command: object, folder: Path, python_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SUITE_ROOT")}
    environment |= {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(python_path)} if python_path else {})
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def pip_install(python: Path, *what: object) -> subprocess.CompletedProcess[str]:
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    return run(sys.executable, "-m", "pip", "--python", python, "install", *options, *what, folder=REPOSITORY)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with this one's packages and the suite installed."""
    if not all(map(find_spec, ("pip", "setuptools"))):
        pytest.skip("needs pip and setuptools")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(packages, "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = pip_install(folder / "bin/python", "--editable", REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


def test_packages_are_imported_from_any_folder_and_nothing_else_is(programs: Path, tmp_path: Path) -> None:
    """Guards against a missing package, and against installing `tests` or `scripts` (gruut brings its own `tests`)."""
    (tmp_path / "show.py").write_text(
        "from importlib.util import find_spec\n"
        f"for name in {PACKAGES}:\n    print(__import__(name).__file__)\n"
        "ours = [name for name in ('benchmarks', 'run', 'scripts', 'studies', 'tests') if find_spec(name)]\n"
        "print([name for name in ours if 'site-packages' not in str(find_spec(name))])\n"
    )
    done = run(programs / "python", "show.py", folder=tmp_path)
    assert done.stdout.split("\n")[:-1] == [*(f"{REPOSITORY / name}/__init__.py" for name in PACKAGES), "[]"]


def test_the_command_is_run_py(programs: Path, tmp_path: Path) -> None:
    """Guards against a command that resolves paths differently from run.py: one here, one below the repository."""
    (tmp_path / "mine.yaml").write_text("trainer: {max_steps: 12345}\n")
    options = ["--config", "configs/demo/lm.yaml", "--config", "mine.yaml", "--print_config"]
    done = run(programs / "llasa", "fit", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "max_steps: 12345" in done.stdout and "modules.lm_module.LMModule" in done.stdout


def test_a_package_of_the_same_name_is_an_error_of_one_line(programs: Path, tmp_path: Path) -> None:
    """Guards against a traceback from another distribution's `datamodules`, or a run with half of each."""
    hiding = tmp_path / "hiding/datamodules"
    hiding.mkdir(parents=True)
    done = run(programs / "llasa", "fit", folder=tmp_path, python_path=hiding.parent)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{hiding} comes before it. Take" in done.stderr and "PYTHONPATH" in done.stderr
    (hiding / "__init__.py").touch()
    facts = hiding.parent / "other_suite-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-suite\nVersion: 1.0\n")
    (facts / "top_level.txt").write_text("datamodules\n")
    done = run(programs / "llasa", "fit", folder=tmp_path, python_path=hiding.parent)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "`pip uninstall other-suite`" in done.stderr


def test_another_install_is_refused(programs: Path, tmp_path: Path) -> None:
    """Guards against `modules` in site-packages, without its configs."""
    before = run(programs / "python", "-c", "import modules; print(modules.__file__)", folder=tmp_path).stdout
    done = pip_install(programs / "python", REPOSITORY)
    assert done.returncode and "only `pip install -e .` installs it" in done.stdout + done.stderr
    assert run(programs / "python", "-c", "import modules; print(modules.__file__)", folder=tmp_path).stdout == before


def test_commands_name_modules_that_are_there() -> None:
    """Guards against a page or script whose command no longer exists, or needs PYTHONPATH."""
    files = project_files(".py", ".sh", ".sbatch", ".md", ".yaml", "Makefile")
    texts = {path: path.read_text() for path in files if path.name != "CHANGELOG.md" and path != Path(__file__)}
    commands = {(path, name) for path, text in texts.items() for name in COMMAND.findall(text)}
    named = {(path, name) for path, name in commands if "NAME" not in name}
    assert len(named) > 40
    for path, name in named:
        assert (REPOSITORY / name.replace(".", "/")).with_suffix(".py").is_file(), f"{path} names {name}"
    assert not [path for path, text in texts.items() if "PYTHONPATH=." in text]
    for path in texts:
        place, *_ = path.relative_to(REPOSITORY).parts
        if place in ("benchmarks", "studies") and 'if __name__ == "__main__"' in texts[path]:
            own = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            assert (path, own) in named, f"{path} says no `python -m {own}`"


def test_a_study_runs_from_the_repository_as_a_module() -> None:
    """Guards against a collector that finds `modules` only through PYTHONPATH."""
    done = run(sys.executable, "-m", "studies.two_directions.collect", "--help", folder=REPOSITORY)
    assert done.returncode == 0 and "--output" in done.stdout, done.stderr
