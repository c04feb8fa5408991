"""Counts candidates that depend on their batch. Their noise is the same; floating-point near-ties differ.

    python -m benchmarks.sampling_ties [--lm FILE] [--num_prompts 16] [--num_candidates 16] [--rows 7 1]
        [--device cpu] [--num_threads 1] [--output FILE.json]

Samples all candidates in batches of 64 rows, then again with each of `--rows`, and counts the candidates whose codes
differ, and the codes up to the first difference: a near-tie ends the comparison of a candidate, because the rest is
then different speech.
"""

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from modules.api import Branch, Prompt, SamplingSettings
from modules.lm_module import LMModule
from modules.search.growth import candidate_seed
from studies.search.costs import prompts

MAX_NEW_TOKENS = 400


@torch.inference_mode()
def drawn(lm: LMModule, asked: Sequence[Prompt], num_candidates: int, num_rows: int) -> list[Branch]:
    sampler = lm.sampler(SamplingSettings(temperature=0.6), max_batch_rows=num_rows)
    seeds = [candidate_seed(0, prompt.key, index) for prompt in asked for index in range(num_candidates)]
    roots = sampler.start(asked)
    children = sampler.extend(roots, num_candidates, MAX_NEW_TOKENS, seeds)
    sampler.drop([*roots, *children])
    return children


def ties(ours: Sequence[Branch], theirs: Sequence[Branch]) -> dict[str, int]:
    num_codes, num_different = 0, 0
    for one, other in zip(ours, theirs, strict=True):
        both = list(zip(one.codes_S.tolist(), other.codes_S.tolist(), strict=False))
        first = next((place for place, (code, twin) in enumerate(both) if code != twin), None)
        is_same = first is None and one.codes_S.numel() == other.codes_S.numel() and one.stopped == other.stopped
        num_different += not is_same
        num_codes += len(both) if first is None else first + 1
    return {"candidates": len(ours), "different_candidates": num_different, "compared_codes": num_codes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lm", type=Path, default=Path("runs/search/lm_0/checkpoints/last.ckpt"))
    parser.add_argument("--num_prompts", type=int, default=16)
    parser.add_argument("--num_candidates", type=int, default=16)
    parser.add_argument("--rows", type=int, nargs="+", default=[7, 1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    lm = LMModule.load_from_checkpoint(arguments.lm, map_location=arguments.device).eval()
    asked = prompts(arguments.num_prompts)
    reference = drawn(lm, asked, arguments.num_candidates, 64)
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "device": arguments.device,
        "torch": importlib.metadata.version("torch"),
        "rows": {num: ties(reference, drawn(lm, asked, arguments.num_candidates, num)) for num in arguments.rows},
    }
    for num_rows, one in found["rows"].items():
        print(
            f"batches of {num_rows} rows against 64: {one['different_candidates']} of {one['candidates']} candidates "
            f"are others; {one['compared_codes']:,} codes were compared"
        )
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
