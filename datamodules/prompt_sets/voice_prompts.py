"""VoicePromptDataModule: the same texts with a spoken prompt of the target voice, of another voice, and without one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from datamodules.prompt_sets.text_and_shard_prompts import PromptPlan
from datamodules.shards.order import PlannedBatches, PlannedLoader
from datamodules.shards.samples import Sample
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.shards.skips import SkipNotes
from datamodules.speakers import UNREADABLE, speakers_of
from datamodules.tasks import ALONE, speaker_groups
from datamodules.tokens import load_token_index
from modules.api import Audio, Prompt, PromptFormat
from modules.batches import PromptBatch
from modules.tokens import Utterance

Condition = Literal["own", "other", "none"]
CONDITIONS: dict[str, Condition] = {"own voice": "own", "another voice": "other", "no voice": "none"}
NUM_ROLES = 3  # recordings per prompt: text, spoken prompt, reference
MIN_REFERENCE_SECONDS = 2.0  # of a reference from another folder: embeddings of shorter ones are uncertain


class References:
    """The recordings of at least two seconds in a folder of audio shards, by the name of their speaker, the longest
    first. The source does not count: a speaker's sentences and the strings composed of the same speaker's words have
    different ones. Raises ValueError if one of `wanted` has none.
    """

    def __init__(self, audio: ShardIndex, prompt_format: PromptFormat, wanted: Iterable[str]) -> None:
        self.plan = PromptPlan(audio, None, prompt_format)
        self.rows_of: dict[str, list[int]] = {}
        speakers, fewest = speakers_of(audio), MIN_REFERENCE_SECONDS * audio.header["sample_rate"]
        for row in np.argsort(-audio.lengths, kind="stable").tolist():
            if speakers.number_of[row] != UNREADABLE and audio.lengths[row] >= fewest:
                self.rows_of.setdefault(speakers.names[speakers.number_of[row]][1], []).append(row)
        if missing := sorted(set(wanted) - self.rows_of.keys()):
            raise ValueError(
                f"Expected recordings of at least {MIN_REFERENCE_SECONDS:g} s of {missing} in `{audio.folder}`, but "
                f"got those of {sorted(self.rows_of)}."
            )

    def audio(self, speaker: str, place: int) -> Audio | None:
        """The speaker's recording number `place`, in turn."""
        rows = self.rows_of[speaker]
        return self.plan.prompt(rows[place % len(rows)]).reference


class VoicePromptPlan:
    """The prompts of one condition. Rows are (speaker, place): the text is that of the speaker's recording `place`, the
    spoken prompt a later one, and the reference, used only by judges, a third, or one of `references`.

    "own": the spoken prompt is the speaker's. "other": the one in the same place of the voice `shift` speakers further.
    "none": no spoken prompt. Text and reference are the same in all three, so that only the prompt differs. Under
    "other" and "none" the speaker's name is not given either, because a format that uses it would reveal the target
    voice.
    """

    def __init__(
        self,
        audio: ShardIndex,
        tokens: ShardIndex,
        rows_of: list[list[int]],
        prompt_format: PromptFormat,
        condition: Condition,
        shift: int,
        references: References | None = None,
    ) -> None:
        self.rows_of, self.condition, self.shift, self.references = rows_of, condition, shift, references
        self.audio, self.tokens = PromptPlan(audio, None, prompt_format), ShardReader(tokens)
        self.skipped = SkipNotes(str(audio.folder), sum(map(len, rows_of)))
        self.audio_row = {str(key): row for row, key in enumerate(audio.keys)}
        if condition == "other" and shift % len(rows_of) == 0:
            raise ValueError(
                f"Expected `other_speaker` to lead to another one of {len(self.rows_of)} speakers, but got {shift}."
            )
        fewest = min(map(len, self.rows_of))
        if fewest < NUM_ROLES:
            raise ValueError(
                f"Expected {NUM_ROLES} recordings of every speaker in `{tokens.folder}`, but got {fewest}."
            )

    def load(self, rows: Sequence[tuple[int, int]]) -> PromptBatch | None:
        read = (self.skipped.attempt(self._key(*row), lambda row=row: self.prompt(*row)) for row in rows)
        prompts = [prompt for prompt in read if prompt is not None]
        return PromptBatch(prompts) if prompts else None

    def _key(self, speaker: int, place: int) -> str:
        return str(self.tokens.index.keys[self.rows_of[speaker][place]])

    def prompt(self, speaker: int, place: int) -> Prompt:
        own = self.rows_of[speaker]
        said = self._recording(own[place])
        if self.references is None:
            reference = self._recording(own[(place + 2) % len(own)]).reference
        else:
            reference = self.references.audio(said.speaker, place)
        key = f"{said.key}_{self.condition}"
        voice = None
        if self.condition != "none":
            step = 0 if self.condition == "own" else self.shift
            rows = self.rows_of[(speaker + step) % len(self.rows_of)]
            voice = self._utterance(rows[(place + 1) % len(rows)])
        told = None if self.condition == "own" else ""  # otherwise the text alone would reveal the target speaker
        return Prompt(key, said.text, said.language, said.speaker, reference, voice, told_speaker=told)

    def _recording(self, row: int) -> Prompt:
        return self.audio.prompt(self.audio_row[str(self.tokens.index.keys[row])])

    def _utterance(self, row: int) -> Utterance:
        said = Sample.read(self.tokens, row, "tokens").utterance()
        return replace(said, codes=tuple(said.codes))


