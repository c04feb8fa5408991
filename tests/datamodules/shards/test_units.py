"""Preparation in units: the same bytes from any number of processes and shares, and after any kill."""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lightning.pytorch import Trainer
from webdataset import TarWriter

from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.quality import QualityControl
from datamodules.shards.samples import read_samples
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.shards.tar_samples import packed_sample, tar_end
from datamodules.sources.folder import FolderSource
from datamodules.sources.listed import Item, ListedSource
from datamodules.sources.source import Recording
from tests.conftest import REPOSITORY

NUM = 40
PREPARE = """
import sys
from pathlib import Path
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.quality import QualityControl
from datamodules.sources.folder import FolderSource
if __name__ == "__main__":
    recordings, folder, num_processes, number, num_shares = sys.argv[1:]
    prepare_audio_shards([FolderSource(Path(recordings))], Path(folder), 16000, "flac", 4,
                         num_processes=int(num_processes), share=(int(number), int(num_shares)))
"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    noise = np.random.default_rng(0)
    for number in range(NUM):
        name = f"speaker{number % 5}_{number:02d}"
        soundfile.write(folder / f"{name}.wav", noise.normal(0, 0.1, 4000 + 50 * number), 22050)
        (folder / f"{name}.txt").write_text(f"sentence {number} of many")
    (folder / "speaker9_99.wav").write_bytes(b"RIFF, but no sound")
    (folder / "speaker9_99.txt").write_text("nothing")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below the folder, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prepare(recordings: Path, folder: Path, **options) -> dict[str, ShardIndex]:
    return prepare_audio_shards([FolderSource(recordings)], folder, 16000, "flac", 4, **options)


@pytest.fixture(scope="module")
def once(recordings, tmp_path_factory) -> dict[str, str]:
    """What one process makes without an interruption."""
    folder = tmp_path_factory.mktemp("once") / "shards"
    prepare(recordings, folder)
    return contents(folder)


def command(recordings: Path, folder: Path, num_processes: int, number: int = 0, num_shares: int = 1):
    arguments = [recordings, folder, num_processes, number, num_shares]
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, *map(str, arguments)], cwd=REPOSITORY, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def test_processes_and_shares_make_the_same_bytes(recordings, once, tmp_path):
    """Guards against a result that depends on the number of processes, their order, or the machine of a share."""
    assert sum(name.endswith(".tar") for name in once) >= 10
    prepare(recordings, tmp_path / "two", num_processes=2)
    assert contents(tmp_path / "two") == once
    for number in (2, 0, 1):
        indices = prepare(recordings, tmp_path / "shares", share=(number, 3))
        assert bool(indices) == (number == 1), "the last share merges"
    assert contents(tmp_path / "shares") == once


def test_units_that_are_done_stay_after_a_kill(recordings, once, tmp_path, monkeypatch):
    """Guards against a preparation that starts over, counts a unit twice, or leaves files of the killed attempt."""
    folder = tmp_path / "shards"
    noise = random.Random(0)
    read, num_read = FolderSource.recording, []
    for _ in range(4):
        stop_after = noise.randrange(3, 14)

        def recording(self, key, item, stop_after=stop_after, counted=[0]):  # noqa: B006
            counted[0] += 1
            if counted[0] > stop_after:
                raise SystemExit("killed")
            return read(self, key, item)

        monkeypatch.setattr(FolderSource, "recording", recording)
        with pytest.raises(SystemExit):
            prepare(recordings, folder)
        num_read.append(len(list((folder / ".preparing/units").glob("*.json"))))
        with pytest.raises(FileNotFoundError, match="the command that began them resumes"):
            ShardIndex.load(folder / "train", "audio")
    assert num_read == sorted(num_read) and num_read[-1] >= 3, "units add up"
    counts = []
    monkeypatch.setattr(FolderSource, "recording", lambda *given: counts.append(1) or read(*given))
    prepare(recordings, folder)
    assert len(counts) <= NUM + 1 - 4 * (num_read[-1] - 2), "finished units are not read again"
    assert contents(folder) == once
    with pytest.raises(ValueError, match="to be prepared from"):
        prepare(recordings, folder, hours=1.0)


def test_a_sigkill_leaves_what_resumes(recordings, once, tmp_path):
    """Guards against files of a killed process that stop or change the next, and against a lock that outlives it."""
    folder = tmp_path / "shards"
    process = command(recordings, folder, 1)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".preparing/units/*.json")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (folder / ".preparing/plan.json").is_file() and not (folder / "prepared.json").exists()
    (folder / "train").mkdir(exist_ok=True)
    (folder / "train/.index.npz.abc.tmp").write_bytes(b"of a kill in the merge")
    prepare(recordings, folder)
    assert contents(folder) == once


class Failing(FolderSource):
    """Its third recording ends the worker process that reads it."""

    def recording(self, key, item):
        if key.endswith("02"):
            os._exit(9)
        return super().recording(key, item)


def test_a_killed_worker_ends_the_preparation_with_an_error(recordings, tmp_path):
    """Guards against a preparation that waits for ever, or merges without the units of a process that died."""
    with pytest.raises(RuntimeError, match=r"was killed.*run the command again"):
        prepare_audio_shards([Failing(recordings)], tmp_path / "shards", 16000, "flac", 4, num_processes=2)
    assert not (tmp_path / "shards/prepared.json").exists()


def test_hours_bound_a_preparation(recordings, tmp_path):
    """Guards against more or less audio than asked for, and against the first speakers alone."""
    seconds = {}
    for num_processes, hours in ((1, 4 / 3600), (2, 4 / 3600), (1, 2 / 3600)):
        folder = tmp_path / f"{num_processes}_{hours:.4f}"
        indices = prepare(recordings, folder, num_processes=num_processes, hours=hours)
        keys = [str(key) for index in indices.values() for key in index.keys]
        seconds[folder.name] = sum(index.lengths.sum() for index in indices.values()) / 16000
        assert 3600 * hours <= seconds[folder.name] < 3600 * hours + 0.3
        assert len({key.partition("_")[0] for key in keys}) >= 4
    assert contents(tmp_path / "1_0.0011") == contents(tmp_path / "2_0.0011")


def test_hours_are_of_what_is_used(recordings, tmp_path):
    """Guards against half of the hours asked for, where half of the audio stands twice or is among the worst."""
    doubled = tmp_path / "doubled"
    doubled.mkdir()
    for path in recordings.glob("speaker[0-4]*.wav"):
        for name in (path.stem, f"{path.stem}_copy"):
            (doubled / f"{name}.wav").write_bytes(path.read_bytes())
            (doubled / f"{name}.txt").write_text(name)
    for name, folder, quality in (
        ("a", doubled, None),
        ("b", recordings, QualityControl(drop_worst={"level": 0.5})),
    ):
        indices = prepare_audio_shards(
            [FolderSource(folder)], tmp_path / name, 16000, "wav", 4, quality=quality, hours=3 / 3600
        )
        assert 2.7 <= sum(index.lengths.sum() for index in indices.values()) / 16000 < 3.4


class Unpicklable(FolderSource):
    def __init__(self, folder):
        super().__init__(folder)
        self._reader = lambda: None


class Shouting(FolderSource):
    """Raises an error that no pipe holds."""

    def recording(self, key, item):
        raise ArithmeticError("x" * 200_000)


def test_sources_and_errors_that_cannot_be_sent(recordings, once, tmp_path, capsys):
    """Guards against a preparation that fails for a source's private attribute, or waits for ever for an error."""
    prepare_audio_shards([Unpicklable(recordings)], tmp_path / "a", 16000, "flac", 4, num_processes=2)
    assert "one process works" in capsys.readouterr().out
    assert {name: one for name, one in contents(tmp_path / "a").items() if name.endswith(".tar")} == {
        name: one for name, one in once.items() if name.endswith(".tar")
    }
    with pytest.raises(RuntimeError, match="ArithmeticError: xxx"):
        prepare_audio_shards([Shouting(recordings)], tmp_path / "b", 16000, "flac", 4, num_processes=2)


