"""Identities of candidates and scores: records of the settings and hashes they depend on, and their digests."""

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
    """Everything that the sampled codes depend on. The codec is identified by its encode path, which defines its codes.

    The prompt is identified by its tokens, which reflect template, instruction, date, tokenizer, speaker, language and
    voice prompt; by its key, which the seeds depend on; and by its text and language, which stored scores depend on.

    `steering`: the score identities of the verifiers that steer the search, by name; there are none in best-of-n.
    `engine`: the sampling engine, if it is not the model's own sampler, which is omitted.
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
    """Digest of everything that a score depends on besides the codes: the verifier's model and settings, the codec's
    decoder, and the reference recording if the verifier uses it or the candidates continue it."""
    reference = None
    if (verifier.needs_reference or prompt.voice is not None) and prompt.reference is not None:
        samples = prompt.reference.samples_T.detach().cpu().float().contiguous().numpy().tobytes()
        reference = [hashlib.sha256(samples).hexdigest(), prompt.reference.sample_rate]
    settings = plain(verifier.settings)
    return digest([verifier.model_hash, settings, decoder_fingerprint, reference])


def models_of(verifier: Verifier) -> frozenset[str]:
    """Hashes of the models that a verifier uses: its own, or those of its members."""
    return frozenset(getattr(verifier, "member_hashes", None) or [verifier.model_hash])


def decoder_fingerprint(codec: Codec) -> str:
    """Hash of the decoder, since `Codec.fingerprint` covers the encode path only.

    A codec may provide it as `decoder_fingerprint`. For others it is measured: the RMS level of eight segments of audio
    decoded from fixed codes, to three digits, so that rounding differences between machines rarely change it (if they
    do, stored candidates are scored again; nothing is sampled again).
    """
    if own := getattr(codec, "decoder_fingerprint", None):
        return str(own)
    codes_S = torch.randint(codec.codebook_size, (64,), generator=torch.Generator().manual_seed(0))
    audio_T = codec.decode(codes_S[None], torch.tensor([64]))[0].float().cpu()
    return digest([f"{stretch.double().square().mean().sqrt():.3g}" for stretch in audio_T.chunk(8)])


def check_codec(codec: Codec, codebook_size: int, fingerprint: str) -> None:
    """Raise ValueError if the codec is not the one the language model was trained with (`fingerprint` "": unknown)."""
    if codec.codebook_size != codebook_size:
        raise ValueError(
            f"Expected `codec` to have the language model's codebook_size={codebook_size}, "
            f"but got {codec.codebook_size}."
        )
    if fingerprint and codec.fingerprint != fingerprint:
        raise ValueError(
            f"Expected `codec` with the fingerprint {fingerprint}, on whose codes the language model was trained, "
            f"but got {codec.fingerprint}: another codec decodes the codes to different audio."
        )
