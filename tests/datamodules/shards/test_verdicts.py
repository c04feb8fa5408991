"""What a preparation holds out, and what it leaves out when all recordings are known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.quality import QualityControl
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.sources.folder import FolderSource
from tests.toys.corpora import NUM, Stream, contents, keys_of, spoken, write_noise


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    return write_noise(tmp_path_factory.mktemp("recordings"))


def test_texts_of_few_and_speakers_of_many_are_held_out(tmp_path):
    """Guards against a sentence, or a speaker, on both sides of the split."""
    sentences = {f"{speaker}/{n}": f"Sentence {n // 2}!" if n % 2 else f"sentence {n // 2}"
                 for speaker in "ab" for n in range(40)}  # fmt: skip
    folder = spoken(tmp_path / "few", sentences)
    found = keys_of(prepare_audio_shards([FolderSource(folder, "from_folder")], tmp_path / "a", 16000, "wav"))
    numbers = {split: {int(key.partition("_")[2]) // 2 for key in keys} for split, keys in found.items()}
    assert numbers["held_out"] and not numbers["held_out"] & numbers["train"]
    assert len(found["held_out"]) == 4 * len(numbers["held_out"])
    many = spoken(tmp_path / "many", {f"s{n % 30:02d}/{n}": "the same for all" for n in range(60)})
    found = keys_of(prepare_audio_shards([FolderSource(many, "from_folder")], tmp_path / "b", 16000, "wav"))
    speakers = {split: {key.partition("_")[0] for key in keys} for split, keys in found.items()}
    assert speakers["held_out"] and not speakers["held_out"] & speakers["train"]
    assert len(found["held_out"]) == 2 * len(speakers["held_out"])


@pytest.mark.parametrize("num", [1, 2, 3, 7])
def test_a_small_corpus_has_both_splits(num, tmp_path):
    """Guards against ten recordings of which none is held out, so that a fit has no validation."""
    folder = spoken(tmp_path / "own", {f"x{n}": f"text {n}" for n in range(num)})
    indices = prepare_audio_shards([FolderSource(folder)], tmp_path / "shards", 16000, "wav")
    assert indices.keys() == ({"train"} if num == 1 else {"train", "held_out"})


# ------------------------------------------------------------------------------------------------------------ verdicts


def test_duplicate_audio_is_left_out_across_splits(tmp_path):
    """Guards against one recording in training and in the held-out split, under two names and texts."""
    folder = spoken(tmp_path / "own", {f"x{n}": f"text {n}" for n in range(30)})
    index = prepare_audio_shards([FolderSource(folder)], tmp_path / "before", 16000, "wav")["held_out"]
    held = str(index.keys[0])
    content = (folder / f"{held}.wav").read_bytes()
    for name in ("a_copy", "z_copy"):
        (folder / f"{name}.wav").write_bytes(content)
        (folder / f"{name}.txt").write_text(f"another text of {name}")
    found = keys_of(prepare_audio_shards([FolderSource(folder)], tmp_path / "after", 16000, "wav"))
    keys = set().union(*found.values())
    assert "a_copy" in keys and not {"z_copy", held} & keys, "the smallest key wins"
    train = json.loads((tmp_path / "after/train/index.json").read_text())["report"]
    held_out = json.loads((tmp_path / "after/held_out/index.json").read_text())["report"]
    left_out = [report.get("left_out", {}).get("duplicate audio", 0) for report in (train, held_out)]
    assert sum(left_out) == 2
    for split in found:
        index = ShardIndex.load(tmp_path / "after" / split, "audio")
        assert [ShardReader(index).read(row)["__key__"] for row in range(len(index))] == index.keys.tolist()


def test_verdicts_change_without_a_new_preparation(recordings, tmp_path):
    """Guards against days of preparation for another share of the worst, and for a misspelt name of a score."""
    folder, source = tmp_path / "shards", [FolderSource(recordings, split="train")]
    with pytest.raises(ValueError, match=r"`drop_worst` to name measures.*'levle'"):
        prepare_audio_shards(source, folder, 16000, quality=QualityControl(drop_worst={"levle": 0.5}))
    reads = []
    FolderSource.recording, read = lambda *given: reads.append(1) or read(*given), FolderSource.recording
    try:
        (index,) = prepare_audio_shards(
            source, folder, 16000, quality=QualityControl(drop_worst={"level": 0.5})
        ).values()
        everything = np.load(folder / "train/index.npz")["measure_level"]
        assert len(index) == NUM / 2 and index.measures["level"].min() > np.sort(everything)[NUM // 2 - 1]
        before = contents(folder)
        (index,) = prepare_audio_shards(source, folder, 16000).values()
        assert len(index) == NUM and json.loads((folder / "prepared.json").read_text())["corpus_quality"] == {}
        prepare_audio_shards(source, folder, 16000, quality=QualityControl(drop_worst={"level": 0.5}))
        assert contents(folder) == before
    finally:
        FolderSource.recording = read
    assert not reads, "no recording was read again"
    with pytest.raises(ValueError, match="to be prepared from"):
        prepare_audio_shards(source, folder, 16000, quality=QualityControl(min_level=-30.0))


def test_a_split_of_which_nothing_is_used_stops_nobody(recordings, tmp_path):
    """Guards against `predict` on a corpus whose test set is a copy of its training set."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "z.wav").write_bytes((recordings / "speaker0_00.wav").read_bytes())
    (copy / "z.txt").write_text("z")
    sources = [FolderSource(recordings, split="train"), FolderSource(copy, split="test")]
    assert prepare_audio_shards(sources, tmp_path / "shards", 16000).keys() == {"train"}
    assert prepare_audio_shards(sources, tmp_path / "shards", 16000).keys() == {"train"}
    data = AudioDataModule(tmp_path / "shards")
    data.setup("predict")
    assert data.predict_splits == ["train"]


def test_a_key_of_a_stream_that_is_listed_elsewhere_is_left_out(tmp_path):
    """Guards against two samples of one key in an index."""
    folder = spoken(tmp_path / "own", {"x": "text x", "y": "text y"})
    sources = [FolderSource(folder, split="train"), Stream("x", 0.1)]
    index = prepare_audio_shards(sources, tmp_path / "shards", 16000, "wav")["train"]
    assert sorted(index.keys.tolist()) == ["x", "y"]
    assert index.report["left_out"] == {"another recording has this key": 1}


class Broken(FolderSource):
    """A list of JSON may hold halves of characters, and published scores of any name."""

    def items(self):
        for number, item in enumerate(super().items()):
            yield replace(item, speaker=f"\ud800{number}", scores={"seconds": 9.0, "mos": 1.0})


def test_half_characters_and_scores_named_as_measures(tmp_path):
    """Guards against one damaged line that ends a listing, and a published length taken for the measured one."""
    folder = spoken(tmp_path / "own", {f"x{number}": f"text {number}" for number in range(25)})
    indices = prepare_audio_shards([Broken(folder)], tmp_path / "shards", 16000, "wav")
    assert indices.keys() == {"train", "held_out"}
    for index in indices.values():
        assert index.measures["seconds"].max() < 1 and set(index.measures["published_seconds"]) == {9.0}
        assert set(index.measures["mos"]) == {1.0}
