"""Decoding of candidates in padded batches, and scoring with verifiers such that one failure affects one score only."""

import logging
import math
from collections.abc import Sequence

import torch

from modules.api import (
    BROKEN_INSTALLATION,
    Audio,
    Candidate,
    Codec,
    CombinesVerifiers,
    Prompt,
    ScoresMany,
    Transcribes,
    Verifier,
    pad_rows,
)

logger = logging.getLogger(__name__)

# (prompt key, candidate index, verifier name) of a score that is NaN because the verifier raised an exception.
ScoreFailure = tuple[str, int, str]


def decode_candidates(candidates: Sequence[Candidate], codec: Codec, batch_size: int = 16) -> None:
    """Fill `audio` of the candidates that have none.

    A partial candidate is decoded from the end of its audio; whole ones from the start, or from the end of the voice
    prompt that they continue, which the decoder uses as left context. Candidates of similar length share a batch, which
    saves padding. A candidate without codes gets audio of 0 samples.
    """
    groups: dict[tuple[int, int], list[Candidate]] = {}
    for candidate in candidates:
        if candidate.audio is None and candidate.num_codes == 0:
            candidate.audio = Audio(torch.zeros(0), codec.facts.sample_rate)
        if candidate.audio is None or (candidate.is_partial and num_decoded(candidate, codec) < candidate.num_codes):
            groups.setdefault((candidate.num_voice_codes, num_decoded(candidate, codec)), []).append(candidate)
    for (_, first_code), group in groups.items():
        waiting = sorted(group, key=lambda one: one.num_codes)
        for first in range(0, len(waiting), batch_size):
            _decode_batch(waiting[first : first + batch_size], codec, first_code)


def num_decoded(candidate: Candidate, codec: Codec) -> int:
    """Number of the candidate's codes that are already decoded in its audio."""
    return 0 if candidate.audio is None else candidate.audio.samples_T.numel() // _hop_length(codec)


def _hop_length(codec: Codec) -> int:
    return round(codec.facts.sample_rate / codec.facts.frame_rate)


def _decode_batch(batch: Sequence[Candidate], codec: Codec, first_code: int) -> None:
    """Append the audio from code `first_code` on, where all their audio ends; their voice prompts have one length."""
    codes_BS, num_codes_B = pad_rows([_all_codes(candidate) for candidate in batch])
    audio_BT = codec.decode(codes_BS, num_codes_B, batch[0].num_voice_codes + first_code).float().cpu()
    for candidate, audio_T in zip(batch, audio_BT, strict=True):
        # clone: a slice would keep the whole padded batch alive.
        new_T = audio_T[: (candidate.num_codes - first_code) * _hop_length(codec)].clone()
        if first_code:
            new_T = torch.cat([candidate.audio.samples_T, new_T])
        candidate.audio = Audio(new_T, codec.facts.sample_rate)


def _all_codes(candidate: Candidate) -> torch.Tensor:
    """The voice prompt's codes, then the candidate's."""
    if candidate.voice_codes_S is None:
        return candidate.codes_S
    return torch.cat([candidate.voice_codes_S, candidate.codes_S])


def check_texts(prompts: Sequence[Prompt], verifiers: Sequence[Verifier]) -> None:
    """Check that no prompt's text is empty after a verifier's normalisation, which would make every score NaN. Prompts
    without any text are handled by `score_groups`.

    Raises:
        ValueError: A verifier that compares texts has nothing to compare with.
    """
    for verifier in verifiers:
        if isinstance(verifier, CombinesVerifiers):
            check_texts(prompts, verifier.members)
        if not isinstance(verifier, Transcribes):
            continue
        for prompt in prompts:
            if prompt.text.strip() and not verifier.reference_length(prompt):
                raise ValueError(
                    f"Expected the text of prompt {prompt.key!r} to contain something that {verifier.facts.name} "
                    f"compares, but its normaliser leaves nothing of {prompt.text!r}."
                )


def score_candidates(prompt: Prompt, candidates: Sequence[Candidate], verifier: Verifier) -> set[ScoreFailure]:
    """Call `score_groups` for one prompt."""
    return score_groups([prompt], [candidates], verifier)


