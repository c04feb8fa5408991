"""AudioDataModule: audio shards for the codec, prepared from sources if missing.

Shapes: B batch, T samples, S frames, C channels.
"""

import json
import math
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.shards.order import (
    ResumableLoader,
    evaluation_loader,
    halved_until,
    like_lengths_together,
    num_windows,
    shared_evenly,
    window_samples,
)
from datamodules.shards.preparation import MARKER, prepare_audio_shards
from datamodules.shards.quality import QualityControl
from datamodules.shards.samples import file_in, phoneme_times, read_about, read_samples, text_of, word_times
from datamodules.shards.shards import ShardIndex, ShardReader, chosen_rows
from datamodules.shards.skips import SkipNotes, replacements
from datamodules.shards.stored_arrays import read_array
from datamodules.sources.source import Source
from modules.api import SpeechStates
from modules.batches import UNKNOWN, AudioBatch, pad_rows

# key, audio, json, states, labels, row
Item = tuple[str, np.ndarray, dict[str, Any], np.ndarray | None, np.ndarray | None, int]
Times = Sequence[tuple[str, float]]  # names with the seconds at which they end
MAX_CHECKED = 100  # samples


@runtime_checkable
class ResumesPredictions(Protocol):
    """Optional for a callback of `predict`: what an interrupted run has predicted. Called on all ranks."""

    def predicted_shards(self, trainer: L.Trainer, split: str, audio: ShardIndex) -> Collection[int]: ...


class LabelsFrames(Protocol):
    """Labels of the frames of a recording by the times of its phonemes or words (modules.frontend.phoneme_labels)."""

    hop_length: int

    def label(self, audio_T: np.ndarray, sample_rate: int, phonemes: Times, words: Times) -> np.ndarray: ...