def rows_by_speaker(tokens: ShardIndex) -> list[list[int]]:
    """Return the rows of each speaker's recordings, ordered by key, so that voices with the same texts have them in the
    same places. Speakers are ordered by their first key.

    Raises ValueError if a recording has no speaker. Damaged ones are omitted.
    """
    group_of = speaker_groups(tokens, "refuse")
    rows: dict[int, list[int]] = {}
    for row in np.argsort(tokens.keys).tolist():
        if group_of[row] != ALONE:
            rows.setdefault(int(group_of[row]), []).append(row)
    return list(rows.values())


class VoicePromptDataModule(L.LightningDataModule):
    """Three prompt sets for `test`, or some of them, which a sweep scores by similarity to the target voice.

    Args:
        prompt_format: Layout of text and codes; linked to the model.
        audio_folder: Audio shards, `audio_folder/SPLIT`: texts and references.
        token_folder: Token shards of the same recordings: the spoken prompts.
        split: Split of both.
        num_texts: Number of texts of each speaker, the first by key, so that voices with the same texts are compared on
            them; 0 for all.
        other_speaker: Offset from a speaker to the other voice.
        batch_size: Prompts per batch.
        conditions: The sets: own, other and none; "other" needs two speakers.
        reference_folder: Audio shards with other recordings of the speakers, as references, for a speaker whose
            recordings in `audio_folder` share their words with the training data. None: those of `audio_folder`.
    """

    def __init__(
        self,
        prompt_format: PromptFormat,
        audio_folder: Path,
        token_folder: Path,
        split: str = "test",
        num_texts: int = 0,
        other_speaker: int = 1,
        batch_size: int = 8,
        conditions: list[Condition] | None = None,
        reference_folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.prompt_format, self.split, self.reference_folder = prompt_format, split, reference_folder
        self.audio_folder, self.token_folder = Path(audio_folder), Path(token_folder)
        self.num_texts, self.other_speaker, self.batch_size = num_texts, other_speaker, batch_size
        self.conditions = {name: one for name, one in CONDITIONS.items() if conditions is None or one in conditions}

    @property
    def prompt_set_names(self) -> list[str]:
        return list(self.conditions)

    def test_dataloader(self) -> list[DataLoader]:
        audio = ShardIndex.load(self.audio_folder / self.split, "audio")
        tokens = load_token_index(self.token_folder / self.split, self.prompt_format)
        rows_of = rows_by_speaker(tokens)
        references = None
        if self.reference_folder is not None:
            others = ShardIndex.load(Path(self.reference_folder), "audio")
            references = References(others, self.prompt_format, [name for _, name in speakers_of(tokens).names])
        plans = [
            VoicePromptPlan(audio, tokens, rows_of, self.prompt_format, condition, self.other_speaker, references)
            for condition in self.conditions.values()
        ]
        return [self._set(plan) for plan in plans]

    def _set(self, plan: VoicePromptPlan) -> DataLoader:
        fewest = min(map(len, plan.rows_of))
        if self.num_texts > fewest:
            raise ValueError(f"Expected `num_texts` of at most {fewest}, but got {self.num_texts}.")
        chosen = [(speaker, place) for speaker in range(len(plan.rows_of)) for place in range(self.num_texts or fewest)]
        batches = [chosen[i : i + self.batch_size] for i in range(0, len(chosen), self.batch_size)]
        # Every rank gets every prompt: the sweep distributes prompts and merges results by key.
        return PlannedLoader(PlannedBatches(plan), sampler=batches, batch_size=None)
