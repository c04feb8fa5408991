"""Time to the first audio and real-time factor of a stream, against transformers' `generate` and a whole decode.

    python -m benchmarks.speech_latency [--lm CKPT] [--codec CKPT] [--rounds 10] [--num_threads 2] [--json FILE]

Per round one text of five digits: our stream from text to the first chunk of audio (5 codes, with 5 ahead) and to its
end; our sampler with a whole decode; and `generate` on the same weights with its own attention, the same constraint and
as many tokens, with the same decode. In one process, alternating; medians. Codes of the stream and of one call of the
sampler are compared first. Seconds are those of the wall; `cpu` ones are those of this process, which other work on the
machine affects less. Results: studies/speech/latency_cpu_THREADS.json.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from benchmarks.sampling_engines import drawn_by_generate, plain_copy
from benchmarks.scaffold import machine, options, report
from modules.api import Codec, Prompt, Sampler, SamplingSettings
from modules.codec.formats.checkpoints import CodecCheckpoint
from modules.codec.streaming import device_of
from modules.lm.saved_model import SavedModel
from modules.lm.text.prompt_format import TextToSpeech
from modules.search.growth import candidate_seed
from modules.speech.streaming import SpeechStream

GOAL_SECONDS = 0.3
MAX_NEW_TOKENS = 1000
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@dataclass
class Speech:
    """Seconds from the text to the first samples and to the last, of the wall and of this process; and of audio."""

    first: float
    whole: float
    cpu_first: float
    cpu_whole: float
    audio: float
    num_codes: int


def timed(chunks: Iterator[Tensor], sample_rate: int, codes: Callable[[], Tensor]) -> Speech:
    """Consume chunks of audio. `codes` is called at the end."""
    wall, cpu = time.perf_counter(), time.process_time()
    first = cpu_first = 0.0
    num_samples = 0
    for chunk_T in chunks:
        if not num_samples:
            first, cpu_first = time.perf_counter() - wall, time.process_time() - cpu
        num_samples += chunk_T.numel()
    whole, cpu_whole = time.perf_counter() - wall, time.process_time() - cpu
    return Speech(first, whole, cpu_first, cpu_whole, num_samples / sample_rate, codes().numel())


class Speaker:
    """One prompt at a time by each way, as chunks of audio; `codes_S` are those of the last one.

    Args:
        plain: The sampler's network with transformers' attention.
    """

    def __init__(
        self,
        sampler: Sampler,
        codec: Codec,
        plain: LlamaForCausalLM,
        prompt_format: TextToSpeech,
        settings: SamplingSettings,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self.sampler, self.codec, self.max_new_tokens = sampler, codec, max_new_tokens
        self.plain, self.prompt_format, self.settings = plain, prompt_format, settings
        self.codes_S = torch.zeros(0, dtype=torch.int64)

    def stream(self, prompt: Prompt) -> Iterator[Tensor]:
        stream = SpeechStream(self.sampler, self.codec, prompt, seed_of(prompt), self.max_new_tokens)
        yield from stream
        self.codes_S = stream.branch.codes_S

    def whole(self, prompt: Prompt) -> Iterator[Tensor]:
        (branch,) = self.sampler.extend(self.sampler.start([prompt]), 1, self.max_new_tokens, [seed_of(prompt)])
        self.codes_S = branch.codes_S
        yield from self._decoded()

    def generate(self, prompt: Prompt) -> Iterator[Tensor]:
        """As many tokens as the candidate before, which is sampled by another: random lengths would differ."""
        space = self.prompt_format.token_space
        tokens = self.prompt_format.prompt_tokens(*prompt.told)
        draw = drawn_by_generate(self.plain, space, tokens, self.settings, num_min_tokens=self.codes_S.numel())
        (drawn,) = draw(1, self.codes_S.numel(), 0)
        self.codes_S = torch.tensor(drawn, dtype=torch.int64) - space.code_offset
        yield from self._decoded()

    def _decoded(self) -> Iterator[Tensor]:
        codes_BS = self.codes_S[None].to(device_of(self.codec))
        num_codes_B = torch.tensor([codes_BS.shape[1]], device=codes_BS.device)
        with torch.no_grad():
            audio_BT = self.codec.decode(codes_BS, num_codes_B)
        yield audio_BT[0].float().cpu()


def seed_of(prompt: Prompt) -> int:
    return candidate_seed(0, prompt.key, 0)


def check_codes(speaker: Speaker, prompts: list[Prompt]) -> None:
    """Raise AssertionError where streamed codes differ from those of one call, or the audio in length."""
    for prompt in prompts:
        num_samples = sum(chunk_T.numel() for chunk_T in speaker.stream(prompt))
        streamed_S = speaker.codes_S
        (whole_T,) = speaker.whole(prompt)
        assert torch.equal(streamed_S, speaker.codes_S), f"{prompt.text}: other codes than offline"
        assert num_samples == whole_T.numel(), f"{prompt.text}: {num_samples} samples, {whole_T.numel()} offline"


def measure(speaker: Speaker, prompts: list[Prompt]) -> dict[str, Any]:
    """Medians over the prompts; each is spoken by every way in turn, `generate` last."""
    ways = {"stream": speaker.stream, "whole": speaker.whole, "generate_and_whole_decode": speaker.generate}
    spoken: dict[str, list[Speech]] = {name: [] for name in ways}
    for prompt in prompts:
        for name, way in ways.items():
            spoken[name].append(timed(way(prompt), speaker.codec.facts.sample_rate, lambda: speaker.codes_S))
    return {name: summary(found) for name, found in spoken.items()}


def summary(spoken: list[Speech]) -> dict[str, Any]:
    median = statistics.median
    return {
        "first_audio_seconds": round(median(one.first for one in spoken), 4),
        "first_audio_cpu_seconds": round(median(one.cpu_first for one in spoken), 4),
        "real_time_factor": round(median(one.whole / one.audio for one in spoken), 4),
        "cpu_real_time_factor": round(median(one.cpu_whole / one.audio for one in spoken), 4),
        "slowest_first_audio_seconds": round(max(one.first for one in spoken), 4),
        "audio_seconds": round(median(one.audio for one in spoken), 2),
        "rounds": [{name: round(value, 4) for name, value in asdict(one).items()} for one in spoken],
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--lm", type=Path, default=Path("runs/demo/lm/checkpoints/last.ckpt"))
    parser.add_argument("--codec", type=Path, default=Path("runs/demo/codec/checkpoints/last.ckpt"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--num_digits", type=int, default=5)
    parser.add_argument("--num_threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    speaker = demo_speaker(given)
    choice = random.Random(0)
    texts = [" ".join(choice.choices(DIGITS, k=given.num_digits)) for _ in range(given.rounds + 1)]
    prompts = [Prompt(f"text{number}", text) for number, text in enumerate(texts)]
    check_codes(speaker, prompts[:3])
    measure(speaker, prompts[-1:])  # first calls
    result = measure(speaker, prompts[:-1])
    reached = result["stream"]["first_audio_seconds"]
    about = {"goal_seconds": GOAL_SECONDS, "reaches_goal": reached <= GOAL_SECONDS}
    about |= {"rounds": given.rounds, "num_threads": given.num_threads, "codes_equal_offline": True}
    report(about | result | machine("transformers"), given.json)


@torch.no_grad()
def demo_speaker(given: argparse.Namespace) -> Speaker:
    model, settings = SavedModel("demo", str(given.lm)), SamplingSettings()
    model.load(torch.device("cpu"), torch.float32)
    codec = CodecCheckpoint(given.codec, "cpu")
    plain = plain_copy(model.loaded.llama)
    return Speaker(model.sampler(settings), codec, plain, model.prompt_format, settings)


if __name__ == "__main__":
    main()