# ------------------------------------------------------------------------------------------------------------ held out


def keys_of(indices: dict[str, ShardIndex]) -> dict[str, set[str]]:
    return {split: set(map(str, index.keys)) for split, index in indices.items()}


def spoken(folder: Path, texts: dict[str, str]) -> Path:
    """Recordings SPEAKER/NAME.wav with their texts."""
    noise = np.random.default_rng(1)
    for name, text in texts.items():
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise.normal(0, 0.1, 1600), 16000)
        path.with_suffix(".txt").write_text(text)
    return folder


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


class Stream:
    num_recordings = 1

    def __init__(self, key: str, frequency: float) -> None:
        self.key, self.frequency = key, frequency

    def recordings(self):
        import torch

        from modules.api import Audio

        tone = torch.sin(torch.arange(1600) * self.frequency) / 2
        yield Recording(self.key, Audio(tone, 16000), "one", "", "en", "stream", "mine", "train")

    def credits(self):
        return ""


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


def test_the_datamodule_prepares_the_same(recordings, tmp_path, once):
    """Guards against a second code path: a fit on unprepared recordings, and one on those that were prepared."""
    data = AudioDataModule(tmp_path / "shards", [FolderSource(recordings)])
    data.prepare_data()
    prepared = contents(tmp_path / "shards")
    prepare_audio_shards([FolderSource(recordings)], tmp_path / "again", 16000, num_processes=2)
    assert contents(tmp_path / "again") == prepared
    with pytest.raises(ValueError, match="Expected `sources`"):
        AudioDataModule(tmp_path / "none").prepare()


