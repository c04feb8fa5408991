"""Collects the curves of a training in studies/expectations/RECIPE.json, draws RECIPE.png beside it, and fills
docs/what_to_expect.md.

    python -m studies.expectations.collect --recipe open_voice_codec --run ROOT/runs/open_voice/codec \
        [--command "HOURS=1.5 make voice"] [--note TEXT]
    python -m studies.expectations.collect                  renders the page and the figures from the json

RUN is the folder of a fit, finished or not. A recipe that was not measured says so and has no figure.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modules.provenance import package_versions
from studies.collected import cell, date_and_machine, read_json, table, with_tables, write_json
from studies.expectations.curves import thinned_training

HERE = Path(__file__).parent
STUDIES = HERE.parent
PAGE = STUDIES.parent / "docs/what_to_expect.md"
NUM_ROWS = 12
NOT_YET = "not measured yet"


@dataclass(frozen=True)
class Recipe:
    """One fit of which the page has curves.

    Args:
        title: What the figure calls it.
        command: What a user runs.
        training: Tag of the loss that training logs.
        validation: Tag of the same on held-out data.
        second: Tag of the figure's second panel.
    """

    title: str
    command: str
    training: str
    validation: str
    second: str


CODEC = ("train/mel", "val/mel", "val/code_perplexity")
LM = ("train/loss", "val/loss", "val/bits_per_second_of_audio")
RECIPES = {
    "demo_codec": Recipe("the demo's codec", "make demo", *CODEC),
    "demo_lm": Recipe("the demo's language model", "make demo", *LM),
    "open_voice_codec": Recipe("the codec of make voice", "make voice", *CODEC),
    "open_voice_lm": Recipe("the language model of make voice", "make voice", *LM),
}


def measured(name: str, run: Path, command: str, note: str) -> dict[str, Any]:
    """The json of a recipe. Raises ValueError for a fit of something else."""
    found = thinned_training(run)
    if RECIPES[name].training not in found["curves"]:
        raise ValueError(f"Expected `{run}` to have logged {RECIPES[name].training}, but got {list(found['curves'])}.")
    about = {"command": command or RECIPES[name].command, "note": note}
    return {"recipe": name, **about, **date_and_machine(), "versions": package_versions(), **found}


def number(value: float) -> str:
    """Four significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def points(found: dict[str, Any], tag: str) -> list[list[float]]:
    return found["curves"].get(tag, [])


def at(curve: Sequence[Sequence[float]], step: float) -> list[float] | None:
    """The last point up to an update; None before the first."""
    return next((list(point) for point in reversed(curve) if point[0] <= step), None)


def table_rows(found: dict[str, Any], recipe: Recipe) -> list[list[str]]:
    """A row for at most 12 validations, for the training loss before the first one, and for the last training loss."""
    training = points(found, recipe.training)
    tags = [tag for tag in found["curves"] if tag.startswith("val/")]
    tags.sort(key=lambda tag: tag != recipe.validation)
    held_out = points(found, recipe.validation)
    picked = set(np.linspace(0, len(held_out) - 1, NUM_ROWS).round().astype(int).tolist()) if held_out else set()
    times = {(held_out[place][0], held_out[place][1]) for place in picked}
    first = held_out[0][0] if held_out else training[-1][0]
    early = [at(training, first * share) for share in (1 / 8, 1 / 4, 1 / 2)]
    known = {step for step, _ in times}
    times |= {(one[0], one[1]) for one in (training[0], *early, training[-1]) if one and one[0] not in known}
    rows = []
    for step, minutes in sorted(times):
        own = at(training, step) or training[0]
        values = {tag: {point[0]: point[2] for point in points(found, tag)} for tag in tags}
        cells = [number(values[tag][step]) if step in values[tag] else "–" for tag in tags]
        rows.append([f"{step:,.0f}", f"{minutes:.1f}", number(own[2]), *cells])
    return rows


