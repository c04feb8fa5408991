"""PromptDataModule: texts to speak, read from shards for a sweep, from a table, or given on the command line."""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

from datamodules.shards.order import PlannedBatches, PlannedLoader
from datamodules.shards.samples import name_in, read_about, read_samples, text_of
from datamodules.shards.shards import ShardIndex, ShardReader, chosen_rows
from datamodules.shards.skips import SkipNotes
from datamodules.tasks import TextToSpeech
from datamodules.token_counts import planned_lengths
from datamodules.tokens import TokenRows, load_token_index, token_batch
from modules.api import Audio, Prompt, PromptFormat
from modules.batches import PromptBatch


class PromptPlan:
    """Reads the prompts of one set: text and reference recording from audio shards, codes from token shards if any.

    `speaker` and `language` replace the shards' values; None keeps them. A prompt with another speaker than the
    recording's has no reference. The codes keep the shards' values, as in training. Unreadable prompts are recorded in
    `skipped` and omitted.
    """

    def __init__(
        self,
        audio: ShardIndex,
        tokens: ShardIndex | None,
        prompt_format: PromptFormat,
        speaker: str | None = None,
        language: str | None = None,
    ) -> None:
        self.speaker, self.language = speaker, language
        self.audio, self.reader = audio, ShardReader(audio)
        self.skipped = SkipNotes(str(audio.folder), len(audio))
        self.tokens = None
        if tokens is not None:
            longest = int(planned_lengths(TextToSpeech(), tokens, prompt_format, None)[0].max())
            self.tokens = TokenRows(tokens, prompt_format, longest, seed=0)
            self.tokens.skipped = self.skipped
        self.token_row = {str(key): row for row, key in enumerate(tokens.keys)} if tokens else {}

    def load(self, rows: Sequence[int]) -> PromptBatch | None:
        read = (self.skipped.attempt(str(self.audio.keys[row]), lambda row=row: self.prompt(row)) for row in rows)
        prompts = [prompt for prompt in read if prompt is not None]
        if not prompts:
            return None
        if self.tokens is None:
            return PromptBatch(prompts)
        known = [self.token_row[prompt.key] for prompt in prompts if prompt.key in self.token_row]
        documents = [[document] for row in known if (document := self.tokens.document(row))]
        longest = max((len(tokens) for ((tokens, _),) in documents), default=0)
        return PromptBatch(prompts, token_batch(documents, longest) if documents else None)

    def prompt(self, row: int) -> Prompt:
        files = self.reader.read(row)
        about = read_about(files)
        samples, rate = read_samples(self.audio, row, files), self.audio.header["sample_rate"]
        language = name_in(about, "language") if self.language is None else self.language
        wanted = self.speaker or name_in(about, "speaker")
        reference = Audio(torch.from_numpy(samples), rate) if wanted == name_in(about, "speaker") else None
        key, text = str(self.audio.keys[row]), text_of(about)
        return Prompt(key, text, language, wanted, reference, told_speaker=self.speaker)


def listed_prompts(path: Path, speaker: str, language: str | None) -> list[Prompt]:
    """Prompts of a CSV with the columns key, language and text; others are ignored. A relative path may be one in the
    repository. `language` replaces the column.

    Raises FileNotFoundError; ValueError if a column is missing, a key stands twice, or a cell is empty.
    """
    path = path if path.exists() else Path(__file__).resolve().parents[2] / path  # under another `--root`
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"key", "language", "text"} <= rows[0].keys():
        raise ValueError(f"Expected `text_file` with rows of the columns key, language and text, but got {path}.")
    num_rows = Counter(row["key"] for row in rows)
    if wrong := {row["key"] for row in rows if not all((row["key"], row["language"], row["text"]))} | {
        key for key, number in num_rows.items() if number > 1
    }:
        raise ValueError(
            f"Expected `text_file` with different keys, languages and texts, but got {sorted(wrong)} in {path}."
        )
    return [Prompt(row["key"], row["text"], row["language"] if language is None else language, speaker) for row in rows]


