"""The compute ledger: costs of candidates and curve points, in FLOPs by part and shared wall seconds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.api import Codec, Cost, Sampler, Verifier
from modules.search.protocol import SearchWork, Trace


def candidate_seconds(num_codes: int, codec: Codec) -> float:
    """Duration of the audio of `num_codes` codes, in seconds."""
    return num_codes / codec.facts.frame_rate


def sampling_cost(
    sampler: Sampler,
    codec: Codec,
    num_prompt_tokens: int,
    num_codes: int,
    num_voice_codes: int = 0,
    num_written_tokens: int = 0,
) -> Cost:
    """FLOPs to sample one candidate alone (its prompt included) and to decode it; 0 for decoding without codes."""
    prompt_flops = sampler.flops(num_prompt_tokens, 0)
    lm_flops = sampler.flops(num_prompt_tokens, num_codes + num_written_tokens)
    return Cost(lm_flops, decoding_flops(codec, 0, num_codes, num_voice_codes), prompt_flops=prompt_flops)


def growth_flops(sampler: Sampler, num_prompt_tokens: int, start: int, stop: int) -> float:
    """FLOPs of the language model to generate codes `start` to `stop`; earlier tokens are in its KV cache."""
    return sampler.flops(num_prompt_tokens, stop) - sampler.flops(num_prompt_tokens, start)


def decoding_flops(codec: Codec, start: int, stop: int, num_voice_codes: int = 0) -> float:
    """FLOPs to decode the codes from `start` to `stop`, including the frames of left context that the codec requires,
    among them those of a voice prompt of `num_voice_codes`."""
    if stop <= start:
        return 0.0
    num_before = min(num_voice_codes + start, codec.facts.look_back_frames)
    return codec.decode_flops(stop - start + num_before)


def verifier_cost(verifiers: Sequence[Verifier], codec: Codec, num_codes: int) -> Cost:
    """FLOPs of all verifiers on one candidate; empty candidates are not scored."""
    seconds = candidate_seconds(num_codes, codec)
    return Cost(verifier_flops=sum(verifier.flops(seconds) for verifier in verifiers) if num_codes else 0.0)


def share_seconds(seconds: float, amounts: Sequence[float]) -> list[float]:
    """Wall seconds of a batch, split in proportion to `amounts`, equally if all are 0; the sum is `seconds`."""
    total = sum(amounts)
    if total == 0:
        return [seconds / len(amounts)] * len(amounts) if amounts else []
    return [seconds * amount / total for amount in amounts]


def search_cost(trace: Trace, heard_by: Sequence[str] = (), num_candidates: float | None = None) -> Cost:
    """Cost of a search on one prompt, including scoring its candidates with the verifiers `heard_by` (names) for the
    final selection. With `num_candidates`, for independent candidates: the expected cost of that many of them; the
    prompt is processed once in any case, and its seconds are part of the candidates' seconds."""
    cost = trace.cost_with(heard_by)
    share = 1.0 if num_candidates is None else num_candidates / len(trace.candidates)
    return Cost(
        cost.prompt_flops + (cost.lm_flops - cost.prompt_flops) * share,
        cost.codec_flops * share,
        cost.verifier_flops * share,
        cost.seconds * share,
        cost.prompt_flops,
    )


def estimated_cost(
    estimate: SearchWork,
    sampler: Sampler,
    codec: Codec,
    selectors: Sequence[Verifier],
    num_prompt_tokens: int,
    num_voice_codes: int = 0,
) -> Cost:
    """Estimated cost of the search for one prompt; `seconds` is 0."""
    prompt_flops = sampler.flops(num_prompt_tokens, 0)
    lm_flops = prompt_flops + sum(
        span.count * growth_flops(sampler, num_prompt_tokens, span.start, span.stop) for span in estimate.drawn
    )
    codec_flops = sum(
        span.count * decoding_flops(codec, span.start, span.stop, num_voice_codes) for span in estimate.decoded
    )
    verifier_flops = 0.0
    for selector in selectors:
        for span in estimate.heard.get(selector.facts.name, ()):
            verifier_flops += span.count * verifier_cost([selector], codec, span.stop).verifier_flops
        if not (estimate.ended_early and selector.facts.name in estimate.heard):
            verifier_flops += estimate.num_final * verifier_cost([selector], codec, estimate.num_codes).verifier_flops
    return Cost(lm_flops, codec_flops, verifier_flops, prompt_flops=prompt_flops)


def with_shared_costs(trace: Trace, spent: Cost) -> Trace:
    """The trace with candidate costs that sum to `spent`: unchanged if they already do, otherwise equal shares (each
    includes the prompt, which the candidates share)."""
    own = trace.cost
    parts = ("lm_flops", "codec_flops", "verifier_flops")
    if all(math.isclose(getattr(own, part), getattr(spent, part), rel_tol=1e-9) for part in parts):
        return trace
    number = len(trace.candidates)
    share = Cost(
        (spent.lm_flops - spent.prompt_flops) / number + spent.prompt_flops,
        spent.codec_flops / number,
        spent.verifier_flops / number,
        spent.seconds / number,
        spent.prompt_flops,
    )
    for candidate in trace.candidates:
        candidate.cost = share
    return trace


@dataclass(frozen=True)
class SpeechCost:
    """FLOPs per second of audio, by part; `verifiers` by name."""

    prefill: float
    decode: float
    codec: float
    verifiers: Mapping[str, float]

    @property
    def total(self) -> float:
        return self.prefill + self.decode + self.codec + sum(self.verifiers.values())

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of the total for each part."""
        parts = {"prefill": self.prefill, "decode": self.decode, "codec": self.codec} | dict(self.verifiers)
        return {name: flops / self.total for name, flops in parts.items()}


def speech_cost(
    sampler: Sampler, codec: Codec, verifiers: Sequence[Verifier], num_prompt_tokens: int, seconds: float
) -> SpeechCost:
    """FLOPs per second of audio at inference, for one candidate of `seconds`."""
    num_codes = round(seconds * codec.facts.frame_rate)
    prefill = sampler.flops(num_prompt_tokens, 0)
    decode = growth_flops(sampler, num_prompt_tokens, 0, num_codes)
    heard = {verifier.facts.name: verifier.flops(seconds) / seconds for verifier in verifiers}
    return SpeechCost(prefill / seconds, decode / seconds, decoding_flops(codec, 0, num_codes) / seconds, heard)
