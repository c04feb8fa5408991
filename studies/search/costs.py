"""Cost of a search by part: language model, codec and verifiers, in seconds and FLOPs; and batched scoring.

    python -m studies.search.costs [--lm FILE] [--codec FILE] [--num_candidates 16] [--rounds 3]
        [--num_threads 1] [--output FILE.json]

1. Shares: strings of six to eight digits are sampled, decoded and scored, a prompt per round; seconds are measured,
   FLOPs computed.
2. The same shares, computed only, for a Llama of 1B parameters, X-codec2 and the verifiers of published evaluations;
   needs no weights.
3. Each round's candidates are scored in one call and one by one, alternating, by separate verifiers; the scores are
   compared first. Prints medians over the rounds and their ratio.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from datamodules.sources.digits import spoken
from modules.api import Branch, Candidate, Codec, CodecFacts, Prompt, SamplingSettings, Verifier
from modules.codec.formats.checkpoints import CodecCheckpoint
from modules.codec.formats.xcodec2 import Xcodec2Shape
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.transformer_decoder import TransformerDecoder
from modules.lm.flops import TransformerSize
from modules.lm_module import LMModule
from modules.search.costs import SpeechCost, speech_cost
from modules.search.growth import candidate_seed, finished_candidate
from modules.search.scorer import decode_candidates
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.health import Health
from modules.verifiers.likelihood import Likelihood
from modules.verifiers.naturalness import Dnsmos
from modules.verifiers.recognisers.normalise import Digits
from modules.verifiers.recognisers.pocketsphinx import Pocketsphinx
from modules.verifiers.recognisers.whisper import FasterWhisper, WhisperSize
from modules.verifiers.speaker import Speaker
from modules.verifiers.transcript import Transcript

Verifiers = dict[str, Callable[[], Verifier]]
VERIFIERS: Verifiers = {
    "whisper tiny.en": lambda: Transcript(FasterWhisper(window_seconds=15, device="cpu"), Digits(), "character"),
    "pocketsphinx": lambda: Transcript(Pocketsphinx(), Digits(), "character"),
    "speaker": lambda: Speaker(Resemblyzer()),
    "DNSMOS P.808": lambda: Dnsmos("p808_mos"),
    "likelihood": Likelihood,
    "health": Health,
}
LLAMA_1B = TransformerSize(2048, 8192, 16, 32, 8, 64, 193_800)
# Numbers of weights from openai/whisper-large-v3's sizes: 32 layers of 1,280 channels on both sides, 51,866 words.
WHISPER_LARGE = WhisperSize(encoder_weights=636_968_960, decoder_weights=906_521_600, width=1280, num_layers=32)
TEXT_TOKENS, SECONDS = 60, 10.0


class LargeWhisper(FasterWhisper):
    """Whisper large for computing FLOPs; never loaded."""

    _size = WHISPER_LARGE


class Counted:
    """A sampler's FLOPs without a sampler."""

    def flops(self, num_prompt_tokens: int, num_codes: int) -> float:
        return LLAMA_1B.speech_flops(num_prompt_tokens, num_codes, 65_537)


class Xcodec2Prices:
    """X-codec2's decoding FLOPs (see CodecGenerator.decode_flops), from its layers on the meta device."""

    def __init__(self) -> None:
        shape = Xcodec2Shape()
        channels = shape.channels + shape.semantic_channels
        bridge, quantizer = nn.Linear(channels, shape.channels), Xcodec2Quantizer(channels, shape.levels)
        with torch.device("meta"):
            decoder = TransformerDecoder(
                shape.output_sample_rate, 320, shape.channels, shape.num_layers, shape.num_heads, shape.hidden_channels
            )
        self.facts = CodecFacts(
            sample_rate=shape.output_sample_rate,
            input_sample_rate=shape.sample_rate,
            frame_rate=50.0,
            codebook_size=quantizer.codebook_size,
            look_back_frames=math.inf,
        )
        self.num_weights = sum(weight.numel() for part in (bridge, quantizer, decoder) for weight in part.parameters())

    def decode_flops(self, num_codes: int) -> float:
        return 2.0 * num_codes * self.num_weights


def prompts(number: int) -> list[Prompt]:
    draws = random.Random(0)
    strings = ["".join(draws.choices("0123456789", k=6 + place % 3)) for place in range(number)]
    return [Prompt(f"digits {string}", spoken(string)) for string in strings]


class Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        self.seconds[name].append(time.perf_counter() - start)
        return result


@torch.inference_mode()
def drawn(prompt: Prompt, sampler: Any, codec: Codec, number: int, watch: Stopwatch) -> list[Candidate]:
    """Sample `number` candidates and decode them."""
    seeds = [candidate_seed(0, prompt.key, index) for index in range(number)]

    def draw() -> list[Branch]:
        root = sampler.start([prompt])
        children = sampler.extend(root, number, 400, seeds)
        sampler.drop([*root, *children])
        return children

    branches = watch("language model", draw)
    candidates = [finished_candidate(branch, place, seeds[place]) for place, branch in enumerate(branches)]
    watch("codec", lambda: decode_candidates(candidates, codec, number))
    return candidates


