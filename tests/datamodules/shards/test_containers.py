"""Containers of many recordings: tars of others, indexed where they are."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer

from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.samples import read_samples
from datamodules.shards.shards import ShardReader
from datamodules.sources.folder import FolderSource
from tests.toys.corpora import Tars, contents, keys_of, spoken, write_tar


def test_tars_of_others_are_indexed_in_place(tmp_path):
    """Guards against a corpus of terabytes written twice, and audio that differs from what a rewriting gives."""
    published = tmp_path / "published"
    published.mkdir()
    write_tar(published / "a.tar", [f"p/x.{number}" for number in range(6)])
    write_tar(published / "bbb.tar", [f"q/y.{number}" for number in range(6)])
    before = contents(published)
    in_place = prepare_audio_shards([Tars(published, hold_out="key")], tmp_path / "index", 16000, num_processes=2)
    rewriting = Tars(published, hold_out="key")
    rewriting.in_place = False
    copied = prepare_audio_shards([rewriting], tmp_path / "copy", 16000, "wav")
    assert contents(published) == before and not list((tmp_path / "index").rglob("*.tar"))
    assert keys_of(in_place) == keys_of(copied) and sum(map(len, in_place.values())) == 12
    for split, index in in_place.items():
        other = copied[split]
        assert index.measures["dnsmos"].tolist() == [5.0] * len(index)
        for row, key in enumerate(index.keys):
            other_row = other.keys.tolist().index(key)
            ours, theirs = ShardReader(index).read(row), ShardReader(other).read(other_row)
            assert json.loads(ours["json"]) == json.loads(theirs["json"])
            heard, expected = read_samples(index, row, ours), read_samples(other, other_row, theirs)
            assert len(heard) == index.lengths[row] == other.lengths[other_row]
            assert np.abs(heard - expected).max() <= 2**-15, "the copy has 16 bits"
            assert np.array_equal(read_samples(index, row, ours, 100, 900), heard[100:900])
    data = AudioDataModule(tmp_path / "index", segment_seconds=0.1, batch_size=4, num_batches=2)
    data.trainer = Trainer(accelerator="cpu", logger=False)
    (batch, *_) = data.train_dataloader()
    assert batch.audio_BT.shape == (4, 1600) and batch.audio_BT.abs().max() > 0.3


@pytest.mark.parametrize("num_voices", [1, 3, 30])
def test_containers_have_both_splits(num_voices, tmp_path):
    """Guards against a corpus of tars in one voice that is all held out, or of which nothing is."""
    published = tmp_path / "published"
    published.mkdir()
    letters = [chr(ord("A") + number % num_voices) for number in range(60)]
    write_tar(published / "a.tar", [f"{letter}{number}" for number, letter in enumerate(letters)])
    indices = prepare_audio_shards([Tars(published)], tmp_path / "index", 16000)
    speakers = {split: {name for _, name in index.speakers} for split, index in indices.items()}
    assert indices.keys() == {"train", "held_out"}
    assert bool(speakers["train"] & speakers["held_out"]) == (num_voices < 20)


def test_names_that_are_not_utf_8(tmp_path):
    """Guards against a merge that fails, after all the work, for the name of a tar or a folder."""
    published = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff"))
    published.mkdir()
    write_tar(Path(os.fsdecode(os.fsencode(published) + b"/t\xfe.tar")), ["x1", "x2", "x3"])
    index = prepare_audio_shards([Tars(published, hold_out="key")], tmp_path / "index", 16000)["train"]
    assert len(read_samples(index, 0, ShardReader(index).read(0))) == index.lengths[0]
    own = Path(os.fsdecode(os.fsencode(tmp_path) + b"/own\xfd"))
    spoken(tmp_path / "own", {"a": "one", "b": "two"}).rename(own)
    assert prepare_audio_shards([FolderSource(own)], tmp_path / "shards", 16000)


def test_a_damaged_container_keeps_what_it_gave(tmp_path):
    """Guards against one cut tar that ends a preparation or loses the recordings before the cut."""
    published = tmp_path / "published"
    published.mkdir()
    write_tar(published / "a.tar", ["x1", "x2"])
    (published / "b.tar").write_bytes(b"no tar at all")
    index = prepare_audio_shards([Tars(published, hold_out="key")], tmp_path / "index", 16000)["train"]
    assert len(index) == 2
    (skipped,) = index.report["skipped"]
    assert skipped["reason"].startswith("a damaged file of many recordings: b.tar")