class ManyTones(Stream):
    num_recordings = 10

    def recordings(self):
        for number in range(10):
            yield from Stream(f"tone{number}", 0.01 + 0.001 * number).recordings()


def test_a_source_that_cannot_be_listed_has_tars_of_the_usual_size(tmp_path):
    """Guards against one tar of a whole corpus, which one device would have to encode."""
    index = prepare_audio_shards([ManyTones("", 0)], tmp_path / "shards", 16000, samples_per_shard=4)["train"]
    assert index.shards == ["000000.tar", "000000-0001.tar", "000000-0002.tar"]
    assert index.shard_counts.tolist() == [4, 4, 2]
    assert [ShardReader(index).read(row)["__key__"] for row in range(10)] == index.keys.tolist()


# ----------------------------------------------------------------------------------------------------------- bytes


def test_tars_are_those_of_webdataset(tmp_path):
    """Guards against tars that other software reads otherwise, and shards that differ from those written before."""
    samples = [("a", {"wav": bytes(range(256)) * 3, "json": b"{}"}), ("b" * 90, {"txt": b"", "cls": b"x" * 1024})]
    with TarWriter(str(tmp_path / "theirs.tar"), mtime=0) as tar:
        for key, files in samples:
            tar.write({"__key__": key, **files})
    ours = b"".join(packed_sample(key, files) for key, files in samples)
    assert ours + tar_end(len(ours)) == (tmp_path / "theirs.tar").read_bytes()


# -------------------------------------------------------------------------------------------------------- in place


class Tars(ListedSource):
    """Tars of ID.mp3 and ID.txt, as others write them."""

    corpus, in_place = "tars", True

    def items(self):
        for path in sorted(self.folder.glob("*.tar")):
            yield Item(path.name, path.name, is_container=True)

    def members(self, item):
        texts = {}
        with tarfile.open(self.folder / item.path) as tar:
            for member in tar:
                stem, _, extension = member.name.rpartition(".")
                if extension == "txt":
                    texts[stem] = tar.extractfile(member).read().decode()
            for member in tar.getmembers():
                stem, _, extension = member.name.rpartition(".")
                if extension == "mp3":
                    place = (member.offset_data, member.size)
                    yield Item(stem, item.path, texts[stem], stem[:1], bytes_at=place, scores={"dnsmos": len(stem)})


def write_tar(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            content = io.BytesIO()
            tone = np.sin(np.arange(9600) * (0.03 + 0.002 * number + 0.0005 * len(path.stem))) / 2
            soundfile.write(content, np.stack([tone, tone / 2], axis=1), 24000, format="MP3")
            for extension, data in (("mp3", content.getvalue()), ("txt", f"text of {name}".encode())):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


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
