"""N candidates of one prompt: ours against transformers.generate and vLLM, one network, one process, alternating.

    .venv-vllm/bin/python -m benchmarks.sampling_engines [--words demo|llasa] [--rounds 3] [--output FILE]

Before timing, each engine's samples are tested against the network's own distribution, computed independently of all
engines. `generate` has the same constraint and settings, and the network with its own attention. vLLM (if installed:
.venv-vllm, `make test-vllm`) computes in a process that it starts itself, with as many threads, and clears its prefix
cache before each round. Prints seconds of each round, sampled tokens per second and ratios of the medians; and the same
for CPU seconds of this process and its children, which other work on the machine does not affect.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LogitsProcessor

from benchmarks.scaffold import options, report
from modules.api import Prompt, PromptFormat, SamplingSettings
from modules.lm.network import LlamaSize, build_llama
from modules.lm.sampling.distribution import restrict
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.sampling.vllm_engine import VLLM
from modules.lm.text.prompt_format import TextToSpeech
from modules.tokens import TokenSpace

WORDS = {"demo": (28, 4096), "llasa": (128_256, 65_536)}  # text tokens, codes
SIZE = LlamaSize(tie_embeddings=False)
NUM_BINS = 32
UNLIKELY = 1e-5  # a correct distribution fails in one of so many runs
Draw = Callable[[int, int, int], list[list[int]]]  # (candidates, new tokens, seed) -> the tokens of each


class RandomText:
    """A tokenizer that maps each character to some token: the speed of the prefill depends on their number."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        generator = torch.Generator().manual_seed(len(text))
        return torch.randint(self.vocab_size, (len(text),), generator=generator).tolist()

    def decode(self, tokens: Sequence[int]) -> str:
        return " " * len(tokens)


class SpeechWords(LogitsProcessor):
    """Sets -inf for all but codes and the end of speech."""

    def __init__(self, space: TokenSpace, device: torch.device | str = "cpu") -> None:
        self.bias_V = torch.full((space.vocab_size,), float("-inf"), device=device)
        self.bias_V[speech_words(space)] = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + self.bias_V


def speech_words(space: TokenSpace) -> Tensor:
    """Return the ids of the end of speech and of all codes."""
    return torch.cat([torch.tensor([space.speech_end]), torch.arange(space.code_offset, space.vocab_size)])


def uneven_network(prompt_format: PromptFormat) -> LlamaForCausalLM:
    """Build random weights with a non-uniform distribution. With a tied head each word would mostly repeat itself."""
    torch.manual_seed(0)
    network = build_llama(SIZE, prompt_format.token_space.vocab_size).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(12)
    return network