def block(found: dict[str, Any] | None, name: str) -> list[str]:
    """What the page shows of a recipe: the figure, its conditions, its speed, and the table."""
    recipe = RECIPES[name]
    if found is None:
        return [NOT_YET]
    tags = sorted((tag for tag in found["curves"] if tag.startswith("val/")), key=lambda tag: tag != recipe.validation)
    versions = found["versions"]
    state = "" if found.get("finished", True) else f", not finished ({found['planned_updates']:,} updates planned)"
    training = points(found, recipe.training)
    seconds = 60 * (training[-1][1] - training[0][1]) / max(training[-1][0] - training[0][0], 1)
    about = [
        f"`{found['command']}`, {found['date']}, {found['machine']}, torch {versions['torch']}, lightning "
        f"{versions['lightning']}, {found.get('precision', '32-true')}, seed {found.get('seed', 0)}: "
        f"{found['updates']:,} updates in {found['minutes']:.0f} minutes{state}, {seconds:.2f} s an update, validation "
        f"included{speed(found)}."
    ]
    if found["note"]:
        about.append(found["note"])
    headings = ["updates", "minutes", f"`{recipe.training}`", *(f"`{tag}`" for tag in tags)]
    figure = f"![Curves of {recipe.title}](../studies/expectations/{name}.png)"
    return [figure, "", *about, "", *table(headings, table_rows(found, recipe))]


def speed(found: dict[str, Any]) -> str:
    rates = [point[2] for point in points(found, "train/useful_tokens_per_second")]
    return f"; {np.median(rates):,.0f} tokens per second" if rates else ""


def draw(found: dict[str, Any], name: str, path: Path) -> None:
    """Loss of training and of held-out data over minutes, and a second measure beside it."""
    from matplotlib.figure import Figure

    recipe = RECIPES[name]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    second = [recipe.second] if points(found, recipe.second) else []
    panels = figure.subplots(1, 1 + len(second), squeeze=False)[0]
    for tag, mark in ((recipe.training, "-"), (recipe.validation, "o-")):
        if curve := points(found, tag):
            panels[0].plot([point[1] for point in curve], [point[2] for point in curve], mark, label=tag, markersize=4)
    panels[0].legend(frameon=False)
    for panel, tag in zip(panels[1:], second, strict=True):
        curve = points(found, tag)
        panel.plot([point[1] for point in curve], [point[2] for point in curve], "o-", color="#009e73", markersize=4)
        panel.set_ylabel(tag)
    for panel in panels:
        panel.set_xlabel("minutes of training")
        panel.grid(alpha=0.3)
    figure.suptitle(recipe.title)
    figure.savefig(path, dpi=110, facecolor="white")


def five_voices(found: dict[str, Any]) -> list[str]:
    """Error of studies/codec_quality's codec over updates."""
    rows = [
        [f"{int(step):,}", cell(row["wer"]), cell(row["stoi"]), cell(row["pesq_wb"], 2)]
        for step, row in found["curve"].items()
    ]
    return table(["updates", "WER", "STOI", "PESQ-WB"], rows)


def own_voice(found: dict[str, Any]) -> list[str]:
    """Similarity and digit error of studies/own_voice's adaptations over updates, without a spoken prompt."""
    from studies.own_voice.collect import METHODS

    rows = []
    order = ["base", *METHODS]
    for row in sorted(found["curve"], key=lambda row: (order.index(row["method"]), row["steps"])):
        if row["prompt_set"] == "no voice":
            name = METHODS.get(row["method"], "not adapted")
            rows.append([name, row["steps"], cell(row["similarity"]), cell(row["digit_error"])])
    return table(["adapted", "updates", "similarity", "digit error"], rows)


OTHERS: dict[str, Callable[[dict[str, Any]], list[str]]] = {"codec_quality": five_voices, "own_voice": own_voice}


def tables(folder: Path = HERE) -> dict[str, list[str]]:
    """The lines of each block of the page, of the json files in `folder` and of two other studies."""
    blocks = {name: block(read_json(folder / f"{name}.json"), name) for name in RECIPES}
    for name, lines_of in OTHERS.items():
        found = json.loads((STUDIES / name / "results.json").read_text(encoding="utf-8"))
        blocks[name] = lines_of(found)
    return blocks


def render(folder: Path, page: Path, drawn: Iterable[str] = RECIPES) -> None:
    for name in drawn:
        if (found := read_json(folder / f"{name}.json")) is not None:
            draw(found, name, folder / f"{name}.png")
    page.write_text(with_tables(page.read_text(encoding="utf-8"), tables(folder)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, help="what was trained")
    parser.add_argument("--run", type=Path, help="folder of the fit, with tensorboard/")
    parser.add_argument("--command", default="", help="shown on the page: what was run")
    parser.add_argument("--note", default="", help="shown on the page, such as what else ran on the machine")
    given = parser.parse_args()
    if (given.recipe is None) != (given.run is None):
        parser.error("Expected `--recipe` and `--run` together.")
    if given.recipe:
        found = measured(given.recipe, given.run, given.command, given.note)
        write_json(found, HERE / f"{given.recipe}.json")
    render(HERE, PAGE, [given.recipe] if given.recipe else RECIPES)


if __name__ == "__main__":
    main()
