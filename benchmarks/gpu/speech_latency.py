"""Time to the first audio and real-time factor of a Llasa-shaped 1B's stream on one GPU, goal 100 ms.

    python -m benchmarks.gpu.speech_latency [--rounds 2] [--num_codes 500] [--json FILE]

Weights are random, in the sizes of Llasa-1B (bfloat16) and of X-codec2's decoder (float32), made on the device; one
prompt of 60 tokens at a time. First audio: the prompt, ten codes, and the first chunk's decode, to samples in host
memory. Beside it, in turns: the same stream without CUDA graphs, our sampler with a whole decode, and transformers'
`generate` on the same weights with its own attention, the same constraint and as many tokens, with the same decode.

Before timing: streamed codes equal those of one call; codes with CUDA graphs equal those of the same kernels without;
log-probabilities of the codes are those of transformers' network over the whole sequence, to bfloat16's precision.
Results: studies/speech/latency_gpu.json. On a CPU: --device cpu with small sizes.
"""

import argparse
import time
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.sampling_engines import RandomText, speech_words
from benchmarks.scaffold import machine, options, report
from benchmarks.speech_latency import Speaker, Speech, check_codes, seed_of, summary, timed
from modules.api import Branch, Prompt, SamplingSettings
from modules.codec.generator import CodecGenerator
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.spectral_encoder import SpectralEncoder
from modules.codec.parts.transformer_decoder import TransformerDecoder
from modules.lm.network import LlamaSize, build_llama
from modules.lm.sampling.row_graphs import RowGraphs
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.text.prompt_format import TextToSpeech
from modules.speech.streaming import SpeechStream

GOAL_SECONDS = 0.1
LARGEST_DIFFERENCE = 0.1  # nats per code; another context's distribution is off by about one
BRANCH_SCALE = 20.0  # of the layers' outputs: else a tied head would repeat the last code


def networks(given: argparse.Namespace, vocab_size: int) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Return a Llama with our attention, and the same weights (shared) with transformers' own."""
    size = LlamaSize(
        given.hidden_size,
        given.intermediate_size,
        given.num_layers,
        given.num_heads,
        given.num_key_value_heads,
        rope_theta=500_000.0,
        max_positions=2048,
        tie_embeddings=True,
    )
    dtype = getattr(torch, given.dtype)
    with torch.device(given.device):
        network = build_llama(size, vocab_size).to(dtype).eval()
        for name, weight in network.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(BRANCH_SCALE)
        config = type(network.config)(**{**network.config.to_dict(), "attn_implementation": "sdpa"})
        plain = LlamaForCausalLM(config).to(dtype).eval()
    plain.load_state_dict(network.state_dict(), assign=True)
    plain.tie_weights()
    return network.requires_grad_(False), plain.requires_grad_(False)


def codec_of(given: argparse.Namespace) -> CodecGenerator:
    """X-codec2's quantizer and decoder; its encoder is not needed."""
    channels = given.codec_channels
    with torch.device(given.device):
        encoder = SpectralEncoder(16000, 320, num_mels=20, channels=2 * channels, num_layers=1, hidden_channels=24)
        decoder = TransformerDecoder(
            channels=channels,
            num_layers=given.codec_layers,
            num_heads=channels // 64,
            hidden_channels=4 * channels,
        )
        codec = CodecGenerator(encoder, Xcodec2Quantizer(2 * channels), decoder)
    return codec.to(given.device).eval().requires_grad_(False)


def log_probability_difference(plain: LlamaForCausalLM, prompt_format: TextToSpeech, branch: Branch) -> float:
    """Absolute difference per token between a branch's log-probability and that of transformers' network, which
    processes prompt and codes at once."""
    space = prompt_format.token_space
    codes = (branch.codes_S + space.code_offset).tolist()
    tokens = prompt_format.prompt_tokens(*branch.prompt.told) + codes
    device = plain.lm_head.weight.device
    logits_SV = plain(torch.tensor([tokens[:-1]], device=device), logits_to_keep=len(codes)).logits[0]
    words = speech_words(space).to(device)
    places_S = torch.tensor(codes, device=device) - space.code_offset + 1
    log_probabilities_SV = logits_SV[:, words].float().log_softmax(-1)
    expected = float(log_probabilities_SV.gather(1, places_S[:, None]).double().sum())
    return abs(expected - branch.log_probability) / len(codes)


def checks(speaker: Speaker, prompt: Prompt, with_graphs: RowGraphs, without: RowGraphs) -> dict[str, Any]:
    """Compare the codes of the ways, see the top of the file. Raises AssertionError where they differ."""
    speaker.sampler.row_graphs = with_graphs
    check_codes(speaker, [prompt])
    speaker.sampler.row_graphs = without
    (branch,) = speaker.sampler.extend(speaker.sampler.start([prompt]), 1, speaker.max_new_tokens, [seed_of(prompt)])
    graphed = bool(with_graphs.widths)
    if graphed:  # otherwise the cache of the codes before had other shapes, and sums another order
        assert torch.equal(speaker.codes_S, branch.codes_S), "graphs draw other codes than the same kernels without"
    difference = log_probability_difference(speaker.plain, speaker.prompt_format, branch)
    assert difference < LARGEST_DIFFERENCE, f"{difference} nats per code from transformers' network"
    return {
        "graph_widths": with_graphs.widths,
        "codes_equal_with_and_without_graphs": graphed,
        "streamed_codes_equal_offline": True,
        "log_probability_difference_per_code": round(difference, 4),
        "num_distinct_codes": len(set(branch.codes_S.tolist())),
    }