class PromptDataModule(L.LightningDataModule):
    """Prompts for `test` (sets read from shards) and `predict` (`text` from the command line, or `text_file`).

    Args:
        prompt_format: Layout of text and codes; linked to the model.
        audio_folder: Audio shards, `audio_folder/SPLIT`: texts and reference recordings.
        token_folder: Token shards of the same recordings, for the teacher-forced loss; omit to skip it.
        prompt_sets: Display name and split.
        num_prompts: Number of prompts of each set, chosen by the hash of their keys; or one number per set. 0 for all.
        batch_size: Prompts per batch.
        text: Text that `predict` speaks.
        speaker, language: Values given to the model, for a prompt format that uses them. None: those of each recording
            in the shards, and in `predict` no speaker and "en" or the language in `text_file`. Another speaker than the
            recording's removes the reference of a set's prompts; "" gives none.
        text_file: Texts that `predict` speaks, in place of `text`: a CSV with the columns key, language and text.
    """

    def __init__(
        self,
        prompt_format: PromptFormat,
        audio_folder: Path | None = None,
        token_folder: Path | None = None,
        prompt_sets: dict[str, str] | None = None,
        num_prompts: int | list[int] = 0,
        batch_size: int = 8,
        text: str | None = None,
        speaker: str | None = None,
        language: str | None = None,
        text_file: Path | None = None,
    ) -> None:
        super().__init__()
        self.prompt_format, self.audio_folder, self.token_folder = prompt_format, audio_folder, token_folder
        self.prompt_sets, self.num_prompts, self.batch_size = prompt_sets or {}, num_prompts, batch_size
        self.text, self.speaker, self.language, self.text_file = text, speaker, language, text_file
        if isinstance(num_prompts, list) and len(num_prompts) != len(self.prompt_sets):
            raise ValueError(
                f"Expected one of `num_prompts` for each of the prompt sets {list(self.prompt_sets)}, "
                f"but got {num_prompts}."
            )

    @property
    def prompt_set_names(self) -> list[str]:
        return list(self.prompt_sets)

    def test_dataloader(self) -> list[DataLoader]:
        if not self.prompt_sets or self.audio_folder is None:
            raise ValueError("Expected `prompt_sets` and `audio_folder` for a sweep, but got none.")
        numbers = self.num_prompts if isinstance(self.num_prompts, list) else [self.num_prompts] * len(self.prompt_sets)
        return [self._set(split, number) for split, number in zip(self.prompt_sets.values(), numbers, strict=True)]

    def predict_dataloader(self) -> DataLoader:
        prompts = self._texts()
        for prompt in prompts:
            # Fails early for text that the tokenizer cannot represent.
            self.prompt_format.prompt_tokens(*prompt.told)
        return DataLoader(prompts, batch_size=self.batch_size, collate_fn=PromptBatch)

    def _texts(self) -> list[Prompt]:
        if bool(self.text) == (self.text_file is not None):
            given = "none" if not self.text else "both"
            raise ValueError(f'Expected `text` or `text_file`, but got {given}: give --data.init_args.text "four two".')
        if self.text_file is not None:
            return listed_prompts(Path(self.text_file), self.speaker or "", self.language)
        key = "text-" + hashlib.sha256(self.text.encode()).hexdigest()[:8]
        return [Prompt(key, self.text, "en" if self.language is None else self.language, self.speaker or "")]

    def _set(self, split: str, number: int) -> DataLoader:
        audio = ShardIndex.load(Path(self.audio_folder) / split, "audio")
        tokens = load_token_index(Path(self.token_folder) / split, self.prompt_format) if self.token_folder else None
        if number > len(audio):
            raise ValueError(f"Expected `num_prompts` of at most {len(audio)} in `{audio.folder}`, but got {number}.")
        chosen = chosen_rows(audio.keys, number)
        batches = [chosen[i : i + self.batch_size] for i in range(0, len(chosen), self.batch_size)]
        # Every rank gets every prompt: the sweep distributes prompts and merges results by key.
        plan = PromptPlan(audio, tokens, self.prompt_format, self.speaker, self.language)
        return PlannedLoader(PlannedBatches(plan), sampler=batches, batch_size=None)
