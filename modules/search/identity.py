"""Identities of candidates and scores: records of the settings and hashes they depend on, and their digests."""

import hashlib
from typing import Any

from modules.api import Codec, Prompt, PromptFormat, SamplerEngine, SamplingSettings, Verifier
from modules.members import check_members
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
            "sampling": sampling.stored(),
            "algorithm": plain(algorithm),
            "seed": seed,
        }
    )


def score_identity(verifier: Verifier, prompt: Prompt, decoder_fingerprint: str) -> str:
    """Digest of everything that a score depends on besides the codes: the verifier's model and settings, the codec's
    decoder, and the reference recording if the verifier uses it or the candidates continue it."""
    facts, reference = verifier.facts, None
    if (facts.needs_reference or prompt.voice is not None) and prompt.reference is not None:
        samples = prompt.reference.samples_T.detach().cpu().float().contiguous().numpy().tobytes()
        reference = [hashlib.sha256(samples).hexdigest(), prompt.reference.sample_rate]
    return digest([facts.model_hash, plain(facts.settings), decoder_fingerprint, reference])


def check_codec(codec: Codec, codebook_size: int, fingerprint: str) -> None:
    """Raise ValueError if the codec lacks a member, or is not the one the language model was trained with
    (`fingerprint` "": unknown)."""
    check_members(codec, Codec, "codec")
    if codec.facts.codebook_size != codebook_size:
        raise ValueError(
            f"Expected `codec` to have the language model's codebook_size={codebook_size}, "
            f"but got {codec.facts.codebook_size}."
        )
    if fingerprint and codec.fingerprint != fingerprint:
        raise ValueError(
            f"Expected `codec` with the fingerprint {fingerprint}, on whose codes the language model was trained, "
            f"but got {codec.fingerprint}: another codec decodes the codes to different audio."
        )
