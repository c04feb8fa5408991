"""Preparation: unusable recordings, several sources, several processes."""

import fcntl
import io
import json
import os
import struct
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_only

from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.shards import ShardIndex, ShardReader, held_out
from datamodules.sources.folder import FolderSource
from datamodules.sources.source import Recording, Skipped
from modules.api import Audio

TONE = np.sin(np.arange(8000) * 0.05).astype(np.float32) / 2


def recording(key="good", samples=None, rate=16000, text="one", **labels):
    about = {"speaker": "ann", "language": "en", "source": "own", "license": "mine", "split": "train"} | labels
    return Recording(key, Audio(torch.from_numpy(TONE) if samples is None else samples, rate), text, **about)


class Given:
    """A source of given items."""

    def __init__(self, items) -> None:
        self._items = items

    @property
    def num_recordings(self):
        return len(self._items)

    def recordings(self):
        yield from self._items

    def credits(self):
        return ""


def write_wavs(folder: Path, names, frequency=0.05) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        path = folder / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        own = int.from_bytes(folder.name.encode()) % 997 * 1e-6  # no two folders have the same audio
        tone = np.sin(np.arange(1600) * (frequency + 0.001 * number + own))
        soundfile.write(path, tone / 2, 16000)
        path.with_suffix(".txt").write_text(f"{folder.name} says {name}")
    return folder


UNUSABLE = {
    "full_scale": (recording(samples=torch.from_numpy((TONE * 2**15).astype(np.int64))), "no floats in [-1, 1]"),
    "integers_as_floats": (recording(samples=torch.from_numpy(TONE * 2**15)), "peaks at 163"),
    "stereo": (recording(samples=torch.zeros(2, 8000)), "not mono"),
    "array": (recording(samples=TONE), "no tensor"),
    "no_audio": (Recording("", TONE, "one", "", "", "", ""), "no Audio"),
    "no_rate": (recording(rate=0), "sample rate outside"),
    "one_hertz": (recording(rate=1), "sample rate outside"),
    "nan_rate": (recording(rate=float("nan")), "no whole number"),
    "not_finite": (recording(samples=torch.full((8000,), float("nan"))), "not finite"),
    "nothing": (recording(samples=torch.zeros(0)), "no audio samples"),
    "silent": (recording(samples=torch.zeros(8000)), "silent"),
    "short": (recording(samples=torch.ones(10)), "shorter than 50 ms"),
    "no_text": (recording(text=None), "text is no string"),
    "half_a_character": (recording(text="\ud800"), "text is no string"),
    "elsewhere": (recording(split="../../elsewhere"), "split is no plain name"),
}


def test_one_check_for_every_source(tmp_path, capsys):
    """Guards against one bad recording that ends the preparation or is used as noise; and against silent skips."""
    items = [Recording(name, *list(vars(one).values())[1:]) for name, (one, _) in UNUSABLE.items()]
    items += [recording("a.key"), recording(7), recording("a/b"), recording(""), None, Skipped(None, "\udcff broken")]
    items += [recording("good", torch.from_numpy(TONE).bfloat16().requires_grad_(), np.int64(16000), speaker=None)]
    index = prepare_audio_shards([Given(items)], tmp_path / "shards", 16000, "wav")["train"]
    assert index.keys.tolist() == ["good"]
    samples, about = ShardReader(index).read(0)["wav"], json.loads(ShardReader(index).read(0)["json"])
    heard, _ = soundfile.read(io.BytesIO(samples))
    assert np.abs(heard - TONE).max() < 2**-8 and about["speaker"] == ""
    reasons = {item["key"]: item["reason"] for item in index.report["skipped"]}
    assert all(part in reasons[name] for name, (_, part) in UNUSABLE.items())
    assert index.report["num_skipped"] == len(items) - 1
    printed = capsys.readouterr().out
    assert f"skipped {len(items) - 1} of {len(items)} recordings:" in printed
    assert "  4 x key is empty or holds a dot, slash or space, such as 'a.key'" in printed
    assert "  2 x sample rate outside 4000 to 192000 Hz, such as 'no_rate': 0" in printed
    prepare_audio_shards([Given([recording()])], tmp_path / "clean", 16000, "wav")
    assert "skipped 0 of 1 recordings" in capsys.readouterr().out


