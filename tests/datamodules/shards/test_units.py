"""Preparation in units: the same bytes from any number of processes and shares, and after any kill."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from webdataset import TarWriter

from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.quality import QualityControl
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.shards.tar_samples import packed_sample, tar_end
from datamodules.sources.folder import FolderSource
from tests.conftest import REPOSITORY
from tests.toys.corpora import NUM, Stream, contents, write_noise

PREPARE = """
import sys
from pathlib import Path
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.sources.folder import FolderSource
if __name__ == "__main__":
    recordings, folder, num_processes, number, num_shares = sys.argv[1:]
    prepare_audio_shards([FolderSource(Path(recordings))], Path(folder), 16000, "flac", 4,
                         num_processes=int(num_processes), share=(int(number), int(num_shares)))
"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    return write_noise(tmp_path_factory.mktemp("recordings"))


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
