"""Collects runs of `make demo` with several seeds: studies/demo/results.json and .png, the tables of README.md beside
them, and the paragraph about the demo in the repository's README.md.

    python -m studies.demo.collect --seed 0=ROOT --seed 1=ROOT --seed 2=ROOT [--profiles runs/results/profile]
    python -m studies.demo.collect                          renders the pages from the json

ROOT is the folder that has runs/demo; studies/demo/run.sh does the runs. Reads stage markers (settings, seconds, peak
memory), codec_evaluation.json and curve.csv, and computes nothing but error = 1 - score and means over seeds. Runs of
earlier recipes stay in the json as they were collected.
"""

import argparse
import csv
import json
import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from modules.provenance import package_versions
from studies.collected import cell, codec_table, date_and_machine, filled, fit_settings, table, write_json, write_page

HERE = Path(__file__).parent
FRONT_PAGE = HERE.parents[1] / "README.md"
CODEC_METRICS = ("wer", "stoi", "pesq_nb", "pesq_wb")
EARLIER_CODECS = ("codec", "codec_45min", "codec_without_discriminators")
NUM_CANDIDATES = 16
FOUR = "4 digits"
STAGES = ("codec", "codec_evaluation", "tokens", "lm", "sweep")
JUDGE, SELECTOR = "whisper", "pocketsphinx"
NOT_YET = ["not measured yet"]
# Lightning's name of an action: its name on the page.
STEP_PARTS = {"run_training_batch": "step", "[_TrainingEpochLoop].train_dataloader_next": "data, before the step"}
LM_PARTS = STEP_PARTS | {
    "[Strategy]SingleDeviceStrategy.training_step": "forward",
    "[Strategy]SingleDeviceStrategy.backward": "backward",
}
CODEC_PARTS = STEP_PARTS | {
    "codec: generator": "generator, forward",
    "codec: reconstruction loss": "mel loss, forward",
    "codec: discriminator update": "discriminator update",
    "codec: adversarial terms": "adversarial terms, forward",
    "codec: backward": "generator, backward",
    "codec: generator update": "generator update",
}


def markers(run: Path) -> dict[str, dict[str, Any]]:
    """The marker of every finished stage under a run folder."""
    found = {}
    for path in sorted(run.glob("*/stage_*.json")):
        marker = json.loads(path.read_text(encoding="utf-8"))
        if marker["finished"] and "superseded" not in path.parent.name:
            found["sweep" if path.parent.name == "report" else path.parent.name] = marker
    return found


def digit_errors(curve: Path) -> dict[str, dict[str, Any]]:
    """Return {prompt set: {n1, best_of_16}}: 1 - score of one selector under one judge, with the interval reversed."""
    errors: dict[str, dict[str, Any]] = {}
    with curve.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            n = int(row["n"])
            if row["selector"] == SELECTOR and row["judge"] == JUDGE and n in (1, NUM_CANDIDATES):
                value, low, high = (1 - float(row[name]) for name in ("score", "high", "low"))
                name = "n1" if n == 1 else f"best_of_{n}"
                point = {"value": value, "low": low, "high": high, "num": int(row["num_prompts"])}
                errors.setdefault(row["prompt_set"], {})[name] = point
    return errors


def error_curves(curve: Path) -> dict[str, dict[int, float]]:
    """{selector: {n: error}} on strings of four digits under the judge."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    with curve.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if (row["prompt_set"], row["judge"]) == (FOUR, JUDGE):
                curves[row["selector"]][int(row["n"])] = 1 - float(row["score"])
    return dict(curves)


def step_profile(report: Path) -> dict[str, float]:
    """Milliseconds per training step of each part, from the text that Lightning's SimpleProfiler writes."""
    calls, seconds = {}, {}
    for line in report.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 4 and cells[2].isdigit():
            calls[cells[0]], seconds[cells[0]] = int(cells[2]), float(cells[3])
    parts = CODEC_PARTS if "codec: generator" in seconds else LM_PARTS
    num_steps = calls["run_training_batch"]
    return {parts[name]: round(1000 * seconds[name] / num_steps, 1) for name in parts if name in seconds}