def compare(prompt: Prompt, candidates: Sequence[Candidate], pair: tuple[Verifier, Verifier], turn: int) -> list[float]:
    """Seconds of one call and of one by one. Raises AssertionError if the scores differ."""
    seconds, scores = [0.0, 0.0], [None, None]

    def together(verifier: Verifier) -> torch.Tensor:
        return verifier.score(prompt, candidates)

    def alone(verifier: Verifier) -> torch.Tensor:
        return torch.cat([verifier.score(prompt, [candidate]) for candidate in candidates])

    for side in (0, 1) if turn % 2 else (1, 0):
        start = time.perf_counter()
        scores[side] = (together, alone)[side](pair[side])
        seconds[side] = time.perf_counter() - start
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-4, equal_nan=True)
    return seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run parts 1 and 3."""
    lm = LMModule.load_from_checkpoint(arguments.lm, map_location="cpu").eval()
    codec = CodecCheckpoint(arguments.codec, device="cpu")
    sampler = lm.sampler(SamplingSettings(temperature=0.6))
    pairs = {name: (make(), make()) for name, make in VERIFIERS.items()}
    watch, both = Stopwatch(), defaultdict(list)
    num_codes, num_prompt_tokens = [], []
    for turn, prompt in enumerate(prompts(arguments.rounds + 1)):
        candidates = drawn(prompt, sampler, codec, arguments.num_candidates, watch)
        prompt = replace(prompt, reference=candidates[0].audio)
        for name, pair in pairs.items():
            both[name].append(compare(prompt, candidates, pair, turn))
        if turn:  # the first prompt is a warm-up
            num_codes += [candidate.num_codes for candidate in candidates]
            num_prompt_tokens.append(sampler.num_prompt_tokens(prompt))
    medians = {name: [statistics.median(side) for side in zip(*rows[1:], strict=True)] for name, rows in both.items()}
    per_candidate = {
        name: statistics.median(rows[1:]) / arguments.num_candidates for name, rows in watch.seconds.items()
    }
    per_candidate |= {name: sides[0] / arguments.num_candidates for name, sides in medians.items()}
    seconds = statistics.mean(num_codes) / codec.facts.frame_rate
    named = [_Named(name, pairs[name][0]) for name in VERIFIERS]
    cost = speech_cost(sampler, codec, named, round(statistics.mean(num_prompt_tokens)), seconds)
    cost = replace(cost, prefill=cost.prefill / arguments.num_candidates)  # a prompt is processed once for all
    return {
        "audio_seconds_per_candidate": seconds,
        "measured_seconds": per_candidate,
        "measured_shares": {name: one / sum(per_candidate.values()) for name, one in per_candidate.items()},
        "flops_per_second_of_audio": as_record(cost),
        "flops_shares": cost.shares,
        "scoring": {
            name: {"together": together, "one_by_one": alone, "ratio": alone / together}
            for name, (together, alone) in medians.items()
        },
    }


class _Named:
    """A verifier under another name, for tables."""

    def __init__(self, name: str, verifier: Any) -> None:
        self.facts, self.flops = SimpleNamespace(name=name), verifier.flops


def as_record(cost: SpeechCost) -> dict[str, float]:
    return {"prefill": cost.prefill, "decode": cost.decode, "codec": cost.codec, **cost.verifiers}


def counted_for_1b(num_candidates: int) -> dict[str, Any]:
    """Compute part 2."""
    known = {
        "whisper large-v3": LargeWhisper(),
        "whisper tiny.en": FasterWhisper(),
        "speaker": Speaker(Resemblyzer()),
        "DNSMOS P.808": Dnsmos("p808_mos"),
    }
    verifiers = [_Named(name, one) for name, one in known.items()]
    cost = speech_cost(Counted(), Xcodec2Prices(), verifiers, TEXT_TOKENS, SECONDS)
    cost = replace(cost, prefill=cost.prefill / num_candidates)
    about = {"audio_seconds": SECONDS, "prompt_tokens": TEXT_TOKENS}
    return about | {"flops_per_second_of_audio": as_record(cost), "flops_shares": cost.shares}


def report(found: dict[str, Any]) -> None:
    demo, large = found["demo"], found["1B"]
    print(f"a candidate of {demo['audio_seconds_per_candidate']:.1f} s: seconds (share), share of FLOPs")
    flops = demo["flops_shares"] | {"language model": demo["flops_shares"]["prefill"] + demo["flops_shares"]["decode"]}
    for name, seconds in demo["measured_seconds"].items():
        print(f"  {name:16} {seconds:.4f} ({demo['measured_shares'][name]:.0%}), {flops[name]:.1%}")
    print(f"1B, {large['audio_seconds']:.0f} s: GFLOPs for a second of audio (share)")
    for name, one in large["flops_per_second_of_audio"].items():
        print(f"  {name:16} {one / 1e9:.1f} ({large['flops_shares'][name]:.1%})")
    print(f"{found['about']['num_candidates']} candidates at once and one by one: seconds, ratio")
    for name, one in demo["scoring"].items():
        print(f"  {name:16} {one['together']:.3f} {one['one_by_one']:.3f} {one['ratio']:.2f}")
    print(found["about"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lm", type=Path, default=Path("runs/search/lm_0/checkpoints/last.ckpt"))
    parser.add_argument("--codec", type=Path, default=Path("runs/demo/codec/checkpoints/last.ckpt"))
    parser.add_argument("--num_candidates", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "faster-whisper", "pocketsphinx")}
    about = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "num_candidates": arguments.num_candidates,
        "rounds": arguments.rounds,
        "num_threads": arguments.num_threads,
        **versions,
    }
    found = {"about": about, "demo": measure(arguments), "1B": counted_for_1b(arguments.num_candidates)}
    report(found)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
