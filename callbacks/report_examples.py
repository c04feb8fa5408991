"""Examples of a sweep's report: the prompts where the choice changed most, with the samples and the recording."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from datamodules.shards.shards import by_hash
from modules.api import Audio, Candidate, Codec, Prompt, Transcribes, Verifier
from modules.audio import resampled
from modules.report.examples import Choice, Clip, Example
from modules.report.sweep_page import judged_curves
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.results import SweepResults, SweptPrompt
from modules.search.panel import chosen_index
from modules.search.protocol import Trace
from modules.search.scorer import decode_candidates, score_tasks

logger = logging.getLogger(__name__)


def gather_examples(
    results: SweepResults,
    codec: Codec,
    verifiers: Sequence[Verifier],
    num_examples: int,
    error_judges: frozenset[str] = frozenset(),
) -> list[Example]:
    """Collect `num_examples` prompts of each set: those where the choice of the best selector changed the score of the
    first judge that is independent of it the most, for better or worse; among equal ones those with another sample
    chosen, then by key. Without such a selector: by the hash of their keys."""
    leading = leading_points(results, error_judges)
    examples = []
    for prompt_set in dict.fromkeys(one.prompt_set for one in results.first_swept):
        swept = [one for one in results.first_swept if one.prompt_set == prompt_set]
        if point := leading.get(prompt_set):
            choices = [(choice_of(one.trace, point, point.judge in error_judges), one) for one in swept]
            choices.sort(key=lambda pair: (-abs(pair[0].change), pair[0].is_first, pair[1].trace.prompt.key))
        else:
            choices = [(None, swept[place]) for place in by_hash([one.trace.prompt.key for one in swept])]
        examples += [_example(one, choice, results, codec, verifiers) for choice, one in choices[:num_examples]]
    return examples


def leading_points(results: SweepResults, error_judges: frozenset[str]) -> dict[str, CurvePoint]:
    """By prompt set, the first headline: the best independent selector at the largest N, under the first judge that has
    one."""
    leading: dict[str, CurvePoint] = {}
    for curve in judged_curves(results.first_points, error_judges):
        if curve.best is not None:
            leading.setdefault(curve.prompt_set, curve.best)
    return leading


def choice_of(trace: Trace, point: CurvePoint, as_error: bool = False) -> Choice:
    """What the choice of the point's selector among all the prompt's candidates changed for the point's judge."""
    candidates = trace.candidates
    place = chosen_index(candidates, point.selector)

    def judged(candidate: Candidate) -> float:
        score = candidate.scores.get(point.judge, math.nan)
        return point.worst_score if math.isnan(score) or not candidate.stopped else score

    scores = (judged(candidates[0]), judged(candidates[place]))
    return Choice(point.selector, point.judge, len(candidates), *scores, place == 0, as_error)


def _example(
    swept: SweptPrompt, choice: Choice | None, results: SweepResults, codec: Codec, verifiers: Sequence[Verifier]
) -> Example:
    prompt = swept.trace.prompt
    first = [choice.selector] if choice else []
    selectors = [*first, *(name for name in results.selectors if name not in first)]
    samples = _sample_clips(swept, selectors, codec)
    references = _reference_clips(prompt, codec, verifiers)
    num_shown = len(samples) if choice is None else 2 - choice.is_first
    shown, more = [*samples[:num_shown], *references[:1]], [*samples[num_shown:], *references[1:]]
    return Example(swept.prompt_set, prompt, shown, more, choice)


def _reference_clips(prompt: Prompt, codec: Codec, verifiers: Sequence[Verifier]) -> list[Clip]:
    """The recording at the codec's rate and its resynthesis, scored by all verifiers that can."""
    if prompt.reference is None or prompt.reference.samples_T.numel() == 0:
        return []
    recording = Audio(torch.from_numpy(resampled(prompt.reference, codec.facts.sample_rate)), codec.facts.sample_rate)
    codes_BS, num_codes_B = codec.encode(recording.samples_T.unsqueeze(0), torch.tensor([recording.samples_T.numel()]))
    codes_S = codes_BS[0, : int(num_codes_B[0])].cpu()
    # These were not sampled: they have no log-probability, so a likelihood cannot score them.
    heard = [Candidate(prompt.key, index, 0, codes_S, math.nan, stopped=True) for index in range(2)]
    heard[0].audio = recording
    decode_candidates(heard, codec)
    spoken = prompt if prompt.voice is None else replace(prompt, text=prompt.voice.text, voice=None)
    texts = [_judged(spoken, heard, verifier) for verifier in verifiers]
    names = [verifier.facts.name for verifier in verifiers]
    return [
        Clip(
            [label],
            candidate.audio,
            {name: score for name, score in candidate.scores.items() if not math.isnan(score)},
            {name: text[index] for name, text in zip(names, texts, strict=True) if text},
        )
        for index, (label, candidate) in enumerate(zip(("recording", "codec resynthesis"), heard, strict=True))
    ]


def _judged(prompt: Prompt, candidates: list[Candidate], verifier: Verifier) -> list[str]:
    """Fill the candidates' scores; returns the verifier's transcripts if it has any. A failure only loses the
    transcripts."""
    score_tasks([(prompt, candidates)], verifier)
    if not isinstance(verifier, Transcribes):
        return []
    try:
        return list(verifier.hypotheses(prompt, candidates))
    except Exception as error:  # noqa: BLE001 - transcripts only illustrate
        logger.warning("%s returned no hypotheses for the recording of %s: %r", verifier.facts.name, prompt.key, error)
        return []


def _sample_clips(swept: SweptPrompt, selectors: Sequence[str], codec: Codec) -> list[Clip]:
    """The first sample and the best of N by each selector; selections of the same sample share a clip."""
    candidates = swept.trace.candidates
    labels: dict[int, list[str]] = {0: ["first sample"]}
    for selector in selectors:
        place = chosen_index(candidates, selector)
        labels.setdefault(place, []).append(f"best of {len(candidates)} by {selector}")
    clips = []
    for place, names in labels.items():
        candidate = replace(candidates[place], audio=None)  # decoding must not touch the results
        decode_candidates([candidate], codec)
        texts = {name: text for (index, name), text in swept.hypotheses.items() if index == candidate.index}
        note = "" if candidate.stopped else "never ended: cut at the maximum length"
        clips.append(Clip(names, candidate.audio, dict(candidate.scores), texts, note))
    return clips
