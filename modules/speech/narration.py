"""Narration: the sentences of one text, all in one voice, in their order, between the text's pauses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modules.api import Audio, Prompt, WritesWords
from modules.frontend.script import Pause, Script, Spoken
from modules.provenance import digest
from modules.speech.result import SpokenSentence
from modules.speech.sentence_search import MAX_ROWS, Finished, SentenceSearch, Task
from modules.speech.settings import SpeakingSettings
from modules.tokens import Utterance

if TYPE_CHECKING:
    from modules.speech.voice import Voice

SECONDS_PER_CHARACTER, SECONDS_PER_IDEOGRAPH, SLACK_SECONDS = 0.25, 0.6, 3.0  # longer speech ran away
LEAST_SECONDS_PER_CHARACTER, USUAL_SECONDS_PER_CHARACTER = 0.04, 0.08  # fast speech; slow speech
FIRST_IDEOGRAPH = "\u2e80"
LIMIT_STEP, ROOM_STEP = 250, 50  # limits are multiples of them: sentences with equal limits share a batch
MAX_OPENINGS = 3  # sentences that are tried as the voice of the others
WANTED_SECONDS, LEAST_SECONDS, MOST_SECONDS, LEAST_WORD_SCORE = 2.0, 0.5, 12.0, 0.9  # of such a sentence


def key_of(text: str, occurrence: int) -> str:
    """Key of a sentence, on which its seeds depend; `occurrence` counts equal sentences of a text from 1."""
    return f"say-{digest(text)[:12]}-{occurrence}"


class Narration:
    """Speaks one script. With a reference every sentence continues that; without, if the model was trained with voice
    prompts, every sentence continues the first accepted one.

    Args:
        voice: The loaded models.
        script: Sentences and pauses.
        settings: How they are spoken.
        parts: Folder of finished sentences, to resume from; None keeps none.

    Raises ValueError for text that the voice cannot speak, and where the model's context has no room for a sentence.
    """

    def __init__(self, voice: Voice, script: Script, settings: SpeakingSettings, parts: Path | None = None) -> None:
        self.voice, self.script, self.settings, self.parts = voice, script, settings, parts
        self.search = SentenceSearch(voice, settings)
        self.notes = self._notes()
        self.num_resumed = 0
        self.tasks = self._tasks()

    @property
    def wants_own_voice(self) -> bool:
        """Whether sentences of its own become the voice of the others."""
        trained = self.voice.model.facts.spoken_prompts
        return trained and self.settings.reference is None and len(self.tasks) > 1

    def sentences(
        self, finished: Finished = lambda number: None, most_together: int = MAX_ROWS
    ) -> Iterator[SpokenSentence | Pause]:
        """Speak: yields sentences and pauses in the script's order; at most `most_together` are sampled in a batch."""
        return self.placed(self._spoken(finished, most_together))

    def _spoken(self, finished: Finished, most_together: int) -> Iterator[SpokenSentence]:
        num_openings = 0
        for sentence in self.openings(finished):
            num_openings += 1
            yield sentence
        yield from self.search.speak(self.tasks[num_openings:], finished, most_together)

    def placed(self, spoken: Iterator[SpokenSentence]) -> Iterator[SpokenSentence | Pause]:
        """The script's segments, its sentences spoken."""
        for segment in self.script.segments:
            if isinstance(segment, Pause):
                yield segment
            else:
                sentence = next(spoken)
                self.num_resumed += sentence.is_resumed
                yield sentence

    # ------------------------------------------------------------------------------------------------------- prompts

    def _notes(self) -> list[str]:
        facts, settings, notes = self.voice.model.facts, self.settings, []
        if settings.reference is not None and not facts.spoken_prompts:
            notes.append(f"{facts.name} was not trained with voice prompts: it may not take on the voice")
        if facts.languages and settings.language not in {one.split("-")[0].lower() for one in facts.languages}:
            notes.append(f"{facts.name} was trained on {', '.join(facts.languages)}, not on {settings.language}")
        if not self.search.recognises and (settings.searches or settings.reference is not None):
            notes.append(f"no recogniser for {settings.language}: words are not checked; `--recogniser` names one")
        return notes

    def _tasks(self) -> list[Task]:
        self.voice.check_words(spoken.text for spoken in self.script.sentences)
        reference = self.voice.reference(self.settings)
        occurrences: Counter[str] = Counter()
        tasks = []
        for spoken in self.script.sentences:
            text = self.voice.adapted(spoken.text)
            occurrences[text] += 1
            prompt = Prompt(key_of(text, occurrences[text]), text, self.settings.language, self.settings.speaker)
            tasks.append(self._task(spoken, prompt if reference is None else reference.before(prompt)))
        num_openings = MAX_OPENINGS if self.voice.model.facts.spoken_prompts and len(tasks) > 1 else 0
        return [replace(task, is_opening=place < num_openings) for place, task in enumerate(tasks)]

    def _task(self, spoken: Spoken, prompt: Prompt, least: float = LEAST_SECONDS_PER_CHARACTER) -> Task:
        """The task with its limit: what the text can need, and what the model's context has room for. Raises ValueError
        if that is less than `least` seconds a character."""
        rate, text, form = self.voice.codec.facts.frame_rate, prompt.text, self.voice.model.prompt_format
        num_written = len(form.written_tokens(text)) if isinstance(form, WritesWords) else 0
        num_written = math.ceil(num_written / ROOM_STEP) * ROOM_STEP
        num_before = self.voice.sampler(self.settings).num_prompt_tokens(prompt) + num_written
        room = self.voice.model.facts.max_tokens - num_before
        if room / rate < least * len(text):
            raise ValueError(self._no_room(spoken, prompt, max(0, room) / rate))
        num_ideographs = sum(character >= FIRST_IDEOGRAPH for character in text)
        seconds = SECONDS_PER_CHARACTER * len(text) + SECONDS_PER_IDEOGRAPH * num_ideographs + SLACK_SECONDS
        room = room // ROOM_STEP * ROOM_STEP or room
        num_codes = min(math.ceil(seconds * rate / LIMIT_STEP) * LIMIT_STEP, room)
        return Task(spoken, prompt, num_codes + num_written, self.parts)

    def _no_room(self, spoken: Spoken, prompt: Prompt, seconds: float) -> str:
        rate, most = self.voice.codec.facts.frame_rate, self.voice.model.facts.max_tokens
        after, remedy = "", "a shorter sentence"
        if prompt.voice is not None:
            after, remedy = f" after a recording of {len(prompt.voice.codes) / rate:.1f} s", "a shorter recording"
        return (
            f"Expected room for the sentence {spoken.written[:60]!r}, but the model's context of {most} tokens "
            f"({most / rate:.0f} s) leaves {seconds:.1f} s of speech beside the text{after}: {remedy} helps."
        )

    # ----------------------------------------------------------------------------------------------------- own voice

    @property
    def num_openings(self) -> int:
        """How many sentences are at most tried as the voice of the others."""
        return min(MAX_OPENINGS, len(self.tasks) - 1) if self.wants_own_voice else 0

    def openings(self, finished: Finished = lambda number: None) -> Iterator[SpokenSentence]:
        """Speak the sentences that are tried as the voice of the others, which then continue the best of them."""
        spoken: list[SpokenSentence] = []
        while len(spoken) < self.num_openings:
            spoken += self.search.speak([self.tasks[len(spoken)]], finished)
            is_done = self.consider(spoken)
            yield spoken[-1]
            if is_done:
                return

    def consider(self, openings: Sequence[SpokenSentence]) -> bool:
        """Whether these openings are enough; the sentences after them then continue the best that leaves them room."""
        last = openings[-1]
        is_good = self._speaks_well(last) and last.audio.seconds >= WANTED_SECONDS
        if not is_good and len(openings) < self.num_openings:
            return False
        accepted = [one for one in openings if self._speaks_well(one)]
        for one in sorted(accepted, key=lambda one: -min(one.audio.seconds, WANTED_SECONDS)):
            if self.condition(len(openings), one.text, one.codes_S.tolist(), one.audio):
                return True
        self.notes.append(
            "the model's context has no room for a voice prompt: each sentence has its own voice"
            if accepted
            else "no first sentence was good enough to be the voice of the others: each has its own"
        )
        return True

    def _speaks_well(self, one: SpokenSentence) -> bool:
        seconds, score = one.codes_S.numel() / self.voice.codec.facts.frame_rate, one.about["word_score"]
        is_right = not one.about["faults"] and (score is None or score >= LEAST_WORD_SCORE)
        return is_right and one.audio.seconds >= LEAST_SECONDS and seconds <= MOST_SECONDS

    def condition(self, start: int, text: str, codes: Sequence[int], audio: Audio | None) -> bool:
        """Let the tasks from `start` on continue a sentence; returns False if one of them would not fit into the
        context."""
        voice = Utterance(text, tuple(codes))
        try:
            rest = [
                self._task(task.spoken, replace(task.prompt, voice=voice, reference=audio), USUAL_SECONDS_PER_CHARACTER)
                for task in self.tasks[start:]
            ]
        except ValueError:
            return False
        self.tasks = [*self.tasks[:start], *rest]
        self.notes.append(f"every sentence continues the voice of {text[:40]!r}")
        return True

    def remove_parts(self) -> None:
        """Remove the part files of these sentences, and their folder if nothing else is in it."""
        if self.parts is None:
            return
        for task in self.tasks:
            self.search.part_of(task).unlink(missing_ok=True)
        if self.parts.is_dir() and not any(self.parts.iterdir()):
            self.parts.rmdir()
