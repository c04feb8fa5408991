"""What makes a candidate, and what makes a score: plain records of settings and hashes, and their digests."""

import dataclasses
import hashlib
from typing import Any

import torch

from modules.api import Codec, Prompt, PromptFormat, SamplerEngine, SamplingSettings, Verifier
from modules.provenance import digest, plain
from modules.search.protocol import SearchAlgorithm


def candidate_identity(
    model_hash: str,
    prompt_format: PromptFormat,
    codec: Codec,
    prompt: Prompt,
    sampling: SamplingSettings,
    algorithm: SearchAlgorithm,
    seed: int,
    steering: dict[str, str] | None = None,
    engine: SamplerEngine | None = None,
) -> dict[str, Any]:
    """Everything that the drawn codes depend on. The codec counts by its encode path: what its codes mean.

    The prompt counts by its tokens, which hold template, instruction, date, tokenizer, speaker, language and a spoken
    prompt; by its key, which the seeds depend on; and by its text and language, which stored scores depend on.

    `steering`: the score identities of the verifiers that steer the search, by name; there are none in best-of-n.
    `engine`: what draws in place of the model's own sampler, which is not named.
    """
    drawn_by = {} if engine is None else {"engine": engine.identity()}
    return (
        ({"steering": steering} if steering else {})
        | drawn_by
        | {
            "language_model": model_hash,
            "codec": codec.fingerprint,
            "prompt": {
                "key": prompt.key,
                "text": prompt.text,
                "language": prompt.language,
                "tokens": digest(prompt_format.prompt_tokens(*prompt.told)),
            },
            "sampling": dataclasses.asdict(sampling),
            "algorithm": plain(algorithm),
            "seed": seed,
        }
    )


def score_identity(verifier: Verifier, prompt: Prompt, decoder_fingerprint: str) -> str:
    """Digest of what a score depends on beside the codes: the verifier's model and settings, the codec's decoder, and
    the reference recording where the verifier listens to it, or candidates go on from it."""
    reference = None
    if (verifier.needs_reference or prompt.voice is not None) and prompt.reference is not None:
        samples = prompt.reference.samples_T.detach().cpu().float().contiguous().numpy().tobytes()
        reference = [hashlib.sha256(samples).hexdigest(), prompt.reference.sample_rate]
    settings = plain(verifier.settings)
    return digest([verifier.model_hash, settings, decoder_fingerprint, reference])


def models_of(verifier: Verifier) -> frozenset[str]:
    """Hashes of the models that a verifier listens with: its own, or those of its members."""
    return frozenset(getattr(verifier, "member_hashes", None) or [verifier.model_hash])


def decoder_fingerprint(codec: Codec) -> str:
    """Hash of the decoder, since `Codec.fingerprint` covers the encode path only.

    A codec may give it as `decoder_fingerprint`. For others it is measured: the loudness of eight stretches of audio
    decoded from fixed codes, to three digits, so that rounding of another machine rarely changes it (if it does, stored
    candidates are scored again; nothing is sampled again).
    """
    if own := getattr(codec, "decoder_fingerprint", None):
        return str(own)
    codes_S = torch.randint(codec.codebook_size, (64,), generator=torch.Generator().manual_seed(0))
    audio_T = codec.decode(codes_S[None], torch.tensor([64]))[0].float().cpu()
    return digest([f"{stretch.double().square().mean().sqrt():.3g}" for stretch in audio_T.chunk(8)])


def check_codec(codec: Codec, codebook_size: int, fingerprint: str) -> None:
    """Raises ValueError where the codec is not the one whose codes the language model learned (empty: not recorded)."""
    if codec.codebook_size != codebook_size:
        raise ValueError(
            f"Expected `codec` to have the language model's codebook_size={codebook_size}, "
            f"but got {codec.codebook_size}."
        )
    if fingerprint and codec.fingerprint != fingerprint:
        raise ValueError(
            f"Expected `codec` with the fingerprint {fingerprint}, whose codes the language model learned, "
            f"but got {codec.fingerprint}: another codec gives the codes another sound."
        )
