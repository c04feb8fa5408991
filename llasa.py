"""The command `llasa`, which `pip install -e .` makes: `python run.py` from any folder."""

import importlib.metadata
import importlib.util
import runpy
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent
PACKAGES = ("modules", "datamodules", "callbacks")


def shadowing() -> str | None:
    """An error in one line where another package of the same name would be imported in place of one of ours."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        folders = [Path(folder).resolve() for folder in (spec and spec.submodule_search_locations) or []]
        if folders == [REPOSITORY / name]:
            continue
        if spec is None:
            return f"error: Expected the package `{name}`, but found none. Run `pip install -e {REPOSITORY}` again."
        others = sorted(set(importlib.metadata.packages_distributions().get(name, [])) - {"llasa-suite"})
        remedy = f"Run `pip uninstall {' '.join(others)}`" if others else "Take its folder off PYTHONPATH"
        place = folders[0] if folders else spec.origin
        return (
            f"error: Expected `{name}` to be the package in {REPOSITORY}, but {place} comes before it. "
            f"{remedy}, or use an environment of its own for the suite."
        )
    return None


def main() -> None:
    """Run `run.py` as the main program. Raises SystemExit with status 2 where another package hides one of ours."""
    if (error := shadowing()) is not None:
        print(error, file=sys.stderr)
        raise SystemExit(2)
    sys.path.insert(0, str(REPOSITORY))  # as `python run.py` has it
    runpy.run_path(str(REPOSITORY / "run.py"), run_name="__main__")
