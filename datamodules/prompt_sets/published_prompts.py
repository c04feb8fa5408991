"""PublishedPromptDataModule: published test sets as prompt sets of a sweep."""

import logging
from dataclasses import replace

import lightning as L
from torch.utils.data import DataLoader, Dataset

from datamodules.prompt_sets.published_set import PromptRow, PublishedSet, drawn, read_prompt
from datamodules.sources.source import Skipped
from modules.api import PromptFormat
from modules.batches import PromptBatch

MAX_NAMED = 5  # skipped prompts, in the warning

logger = logging.getLogger(__name__)


class PublishedPrompts(Dataset):
    """Batches of one test set's prompts in order, read lazily. `told` replaces speaker or language.

    Unusable prompts are recorded in `skipped`, with a warning after the last batch. Raises ValueError there if none was
    usable.
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
                    voice = None if prompt.voice is None else replace(prompt.voice, codes=(0,))  # not encoded yet
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
    """Spoken prompts for `test`: a prompt set for each of `prompt_sets`. Reads nothing before the test begins.

    Damaged files and lines are counted, logged and omitted; a missing test set raises an error that says where to get
    it.

    Args:
        prompt_format: Layout of text and codes; linked to the model.
        prompt_sets: Display name and published test set.
        sample_rate: Sample rate of the recordings, that of the codec's input, in Hz.
        num_prompts: Number of prompts of each set, chosen by the hash of their keys. 0 for all.
        batch_size: Prompts per batch.
        speaker, language: Values given to the model, for a prompt format that uses them. None: the test set's; ""
            gives none, for example if a name of the test set means another speaker in training.
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
                f"Expected `speaker` to be null or empty, because a published set has its own voices, but got "
                f"{speaker!r}."
            )
        given = {"told_speaker": speaker, "language": language}
        self.told = {name: value for name, value in given.items() if value is not None}
        self.rows: dict[str, list[PromptRow | Skipped]] = {}

    @property
    def prompt_set_names(self) -> list[str]:
        return list(self.prompt_sets)

    def setup(self, stage: str) -> None:
        """List the prompts. Lightning calls this before it builds the model, so missing data costs no download."""
        self.rows = {name: drawn(one.rows(), self.num_prompts) for name, one in self.prompt_sets.items()}

    def test_dataloader(self) -> list[DataLoader]:
        # Every rank gets every prompt: the sweep distributes prompts and merges results by key.
        settings = (self.prompt_format, self.sample_rate, self.batch_size, self.told)
        return [
            DataLoader(PublishedPrompts(name, rows, *settings), batch_size=None) for name, rows in self.rows.items()
        ]
