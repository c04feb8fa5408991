"""Examples of a sweep's report: the recording, its resynthesis, the first sample and the selected ones."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from datamodules.shards.shards import by_hash
from modules.api import Audio, Candidate, Codec, Prompt, Transcribes, Verifier
from modules.audio import resampled
from modules.report.examples import Clip, Example
from modules.search.analysis.results import SweepResults, SweptPrompt
from modules.search.panel import chosen_index
from modules.search.scorer import decode_candidates, score_tasks

logger = logging.getLogger(__name__)


def gather_examples(
    results: SweepResults, codec: Codec, verifiers: Sequence[Verifier], num_examples: int
) -> list[Example]:
    """Collect `num_examples` prompts of each set by the hash of their keys: not selected by listening or by source."""
    examples = []
    for prompt_set in dict.fromkeys(one.prompt_set for one in results.first_swept):
        swept = [one for one in results.first_swept if one.prompt_set == prompt_set]
        chosen = sorted(by_hash([one.trace.prompt.key for one in swept])[:num_examples])
        for one in (swept[place] for place in chosen):
            prompt = one.trace.prompt
            clips = [*_reference_clips(prompt, codec, verifiers), *_sample_clips(one, results.selectors, codec)]
            examples.append(Example(prompt_set, prompt, clips))
    return examples


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