def measured(root: Path, seed: int) -> dict[str, Any]:
    """The results of one run. Raises ValueError for a run of another seed, or one that has not finished."""
    run = root / "runs/demo"
    done = markers(run)
    if missing := [name for name in STAGES if name not in done]:
        raise ValueError(f"Expected a finished demo in `{run}`, but got none of these stages: {missing}.")
    recipes = {name: fit_settings(run / name) for name in ("codec", "lm")}
    if any(one["seed"] != seed for one in recipes.values()):
        raise ValueError(f"Expected `{run}` to be of seed {seed}, but got {recipes}.")
    systems = codec_table(run / "codec_evaluation", (*CODEC_METRICS, "bit_rate"))
    stages = {
        name: {"seconds": round(done[name]["seconds"], 1), "peak_gb": round(done[name]["peak_gb"], 2)}
        for name in sorted(done, key=[*STAGES, *done].index)
    }
    return {
        **date_and_machine(),
        "date": done["sweep"]["date"],
        "versions": package_versions(),
        "recipe": recipes,
        "stages": stages,
        "minutes": round(sum(one["seconds"] for one in stages.values()) / 60, 1),
        "codec": systems.pop("codec"),
        "comparisons": systems,
        "digit_error": digit_errors(run / "report/curve.csv"),
        "curves": error_curves(run / "report/curve.csv"),
    }


def quantities(prompt_sets: Mapping[str, Any]) -> dict[str, tuple[Callable[[dict[str, Any]], float], str]]:
    """{name: (its value in the results of a seed, format)}."""
    found: dict[str, tuple[Callable[[dict[str, Any]], float], str]] = {
        "codec, WER": (lambda one: one["codec"]["wer"]["value"], ".3f"),
        "codec, STOI": (lambda one: one["codec"]["stoi"]["value"], ".3f"),
        "codec, PESQ-NB": (lambda one: one["codec"]["pesq_nb"]["value"], ".2f"),
        "codec, PESQ-WB": (lambda one: one["codec"]["pesq_wb"]["value"], ".2f"),
    }
    for prompts in prompt_sets:
        for point, name in (("n1", "one sample"), (f"best_of_{NUM_CANDIDATES}", f"best of {NUM_CANDIDATES}")):
            found[f"digit error, {prompts}, {name}"] = (
                lambda one, prompts=prompts, point=point: one["digit_error"][prompts][point]["value"],  # type: ignore[misc]
                ".3f",
            )
    return found