def first_audio(speaker: Speaker, prompts: list[Prompt]) -> dict[str, Any]:
    """Seconds to the first chunk alone, and to the prompt's end."""
    firsts, starts = [], []
    for prompt in prompts:
        start = time.perf_counter()
        stream = iter(SpeechStream(speaker.sampler, speaker.codec, prompt, seed_of(prompt), speaker.max_new_tokens))
        next(stream)
        firsts.append(time.perf_counter() - start)
        stream.close()
        start = time.perf_counter()
        speaker.sampler.drop(speaker.sampler.start([prompt]))
        if speaker.plain.lm_head.weight.is_cuda:
            torch.cuda.synchronize()
        starts.append(time.perf_counter() - start)
    firsts.sort()
    starts.sort()
    return {
        "median_seconds": round(firsts[len(firsts) // 2], 4),
        "least_seconds": round(firsts[0], 4),
        "most_seconds": round(firsts[-1], 4),
        "of_which_prompt_seconds": round(starts[len(starts) // 2], 4),
        "num_prompts": len(prompts),
    }


@torch.inference_mode()
def measure(speaker: Speaker, prompts: list[Prompt], given: argparse.Namespace) -> dict[str, Any]:
    with_graphs, without = (
        RowGraphs(speaker.sampler.network, speaker.sampler.words, speaker.settings, capture=capture)
        for capture in (True, False)
    )
    result = checks(speaker, prompts[-1], with_graphs, without)
    ways = {
        "stream": (speaker.stream, with_graphs, given.rounds),
        "stream_without_graphs": (speaker.stream, without, 1),
        "whole": (speaker.whole, with_graphs, given.rounds),
        "generate_and_whole_decode": (speaker.generate, with_graphs, given.rounds),
    }
    for name in ("stream", "stream_without_graphs"):
        speaker.sampler.row_graphs = ways[name][1]
        result[f"first_audio_of_{name}"] = first_audio(speaker, prompts[: given.num_first])
    speaker.codes_S = speaker.codes_S[:20]
    list(speaker.generate(prompts[-1]))  # first calls
    spoken: dict[str, list[Speech]] = {name: [] for name in ways}
    for number, prompt in enumerate(prompts[: given.rounds]):
        for name, (way, graphs, rounds) in ways.items():
            if number < rounds:
                speaker.sampler.row_graphs = graphs
                spoken[name].append(timed(way(prompt), 16000, lambda: speaker.codes_S))
    return result | {name: summary(found) for name, found in spoken.items()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="of whole utterances")
    parser.add_argument("--num_first", type=int, default=20, help="streams that are left after the first chunk")
    parser.add_argument("--num_codes", type=int, default=500)
    parser.add_argument("--num_prompt_tokens", type=int, default=60)
    parser.add_argument("--num_text_tokens", type=int, default=128_256)
    parser.add_argument("--hidden_size", type=int, default=2048)
    parser.add_argument("--intermediate_size", type=int, default=8192)
    parser.add_argument("--num_layers", type=int, default=16)
    parser.add_argument("--num_heads", type=int, default=32)
    parser.add_argument("--num_key_value_heads", type=int, default=8)
    parser.add_argument("--codec_channels", type=int, default=1024)
    parser.add_argument("--codec_layers", type=int, default=12)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    torch.manual_seed(0)
    prompt_format = TextToSpeech(RandomText(given.num_text_tokens), 65_536)
    with torch.no_grad():
        network, plain = networks(given, prompt_format.token_space.vocab_size)
        codec = codec_of(given)
    settings = SamplingSettings(temperature=0.8, top_p=0.95)
    sampler = KVCacheSampler(network, prompt_format, settings)
    speaker = Speaker(sampler, codec, plain, prompt_format, settings, given.num_codes)
    text = "x" * (given.num_prompt_tokens - 3)
    prompts = [Prompt(f"text{number}", text) for number in range(max(given.rounds, given.num_first) + 1)]
    result = measure(speaker, prompts, given)
    reached = result["first_audio_of_stream"]["median_seconds"]
    about = {
        "goal_seconds": GOAL_SECONDS,
        "reaches_goal": reached <= GOAL_SECONDS,
        **{name: value for name, value in vars(given).items() if name not in ("device", "json")},
        "peak_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 1) if given.device != "cpu" else None,
    }
    report(about | result | machine("transformers", on_gpu=given.device != "cpu"), given.json)


if __name__ == "__main__":
    main()