class AudioRows:
    """RowPlan of crops of `segment_samples` for training; a sample gives one crop per started segment of its length.

    The start of a crop is a pure function of (seed, epoch, sample, crop). `segment_samples` = 0 reads whole samples. An
    unusable sample is recorded in `skipped`; a crop is replaced by one of another sample, a batch of whole samples
    lacks it. With `states_hop` also reads the stored states of a speech encoder, one per that many samples; with
    `phonemes` labels the frames of the whole recording. Crops then start on the grid of both.

    Args:
        needs_text: A sample without text is unusable.
        keeps_batches: Replace a batch of whole samples that are all unusable by the next usable one, because ranks wait
            for each other; otherwise such a batch is None.
    """

    def __init__(
        self,
        index: ShardIndex,
        segment_samples: int,
        seed: int,
        window_size: int = 4096,
        states_hop: int = 0,
        needs_text: bool = False,
        keeps_batches: bool = False,
        phonemes: LabelsFrames | None = None,
    ) -> None:
        hops = {"semantic": states_hop, "phonemes": 0 if phonemes is None else phonemes.hop_length}
        for name, hop in hops.items():
            if hop and segment_samples % hop:
                raise ValueError(
                    f"Expected `segment_seconds` to hold whole frames of {hop} samples, as `{name}` gives them, "
                    f"but got {segment_samples} samples."
                )
        self.states_hop, self.phonemes = states_hop, phonemes
        self.grid = math.lcm(*(hop for hop in hops.values() if hop))
        self.index, self.reader = index, ShardReader(index)
        self.segment_samples, self.seed, self.window_size = segment_samples, seed, window_size
        self.num_windows = num_windows(index, window_size)
        self.needs_text, self.keeps_batches = needs_text, keeps_batches
        self.skipped = SkipNotes(str(index.folder), len(index))

    def rows(self, epoch: int, window: int) -> list[tuple[int, int]]:
        """Return (sample, first audio sample) of every crop of the window, shuffled."""
        samples = window_samples(self.index, self.seed, epoch, window, self.window_size)
        lengths = self.index.lengths[samples]
        samples = np.repeat(samples, np.maximum(1, -(-lengths // self.segment_samples)))
        generator = np.random.default_rng([self.seed, epoch, window, 1])
        room = np.maximum(0, self.index.lengths[samples] - self.segment_samples)
        starts = (generator.random(len(samples)) * (room + 1)).astype(np.int64)
        starts -= starts % self.grid
        order = generator.permutation(len(samples))
        return list(zip(samples[order].tolist(), starts[order].tolist(), strict=True))

    def check_words(self) -> None:
        """Raise ValueError if none of the first samples has times of words."""
        first = range(min(MAX_CHECKED, len(self.index)))
        if not any(map(self._has_times, first)):
            raise ValueError(
                f"Expected times of phonemes or words (`words` in the json) in `{self.index.folder}`, because the data "
                f"has `phonemes`, but the first {len(first)} samples have none, or none in order: prepare a source "
                "that gives them (datamodules.sources.aligned for recordings), or leave out `phonemes` and "
                "`phoneme_classifier`, as configs/voice/open/codec_plain.yaml does."
            )

    def _has_times(self, sample: int) -> bool:
        try:
            return bool(phoneme_times(about := read_about(self.reader.read(sample))) or word_times(about))
        except (ValueError, KeyError, OSError, EOFError):
            return False

    def load(self, rows: Sequence[tuple[int, int]]) -> AudioBatch | None:
        items = []
        for row in rows:
            item = self._item(*row)
            if item is None and self.segment_samples:
                item = self._replacement(*row)
            if item is not None:
                items.append(item)
        if not items:
            if not self.keeps_batches:
                return None
            items = [self._replacement(*rows[0])]
        keys, waves, metadata, states, labels, numbers = map(list, zip(*items, strict=True))
        audio_BT, num_samples_B = pad_rows([torch.from_numpy(wave) for wave in waves])
        if self.segment_samples:
            audio_BT = torch.nn.functional.pad(audio_BT, (0, self.segment_samples - audio_BT.shape[1]))
        states_BSC = self._joined(states, audio_BT.shape[1])
        phonemes_BF = self._joined_labels(labels, audio_BT.shape[1])
        return AudioBatch(audio_BT, num_samples_B, keys, metadata, states_BSC, numbers, phonemes_BF)

    def _item(self, sample: int, start: int) -> Item | None:
        key = str(self.index.keys[sample])
        return self.skipped.attempt(key, lambda: (key, *self._read(sample, start), sample))

    def _replacement(self, sample: int, start: int) -> Item:
        """Return another, usable sample. Raises TooManySkipped if there is none."""
        for number in replacements(sample, len(self.index)):
            first = min(start, max(0, int(self.index.lengths[number]) - self.segment_samples))
            first -= first % self.grid
            item = self._item(number, first)
            if item is not None:
                return item
        raise AssertionError("`skipped` raises after as many samples as there are")

    def _joined(self, states: Sequence[np.ndarray | None], num_samples: int) -> torch.Tensor | None:
        """Return (B, S, C) float32, zero beyond each item, for audio of `num_samples`."""
        if not self.states_hop:
            return None
        num_frames, channels = -(-num_samples // self.states_hop), states[0].shape[1]
        states_BSC = torch.zeros(len(states), num_frames, channels)
        for row, states_SC in zip(states_BSC, states, strict=True):
            row[: len(states_SC)] = torch.from_numpy(states_SC)
        return states_BSC

    def _joined_labels(self, labels: Sequence[np.ndarray | None], num_samples: int) -> torch.Tensor | None:
        """Return (B, F) int64, UNKNOWN beyond each item, for audio of `num_samples`."""
        if self.phonemes is None:
            return None
        phonemes_BF = torch.full((len(labels), -(-num_samples // self.phonemes.hop_length)), UNKNOWN)
        for row, labels_F in zip(phonemes_BF, labels, strict=True):
            row[: len(labels_F)] = torch.from_numpy(labels_F)
        return phonemes_BF

    def _read(self, sample: int, start: int) -> tuple[np.ndarray, dict[str, Any], np.ndarray | None, np.ndarray | None]:
        files = self.reader.read(sample)
        about = read_about(files)
        if self.needs_text:
            text_of(about)
        stop = start + self.segment_samples if self.segment_samples else None
        if self.phonemes is None:
            wave = read_samples(self.index, sample, files, start, stop)
            return wave, about, self._read_states(files, start, len(wave)), None
        whole = read_samples(self.index, sample, files)
        times = phoneme_times(about), word_times(about)
        labels_F = self.phonemes.label(whole, self.index.header["sample_rate"], *times)
        wave, first, hop = whole[start:stop], start // self.phonemes.hop_length, self.phonemes.hop_length
        return wave, about, self._read_states(files, start, len(wave)), labels_F[first : first + -(-len(wave) // hop)]

    def _read_states(self, files: dict[str, Any], start: int, num_samples: int) -> np.ndarray | None:
        """Read the frames of a crop, (S, C)."""
        if not self.states_hop:
            return None
        states_SC = read_array(file_in(files, "states.npy"))
        if states_SC.ndim != 2 or states_SC.dtype.kind != "f" or states_SC.shape[1] != self._num_channels:
            raise ValueError(
                f"Expected states as floats of {self._num_channels} channels, but got {states_SC.dtype} of shape "
                f"{states_SC.shape}."
            )
        return states_SC[start // self.states_hop :][: -(-num_samples // self.states_hop)]

    @cached_property
    def _num_channels(self) -> int:
        """Number of channels of the states of the first readable sample."""
        for sample in range(len(self.index)):
            try:
                (_, num_channels) = read_array(self.reader.read(sample)["states.npy"]).shape
            except (ValueError, KeyError, OSError, EOFError):
                continue
            return num_channels
        raise ValueError(f"Expected states in `{self.index.folder}`, but got none.")


class AudioDataModule(L.LightningDataModule):
    """Audio shards, one folder per split, prepared from `sources` if missing.

    Args:
        folder: Folder of the prepared shards, `folder/SPLIT`.
        sources: Corpora to prepare; none if the shards exist already.
        sample_rate: Hz of the shards.
        audio_format: flac, wav or ogg, inside the shards.
        train_split, validation_split: Names of splits.
        predict_splits: The splits that `predict` reads, whole recordings; empty: all.
        segment_seconds: Length of a training crop.
        batch_size: Crops per training batch on one rank.
        num_batches: Batches of one pass of the Trainer.
        evaluation_batch_size: Maximum number of whole recordings per validation or predict batch; fewer if there would
            not be enough batches for all ranks. In validation and test all ranks get the same number of batches.
        evaluation_batch_seconds: Maximum audio per such batch, including padding; 0: unlimited.
        num_validation_samples: Number of recordings of the validation split to use, chosen by the hash of their keys; 0
            for all.
        num_workers: Loader processes.
        seed: Seed of order and crops.
        semantic: A frozen speech encoder whose states are stored in the shards, computed once per recording during
            preparation. Crops then start on its grid of frames.
        prepare_data_per_node: Each node prepares its own `folder`, on a local disk.
        quality: Quality control of the preparation; None: recordings that cannot be used and repeated ones are left
            out.
        hours: Hours of usable audio that the preparation takes from the sources, an unbiased choice; 0 for all.
        phonemes: Labels the frames of training crops, for the codec's `phoneme_classifier`; needs times of phonemes or
            words in the json (`phonemes`, `words`).
    """

    def __init__(
        self,
        folder: Path,
        sources: list[Source] | None = None,
        sample_rate: int = 16000,
        audio_format: str = "flac",
        train_split: str = "train",
        validation_split: str = "held_out",
        predict_splits: list[str] | None = None,
        segment_seconds: float = 1.0,
        batch_size: int = 16,
        num_batches: int = 1000,
        evaluation_batch_size: int = 16,
        num_validation_samples: int = 0,
        num_workers: int = 0,
        seed: int = 0,
        semantic: SpeechStates | None = None,
        evaluation_batch_seconds: float = 0.0,
        prepare_data_per_node: bool = False,
        quality: QualityControl | None = None,
        hours: float = 0.0,
        phonemes: LabelsFrames | None = None,
    ) -> None:
        super().__init__()
        self.quality, self.hours, self.phonemes = quality, hours, phonemes
        self.prepare_data_per_node = prepare_data_per_node  # read by Lightning
        self.semantic = semantic
        self.folder, self.sources, self.sample_rate, self.audio_format = (
            Path(folder),
            sources,
            sample_rate,
            audio_format,
        )
        self.train_split, self.validation_split, self.predict_splits = train_split, validation_split, predict_splits
        self.segment_seconds, self.batch_size, self.num_batches = segment_seconds, batch_size, num_batches
        self.evaluation_batch_size, self.evaluation_batch_seconds = evaluation_batch_size, evaluation_batch_seconds
        self.num_validation_samples, self.num_workers, self.seed = num_validation_samples, num_workers, seed

    def prepare_data(self) -> None:
        if self.sources:
            self._prepare(1, (0, 1))

    def prepare(self, num_processes: int = 1, share: tuple[int, int] = (0, 1)) -> None:
        """Prepare the sources' shards, or a share of them (prepare_audio_shards), and say so if they were prepared
        earlier. Raises ValueError without sources."""
        if not self.sources:
            raise ValueError("Expected `sources` to prepare, but got none.")
        is_prepared = (self.folder / MARKER).is_file()
        indices = self._prepare(num_processes, share)
        if is_prepared:
            numbers = ", ".join(f"{len(index)} recordings in {split}" for split, index in indices.items())
            print(f"{self.folder}: prepared earlier, {numbers}", flush=True)

    def _prepare(self, num_processes: int, share: tuple[int, int]) -> dict[str, ShardIndex]:
        return prepare_audio_shards(
            self.sources or [],
            self.folder,
            self.sample_rate,
            self.audio_format,
            semantic=self.semantic,
            quality=self.quality,
            hours=self.hours,
            num_processes=num_processes,
            share=share,
        )

    def setup(self, stage: str) -> None:
        if stage == "predict" and not self.predict_splits:
            indices = sorted(self.folder.glob("*/index.json"))
            self.predict_splits = [
                path.parent.name for path in indices if json.loads(path.read_text())["report"]["num_samples"]
            ]
            if not self.predict_splits:
                raise FileNotFoundError(f"Expected audio shards in `{self.folder}`, but got none.")

    def train_dataloader(self) -> ResumableLoader:
        segment_samples = round(self.segment_seconds * self.sample_rate)
        rows = self._rows(self._index(self.train_split), segment_samples, phonemes=self.phonemes)
        if self.phonemes is not None:
            rows.check_words()
        return ResumableLoader(
            rows, self.batch_size, self.num_batches, self.trainer.global_rank, self.trainer.world_size, self.num_workers
        )

    def val_dataloader(self) -> DataLoader:
        return self._whole(self.validation_split, self.num_validation_samples)

    def test_dataloader(self) -> DataLoader:
        return self._whole(self.validation_split, self.num_validation_samples, needs_text=True)

    def predict_dataloader(self) -> list[DataLoader]:
        resuming = [one for one in self.trainer.callbacks if isinstance(one, ResumesPredictions)]
        if resuming:
            return [self._by_shard(split, resuming) for split in self.predict_splits]
        return [self._whole(split, 0, evenly=False, needs_text=True) for split in self.predict_splits]

    def _rows(self, index: ShardIndex, segment_samples: int, **needs: Any) -> AudioRows:
        hop = 0 if self.semantic is None else self.semantic.hop_length
        return AudioRows(index, segment_samples, self.seed, states_hop=hop, **needs)

    def _index(self, split: str) -> ShardIndex:
        index = ShardIndex.load(self.folder / split, "audio")
        if index.header["sample_rate"] != self.sample_rate:
            raise ValueError(
                f"Expected `{index.folder}` at `sample_rate`={self.sample_rate}, but got {index.header['sample_rate']}."
            )
        if self.semantic is not None and index.header.get("semantic") != self.semantic.encode_settings:
            raise ValueError(
                f"Expected `{index.folder}` to hold the states of `semantic`, {self.semantic.encode_settings}, but got "
                f"{index.header.get('semantic', 'no states')}. Prepare the recordings with it into another folder."
            )
        return index

    def _by_shard(self, split: str, resuming: Sequence[ResumesPredictions]) -> DataLoader:
        """Return whole recordings, each once, shard by shard, in batches of similar lengths. A batch depends on its
        shard alone, and each rank reads its stride of the shards: what is predicted for a shard depends neither on the
        number of ranks nor on the shards that an earlier run has predicted."""
        index = self._index(split)
        done = {shard for one in resuming for shard in one.predicted_shards(self.trainer, split, index)}
        shards = [shard for shard in np.unique(index.shard_of).tolist() if shard not in done]
        mine = shards[self.trainer.global_rank :: self.trainer.world_size] or shards[:1]  # a rank without would hang
        most_samples = self.evaluation_batch_seconds * self.sample_rate
        batches: list[list[tuple[int, int]]] = []
        for shard in mine:
            rows = index.rows_of(shard)
            parts = like_lengths_together(
                index.lengths[rows], self.evaluation_batch_size, self.seed, most_steps=most_samples
            )
            batches += [[(int(rows[place]), 0) for place in part] for part in parts]
        audio = self._rows(index, 0, needs_text=True)
        audio.skipped.max_in_a_row = max(1, len(index))  # a damaged shard must not stop the others
        return evaluation_loader(audio, batches, 0, 1, self.num_workers)

    def _whole(self, split: str, limit: int, evenly: bool = True, needs_text: bool = False) -> DataLoader:
        """Return whole recordings, each once, in batches of similar lengths; `evenly`: the same number of batches on
        every rank."""
        index = self._index(split)
        chosen = np.array(chosen_rows(index.keys, limit))
        most_samples = self.evaluation_batch_seconds * self.sample_rate
        batches = like_lengths_together(
            index.lengths[chosen], self.evaluation_batch_size, self.seed, most_steps=most_samples
        )
        batches = [[(int(chosen[place]), 0) for place in batch] for batch in batches]
        num_ranks = self.trainer.world_size
        rows = self._rows(index, 0, needs_text=needs_text, keeps_batches=evenly and num_ranks > 1)
        if evenly:
            batches = shared_evenly(batches, num_ranks)
        elif batches:
            batches = halved_until(batches, num_ranks)
        return evaluation_loader(rows, batches, self.trainer.global_rank, num_ranks, self.num_workers)
