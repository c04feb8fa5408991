"""SentenceSearch: samples sentences in batches, chooses among their candidates, and keeps finished ones as part files.

What is spoken for a sentence is a function of its prompt, the settings and the models, not of the sentences beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modules.api import Audio, Branch, Candidate, Prompt, Verifier
from modules.atomic_file import write_whole
from modules.frontend.phonemes import spoken_words
from modules.frontend.script import Spoken
from modules.provenance import digest
from modules.search.driver import run_searches
from modules.search.growth import finished_candidate
from modules.search.identity import candidate_identity, score_identity
from modules.search.protocol import SearchAlgorithm, Trace
from modules.search.scorer import Scorer
from modules.speech.listeners import WITHOUT_SPACES
from modules.speech.reference import begins_with_leak
from modules.speech.result import SpokenSentence
from modules.speech.selection import choose, faults_of
from modules.speech.settings import SHORT_TEXT_CANDIDATES, SpeakingSettings
from modules.speech.trimming import trimmed
from modules.verifiers.transcript import Transcript

if TYPE_CHECKING:
    from modules.speech.voice import Voice

MAX_ROWS, MAX_ROWS_OF_LARGE = 64, 16  # candidates sampled together, by models below and above ...
LARGE_PARAMETERS = 100_000_000  # ... this size: bounds the memory
MAX_REDRAWS = 3  # further searches, with other seeds, for a sentence without a usable candidate
REDRAW_SEEDS = 1_000_003  # distance of their seeds
SHORT_TEXT_WORDS, SHORT_TEXT_CHARACTERS, SHORT_UNSPACED_CHARACTERS = 2, 30, 4
RULES = 1  # version of what this folder does with candidates; part of a part file's name

Finished = Callable[[int], object]


@dataclass(frozen=True)
class Task:
    """A sentence to speak, its prompt, and the most tokens of its answer. `parts`: folder of finished sentences.
    `is_opening`: it may become the voice of others, so what it says is checked."""

    spoken: Spoken
    prompt: Prompt
    limit: int
    parts: Path | None = None
    is_opening: bool = False

    @property
    def is_short(self) -> bool:
        text = self.prompt.text
        most = SHORT_UNSPACED_CHARACTERS if self.prompt.language in WITHOUT_SPACES else SHORT_TEXT_CHARACTERS
        return len(text.split()) <= SHORT_TEXT_WORDS and len(text) <= most


class SentenceSearch:
    """Speaks tasks with one voice and one set of settings."""

    def __init__(self, voice: Voice, settings: SpeakingSettings) -> None:
        self.voice, self.settings = voice, settings
        self.scorer = Scorer(voice.codec, decode_batch_size=1)  # in a batch, samples differ in their last bits
        self.recognises = voice.listeners.recognises(settings.language)

    @property
    def transcript(self) -> Transcript | None:
        """The verifier that compares with the text, loaded on first use; None without a recogniser."""
        return self.voice.listeners.transcript(self.settings.language)

    def speak(
        self, tasks: Sequence[Task], finished: Finished = lambda number: None, most_together: int = MAX_ROWS
    ) -> Iterator[SpokenSentence]:
        """Speak the tasks, in their order; `finished` is called with 1 when a sentence is done."""
        is_large = self.voice.model.facts.num_parameters > LARGE_PARAMETERS
        most = max((self._num_rows(task) for task in tasks), default=1)
        size = min(most_together, max(1, (MAX_ROWS_OF_LARGE if is_large else MAX_ROWS) // most))
        for start in range(0, len(tasks), size):
            for sentence in self._batch(tasks[start : start + size], finished):
                yield self._timed(sentence)

    def _batch(self, tasks: Sequence[Task], finished: Finished) -> list[SpokenSentence]:
        """Speak some tasks in one batch, without those whose part is there."""
        sentences: dict[int, SpokenSentence] = {}
        for number, task in enumerate(tasks):
            if (stored := self._stored(task)) is not None:
                sentences[number] = replace(stored, is_resumed=True)
                finished(1)
        drawn: dict[int, list[Candidate]] = {number: [] for number in range(len(tasks)) if number not in sentences}
        for round_number in range(MAX_REDRAWS + 1):
            waiting = [number for number in drawn if number not in sentences]
            seed = self.settings.seed + round_number * REDRAW_SEEDS
            for number, trace in self._traces([(number, tasks[number]) for number in waiting], seed):
                drawn[number] += trace.candidates
                sentence = self._chosen(tasks[number], drawn[number], round_number)
                if not sentence.about["faults"] or round_number == MAX_REDRAWS:
                    sentences[number] = sentence
                    self._store(tasks[number], sentence)
                    finished(1)
        return [sentences[number] for number in range(len(tasks))]

    def _traces(self, tasks: Sequence[tuple[int, Task]], seed: int) -> Iterator[tuple[int, Trace]]:
        """Search; tasks with equal settings share a batch."""
        groups: dict[tuple[int, int, tuple[str, ...]], list[tuple[int, Task]]] = {}
        for number, task in tasks:
            names = tuple(one.facts.name for one in self._selectors(task))
            groups.setdefault((self._num_candidates(task), task.limit, names), []).append((number, task))
        for group in groups.values():
            first, prompts = group[0][1], [task.prompt for _, task in group]
            searching = (self._algorithm(first), self.voice.sampler(self.settings), self.scorer)
            with torch.inference_mode():
                traces = run_searches(prompts, *searching, self._selectors(first), seed)
                self.scorer.decode([one for trace in traces for one in trace.candidates])
            yield from zip([number for number, _ in group], traces, strict=True)

    # ---------------------------------------------------------------------------------------------------- the search

    def _num_candidates(self, task: Task) -> int:
        if self.settings.best_of is not None or self.settings.steers:
            return self.settings.num_candidates
        return SHORT_TEXT_CANDIDATES if task.is_short and self.recognises else 1

    def _num_rows(self, task: Task) -> int:
        return self._num_candidates(task) ** (2 if self.settings.steers else 1)

    def _algorithm(self, task: Task) -> SearchAlgorithm:
        reward = self.voice.listeners.speaker.facts.name if self.settings.steers else ""
        frame_rate = self.voice.codec.facts.frame_rate
        return self.settings.algorithm(self._num_candidates(task), task.limit, frame_rate, reward)

    def _selectors(self, task: Task) -> list[Verifier]:
        """The verifiers that choose among a sentence's candidates, the most important first; a recogniser also checks
        them (`_misspoken`)."""
        has_several, prompt = self._num_candidates(task) > 1, task.prompt
        selectors: list[Verifier] = []
        is_checked = has_several or prompt.voice is not None or task.is_opening
        if is_checked and (transcript := self.transcript) is not None and transcript.reference_length(prompt):
            selectors.append(transcript)
        if self.settings.steers or (has_several and prompt.reference is not None):
            selectors.insert(0 if self.settings.chooses_by_speaker else len(selectors), self.voice.listeners.speaker)
        return selectors

    # ---------------------------------------------------------------------------------------------------- the choice

    def _chosen(self, task: Task, candidates: Sequence[Candidate], num_redraws: int) -> SpokenSentence:
        prompt, selectors = task.prompt, self._selectors(task)
        faults = [(*faults_of(prompt, one), *self._misspoken(task, one, selectors)) for one in candidates]
        choice = choose(prompt, candidates, faults, selectors)
        best = candidates[choice.index]
        cut = trimmed(best.audio)
        heard = score = None
        if (transcript := transcript_in(selectors)) is not None and can_be_heard(best, transcript):
            (heard,) = transcript.hypotheses(prompt, [best])
            score = known(best.scores.get(transcript.facts.name, math.nan))
        about: dict[str, Any] = {
            "chosen": choice.index,
            "why": choice.reason,
            "faults": list(choice.faults),
            "heard": heard,
            "word_score": score,
            "num_redraws": num_redraws,
            "seconds": round(cut.audio.seconds, 3),
            "trimmed_seconds": [round(cut.before, 3), round(cut.after, 3)],
            "candidates": [candidate_record(*one) for one in zip(candidates, faults, strict=True)],
        }
        audio = Audio(cut.audio.samples_T.detach().float().cpu(), cut.audio.sample_rate)
        return SpokenSentence(task.spoken.written, prompt.text, audio, best.codes_S, about)

    def opening(self, task: Task, branch: Branch, seed: int, audio: Audio) -> SpokenSentence:
        """A streamed sentence, for Narration.consider: its faults, without a recogniser's."""
        candidate = finished_candidate(branch, 0, seed)
        candidate.audio = audio
        about = {"faults": list(faults_of(task.prompt, candidate)), "word_score": None}
        return SpokenSentence(task.spoken.written, task.prompt.text, trimmed(audio).audio, candidate.codes_S, about)

    def _misspoken(self, task: Task, candidate: Candidate, selectors: Sequence[Verifier]) -> list[str]:
        """Faults that only a recogniser hears: a short text not spoken in full, words of the reference."""
        if (transcript := transcript_in(selectors)) is None or not can_be_heard(candidate, transcript):
            return []
        prompt, found = task.prompt, []
        if task.is_short and candidate.scores[transcript.facts.name] < 1:
            found.append("not every word is heard")
        if prompt.voice is not None:
            heard = transcript.hypotheses(prompt, [candidate])[0]
            if begins_with_leak(heard, prompt.text, prompt.voice.text, transcript.normaliser):
                found.append("begins with words of the reference")
        return found

    def _timed(self, sentence: SpokenSentence) -> SpokenSentence:
        """The sentence with the times of its words, if they are wanted, or with why there are none."""
        aligner = self.voice.listeners.aligner(self.settings.language) if self.settings.word_times else None
        if aligner is None or not sentence.audio.samples_T.numel():
            return sentence
        try:
            return replace(sentence, words=tuple(aligner.align(sentence.audio, spoken_words(sentence.text))))
        except (ValueError, RuntimeError) as error:
            return replace(sentence, unaligned=f"{sentence.written[:40]!r}: {error}")

    # --------------------------------------------------------------------------------------------------------- parts

    def part_of(self, task: Task) -> Path | None:
        """The part file of a task, named by a digest of everything that the sentence depends on; None without parts."""
        if task.parts is None:
            return None
        voice, settings = self.voice, self.settings
        decoder = voice.codec.decoder_fingerprint
        scores = {one.facts.name: score_identity(one, task.prompt, decoder) for one in self._selectors(task)}
        identity = candidate_identity(
            voice.model.model_hash,
            voice.model.prompt_format,
            voice.codec,
            task.prompt,
            voice.sampling(settings),
            self._algorithm(task),
            settings.seed,
            steering=scores,
        )
        more = {"rules": RULES, "decoder": decoder, "written": task.spoken.written, "dtype": str(voice.dtype)}
        if settings.chooses_by_speaker:  # its candidates may be those of a search that the recogniser chooses from
            more["chosen_by"] = list(scores)
        return task.parts / f"{digest(identity | more)}.npz"

    def _store(self, task: Task, sentence: SpokenSentence) -> None:
        if (path := self.part_of(task)) is not None:
            write_whole(path, sentence.as_bytes())

    def _stored(self, task: Task) -> SpokenSentence | None:
        path = self.part_of(task)
        if path is None or not path.is_file():
            return None
        try:
            return SpokenSentence.from_bytes(path.read_bytes())
        except ValueError:
            return None  # damaged: spoken again


def transcript_in(selectors: Sequence[Verifier]) -> Transcript | None:
    return next((one for one in selectors if isinstance(one, Transcript)), None)


def can_be_heard(candidate: Candidate, transcript: Transcript) -> bool:
    """Whether the recogniser scored a candidate: not where it failed, or without audio."""
    return bool(candidate.num_codes) and math.isfinite(candidate.scores.get(transcript.facts.name, math.nan))


def known(score: float) -> float | None:
    """A number as JSON has it: None for NaN and infinity."""
    return float(score) if math.isfinite(score) else None


def candidate_record(candidate: Candidate, faults: Sequence[str]) -> dict[str, Any]:
    """A decoded candidate as JSON values."""
    return {
        "seed": candidate.seed,
        "seconds": round(candidate.audio.seconds, 3),
        "stopped": bool(candidate.stopped),
        "log_probability": known(round(candidate.log_probability, 3)),  # beyond that it depends on the batch
        "scores": {name: known(score) for name, score in candidate.scores.items()},
        "faults": list(faults),
    }