def spread(seeds: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Lowest, mean and highest value over the seeds of each quantity."""
    first = next(iter(seeds.values()))
    found = {}
    for name, (value_of, _) in quantities(first["digit_error"]).items():
        values = [value_of(one) for one in seeds.values()]
        found[name] = {"lowest": min(values), "mean": mean(values), "highest": max(values)}
    return found


def seeds_table(found: dict[str, Any]) -> list[str]:
    seeds = found["seeds"]
    if not seeds:
        return NOT_YET
    first = next(iter(seeds.values()))
    rows = []
    for name, (value_of, digits) in quantities(first["digit_error"]).items():
        values = [*found["spread"][name].values(), *(value_of(one) for one in seeds.values())]
        rows.append([name, *(f"{value:{digits}}" for value in values)])
    lines = table(["", "lowest", "mean", "highest", *(f"seed {seed}" for seed in seeds)], rows)
    notes = []
    for seed, one in seeds.items():
        parts = "; ".join(
            f"{name}: {made['planned_updates']:,} updates in {made['precision']}"
            for name, made in one["recipe"].items()
        )
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        notes.append(f"- seed {seed}: {one['date']}, {one['machine']}; {parts}; {versions}")
    return [*lines, "", *notes, *(["", found["note"]] if found.get("note") else [])]


def codec_rows(systems: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, row in systems.items():
        cells = [cell(row[metric], 2 if metric.startswith("pesq") else 3) for metric in CODEC_METRICS]
        rows.append([name, f"{row['bit_rate']['value'] or 0:.0f}", *cells, row["wer"]["num"]])
    return table(["system", "bit/s", "WER", "STOI", "PESQ-NB", "PESQ-WB", "prompts"], rows)


def codecs_table(found: dict[str, Any]) -> list[str]:
    """Each seed's codec; the other systems do not depend on a seed."""
    seeds = found["seeds"]
    if not seeds:
        return NOT_YET
    first = next(iter(seeds.values()))
    return codec_rows({f"codec, seed {seed}": one["codec"] for seed, one in seeds.items()} | first["comparisons"])


def error_rows(errors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [name, cell(one["n1"]), cell(one[f"best_of_{NUM_CANDIDATES}"]), one["n1"]["num"]]
        for name, one in errors.items()
    ]
    return table(["strings", "error at n = 1", f"best of {NUM_CANDIDATES}", "prompts"], rows)


def digits_table(found: dict[str, Any]) -> list[str]:
    named = {
        f"{prompts}, seed {seed}": errors
        for seed, one in found["seeds"].items()
        for prompts, errors in one["digit_error"].items()
    }
    return error_rows(named) if named else NOT_YET


def stages_table(found: dict[str, Any]) -> list[str]:
    seeds = found["seeds"]
    if not seeds:
        return NOT_YET
    first = next(iter(seeds.values()))
    rows = []
    for name in (stage for stage in first["stages"] if all(stage in one["stages"] for one in seeds.values())):
        both = [[one["stages"][name][key] for one in seeds.values()] for key in ("seconds", "peak_gb")]
        rows.append([name, ", ".join(f"{one:.0f}" for one in both[0]), ", ".join(f"{one:.2f}" for one in both[1])])
    return table(["stage", "seconds, each seed", "peak memory, GB"], rows)


def profile_rows(profiles: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines: list[str] = []
    for name, parts in profiles.items():
        lines += ["", *table([name, "ms per step"], [[part, f"{value:.1f}"] for part, value in parts.items()])]
    return lines[1:] or NOT_YET


def earlier_tables(one: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tables of the recipe of 2026-11-23, as it was collected then."""
    codecs = {name: one[name] for name in EARLIER_CODECS} | one["comparisons"]
    errors = {f"{where}.{name}": point for where in ("lm", "lm_in_the_demo") for name, point in one[where].items()}
    rows = [
        [name, f"{stage['seconds']['value']:.0f}", f"{stage['peak_gb']['value']:.2f}"]
        for name, stage in sorted(one["stages"].items(), key=lambda item: STAGES.index(item[0]))
    ]
    return {
        "earlier codec": codec_rows(codecs),
        "earlier digits": error_rows(errors),
        "earlier stages": table(["stage", "seconds", "peak memory, GB"], rows),
        "earlier profiles": profile_rows(one["profiles_ms"]),
    }


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of results.json in `folder`."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    (earlier,) = found["earlier"].values()
    return {
        "seeds": seeds_table(found),
        "codec": codecs_table(found),
        "digits": digits_table(found),
        "stages": stages_table(found),
        "profiles": profile_rows(found.get("profiles_ms", {})),
        **earlier_tables(earlier),
    }


def between(one: Mapping[str, float], number: Callable[[float], str]) -> str:
    """ "3.1 to 4.2", or one number where both are shown the same."""
    low, high = number(one["lowest"]), number(one["highest"])
    return low if low == high else f"{low} to {high}"


def percent(value: float) -> str:
    return f"{100 * round(value, 3):.1f}"  # rounded as in the tables


def sentences(found: dict[str, Any]) -> str:
    """What the README says of the demo: from the lowest to the highest seed; minutes are those of the first."""
    seeds, of = list(found["seeds"].values()), found["spread"]
    names = list(found["seeds"])
    labels = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    minutes = {name: f"{seeds[0]['stages'][name]['seconds'] / 60:.0f}" for name in ("codec", "lm")}
    wer, stoi, pesq = (of[f"codec, {name}"] for name in ("WER", "STOI", "PESQ-WB"))
    one, best = (of[f"digit error, {FOUR}, {name}"] for name in ("one sample", f"best of {NUM_CANDIDATES}"))
    return (
        f"On {seeds[0]['machine'].split(',')[1].strip()} all stages take {seeds[0]['minutes']:.0f} minutes. "
        f"Seed{'s' if len(names) > 1 else ''} {labels}, lowest to highest: the codec, after {minutes['codec']} minutes "
        f"of training, has {between(wer, percent)} % word errors "
        f"on held-out prompts (the recordings: {percent(seeds[0]['comparisons']['recording']['wer']['value'])} %), "
        f"STOI {between(stoi, '{:.2f}'.format)}, PESQ-WB {between(pesq, '{:.2f}'.format)}. The language model, after "
        f"{minutes['lm']} minutes, gets {between(one, percent)} % of the digits wrong in one "
        f"sample and {between(best, percent)} % when {SELECTOR} chooses the best of {NUM_CANDIDATES} and Whisper "
        "judges."
    )


def earlier_sentences(one: Mapping[str, Any]) -> str:
    """The same of the recipe of 2026-11-23, which was run once."""
    codec, digits = one["codec"], one["lm_in_the_demo"]["digit_error"]
    minutes = {name: one["stages"][name]["seconds"]["value"] / 60 for name in ("codec", "lm")}
    return (
        f"On two CPU cores, one run: the codec after {minutes['codec']:.0f} minutes of training has "
        f"{percent(codec['wer']['value'])} % word errors on held-out prompts (the recordings: "
        f"{percent(one['comparisons']['recording']['wer']['value'])} %), STOI {codec['stoi']['value']:.2f}, PESQ-WB "
        f"{codec['pesq_wb']['value']:.2f}. The language model, after {minutes['lm']:.0f} minutes, gets "
        f"{percent(digits['n1']['value'])} % of the digits wrong in one sample and "
        f"{percent(digits['best_of_16']['value'])} % when {SELECTOR} chooses the best of {NUM_CANDIDATES} and Whisper "
        "judges."
    )


def front_page(found: dict[str, Any], page: str) -> str:
    """The repository's README.md with the demo's figure and numbers between its marks."""
    (earlier,) = found["earlier"].values()
    text = sentences(found) if found["seeds"] else earlier_sentences(earlier)
    shown = textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
    figure = "![Error against the number of samples](studies/demo/results.png)"
    return filled(page, "demo", f"{figure}\n\n{shown}")


def draw(seeds: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Error against n by selector: the mean over the seeds, and a band from the lowest to the highest."""
    from matplotlib.figure import Figure

    from modules.report.figures import PALETTE, RANDOM_COLOUR

    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    panel = figure.subplots()
    first = next(iter(seeds.values()))["curves"]
    colours = dict(zip((name for name in first if name != "random"), PALETTE * 2, strict=False))
    for selector, points in first.items():
        numbers = [int(n) for n in points]
        values = [[one["curves"][selector][n] for one in seeds.values()] for n in points]
        colour = colours.get(selector, RANDOM_COLOUR)
        panel.plot(numbers, [mean(one) for one in values], "o-", color=colour, label=selector)
        panel.fill_between(numbers, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.2)
    panel.set_xscale("log", base=2)
    panel.set_xticks(numbers, [str(n) for n in numbers])
    panel.set(xlabel="samples to choose from (n)", ylabel=f"digit error, {FOUR}, judged by {JUDGE}")
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False, fontsize=8)
    panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110, facecolor="white")


def seed_and_root(text: str) -> tuple[int, Path]:
    seed, mark, root = text.partition("=")
    if not mark or not seed.isdigit():
        raise argparse.ArgumentTypeError(f"Expected SEED=ROOT, such as 0=., but got {text!r}.")
    return int(seed), Path(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=seed_and_root, action="append", default=[], help="SEED=ROOT, for each seed")
    parser.add_argument("--profiles", type=Path, default=Path("runs/results/profile"), help="reports of the profiler")
    parser.add_argument("--note", default="", help="shown below the seeds")
    given = parser.parse_args()
    results = HERE / "results.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    if given.seed:
        found["seeds"] = {str(seed): measured(root, seed) for seed, root in given.seed}
        found["spread"], found["note"] = spread(found["seeds"]), given.note
        reports = sorted(given.profiles.glob("fit-*.txt"))
        found["profiles_ms"] = {path.stem.removeprefix("fit-"): step_profile(path) for path in reports}
        write_json(found, results)
        found = json.loads(results.read_text(encoding="utf-8"))
        draw(found["seeds"], HERE / "results.png")
    write_page(HERE, tables(HERE))
    FRONT_PAGE.write_text(front_page(found, FRONT_PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
