"""Renders the tables of studies/codec_speed/README.md from the json beside it.

    python -m studies.codec_speed.collect

Computes nothing: benchmarks/ and benchmarks/gpu/ measure. A ratio that reaches its goal is printed in bold.
"""

import json
from pathlib import Path
from typing import Any

from studies.collected import table, write_page

HERE = Path(__file__).parent
FIRST_LAYER = "48 x 96000"  # of the snake kernel's layers


def bold(text: str, reached: bool) -> str:
    return f"**{text}**" if reached else text


def cpu_table(found: dict[str, Any]) -> list[str]:
    inference, encoder = found["codec_inference"], found["acoustic_encoder"]
    batch, one_file = inference["batch"], inference["one_file"]
    wrong = f"{1 - batch['encode']['compared_with_one_by_one']['padded_batch']:.0%}".replace("%", " %")
    lengths, (length,) = batch["item_seconds"], one_file["item_seconds"]
    corpus, compiled = found["corpus_tokenising"], "compiled_activations"
    rows: list[tuple[str, str, float, float | None, str]] = [
        (
            f"encode, eight files of {min(lengths)} to {max(lengths)} s",
            f"Xcodec2Model on the padded batch ({wrong} of its codes are then wrong)",
            batch["encode"]["ours_over"]["padded_batch"], 1.5, "1.5",
        ),
        ("", "Xcodec2Model file by file (the right codes)", batch["encode"]["ours_over"]["one_by_one"], None, ""),
        (
            "decode, the same", "Xcodec2Model on the padded batch (its waveforms are then wrong)",
            batch["decode"]["ours_over"]["padded_batch"], 1.3, "1.3",
        ),
        ("", "Xcodec2Model file by file", batch["decode"]["ours_over"]["one_by_one"], None, ""),
        (
            f"one file of {length} s, encode", "Xcodec2Model",
            one_file["encode"]["ours_over"]["one_by_one"], 1.15, "about 1.15",
        ),
        (
            f"one file of {length} s, decode", "Xcodec2Model",
            one_file["decode"]["ours_over"]["one_by_one"], 1.05, "about 1.05",
        ),
        (
            f"tokenise a corpus ({corpus['num_files']} files, network at a quarter of its width)",
            "Xcodec2Model file by file", corpus["ours_over"]["one_by_one"], None, "",
        ),
        (
            "", f"Xcodec2Model in padded batches of {corpus['batch_size']}",
            corpus["ours_over"]["padded_batches"], None, "",
        ),
        (
            "acoustic encoder, activations compiled, forward", "plain",
            encoder["forward"]["speed_ratio"][compiled], 1.2, "1.2",
        ),
        (
            "the same, forward and backward", "plain",
            encoder["forward_and_backward"]["speed_ratio"][compiled], None, "",
        ),
        (
            "training step (a quarter of the width)", "the authors' arrangement",
            found["codec_training_step"]["speedup"], 1.5, "1.5",
        ),
    ]  # fmt: skip
    cells = [
        [what, against, bold(f"{ratio:.2f}", goal is not None and ratio >= goal), shown]
        for what, against, ratio, goal, shown in rows
    ]
    return table(["what", "against", "ratio", "goal"], cells)


def equal(share: float, num_digits: int) -> str:
    return f"{100 * share:.{num_digits}f} % of codes equal"


def snake_rows(layers: dict[str, Any], way: str) -> list[list[str]]:
    """Rows of one direction at the first layer: float32, and bfloat16 in brackets."""
    whole, half = (layers[f"{dtype}, {FIRST_LAYER}"] for dtype in ("float32", "bfloat16"))

    def ratios(peer: str) -> tuple[float, float]:
        return whole["speed_ratio"][peer][way], half["speed_ratio"][peer][way]

    first, second = ratios("eager")
    what = f"snake kernel, {way}, float32 (bfloat16), first layer"
    rows = [[what, "convolutions, eager", f"{bold(f'{first:.1f}x', first >= 8)} ({second:.1f}x)", "8x"]]
    if way == "forward":
        first, second = ratios("compile")
        rows.append(["", "the sums over phases, torch.compile", f"{first:.1f}x ({second:.1f}x)", ""])
    first, second = (100 * one["share_of_copy_bandwidth"][way] for one in (whole, half))
    return [*rows, ["", "bandwidth of a copy", f"{first:.0f} % ({second:.0f} %)", "60 %"]]


def gpu_table(found: dict[str, Any]) -> list[str]:
    step, codes = found["codec_step"], found["codec_tokenising"]
    seconds = step["seconds"]
    what = f"training step, {step['batch_size']} crops of {step['seconds_of_audio']:.0f} s, {step['precision']}"
    result = f"**{step['speedup']:.2f}x** ({seconds['ours']:.3f} s against {seconds['authors']:.3f} s)"
    rows = [[f"{what}, not compiled", "the authors' arrangement", result, "3x"]]
    names = {
        "float32": (f"tokenise {codes['audio_seconds'] / 60:.0f} minutes of audio, float32", 3, "700x, 99.99 % equal"),
        "tf32": ("the same, TF32", 1, ""),
        "bfloat16": ("the same, bfloat16", 0, ""),
    }
    for name, (what, num_digits, goal) in names.items():
        times = codes[name]["times_real_time"]
        fast = bold(f"{times:,.0f}x", times >= codes["goal"])
        rows.append([what, "real time", f"{fast}; {equal(codes[name]['codes_equal'], num_digits)}", goal])
    for way in ("forward", "backward"):
        rows += snake_rows(found["snake"]["layers"], way)
    return table(["what", "against", "result", "goal (for an H200)"], rows)


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of the json files in `folder`."""
    rendered = {"cpu": ("results.json", cpu_table), "gpu": ("gpu.json", gpu_table)}
    return {
        name: lines_of(json.loads((folder / file).read_text(encoding="utf-8")))
        for name, (file, lines_of) in rendered.items()
    }


if __name__ == "__main__":
    write_page(HERE, tables(HERE))
