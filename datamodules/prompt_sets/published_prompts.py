"""PublishedPromptDataModule: published test sets as prompt sets of a sweep."""

import logging
from dataclasses import replace

import lightning as L
from torch.utils.data import DataLoader, Dataset

from datamodules.prompt_sets.published_set import PromptRow, PublishedSet, drawn, read_prompt
from datamodules.sources.source import Skipped
from modules.api import PromptFormat
from modules.batches import PromptBatch

MAX_NAMED = 5  # of the skipped ones, in the warning

logger = logging.getLogger(__name__)


class PublishedPrompts(Dataset):
    """The batches of one test set's prompts, read when asked for, in order. `told` replaces speaker or language.

    What could not be used is in `skipped`, and warned of with the last batch. Raises ValueError there if nothing could.
    """

    def __init__(
        self,
        name: str,
        rows: list[PromptRow | Skipped],
        prompt_format: PromptFormat,
        sample_rate: int,
        batch_size: int,
        told: dict[str, str],
    ) -> None:
        self.name, self.rows, self.prompt_format, self.told = name, rows, prompt_format, told
        self.sample_rate, self.batch_size = sample_rate, batch_size
        self.skipped: list[Skipped] = []

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> PromptBatch:
        if index == 0:
            self.skipped = []
        start = index * self.batch_size
        batch = self._batch(self.rows[start : start + self.batch_size])
        if index == len(self) - 1:
            self._report()
        return batch

    def _report(self) -> None:
        if len(self.skipped) == len(self.rows):
            raise ValueError(
                f"Expected prompts in {self.name!r}, but all {len(self.rows)} were skipped: {self._why()}."
            )
        if self.skipped:
            logger.warning(
                "%s: %d of %d prompts were skipped: %s", self.name, len(self.skipped), len(self.rows), self._why()
            )

    def _batch(self, rows: list[PromptRow | Skipped]) -> PromptBatch:
        prompts = []
        for row in rows:
            prompt = read_prompt(row, self.sample_rate) if isinstance(row, PromptRow) else row
            if not isinstance(prompt, Skipped):
                prompt = replace(prompt, **self.told)
                try:
                    voice = None if prompt.voice is None else replace(prompt.voice, codes=(0,))  # not read yet
                    self.prompt_format.prompt_tokens(*replace(prompt, voice=voice).told)
                    prompts.append(prompt)
                    continue
                except ValueError as error:
                    prompt = Skipped(prompt.key, str(error))
            self.skipped.append(prompt)
        return PromptBatch(prompts)

    def _why(self) -> str:
        named = [f"{one.key}: {one.reason}" for one in self.skipped[:MAX_NAMED]]
        return "; ".join([*named, "..."] if len(self.skipped) > MAX_NAMED else named)


class PublishedPromptDataModule(L.LightningDataModule):
    """Spoken prompts for `test`: one for each of `prompt_sets`. Nothing is read before the test begins.

    Damaged files and lines are counted, warned of and left out; a test set that is absent stops the run and says where
    to get it.

    Args:
        prompt_format: Where text and codes stand; linked to the model.
        prompt_sets: Name to show, and what it reads.
        sample_rate: Of the recordings: the rate that the codec hears at, in Hz.
        num_prompts: Prompts of each set, drawn by the hash of their keys. 0 for all.
        batch_size: Prompts of one batch.
        speaker, language: What the model is told of the voice, for a prompt format that names them. None: what the
            test set says; "" tells none, as where a name of the test set means somebody else in training.
    """

    def __init__(
        self,
        prompt_format: PromptFormat,
        prompt_sets: dict[str, PublishedSet],
        sample_rate: int = 16_000,
        num_prompts: int = 0,
        batch_size: int = 8,
        speaker: str | None = None,
        language: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("sample_rate", sample_rate, 1), ("num_prompts", num_prompts, 0)):
            if value < least:
                raise ValueError(f"Expected `{name}` to be at least {least}, but got {value}.")
        if batch_size < 1 or not prompt_sets:
            raise ValueError(
                f"Expected `prompt_sets` and a `batch_size`, but got {list(prompt_sets)} and {batch_size}."
            )
        self.prompt_format, self.prompt_sets = prompt_format, prompt_sets
        self.sample_rate, self.num_prompts, self.batch_size = sample_rate, num_prompts, batch_size
        if speaker:
            raise ValueError(
                f"Expected `speaker` to be null or empty, for a test set brings the voices that it judges by, but got "
                f"{speaker!r}."
            )
        given = {"told_speaker": speaker, "language": language}
        self.told = {name: value for name, value in given.items() if value is not None}
        self.rows: dict[str, list[PromptRow | Skipped]] = {}

    @property
    def prompt_set_names(self) -> list[str]:
        return list(self.prompt_sets)

    def setup(self, stage: str) -> None:
        """Lists the prompts. Lightning calls it before it builds the model: absent data costs no download."""
        self.rows = {name: drawn(one.rows(), self.num_prompts) for name, one in self.prompt_sets.items()}

    def test_dataloader(self) -> list[DataLoader]:
        # Every rank sees every prompt: the sweep shares the work out by prompt and merges by key.
        settings = (self.prompt_format, self.sample_rate, self.batch_size, self.told)
        return [
            DataLoader(PublishedPrompts(name, rows, *settings), batch_size=None) for name, rows in self.rows.items()
        ]