def score_groups(
    prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]], verifier: Verifier
) -> set[ScoreFailure]:
    """Fill `scores[verifier.facts.name]` of every candidate of every prompt's group (their audio must be decoded).

    A verifier that implements `ScoresMany` scores all of them in one call. A score is NaN if the verifier returned NaN
    or a value that is not finite, the candidate has no audio, the verifier needs a reference or a text that the prompt
    lacks, or the verifier raised. In the last case scoring is retried one prompt at a time, then one candidate at a
    time; candidates that still fail are logged and returned, so that a later run can retry them. A verifier with
    relative scores then scores the remaining ones in one call again; if that raises, all of them fail.
    """
    heard: list[tuple[Prompt, list[Candidate]]] = []
    for prompt, candidates in zip(prompts, groups, strict=True):
        for candidate in candidates:
            candidate.scores[verifier.facts.name] = math.nan
        lacks_reference = verifier.facts.needs_reference and prompt.reference is None
        if lacks_reference or (verifier.facts.needs_text and not prompt.text.strip()):
            continue
        if own := [one for one in candidates if one.audio is not None and one.audio.samples_T.numel()]:
            heard.append((prompt, own))
    if len(heard) > 1 and isinstance(verifier, ScoresMany) and _asked_together(heard, verifier):
        return set()
    return {failure for prompt, own in heard for failure in _asked_alone(prompt, own, verifier)}


def _asked_together(heard: Sequence[tuple[Prompt, list[Candidate]]], verifier: ScoresMany) -> bool:
    """Score all in one call; returns whether that succeeded."""
    try:
        scores = verifier.score_many([prompt for prompt, _ in heard], [candidates for _, candidates in heard])
        for (_, candidates), scores_N in zip(heard, scores, strict=True):
            _fill(candidates, scores_N, verifier.facts.name)
        return True
    except BROKEN_INSTALLATION:
        raise
    except Exception:
        name = verifier.facts.name
        logger.warning("%s failed on %d prompts; retrying one at a time.", name, len(heard), exc_info=True)
        return False


def _asked_alone(prompt: Prompt, heard: Sequence[Candidate], verifier: Verifier) -> set[ScoreFailure]:
    try:
        _fill(heard, verifier.score(prompt, heard), verifier.facts.name)
        return set()
    except BROKEN_INSTALLATION:
        raise
    except Exception:
        name = verifier.facts.name
        logger.warning("%s failed on prompt %s; retrying its candidates one by one.", name, prompt.key, exc_info=True)
    failed = [candidate for candidate in heard if not _scored([candidate], prompt, verifier)]
    if isinstance(verifier, CombinesVerifiers):
        sound = [candidate for candidate in heard if not any(candidate is one for one in failed)]
        if sound and not _scored(sound, prompt, verifier):
            failed = list(heard)
    return {(prompt.key, candidate.index, verifier.facts.name) for candidate in failed}


def _scored(candidates: Sequence[Candidate], prompt: Prompt, verifier: Verifier) -> bool:
    """Score the candidates in one call; returns whether that succeeded. On failure: NaN and a warning."""
    for candidate in candidates:
        candidate.scores[verifier.facts.name] = math.nan
    try:
        _fill(candidates, verifier.score(prompt, candidates), verifier.facts.name)
        return True
    except BROKEN_INSTALLATION:
        raise
    except Exception as error:  # noqa: BLE001 - a failing verifier must not stop the sweep
        which = ", ".join(f"#{candidate.index}" for candidate in candidates)
        logger.warning("%s could not score %s %s: %r", verifier.facts.name, prompt.key, which, error)
        return False


def _fill(candidates: Sequence[Candidate], scores: torch.Tensor, name: str) -> None:
    scores_N = torch.as_tensor(scores, dtype=torch.float64).cpu()
    if scores_N.shape != (len(candidates),):
        raise ValueError(
            f"Expected `{name}` to return scores of shape ({len(candidates)},), but got {tuple(scores_N.shape)}."
        )
    for candidate, score in zip(candidates, scores_N.tolist(), strict=True):
        candidate.scores[name] = score if math.isfinite(score) else math.nan
