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
from modules.search.analysis.results import SweepResults
from modules.search.protocol import Trace
from modules.search.scorer import decode_candidates, score_tasks

logger = logging.getLogger(__name__)


def gather_examples(
    results: SweepResults, codec: Codec, verifiers: Sequence[Verifier], num_examples: int
) -> list[Example]:
    """Collect `num_examples` prompts of each set by the hash of their keys: not selected by listening or by source."""
    examples = []
    for prompt_set, traces in results.prompt_sets.items():
        chosen = sorted(by_hash([trace.prompt.key for trace in traces])[:num_examples])
        for trace in (traces[place] for place in chosen):
            clips = [
                *_reference_clips(trace.prompt, codec, verifiers),
                *_sample_clips(results, prompt_set, trace, codec),
            ]
            examples.append(Example(prompt_set, trace.prompt, clips))
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


def _sample_clips(results: SweepResults, prompt_set: str, trace: Trace, codec: Codec) -> list[Clip]:
    """The first sample and the best of N by each selector; selections of the same sample share a clip."""
    labels: dict[int, list[str]] = {0: ["first sample"]}
    for selector, chosen in results.chosen[prompt_set].items():
        labels.setdefault(chosen[trace.prompt.key], []).append(f"best of {len(trace.candidates)} by {selector}")
    clips = []
    for place, names in labels.items():
        candidate = replace(trace.candidates[place], audio=None)  # decoding must not touch the results
        decode_candidates([candidate], codec)
        heard = {
            name: text
            for (key, index, name), text in results.hypotheses.items()
            if key == trace.prompt.key and index == candidate.index
        }
        note = "" if candidate.stopped else "never ended: cut at the maximum length"
        clips.append(Clip(names, candidate.audio, dict(candidate.scores), heard, note))
    return clips
