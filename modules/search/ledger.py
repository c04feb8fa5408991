"""The compute ledger: what candidates and points of a curve cost, in FLOPs by part and shared wall seconds."""

from collections.abc import Sequence

from modules.api import Candidate, Codec, Cost, Sampler, Verifier


def candidate_seconds(num_codes: int, codec: Codec) -> float:
    """Seconds of audio that so many codes make."""
    return num_codes / codec.frame_rate


def sampling_cost(sampler: Sampler, codec: Codec, num_prompt_tokens: int, num_codes: int) -> Cost:
    """FLOPs to draw one candidate by itself (its prompt included) and to decode it; no codes, nothing to decode.

    A sampler that reads a prompt once for all candidates spends less: the sum over candidates is an upper bound.
    """
    codec_flops = codec.decode_flops(num_codes) if num_codes else 0.0
    return Cost(lm_flops=sampler.flops(num_prompt_tokens, num_codes), codec_flops=codec_flops)


def verifier_cost(verifiers: Sequence[Verifier], codec: Codec, num_codes: int) -> Cost:
    """FLOPs of every verifier on one candidate; an empty candidate is not shown to verifiers."""
    seconds = candidate_seconds(num_codes, codec)
    return Cost(verifier_flops=sum(verifier.flops(seconds) for verifier in verifiers) if num_codes else 0.0)


def share_seconds(seconds: float, amounts: Sequence[float]) -> list[float]:
    """Wall seconds of a batch shared out in proportion to `amounts`, equally if all are 0; their sum is `seconds`."""
    total = sum(amounts)
    if total == 0:
        return [seconds / len(amounts)] * len(amounts) if amounts else []
    return [seconds * amount / total for amount in amounts]


def best_of_n_flops(candidates: Sequence[Candidate], selector: Verifier | None, codec: Codec, n: int) -> float:
    """Expected FLOPs of best-of-n on one prompt: n of these candidates drawn and decoded, and, where there is a choice
    to make (n > 1), scored by `selector` (None chooses by chance, for free)."""
    flops = sum(candidate.cost.lm_flops + candidate.cost.codec_flops for candidate in candidates)
    if selector is not None and n > 1:
        flops += sum(verifier_cost([selector], codec, candidate.num_codes).verifier_flops for candidate in candidates)
    return flops * n / len(candidates)
