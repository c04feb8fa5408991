"""Measured numbers that sentences of README.md, docs/ and the studies' pages quote are those of the committed json."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from studies.collected import cell
from studies.voice.shipped import FORCED

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDES = "README.md and docs"  # a sentence may move between these pages
Values = tuple[Any, ...]


def short(value: float) -> str:
    """ ".63": two digits without the zero before the point."""
    return f"{value:.2f}".replace("0.", ".", 1)


def thousandths(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def balanced(found: Any) -> Any:
    return found["cells"]["0.5 hours, balanced"]


def mean_aligned(found: Any, name: str) -> float:
    return mean(voice["aligned"][name] for voice in found["voices"].values())


def real_time_factor(found: Any) -> float:
    return mean(voice["real_time_factor"] for voice in found["voices"].values())


def snake(found: Any, name: str, dtype: str, layer: str, way: str, part: str = "snake") -> float:
    values = found[part]["layers"][f"{dtype}, {layer}"][name]
    return (values["eager"] if name == "speed_ratio" else values)[way]


FIRST, LAST = "48 x 96000", "768 x 1500"


def ratio(found: Any, dtype: str, layer: str, way: str, part: str = "snake") -> float:
    return snake(found, "speed_ratio", dtype, layer, way, part)


def adapted(found: Any, method: str, steps: int, spoken: str = "no voice", measure: str = "similarity") -> float:
    (row,) = (
        one for one in found["curve"] if (one["method"], one["steps"], one["prompt_set"]) == (method, steps, spoken)
    )
    return row[measure]["value"]


def least_error(found: Any) -> tuple[float, int]:
    rows = [one for one in found["curve"] if one["method"] == "lora_embeddings" and one["prompt_set"] == "no voice"]
    best = min(rows, key=lambda row: row["digit_error"]["value"])
    return best["digit_error"]["value"], best["steps"]


def quality(found: Any, voice: str, system: str, metric: str) -> float:
    return found["voices"][voice][system][metric]["value"]


def earlier_demo(found: Any) -> Any:
    (one,) = found["earlier"].values()
    return one


OTHER_FOUR = "en, trained on the other four"
ALIGNMENT = "studies/voice/alignment.json"
CARD, SHIPPED = "voices/rms/README.md", "studies/voice/shipped.json"
VOICE, VOICE_PAGE, SELECTORS = "studies/voice/results.json", "studies/voice/README.md", "studies/voice/selectors.json"
CHOSEN = "best of 8 by text probability"
TIES = "studies/engines/ties.json"
ENGINES, ENGINES_PAGE = "studies/engines/results.json", "studies/engines/README.md"
SPEED, SPEED_PAGE = "studies/codec_speed/results.json", "studies/codec_speed/README.md"
GPU = "studies/codec_speed/gpu.json"
QUALITY, QUALITY_PAGE = "studies/codec_quality/results.json", "studies/codec_quality/README.md"
OWN, OWN_PAGE = "studies/own_voice/results.json", "studies/own_voice/README.md"
SEARCH, SEARCH_PAGE = "studies/search/results.json", "studies/search/README.md"
DEMO, DEMO_PAGE = "studies/demo/results.json", "studies/demo/README.md"
MEMORY, OVERHEAD, LM_PAGE = (
    "studies/lm_speed/memory.json",
    "studies/lm_speed/results.json",
    "studies/lm_speed/README.md",
)
TWO, TWO_PAGE = "studies/two_directions/results.json", "studies/two_directions/README.md"
NEW_PAGE = "studies/new_language/README.md"

# (page, json): sentences with a placeholder for each value, and the values.
QUOTES: dict[tuple[str, str], list[tuple[str, Callable[[Any], Values]]]] = {
    (CARD, SHIPPED): [
        (
            "WER {} of one sample, {} of the best of 8 by text probability",
            lambda f: tuple(cell(f[FORCED]["wer"][name]) for name in ("N = 1", CHOSEN)),
        ),
    ],
    (VOICE_PAGE, VOICE): [
        (
            "has {} where one sample has {} (balanced half hour): {:.0f} % of the oracle's gain, [{:.0f}, {:.0f}] %, "
            "and no more errors than the teacher's {}.",
            lambda f: (
                *(thousandths(balanced(f)["systems"][name]["wer"]["value"]) for name in (CHOSEN, "N = 1")),
                *(100 * balanced(f)["oracle_gain_shares"][CHOSEN][name] for name in ("value", "low", "high")),
                thousandths(balanced(f)["systems"]["teacher"]["wer"]["value"]),
            ),
        ),
    ],
    (VOICE_PAGE, SHIPPED): [
        (
            "With [the shipped weights](#the-shipped-weights) it has {:.0f} %, [{:.0f}, {:.0f}] %: {} in place of {}.",
            lambda f: (
                *(100 * f[FORCED]["oracle_gain_shares"][CHOSEN][name] for name in ("value", "low", "high")),
                *(thousandths(f[FORCED]["wer"][name]["value"]) for name in (CHOSEN, "N = 1")),
            ),
        ),
    ],
    (GUIDES, SELECTORS): [
        (
            "On held-out sentences it had {:.0f} % of the oracle's gain, alignment {:.0f} %",
            lambda f: tuple(
                100 * f["oracle_gain_shares"][name]["value"] for name in (CHOSEN, "best of 8 by alignment")
            ),
        ),
    ],
    (GUIDES, ALIGNMENT): [
        (
            "({:,} sentences, {} voices,",
            lambda f: (sum(one["sentences"] for one in f["voices"].values()), len(f["voices"])),
        ),
        (
            "{:.0f} ms on average, {:.0f} ms in the median, {:.0f} ms in the 90th percentile; {:.1f} % are within",
            lambda f: (
                *(mean_aligned(f, name) for name in ("mean_ms", "median_ms", "p90_ms")),
                100 * mean_aligned(f, "within_50_ms"),
            ),
        ),
        (
            "about {:.0f} times faster than speech on one core",
            lambda f: (round(1 / real_time_factor(f), -1),),
        ),
        ("a {} of real time on one core", lambda f: ({0.01: "hundredth"}[round(real_time_factor(f), 2)],)),
    ],
    (GUIDES, GPU): [
        ("takes 1/{:.0f} of their forward time at the first layer", lambda f: (ratio(f, "float32", FIRST, "forward"),)),
    ],
    (GUIDES, TIES): [
        (
            "Of {} candidates (8 prompts of the digits, float32 on a CPU, {:,} codes, batches of {} rows and of {} "
            "against 64) {} changed",
            lambda f: (
                f["rows"]["7"]["candidates"],
                f["rows"]["7"]["compared_codes"],
                *f["rows"],
                {0: "none"}[sum(one["different_candidates"] for one in f["rows"].values())],
            ),
        ),
    ],
    (GUIDES, MEMORY): [
        (
            "a process that trains {:.0f} or {:.0f} million parameters",
            lambda f: (f["wide"]["parameters"] / 1e6, f["deep"]["parameters"] / 1e6),
        ),
    ],
    (ENGINES_PAGE, ENGINES): [
        (
            "{:.0f}, {:.0f} and {:.0f} with Llasa's vocabulary, {:,.0f}, {:,.0f} and {:,.0f} with the demo's",
            lambda f: tuple(
                f[name]["tokens_per_second"]["median"][side]
                for name in ("llasa", "demo")
                for side in ("ours", "generate", "vllm")
            ),
        ),
        (
            "(p from {:.2f} to {:.2f})",
            lambda f: (
                min((*f["demo"]["p_values"].values(), *f["llasa"]["p_values"].values())),
                max((*f["demo"]["p_values"].values(), *f["llasa"]["p_values"].values())),
            ),
        ),
    ],
    (SPEED_PAGE, SPEED): [
        (
            "{:.0f} % of a batch with these lengths is padding, so at most {:.2f} can be gained",
            lambda f: (
                100 * (1 - mean(items := f["codec_inference"]["batch"]["item_seconds"]) / max(items)),
                max(items) / mean(items),
            ),
        ),
        (
            "are {:.0f} % of the step's arithmetic",
            lambda f: (100 * f["codec_training_step"]["flop_shares"]["speech encoder"] / 3,),
        ),
        (
            "{:.0f} s with compiled activations",
            lambda f: (f["acoustic_encoder"]["first_call_seconds"]["compiled_activations"],),
        ),
    ],
    (SPEED_PAGE, GPU): [
        ("misses its goal: {:.0f} seconds of audio a second", lambda f: (f["codec_step"]["audio_seconds_per_second"],)),
        (
            "{:.2f}x, {:.3f} s against {:.3f} s. Then",
            lambda f: (f["codec_step_replaced"]["speedup"], *reversed(f["codec_step_replaced"]["seconds"].values())),
        ),
        (
            "slower by {:.2f} s, the other side by {:.2f} s",
            lambda f: tuple(
                f["codec_step"]["seconds"][side] - f["codec_step_replaced"]["seconds"][side]
                for side in ("ours", "authors")
            ),
        ),
        ("{:.3f} % of its codes differ", lambda f: (100 * (1 - f["codec_tokenising"]["float32"]["codes_equal"]),)),
        (
            "take {:.0f} s (float32) and {:.0f} s (bfloat16)",
            lambda f: tuple(f["codec_tokenising"][name]["first_pass_seconds"] for name in ("float32", "bfloat16")),
        ),
        (
            "The first measurement gave {:.0f}x (TF32) and {:.0f}x (bfloat16)",
            lambda f: tuple(
                f["codec_tokenising_by_convolutions"][name]["times_real_time"] for name in ("tf32", "bfloat16")
            ),
        ),
        (
            "the ratios {:.1f} and {:.1f} are not the kernel's alone",
            lambda f: tuple(
                f["codec_tokenising"][name]["times_real_time"]
                / f["codec_tokenising_by_convolutions"][name]["times_real_time"]
                for name in ("tf32", "bfloat16")
            ),
        ),
        (
            "{:.1f}x and {:.1f}x of eager in float32, {:.1f}x and {:.1f}x in bfloat16, backward below",
            lambda f: tuple(
                ratio(f, dtype, LAST, way) for dtype in ("float32", "bfloat16") for way in ("forward", "backward")
            ),
        ),
        (
            "backward at the first layer was {:.1f}x ({:.0f} % of a copy's bandwidth), and at the last layer {:.1f}x "
            "and {:.1f}x",
            lambda f: (
                ratio(f, "bfloat16", FIRST, "backward", "snake_replaced"),
                100 * snake(f, "share_of_copy_bandwidth", "bfloat16", FIRST, "backward", "snake_replaced"),
                *(ratio(f, "bfloat16", LAST, way, "snake_replaced") for way in ("forward", "backward")),
            ),
        ),
    ],
    (QUALITY_PAGE, QUALITY): [
        (
            "With {:.1f} times fewer bits than Opus",
            lambda f: (quality(f, "en", "Opus 6k", "bit_rate") / quality(f, "en", "codec", "bit_rate"),),
        ),
        ("STOI is {:.3f} worse", lambda f: (quality(f, "en", "Opus 6k", "stoi") - quality(f, "en", "codec", "stoi"),)),
        (
            "{:.2f} and {:.2f} lower PESQ",
            lambda f: tuple(
                quality(f, voice, "Opus 6k", "pesq_wb") - quality(f, voice, "codec", "pesq_wb")
                for voice in (OTHER_FOUR, "piper")
            ),
        ),
        (
            "{:.3f} lower STOI and {:.2f} lower PESQ",
            lambda f: tuple(
                f["curve"]["4000"][metric]["value"] - quality(f, OTHER_FOUR, "codec", metric)
                for metric in ("stoi", "pesq_wb")
            ),
        ),
    ],
    (OWN_PAGE, OWN): [
        (
            "similarity {} to {} against {}, from {} before, and {} for the spoken prompt alone",
            lambda f: tuple(
                map(
                    short,
                    (
                        adapted(f, "lora_embeddings", 400),
                        max(adapted(f, method, steps) for method, steps in (("lora_embeddings", 100), ("full", 300))),
                        f["floor"]["recording after the codec"]["similarity"]["value"],
                        adapted(f, "base", 0),
                        adapted(f, "base", 0, "own voice"),
                    ),
                )
            ),
        ),
        ("{} after 400 updates, still rising", lambda f: (short(adapted(f, "lora", 400)),)),
        (
            "the best digit error is {} (LoRA with embedding and head, {} updates), from {}",
            lambda f: (
                short(least_error(f)[0]),
                least_error(f)[1],
                short(adapted(f, "base", 0, measure="digit_error")),
            ),
        ),
        (
            "up to {} of {} samples could not be judged",
            lambda f: (max(row["num_unjudged"] for row in f["curve"]), f["num_seeds"] * f["num_prompts"]),
        ),
    ],
    (SEARCH_PAGE, SEARCH): [
        (
            "with seed 2, whose model is the best, it stopped early for {2} of the {3} strings, with seed 0 for {0}",
            lambda f: (*f["adaptive_early_stops"], *f["num_prompts"].values()),
        ),
        ("a digit with its pause takes about {:.0f}", lambda f: (f["flops_parts"]["best_of_n"]["codes_per_digit"],)),
        ("Whisper reaches {:.1f}", lambda f: (f["costs"]["demo"]["scoring"]["whisper tiny.en"]["ratio"],)),
    ],
    (TWO_PAGE, TWO): [
        (
            "Of {} prompts each, {} and {} could not be judged",
            lambda f: (
                whole := f["voices"]["similarity"]["no voice"]["num"],
                whole - f["voices"]["similarity"]["own voice"]["num"],
                whole - f["voices"]["similarity"]["another voice"]["num"],
            ),
        ),
    ],
    (LM_PAGE, OVERHEAD): [
        (
            "{:.2f} ms, medians of {} rounds of {} steps; wall time is {:.2f} ms more",
            lambda f: (
                (one := f["lm_overhead"])["milliseconds_per_step"],
                {5: "five"}[one["about"]["rounds"]],
                one["about"]["num_steps"],
                one["wall_milliseconds_per_step"],
            ),
        ),
    ],
    (NEW_PAGE, "studies/new_language/results.json"): [
        ("(63, of {:.1f} minutes)", lambda f: (f["held_out_minutes"],)),
    ],
    (NEW_PAGE, "studies/new_language/recognisers.json"): [
        (
            "the right one for {:.0f} to {:.0f} % of the words",
            lambda f: (
                100 * (1 - max(one["the demo's codec"]["error"] for one in f["templates"].values())),
                100 * (1 - min(one["the demo's codec"]["error"] for one in f["templates"].values())),
            ),
        ),
    ],
    (DEMO_PAGE, DEMO): [
        (
            "it took {:.0f} on one core with other jobs running",
            lambda f: (earlier_demo(f)["codec_45min"]["stages"]["codec"]["seconds"]["value"] / 60,),
        ),
        (
            "A Llama of 6.2M parameters ({:.1f} minutes:",
            lambda f: (earlier_demo(f)["stages"]["lm"]["seconds"]["value"] / 60,),
        ),
    ],
}


@functools.cache
def text_of(page: str) -> str:
    """The words of the pages, one space apart."""
    pages = [REPOSITORY / page] if page != GUIDES else [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    return " ".join(" ".join(path.read_text(encoding="utf-8").split()) for path in pages)


@functools.cache
def measured(file: str) -> Any:
    return json.loads((REPOSITORY / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("page", "file"), QUOTES, ids=lambda name: name)
def test_quoted_numbers_are_the_measured_ones(page: str, file: str) -> None:
    """Guards against sentences that keep the number of an earlier run, or whose number was typed wrongly."""
    expected = [fragment.format(*values(measured(file))) for fragment, values in QUOTES[page, file]]
    assert [sentence for sentence in expected if sentence not in text_of(page)] == []


@pytest.mark.parametrize("card", sorted((REPOSITORY / "voices").glob("*/README.md")), ids=lambda path: path.parent.name)
def test_every_number_of_a_voices_card_is_of_one_run(card: Path) -> None:
    """Guards against a card whose rows or data are of different runs."""
    text = " ".join(card.read_text(encoding="utf-8").split())
    cells = [one for one in measured("studies/voice/results.json")["cells"].values() if "systems" in one]
    shown = [
        [
            f"{one['hours_of_speech']:.1f} hours of speech",
            f"{one['num_sentences']:,} sentences",
            f"Measured on {one['date']}",
            *(
                f"| {cell(row['wer'])} | {cell(row['excess'])} |"
                for name, row in one["systems"].items()
                if name != "oracle"
            ),
        ]
        for one in cells
    ]
    assert any(all(fragment in text for fragment in fragments) for fragments in shown)
