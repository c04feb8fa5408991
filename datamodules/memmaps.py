"""MemmapDataModule: the token memmaps in which Llasa's training data is published, read as they are."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from datamodules.memmap_index import MemmapIndex
from datamodules.memmap_rows import memmap_files, names_in
from datamodules.shards.order import PlannedBatches, ResumableLoader
from datamodules.shards.shards import ShardIndex
from datamodules.shards.training_facts import TrainingFacts, hours_by_license
from datamodules.tasks import TakesTextTokens, Task, VoiceCloning
from datamodules.tokens import TokenDataModule
from modules.api import PromptFormat

log = logging.getLogger(__name__)


class MemmapDataModule(TokenDataModule):
    """TokenDataModule over folders with `{train,val}_input_ids.memmap` and `{train,val}_input_ids_shape.npy`.

    Rows are read one at a time and packed; the prompt format's template is put around each. `tasks` without a `folder`
    read the memmaps, others their own shards. The first run reads every file once for the lengths of its rows and
    stores 5 bytes a row beside it. Truncated and damaged rows, and rows that a file and its shape do not have in
    common, are counted as skipped samples.

    Args:
        folders: The parts of the data, each a folder of memmaps.
        prompt_format: As in TokenDataModule; its token space must be that of the ids.
        license: Licence of the data, for the checkpoint; "": not stated.
        codec: Path or hub name of the codec that made the codes, for the checkpoint; "": unknown.
        codec_fingerprint: Its fingerprint; "": unknown, then it is not compared with that of other shards or of the
            codec that decodes.
        cache_folder: Where to store the lengths of rows. None: beside each memmap.
        train_split, validation_split: Names of the splits of shards that `tasks` mix in; the memmaps' are train and
            val.
        tasks, settings: As in TokenDataModule.

    Raises ValueError for a VoiceCloning task without a folder: the memmaps do not state speakers; and for a prompt
    format without `example_from_tokens`.
    """

    def __init__(
        self,
        folders: list[Path],
        prompt_format: PromptFormat,
        license: str = "",
        codec: str = "",
        codec_fingerprint: str = "",
        cache_folder: Path | None = None,
        train_split: str = "train",
        validation_split: str = "test",
        tasks: list[Task] | None = None,
        **settings: Any,
    ) -> None:
        if not folders:
            raise ValueError("Expected at least one folder of memmaps in `folders`, but got none.")
        if not isinstance(prompt_format, TakesTextTokens):
            raise ValueError(
                f"Expected a prompt format for texts that are tokens, but got {type(prompt_format).__name__}: "
                "modules.lm.text.prompt_format.LlasaChat is one."
            )
        super().__init__(
            folder=Path(folders[0]),
            prompt_format=prompt_format,
            train_split=train_split,
            validation_split=validation_split,
            tasks=tasks,
            **settings,
        )
        self.folders, self.license, self.codec = [Path(folder) for folder in folders], license, codec
        self.stated_fingerprint, self.cache_folder = codec_fingerprint, cache_folder and Path(cache_folder)
        self._memmaps: dict[str, MemmapIndex] = {}
        for task in self.tasks:
            if isinstance(task, VoiceCloning) and task.folder is None:
                raise ValueError(
                    f"Expected the task {task.name!r} to name a `folder` of token shards, but got none: the memmaps do "
                    "not state who speaks."
                )

    def prepare_data(self) -> None:
        """Scan the memmaps, in one process of a machine."""
        for split in (self.train_split, self.validation_split):
            self._memmap_index(split)

    def train_dataloader(self) -> ResumableLoader:
        loader = super().train_dataloader()
        self._count_lost(loader.dataset, self.train_split)
        return loader

    def val_dataloader(self) -> DataLoader:
        loader = super().val_dataloader()
        self._count_lost(loader.dataset, self.validation_split)
        return loader

    def _count_lost(self, batches: PlannedBatches, split: str) -> None:
        if self.trainer.global_rank == 0 and self._reads_memmaps:
            batches.skipped.add(self._memmap_index(split).lost)

    @property
    def _reads_memmaps(self) -> bool:
        return not self.tasks or any(task.folder is None for task in self.tasks)

    def _index(self, kind: str, folder: Path | None, split: str) -> ShardIndex:
        return super()._index(kind, folder, split) if folder is not None else self._memmap_index(split)

    def _memmap_index(self, split: str) -> MemmapIndex:
        name = "train" if split == self.train_split else "val"
        if name not in self._memmaps:
            files = [file for folder in self.folders for file in memmap_files(folder, name)]
            if not files:
                there = "; ".join(f"{folder}: {names_in(folder)}" for folder in self.folders)
                raise FileNotFoundError(f"Expected `{name}_input_ids.memmap` in one of the `folders`, but got {there}.")
            self._memmaps[name] = MemmapIndex.of(
                files, self.prompt_format.token_space, self.cache_folder, self.stated_fingerprint, self.license
            )
        return self._memmaps[name]

    def _facts(self) -> TrainingFacts:
        """Those of the shards that tasks mix in, and of the memmaps, which state neither speakers nor languages."""
        spoken = self._spoken_tasks
        facts = self._facts_of_shards([Path(task.folder) for task in spoken if task.folder is not None])
        if self.tasks and all(task.folder is not None for task in spoken):
            return facts
        hours = Counter(facts.license_hours) + Counter(hours_by_license(self._memmap_index(self.train_split)))
        return replace(
            facts,
            codec=facts.codec or self.codec,
            licenses=tuple(sorted(set(facts.licenses) | {self.license} - {""})),
            license_hours=dict(sorted(hours.items())),
            speakers=(),
            words=None,
            longest_text=0,
            speaks=True,
        )