def test_damaged_headers_and_names_lose_no_recording(tmp_path):
    """Guards against allocating the 6.9e10 samples of a damaged header, and against names that are not UTF-8."""
    folder = write_wavs(tmp_path / "mine", ["good"])
    soundfile.write(folder / "huge.flac", TONE, 16000)
    content = bytearray((folder / "huge.flac").read_bytes())
    content[21] |= 15  # STREAMINFO's count of samples has 36 bits
    content[22:26] = struct.pack(">I", 2**32 - 1)
    (folder / "huge.flac").write_bytes(content)
    assert soundfile.info(folder / "huge.flac").frames == 2**36 - 1
    (folder / "huge.txt").write_text("one")
    write_wavs(folder, ["good", "one", "two"])
    for name, old in ((b"caf\xe9", "one"), (b"caf\xe8", "two")):
        for suffix in (".wav", ".txt"):
            target = os.fsencode(folder) + b"/" + name + suffix.encode()
            (folder / f"{old}{suffix}").rename(Path(os.fsdecode(target)))
    indexes = prepare_audio_shards([FolderSource(folder)], tmp_path / "shards", 16000, "wav")
    keys = sorted(key for index in indexes.values() for key in index.keys.tolist())
    assert len(keys) == 4 and keys[-2:] == ["good", "huge"] and all(key.startswith("caf__") for key in keys[:2])
    (index,) = [index for index in indexes.values() if "huge" in index.keys]
    assert index.lengths[index.keys.tolist().index("huge")] == len(TONE)


# --------------------------------------------------------------------------------------------------- several sources

NAMES = [f"{number:03d}" for number in range(20)]


def prepared_keys(folder: Path, sources) -> dict[str, set[str]]:
    indexes = prepare_audio_shards(sources, folder, 16000, "wav")
    return {split: set(index.keys.tolist()) for split, index in indexes.items()}


def test_equal_file_names_in_several_sources(tmp_path):
    """Guards against recordings lost because of their names, and keys or held-out splits that depend on other
    sources."""
    folders = [write_wavs(tmp_path / name, NAMES) for name in ("ann", "bob", "cy")]
    alone = prepared_keys(tmp_path / "alone", [FolderSource(folders[0], name="any", hold_out="key")])
    assert alone == {"train": {name for name in NAMES if not held_out(name)}, "held_out": set(filter(held_out, NAMES))}
    assert alone["held_out"]
    unnamed = prepared_keys(tmp_path / "unnamed", [FolderSource(folder, hold_out="key") for folder in folders])
    for split, keys in alone.items():
        assert unnamed[split] == keys | {f"{name}_{key}" for name in ("bob", "cy") for key in keys}
    sources = [FolderSource(one, name=f"the-{one.name}", hold_out="key") for one in folders]
    named = prepared_keys(tmp_path / "named", sources)
    for split, keys in alone.items():
        assert named[split] == {f"the-{name}_{key}" for name in ("ann", "bob", "cy") for key in keys}
    index = ShardIndex.load(tmp_path / "named/held_out", "audio")
    for row, key in enumerate(index.keys.tolist()):
        about = json.loads(ShardReader(index).read(row)["json"])
        name, _, number = key.removeprefix("the-").partition("_")
        assert (about["text"], about["source"]) == (f"{name} says {number}", f"the-{name}")


def test_names_in_other_scripts_are_kept(tmp_path, capsys):
    """Guards against recordings lost because their names, or their folders', have no ASCII letters."""
    names = ["你好", "谢谢", "你好_001", "é", "ab"]
    folders = [write_wavs(tmp_path / name, names) for name in ("男声", "女声", "声音")]
    keys = prepared_keys(tmp_path / "shards", [FolderSource(folder) for folder in folders])
    assert sum(map(len, keys.values())) == 15
    assert "skipped 0 of 15 recordings" in capsys.readouterr().out
    prefixed = Given([recording(prefix="my.corpus")])
    others = [FolderSource(folders[0]), prefixed]
    assert sum(map(len, prepared_keys(tmp_path / "both", others).values())) == 5
    assert "1 x key is empty or holds a dot, slash or space, such as 'my.corpus_good'" in capsys.readouterr().out


