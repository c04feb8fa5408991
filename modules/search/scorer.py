"""Scorer: decodes candidates and scores them with verifiers, in padded batches across prompts.

A batch whose scoring raised is halved, down to single candidates. What still raises has the score NaN and the
verifier's name in `candidate.failed`: the store omits such scores, so that the next run retries them.
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from modules.api import (
    BROKEN_INSTALLATION,
    Audio,
    Candidate,
    Codec,
    CombinesVerifiers,
    Cost,
    Prompt,
    ScoresMany,
    Transcribes,
    Verifier,
)
from modules.batches import pad_rows
from modules.search.costs import share_seconds, verifier_cost

logger = logging.getLogger(__name__)

# A prompt and those of its candidates that are to be scored.
Task = tuple[Prompt, Sequence[Candidate]]

# Called with the name of the stage that begins and the number of prompts finished since the last call.
Progress = Callable[[str, int], None]


def no_progress(stage: str, num_finished: int) -> None:
    """Progress callback that does nothing."""


@dataclass(frozen=True)
class Scorer:
    """Decodes and scores candidates, and stores what each verifier cost in their `verifier_costs`."""

    codec: Codec
    decode_batch_size: int = 16

    def decode(self, candidates: Sequence[Candidate]) -> None:
        """Fill `audio` of the candidates that have none, see `decode_candidates`."""
        decode_candidates(candidates, self.codec, self.decode_batch_size)

    def score_missing(
        self, tasks: Sequence[Task], verifier: Verifier, progress: Progress = no_progress
    ) -> list[Candidate]:
        """Score the candidates that the verifier has not scored yet, all prompts in one batch. Relative scores are
        computed for all candidates of a prompt again if one is missing.

        Returns:
            The scored candidates.
        """
        missing = []
        for prompt, candidates in tasks:
            if own := [one for one in candidates if verifier.facts.name not in one.scores]:
                missing.append((prompt, candidates if isinstance(verifier, CombinesVerifiers) else own))
        scored = [one for _, own in missing for one in own]
        if any(one.audio is None for one in scored):
            progress("decoding", 0)
            self.decode(scored)
        if scored:
            progress(verifier.facts.name, 0)
            started = time.perf_counter()
            score_tasks(missing, verifier)
            shares = share_seconds(time.perf_counter() - started, [one.num_codes for one in scored])
            for one, seconds in zip(scored, shares, strict=True):
                flops = verifier_cost([verifier], self.codec, one.num_codes)
                one.verifier_costs[verifier.facts.name] = flops + Cost(seconds=seconds)
        return scored


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
    without any text are handled by `score_tasks`.

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


def score_tasks(tasks: Sequence[Task], verifier: Verifier) -> None:
    """Set `scores[name]` of every candidate (their audio must be decoded); a verifier that implements
    `ScoresMany` scores all prompts in one call.

    A score is NaN if the verifier returned NaN or a value that is not finite, the candidate has no audio, or the
    verifier needs a reference or a text that the prompt lacks. Where the verifier raised, see the top of the file. A
    verifier with relative scores then scores the remaining candidates of the prompt in one call again; if that raises,
    all fail.
    """
    facts = verifier.facts
    scorable: list[Task] = []
    for prompt, candidates in tasks:
        for candidate in candidates:
            candidate.scores[facts.name] = math.nan
            candidate.failed.discard(facts.name)
        lacks_reference = facts.needs_reference and prompt.reference is None
        if lacks_reference or (facts.needs_text and not prompt.text.strip()):
            continue
        if own := [one for one in candidates if one.audio is not None and one.audio.samples_T.numel()]:
            scorable.append((prompt, own))
    batches = [scorable] if isinstance(verifier, ScoresMany) else [[task] for task in scorable]
    for candidate in [one for batch in batches if batch for one in _failing(batch, verifier)]:
        candidate.scores[facts.name] = math.nan
        candidate.failed.add(facts.name)


def _failing(batch: Sequence[Task], verifier: Verifier) -> list[Candidate]:
    """Score the batch; halve it if that raised. Returns the candidates that fail."""
    if _is_scored(batch, verifier):
        return []
    if len(batch) > 1:
        middle = len(batch) // 2
        return _failing(batch[:middle], verifier) + _failing(batch[middle:], verifier)
    ((prompt, candidates),) = batch
    failed = _failing_alone(prompt, candidates, verifier)
    if isinstance(verifier, CombinesVerifiers):
        sound = [one for one in candidates if not any(one is other for other in failed)]
        if sound and not _is_scored([(prompt, sound)], verifier):
            return list(candidates)
    return failed


def _failing_alone(prompt: Prompt, candidates: Sequence[Candidate], verifier: Verifier) -> list[Candidate]:
    """Score the halves of candidates that raised together, and so on; returns the single candidates that raise."""
    if len(candidates) == 1:
        return list(candidates)
    middle = len(candidates) // 2
    halves = candidates[:middle], candidates[middle:]
    raising = [half for half in halves if not _is_scored([(prompt, half)], verifier)]
    return [one for half in raising for one in _failing_alone(prompt, half, verifier)]


def _is_scored(batch: Sequence[Task], verifier: Verifier) -> bool:
    """Score the batch in one call; returns whether that succeeded. Raises TypeError for other scores than asked for."""
    name, groups = verifier.facts.name, [candidates for _, candidates in batch]
    try:
        if len(batch) > 1:
            scores = verifier.score_many([prompt for prompt, _ in batch], groups)
        else:
            scores = [verifier.score(batch[0][0], groups[0])]
    except BROKEN_INSTALLATION:
        raise
    except Exception as error:
        first, number = f"{batch[0][0].key} #{groups[0][0].index}", sum(map(len, groups))
        which = first if number == 1 else f"{number} candidates from {first} on, which are retried in halves"
        logger.warning("%s could not score %s: %r", name, which, error)
        logger.debug("The traceback:", exc_info=True)
        traceback.clear_frames(error.__traceback__)  # log records keep the exception, its frames GPU memory
        return False
    if len(scores) != len(groups):
        raise TypeError(f"Expected `{name}` to return scores of {len(groups)} prompts, but got {len(scores)}.")
    for candidates, scores_N in zip(groups, scores, strict=True):
        _fill(candidates, scores_N, name)
    return True


def _fill(candidates: Sequence[Candidate], scores: torch.Tensor, name: str) -> None:
    scores_N = torch.as_tensor(scores, dtype=torch.float64).cpu()
    if scores_N.shape != (len(candidates),):
        raise TypeError(
            f"Expected `{name}` to return scores of shape ({len(candidates)},), but got {tuple(scores_N.shape)}."
        )
    for candidate, score in zip(candidates, scores_N.tolist(), strict=True):
        candidate.scores[name] = score if math.isfinite(score) else math.nan