def plain_copy(network: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return the same weights with transformers' own attention."""
    config = type(network.config)(**{**network.config.to_dict(), "attn_implementation": "sdpa"})
    copy = LlamaForCausalLM(config).eval()
    copy.load_state_dict(network.state_dict())
    return copy


# ------------------------------------------------------------------------------------------------------- the engines


def drawn_by(sampler: Any, space: TokenSpace, prompt: Prompt) -> Draw:
    """Return a Sampler's samples as tokens."""

    def draw(num_candidates: int, num_new_tokens: int, seed: int) -> list[list[int]]:
        seeds = [seed * 10_000 + number for number in range(num_candidates)]
        children = sampler.extend(sampler.start([prompt]), num_candidates, num_new_tokens, seeds)
        ends = [[space.speech_end] if child.stopped else [] for child in children]
        return [(child.codes_S + space.code_offset).tolist() + end for child, end in zip(children, ends, strict=True)]

    return draw


def drawn_by_generate(
    plain: LlamaForCausalLM,
    space: TokenSpace,
    tokens: list[int],
    settings: SamplingSettings,
    num_min_tokens: int | None = None,
) -> Draw:
    """Return `generate`'s samples as tokens; `num_min_tokens`: the end of speech is not drawn before."""
    device = plain.lm_head.weight.device
    constraint = SpeechWords(space, device)

    @torch.inference_mode()
    def draw(num_candidates: int, num_new_tokens: int, seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        rows = plain.generate(
            torch.tensor([tokens], device=device),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.int64, device=device),
            do_sample=True,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            num_return_sequences=num_candidates,
            max_new_tokens=num_new_tokens,
            min_new_tokens=num_min_tokens,
            eos_token_id=space.speech_end,
            pad_token_id=space.text_start,
            logits_processor=[constraint],
            use_cache=True,
        )
        drawn = [row[len(tokens) :].tolist() for row in rows]
        return [row[: row.index(space.text_start)] if space.text_start in row else row for row in drawn]

    return draw


def drawn_by_vllm(
    engine: VLLM, network: LlamaForCausalLM, prompt_format: PromptFormat, prompt: Prompt, settings: SamplingSettings
) -> Draw:
    sampler = engine.sampler(network, prompt_format, settings, "benchmark")
    draw = drawn_by(sampler, prompt_format.token_space, prompt)

    def draw_anew(num_candidates: int, num_new_tokens: int, seed: int) -> list[list[int]]:
        sampler.llm.reset_prefix_cache()
        return draw(num_candidates, num_new_tokens, seed)

    return draw_anew


# -------------------------------------------------------------------------------------------------- the distribution


@torch.inference_mode()
def places_of_draws(
    plain: LlamaForCausalLM,
    space: TokenSpace,
    tokens: list[int],
    drawn: list[list[int]],
    settings: SamplingSettings,
    noise_seed: int = 0,
) -> Tensor:
    """Place of each sampled token in its distribution: uniform in [0, 1) if and only if it was sampled from it.

    The words, in order of decreasing probability, divide [0, 1) among them; a sample's place is a random point of its
    word's interval (the probability integral transform). The distributions are computed by the plain network from the
    tokens alone. Places to be pooled need different values of `noise_seed`: with one noise they would not be
    independent.
    """
    words, places = speech_words(space), []
    generator = torch.Generator().manual_seed(noise_seed)
    for row in drawn:
        logits = plain(torch.tensor([tokens + row[:-1]]), logits_to_keep=len(row)).logits[0][:, words]
        probabilities = restrict(logits.float(), settings).softmax(-1).double()
        index = torch.tensor([0 if token == space.speech_end else token - space.code_offset + 1 for token in row])
        share = probabilities.gather(1, index[:, None])
        before = (probabilities > share) | ((probabilities == share) & (torch.arange(len(words)) < index[:, None]))
        below = (probabilities * before).sum(-1, keepdim=True)
        noise = torch.rand(share.shape, generator=generator, dtype=torch.float64)
        places.append(torch.where(share > 0, below + noise * share, torch.ones_like(share)).squeeze(1))
    return torch.cat(places)


def p_value(places: Tensor) -> float:
    """p-value of the chi-square test that `places` are uniform in [0, 1)."""
    counts = torch.histc(places, NUM_BINS, 0, 1).double()
    expected = len(places) / NUM_BINS
    statistic = float(((counts - expected) ** 2 / expected).sum())
    half = torch.tensor([(NUM_BINS - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


# --------------------------------------------------------------------------------------------------------- the table


def measure(words: str, given: argparse.Namespace, settings: SamplingSettings) -> dict[str, Any]:
    prompt_format = TextToSpeech(RandomText(WORDS[words][0]), WORDS[words][1])
    space, prompt = prompt_format.token_space, Prompt("prompt", "x" * (given.num_prompt_tokens - 3))
    network, tokens = uneven_network(prompt_format), prompt_format.prompt_tokens(prompt.text)
    plain = plain_copy(network)
    engines: dict[str, Draw] = {
        "ours": drawn_by(KVCacheSampler(network, prompt_format, settings), space, prompt),
        "generate": drawn_by_generate(plain, space, tokens, settings),
    }
    engine = VLLM(cache_gigabytes=1, enforce_eager=not given.compile_vllm)
    if importlib.util.find_spec("vllm") is not None:
        engines["vllm"] = drawn_by_vllm(engine, network, prompt_format, prompt, settings)
    p_values = {}
    for name, draw in engines.items():
        drawn = draw(given.num_candidates, given.num_new_tokens, 1)
        p_values[name] = p_value(places_of_draws(plain, space, tokens, drawn, settings))
        other = replace(settings, temperature=0.7 * settings.temperature)
        assert p_value(places_of_draws(plain, space, tokens, drawn, other)) < UNLIKELY, "another temperature fits too"
        assert p_values[name] > UNLIKELY, f"{name} draws from another distribution: p = {p_values[name]:.2g}"
        print(f"{words}, {name}: draws fit the network's distribution, p = {p_values[name]:.3f}", flush=True)
    rounds = time_in_turns(engines, given)
    engine.close()
    return {
        "vocab_size": space.vocab_size,
        "p_values": {name: round(value, 3) for name, value in p_values.items()},
        **{name: summary(values) for name, values in rounds.items()},
    }


def time_in_turns(engines: dict[str, Draw], given: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Sampled tokens per second, and per CPU second, of each round of each engine."""
    rates: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in engines} for kind in ("tokens_per_second", "tokens_per_processor_second")
    }
    for number in range(given.rounds):
        for name, draw in engines.items():
            start = time.perf_counter(), processor_seconds()
            num_tokens = sum(map(len, draw(given.num_candidates, given.num_new_tokens, 2 + number)))
            rates["tokens_per_second"][name].append(num_tokens / (time.perf_counter() - start[0]))
            rates["tokens_per_processor_second"][name].append(num_tokens / (processor_seconds() - start[1]))
    return rates


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "median": {name: round(value, 1) for name, value in medians.items()},
        "ours_over": {name: round(medians["ours"] / value, 2) for name, value in medians.items() if name != "ours"},
    }


def processor_seconds() -> float:
    """CPU seconds of this process and its living descendants (vLLM's), user and system, as reported by Linux."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # the name before may contain anything
        except OSError:  # the process has ended
            continue
        number = int(path.parent.name)
        parents[number], seconds[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {os.getpid()}
    while more := {number for number, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(seconds[number] for number in family) / os.sysconf("SC_CLK_TCK")


def versions() -> dict[str, str]:
    import transformers

    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    if importlib.util.find_spec("vllm") is not None:
        found["vllm"] = VLLM().identity()["version"]
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--words", choices=sorted(WORDS), nargs="+", default=sorted(WORDS))
    parser.add_argument("--num_candidates", type=int, default=16)
    parser.add_argument("--num_prompt_tokens", type=int, default=300)
    parser.add_argument("--num_new_tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--top_k", type=int, default=50, help="0: all codes")
    parser.add_argument("--compile_vllm", action="store_true", help="the default is eager: a minute less to start")
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    os.environ["OMP_NUM_THREADS"] = str(given.num_threads)  # inherited by vLLM's process
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{given.num_threads - 1}" if given.num_threads > 1 else "0"
    settings = SamplingSettings(temperature=0.8, top_k=given.top_k)
    result = {words: measure(words, given, settings) for words in given.words}
    about = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": versions(),
        "size": vars(SIZE),
        **{name: value for name, value in vars(given).items() if name not in ("words", "json")},
    }
    report(about | result, given.json)


if __name__ == "__main__":
    main()