def test_the_same_source_twice_is_skipped_and_reported(tmp_path, capsys):
    """Guards against copies of one recording on both sides of the split."""
    folder = write_wavs(tmp_path / "ann", NAMES)
    keys = prepared_keys(tmp_path / "twice", [FolderSource(folder), FolderSource(folder)])
    assert sum(map(len, keys.values())) == 20
    assert "20 x another recording has this key, such as '000': `name` tells" in capsys.readouterr().out


def test_shards_prepared_before_an_argument_was_new_are_accepted(tmp_path):
    """Guards against a corpus that must be prepared again because a source has a new argument."""
    source = FolderSource(write_wavs(tmp_path / "ann", NAMES))
    before = prepare_audio_shards([source], tmp_path / "shards", 16000, "wav")
    marker = tmp_path / "shards/prepared.json"
    about = json.loads(marker.read_text())
    for name in ("name", "columns", "hold_out"):
        del about["sources"][0][name]
    marker.write_text(json.dumps(about))
    assert prepare_audio_shards([source], tmp_path / "shards", 16000, "wav").keys() == before.keys()
    for other in (
        [FolderSource(tmp_path / "ann", name="ann")],
        [source, source],
        [FolderSource(tmp_path / "ann", "x")],
    ):
        with pytest.raises(ValueError, match="to be prepared from"):
            prepare_audio_shards(other, tmp_path / "shards", 16000, "wav")


# ------------------------------------------------------------------------------------------------- several processes


class Watched(Given):
    """Calls `while_reading` when it is read for the first time."""

    def __init__(self, while_reading) -> None:
        super().__init__([recording()])
        self._while_reading, self._num_reads = while_reading, 0

    def recordings(self):
        self._num_reads += 1
        self._while_reading(self._num_reads)
        yield from super().recordings()


def test_of_two_processes_one_prepares_and_both_use_it(tmp_path):
    """Guards against the second node of a job failing because the first one's shards already exist."""
    begun, again, found, errors = threading.Event(), threading.Event(), [], []

    def while_reading(number):
        (begun if number == 1 else again).set()
        again.wait(0.5)  # time for the other process to start, if nothing prevents it

    source = Watched(while_reading)

    def prepare():
        try:
            found.append(prepare_audio_shards([source], tmp_path / "shards", 16000, "wav")["train"].keys.tolist())
        except (OSError, ValueError) as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare, daemon=True) for _ in range(2)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    assert (errors, found, source._num_reads) == ([], [["good"]] * 2, 1)


def test_two_processes_do_the_same_where_nothing_locks(tmp_path, monkeypatch):
    """Guards against a lost race on a file system without locks; and against foreign files taken for the shards."""

    def no_locks(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    source = Watched(lambda number: number == 1 and prepare_audio_shards([source], tmp_path / "shards", 16000, "wav"))
    index = prepare_audio_shards([source], tmp_path / "shards", 16000, "wav")["train"]
    assert index.keys.tolist() == ["good"] and source._num_reads == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"], "no leftovers"
    assert sorted(path.name for path in index.folder.parent.iterdir()) == [
        "CREDITS.txt",
        "prepared.json",
        "report.html",
        "train",
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.wav").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds other files"):
        prepare_audio_shards([source], tmp_path / "other", 16000, "wav")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.wav"]


@pytest.mark.parametrize(("per_node", "prepared_by"), [(False, {(0, 0)}), (True, {(0, 0), (1, 0)})])
def test_one_process_of_all_nodes_prepares(tmp_path, monkeypatch, per_node, prepared_by):
    """Guards against a preparation on every node of one shared folder."""
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # restored, or later tests would wait for rank 0
    prepared = Counter()
    for node in range(2):
        for rank in range(2):
            monkeypatch.setenv("NODE_RANK", str(node))
            monkeypatch.setenv("LOCAL_RANK", str(rank))
            source = Watched(lambda _, place=(node, rank): prepared.update([place]))
            folder = tmp_path / f"{node}{rank}"  # separate: tests which process prepares, not which was first
            data = AudioDataModule(folder, [source], audio_format="wav", prepare_data_per_node=per_node)
            trainer = Trainer(
                accelerator="cpu", num_nodes=2, devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
                plugins=[LightningEnvironment()],
            )  # fmt: skip
            trainer.strategy.set_world_ranks()
            trainer.datamodule, trainer.strategy._lightning_module = data, LightningModule()
            trainer._data_connector.prepare_data()
    assert set(prepared) == prepared_by
    assert AudioDataModule(tmp_path).prepare_data_per_node is False
