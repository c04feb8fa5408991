"""Renders the tables and the figure of studies/speech/README.md from the json beside it.

    python -m studies.speech.collect

Computes nothing. A measurement that is not there has no table.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from studies.collected import cell, read_json, table, write_page

HERE = Path(__file__).parent
PARTS = {
    "stream": "streamed",
    "stream_without_graphs": "streamed, without CUDA graphs",
    "whole": "the same sampler, then a whole decode",
    "generate_and_whole_decode": "`generate`, then a whole decode",
}
COLOURS = {"one reference": "#0072b2", "chain": "#d55e00"}


def latency(folder: Path, names: Iterable[tuple[str, str]]) -> list[str]:
    rows = []
    for name, where in names:
        if (found := read_json(folder / f"{name}.json")) is None:
            continue
        for part, what in PARTS.items():
            if part in found:
                one = found[part]
                rows.append(
                    (where, what, f"{1000 * one['first_audio_seconds']:.0f} ms", f"{one['real_time_factor']:.2f}")
                )
        if (first := found.get("first_audio_of_stream")) is not None:
            rows.append(
                (
                    where,
                    f"first audio alone, {first['num_prompts']} prompts",
                    f"{1000 * first['median_seconds']:.0f} ms",
                    "",
                )
            )
    return table(("machine", "way", "first audio", "real-time factor"), rows)


def similarity(found: dict[str, Any]) -> list[str]:
    rows = [(way, cell(found["first_third"][way]), cell(found["last_third"][way])) for way in found["similarities"]]
    return table(("every sentence continues", "first third of the text", "last third"), rows)


def draw(found: dict[str, Any], path: Path) -> None:
    """Similarity by the sentence's number: the mean over voices and seeds, and each voice as a thin line."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for way, rows in found["similarities"].items():
        values = np.array([one["similarity"] for one in rows], dtype=float)
        numbers = np.arange(1, values.shape[1] + 1)
        panel.plot(numbers, values.T, color=COLOURS[way], linewidth=0.4, alpha=0.35)
        panel.plot(numbers, np.nanmean(values, 0), color=COLOURS[way], linewidth=2, label=way)
    panel.set_xlabel("sentence of the text")
    panel.set_ylabel("similarity to the reference")
    panel.legend(frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of the json files in `folder`."""
    cpu = [(f"latency_cpu_{number}", f"CPU, {number} thread{'s' if number > 1 else ''}") for number in (1, 2)]
    found = {
        "latency on a CPU": latency(folder, cpu),
        "latency on a GPU": latency(folder, [("latency_gpu", "H100")]),
    }
    if (measured := read_json(folder / "long_text.json")) is not None:
        found["similarity"] = similarity(measured)
    return found


def main() -> None:
    if (measured := read_json(HERE / "long_text.json")) is not None:
        draw(measured, HERE / "long_text.png")
    write_page(HERE, tables(HERE))


if __name__ == "__main__":
    main()
