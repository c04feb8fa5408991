"""Narration: the sentences of a text, searched in batches, chosen, checked and kept, in their order.

A sentence's samples are a function of its text, the settings and the models: neither the batch nor the sentences around
it change them, and a finished sentence is read from its part file when the text is spoken again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import torch

from modules.api import Audio, Candidate, Prompt, Verifier
from modules.atomic_file import write_whole
from modules.frontend.phonemes import spoken_words
from modules.frontend.script import Pause, Script, Spoken
from modules.provenance import digest, plain
from modules.search.driver import run_searches
from modules.search.identity import candidate_identity, score_identity
from modules.search.protocol import SearchAlgorithm, Trace
from modules.search.scorer import Scorer
from modules.speech.reference import begins_with_leak
from modules.speech.result import SpokenSentence
from modules.speech.selection import choose, faults_of
from modules.speech.settings import SHORT_TEXT_CANDIDATES, SpeakingSettings
from modules.speech.trimming import trimmed
from modules.tokens import Utterance
from modules.verifiers.alignment import TimedWord

if TYPE_CHECKING:
    from modules.speech.voice import Voice

MAX_ROWS = 64  # candidates that are sampled together: bounds the memory
MAX_REDRAWS = 3  # further searches, with other seeds, for a sentence that has no usable candidate
SHORT_TEXT_WORDS = 2
SECONDS_PER_CHARACTER, SECONDS_PER_IDEOGRAPH, SLACK_SECONDS = 0.25, 0.6, 3.0  # longer speech ran away
LEAST_SECONDS_PER_CHARACTER = 0.04  # fast speech
FIRST_IDEOGRAPH = "\u2e80"

NumFinished = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """A sentence to speak, and its prompt."""

    spoken: Spoken
    prompt: Prompt


def key_of(text: str, occurrence: int) -> str:
    """Key of a sentence, on which its seeds depend; `occurrence` counts equal sentences of a text from 1."""
    return f"say-{digest(text)[:12]}-{occurrence}"


class Narration:
    """Speaks one script with one voice.

    Args:
        voice: The loaded models.
        script: Sentences and pauses.
        settings: How they are spoken.
        parts: Folder of finished sentences, to resume from; None keeps none.

    `finished` is called with the number of sentences finished since the last call.
    """

    def __init__(
        self,
        voice: Voice,
        script: Script,
        settings: SpeakingSettings,
        parts: Path | None = None,
    ) -> None:
        self.voice, self.script, self.settings, self.parts = voice, script, settings, parts
        self.finished: NumFinished = lambda number: None
        self.scorer = Scorer(voice.codec)
        self.transcript = voice.listeners.transcript(settings.language)
        self.notes: list[str] = []
        if settings.reference is not None and not voice.model.facts.spoken_prompts:
            self.notes.append(
                f"{voice.model.facts.name} was not trained with voice prompts: it may not take on the voice"
            )
        self.unaligned: list[str] = []  # sentences without word times, and why
        self.num_resumed = 0
        self.tasks = self._tasks()
        self.limit = self._limit()

    def sentences(self) -> Iterator[SpokenSentence | Pause]:
        """Speak: yields sentences and pauses in the script's order. Raises ValueError as Voice.say."""
        spoken = self._spoken()
        for segment in self.script.segments:
            yield segment if isinstance(segment, Pause) else next(spoken)

    # ------------------------------------------------------------------------------------------------------- prompts

    def _tasks(self) -> list[Task]:
        """The prompts. Raises ValueError for text that the voice cannot speak."""
        reference = self.voice.reference(self.settings)
        occurrences: Counter[str] = Counter()
        tasks = []
        for spoken in self.script.sentences:
            text = self.voice.adapted(spoken.text)
            occurrences[text] += 1
            prompt = Prompt(key_of(text, occurrences[text]), text, self.settings.language, self.settings.speaker)
            tasks.append(Task(spoken, prompt if reference is None else reference.before(prompt)))
        return tasks

    def _limit(self) -> int:
        """Most codes of a sentence: beyond it speech has run away. One limit for all, so that batches do not matter.

        Raises ValueError, in seconds, where the model's context has no room for a sentence.
        """
        rate = self.voice.codec.facts.frame_rate
        wanted, room = 0, math.inf
        for task in self.tasks:
            text = task.prompt.text
            left = self.voice.model.facts.max_tokens - self.voice.sampler(self.settings).num_prompt_tokens(task.prompt)
            if left / rate < LEAST_SECONDS_PER_CHARACTER * len(text):
                raise ValueError(self._no_room(task, max(0, left) / rate))
            num_ideographs = sum(character >= FIRST_IDEOGRAPH for character in text)
            seconds = SECONDS_PER_CHARACTER * len(text) + SECONDS_PER_IDEOGRAPH * num_ideographs + SLACK_SECONDS
            wanted, room = max(wanted, math.ceil(seconds * rate)), min(room, left)
        return int(min(wanted, room))

    def _no_room(self, task: Task, seconds: float) -> str:
        rate, voice = self.voice.codec.facts.frame_rate, task.prompt.voice
        after = f" after a reference of {len(voice.codes) / rate:.1f} s" if voice is not None else ""
        remedy = "a shorter recording or a shorter sentence" if voice is not None else "a shorter sentence"
        return (
            f"Expected room for the sentence {task.spoken.written[:60]!r}, but the model's context of "
            f"{self.voice.model.facts.max_tokens} tokens leaves {seconds:.1f} s of speech{after}: {remedy} helps."
        )

    # ------------------------------------------------------------------------------------------------------ speaking

    def _spoken(self) -> Iterator[SpokenSentence]:
        tasks = self.tasks
        if len(tasks) > 1 and self.voice.model.facts.spoken_prompts and self.settings.reference is None:
            first = self._group(tasks[:1])[0]
            yield first
            self.notes.append("every sentence continues the first one's voice")
            voice = Utterance(tasks[0].prompt.text, tuple(first.codes_S.tolist()))
            own = [replace(task.prompt, voice=voice, reference=first.audio) for task in tasks[1:]]
            tasks = [Task(task.spoken, prompt) for task, prompt in zip(tasks[1:], own, strict=True)]
        size = max(
            1, MAX_ROWS // max(self._num_candidates(task) ** (2 if self.settings.steers else 1) for task in tasks)
        )
        for start in range(0, len(tasks), size):
            yield from self._group(tasks[start : start + size])

    def _group(self, tasks: Sequence[Task]) -> list[SpokenSentence]:
        """Speak some sentences in one batch, without those whose part is there."""
        names = [self._part_name(task) for task in tasks]
        found = [self._stored(name) for name in names]
        missing = [task for task, one in zip(tasks, found, strict=True) if one is None]
        self.num_resumed += len(tasks) - len(missing)
        new = iter(self._searched(missing))
        sentences = []
        for name, one in zip(names, found, strict=True):
            if one is None:
                one = next(new)
                if self.parts is not None:
                    write_whole(self.parts / f"{name}.npz", one.as_bytes())
            sentences.append(replace(one, words=self._words(one)))
        self.finished(len(tasks))
        return sentences

    def _num_candidates(self, task: Task) -> int:
        if self.settings.best_of is not None or self.settings.steers:
            return self.settings.num_candidates
        return SHORT_TEXT_CANDIDATES if self._is_short(task) and self.transcript is not None else 1

    def _is_short(self, task: Task) -> bool:
        return len(task.prompt.text.split()) <= SHORT_TEXT_WORDS and len(task.prompt.text) < 30

    def _algorithm(self, num_candidates: int) -> SearchAlgorithm:
        reward = self.voice.listeners.speaker.facts.name if self.settings.steers else ""
        return self.settings.algorithm(num_candidates, self.limit, self.voice.codec.facts.frame_rate, reward)

    def _selectors(self, task: Task, num_candidates: int) -> list[Verifier]:
        """The verifiers that choose among a sentence's candidates, the most important first."""
        transcribed = num_candidates > 1 or task.prompt.voice is not None
        selectors: list[Verifier] = [self.transcript] if transcribed and self.transcript is not None else []
        compares = self.settings.steers or (num_candidates > 1 and task.prompt.reference is not None)
        return [*selectors, self.voice.listeners.speaker] if compares else selectors

    def _searched(self, tasks: Sequence[Task]) -> list[SpokenSentence]:
        """Search; sentences with equal settings share a batch, and those without a usable candidate are drawn again."""
        drawn: list[list[Candidate]] = [[] for _ in tasks]
        chosen: dict[int, SpokenSentence] = {}
        for round_number in range(MAX_REDRAWS + 1):
            waiting = [number for number in range(len(tasks)) if number not in chosen]
            seed = self.settings.seed + round_number * 1_000_003
            for number, trace in self._traces([(number, tasks[number]) for number in waiting], seed):
                drawn[number] += trace.candidates
            for number in waiting:
                sentence = self._chosen(tasks[number], drawn[number], round_number)
                if not sentence.about["faults"] or round_number == MAX_REDRAWS:
                    chosen[number] = sentence
        return [chosen[number] for number in range(len(tasks))]

    def _traces(self, tasks: Sequence[tuple[int, Task]], seed: int) -> Iterator[tuple[int, Trace]]:
        groups: dict[tuple[int, tuple[str, ...]], list[tuple[int, Task]]] = {}
        for number, task in tasks:
            num_candidates = self._num_candidates(task)
            names = tuple(one.facts.name for one in self._selectors(task, num_candidates))
            groups.setdefault((num_candidates, names), []).append((number, task))
        for (num_candidates, _), group in groups.items():
            selectors = self._selectors(group[0][1], num_candidates)
            prompts, sampler = [task.prompt for _, task in group], self.voice.sampler(self.settings)
            with torch.inference_mode():
                traces = run_searches(prompts, self._algorithm(num_candidates), sampler, self.scorer, selectors, seed)
                self.scorer.decode([one for trace in traces for one in trace.candidates])
            yield from zip([number for number, _ in group], traces, strict=True)

    def _chosen(self, task: Task, candidates: Sequence[Candidate], num_redraws: int) -> SpokenSentence:
        prompt = task.prompt
        known = {name for one in candidates for name in one.scores}
        selectors = [one for one in self._selectors(task, len(candidates)) if one.facts.name in known]
        faults = [(*faults_of(prompt, one), *self._misspoken(task, one)) for one in candidates]
        choice = choose(prompt, candidates, faults, selectors)
        best = candidates[choice.index]
        cut = trimmed(best.audio)
        about: dict[str, Any] = {
            "chosen": choice.index,
            "why": choice.reason,
            "faults": list(choice.faults),
            "num_redraws": num_redraws,
            "seconds": round(cut.audio.seconds, 3),
            "trimmed_seconds": [round(cut.before, 3), round(cut.after, 3)],
            "candidates": [
                {
                    "seed": one.seed,
                    "seconds": round(one.audio.seconds, 3),
                    "stopped": bool(one.stopped),
                    "log_probability": float(one.log_probability),
                    "scores": {name: None if math.isnan(score) else score for name, score in one.scores.items()},
                    "faults": list(own),
                }
                for one, own in zip(candidates, faults, strict=True)
            ],
        }
        audio = Audio(cut.audio.samples_T.detach().float().cpu(), cut.audio.sample_rate)
        return SpokenSentence(task.spoken.written, prompt.text, audio, best.codes_S, about)

    def _misspoken(self, task: Task, candidate: Candidate) -> list[str]:
        """Faults that only a recogniser hears: a short text not spoken in full, words of the reference."""
        prompt, found = task.prompt, []
        if self.transcript is None or self.transcript.facts.name not in candidate.scores or not candidate.num_codes:
            return []
        if self._is_short(task) and candidate.scores[self.transcript.facts.name] != 1.0:
            found.append("not every word is heard")
        if prompt.voice is not None:
            heard = self.transcript.hypotheses(prompt, [candidate])[0]
            if begins_with_leak(heard, prompt.text, prompt.voice.text, self.transcript.normaliser):
                found.append("begins with words of the reference")
        return found

    def _words(self, sentence: SpokenSentence) -> tuple[TimedWord, ...] | None:
        """Times of the words; None if they are not wanted or cannot be found."""
        aligner = self.voice.listeners.aligner(self.settings.language) if self.settings.word_times else None
        if aligner is None or not sentence.audio.samples_T.numel():
            return None
        try:
            return tuple(aligner.align(sentence.audio, spoken_words(sentence.text)))
        except ValueError as error:
            self.unaligned.append(f"{sentence.written[:40]!r}: {error}")
            return None

    # --------------------------------------------------------------------------------------------------------- parts

    def _part_name(self, task: Task) -> str:
        """Digest of everything that the sentence depends on."""
        if self.parts is None:
            return ""
        voice, settings, num_candidates = self.voice, self.settings, self._num_candidates(task)
        selectors, decoder = self._selectors(task, num_candidates), voice.codec.decoder_fingerprint
        scores = {one.facts.name: score_identity(one, task.prompt, decoder) for one in selectors}
        drawn_by = (voice.sampling(settings), self._algorithm(num_candidates), settings.seed)
        identity = candidate_identity(
            voice.model.model_hash, voice.model.prompt_format, voice.codec, task.prompt, *drawn_by, steering=scores
        )
        return digest(identity | {"decoder": decoder, "written": task.spoken.written, "dtype": plain(str(voice.dtype))})

    def _stored(self, name: str) -> SpokenSentence | None:
        path = None if self.parts is None else self.parts / f"{name}.npz"
        if path is None or not path.is_file():
            return None
        try:
            return SpokenSentence.from_bytes(path.read_bytes())
        except (ValueError, OSError, KeyError, EOFError, BadZipFile):
            return None  # damaged: spoken again
