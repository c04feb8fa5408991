"""A corpus through `predict`: batches bounded in seconds, and codes that equal those of each recording alone."""

import io
import json
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from callbacks.token_shards import TokenShardWriter
from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.samples import Sample, read_samples
from datamodules.shards.shards import ShardIndex, ShardReader, ShardWriter
from datamodules.sources.source import Recording, Skipped
from modules.api import Audio
from modules.codec.formats.checkpoints import CodecCheckpoint, save_transformers
from modules.codec.training.losses import MultiResolutionMelLoss
from modules.codec_module import CodecModule
from modules.tokeniser_module import CodecTokeniser
from tests.modules.codec.test_parts import tiny_codec
from tests.toys.codec_references import small_codec

SECONDS = [0.3 + 0.11 * number for number in range(17)]


class Noise:
    num_recordings = len(SECONDS)
    extra = ()

    def recordings(self):
        yield from self.extra
        generator = torch.Generator().manual_seed(0)
        for number, seconds in enumerate(SECONDS):
            samples_T = 0.1 * torch.randn(round(16000 * seconds), generator=generator)
            yield Recording(f"n{number}", Audio(samples_T, 16000), "one", "a", "en", "noise", "none", "train")

    def credits(self):
        return "none"


class Recorder(L.Callback):
    def __init__(self):
        self.lengths = []

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_index, dataloader_idx=0):
        self.lengths.append(batch.num_samples_B.tolist())


def predict(codec, folder: Path, *callbacks: L.Callback, limit: int | None = None, strategy="auto", **settings) -> None:
    """Encode `folder/audio` into `folder/tokens`."""
    module = CodecModule(codec, nn.Identity(), MultiResolutionMelLoss(16000), torch.optim.SGD, torch.optim.SGD)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False,
        callbacks=[(TokenShardWriter if strategy == "auto" else AtOnce)(folder / "tokens"), *callbacks],
        limit_predict_batches=limit, strategy=strategy,
    )  # fmt: skip
    trainer.predict(module, AudioDataModule(folder / "audio", **settings), return_predictions=False)


@pytest.mark.parametrize("batch_seconds", [0.0, 3.0])
def test_a_corpus_has_the_codes_of_its_recordings_alone(batch_seconds, tmp_path):
    """Guards against batches beyond the bound, lost or duplicate recordings, and codes that depend on the batch."""
    prepare_audio_shards([Noise()], tmp_path / "audio", 16000, "wav")
    codec, recorder = tiny_codec(), Recorder()
    predict(codec, tmp_path, recorder, evaluation_batch_size=8, evaluation_batch_seconds=batch_seconds)
    largest = max(max(lengths) * len(lengths) for lengths in recorder.lengths) / 16000
    assert largest <= batch_seconds if batch_seconds else largest > 6
    sources, tokens = (ShardIndex.load(tmp_path / kind / "train", kind) for kind in ("audio", "tokens"))
    assert sorted(tokens.keys) == sorted(sources.keys) and len(set(tokens.keys)) == len(SECONDS)
    read_audio, read_tokens = ShardReader(sources), ShardReader(tokens)
    places = {str(key): place for place, key in enumerate(sources.keys)}
    for place, key in enumerate(tokens.keys):
        files = read_tokens.read(place)
        samples, _ = soundfile.read(io.BytesIO(read_audio.read(places[str(key)])["wav"]), dtype="float32")
        alone_BS, _ = codec.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        np.testing.assert_array_equal(np.load(io.BytesIO(files["codes.npy"])), alone_BS[0].numpy())
        assert json.loads(files["json"])["text"] == "one"


def test_a_trial_or_another_codec_leaves_the_shards(tmp_path, capsys):
    """Guards against token shards destroyed by a trial of a few batches, or on opening those of another codec."""
    prepare_audio_shards([Noise()], tmp_path / "audio", 16000, "wav")
    codec, recorder = tiny_codec(), Recorder()
    predict(codec, tmp_path, limit=1, evaluation_batch_size=16)
    assert "1 of 1 shards are missing" in capsys.readouterr().out
    predict(codec, tmp_path)
    files = {path.name: path.read_bytes() for path in (tmp_path / "tokens/train").iterdir() if path.is_file()}
    predict(codec, tmp_path, recorder, limit=1, evaluation_batch_size=16)
    assert "1 of 1 shards were finished earlier" in capsys.readouterr().out
    with torch.no_grad():
        next(codec.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="to be free for tokens shards"):
        predict(codec, tmp_path, recorder)
    assert not recorder.lengths, "told before the first batch"
    for name, content in files.items():
        assert (tmp_path / "tokens/train" / name).read_bytes() == content


# ---------------------------------------------------------------------------------------------------- units and ranks


class Rank(SingleDeviceStrategy):
    """One of several ranks, the others of which run before or after it."""

    def __init__(self, rank: int, num_ranks: int) -> None:
        super().__init__("cpu")
        self.global_rank, self.world_size = rank, num_ranks

    @property
    def is_global_zero(self) -> bool:
        return self.global_rank == 0


class AtOnce(TokenShardWriter):
    """Does not see what the other ranks have finished, as if all began at once."""

    def predicted_shards(self, *given):
        super().predicted_shards(*given)
        return ()

    def _merge(self, *given):
        """Left to the run that finds all finished."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def shards(tmp_path) -> Path:
    """Six shards of three recordings in two splits, one damaged sample, one that preparation has skipped."""
    source = Noise()
    source.extra = [Skipped("bad", "unreadable: no audio")]
    prepare_audio_shards([source], tmp_path / "audio", 16000, "wav", samples_per_shard=100)
    index = ShardIndex.load(tmp_path / "audio/train", "audio")
    samples, writers = [ShardReader(index).read(row) for row in range(len(index))], {}
    shutil.rmtree(tmp_path / "audio")
    for split, rows in (("train", range(13)), ("held_out", range(13, 17))):
        with ShardWriter(tmp_path / "audio" / split, "audio", index.header, 3) as writers[split]:
            for row in rows:
                sample = samples[row]
                content = b"no audio" if row == 4 else sample["wav"]
                files = {"wav": content, "json": sample["json"]}
                writers[split].write(sample["__key__"], files, int(index.lengths[row]), "one")
            if split == "train":
                writers[split].skip("bad", "unreadable: no audio")
    return tmp_path


def test_ranks_and_interruptions_give_the_same_tokens(shards, monkeypatch):
    """Guards against codes or shards that depend on the number of devices or on a kill, work done twice, and skips
    that the report of the tokens does not name."""
    codec = tiny_codec()
    predict(codec, shards, evaluation_batch_size=2)
    once = contents(shards / "tokens")
    report = json.loads(once["train/index.json"])["report"]
    assert report["num_samples"] == 12 and [item["key"] for item in report["skipped"]] == ["bad", "n4"]
    assert report["skipped"][0]["reason"] == "preparation: unreadable: no audio"
    assert sorted(name for name in once if name.endswith(".tar")) == [
        *(f"held_out/{number:06d}.tar" for number in range(2)), *(f"train/{number:06d}.tar" for number in range(5))
    ]  # fmt: skip
    shutil.move(shards / "tokens", shards / "first")
    for rank in range(3):
        predict(codec, shards, strategy=Rank(rank, 3), evaluation_batch_size=2)
        assert not (shards / "tokens/train/index.json").exists()
    recorder = Recorder()
    predict(codec, shards, recorder, evaluation_batch_size=2)
    assert not recorder.lengths, "all was finished, and had only to be merged"
    assert contents(shards / "tokens") == once
    shutil.rmtree(shards / "tokens")
    num_done = []
    for limit in (1, 3, 2, 4):
        stop, recorder = Stop(limit), Recorder()
        with pytest.raises(SystemExit):
            predict(codec, shards, recorder, stop, evaluation_batch_size=2)
        num_done.append(len(list(shards.glob("tokens/**/*.tar"))))
    assert num_done == sorted(num_done) and num_done[-1] >= 3
    recorder = Recorder()
    predict(codec, shards, recorder, evaluation_batch_size=2)
    assert contents(shards / "tokens") == once
    assert sum(map(len, recorder.lengths)) <= 3 * (7 - num_done[-1])


class Stop(L.Callback):
    """Ends the process after some batches, as a kill does."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def on_predict_batch_start(self, *_):
        self.limit -= 1
        if self.limit < 0:
            raise SystemExit


def test_a_shard_that_cannot_be_read_is_done_too(shards, capsys):
    """Guards against a split that is never finished because of one damaged tar."""
    for name in ("train/000001.tar", "held_out/000000.tar"):
        path = shards / "audio" / name
        path.write_bytes(bytes(path.stat().st_size))
    predict(tiny_codec(), shards, evaluation_batch_size=2)
    train, held_out = (ShardIndex.load(shards / "tokens" / split, "tokens") for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (10, 1)
    assert [item["key"] for item in train.report["skipped"]] == ["bad", "n3", "n4", "n5"]
    assert "are missing" not in capsys.readouterr().out


def test_any_codec_tokenises_as_it_encodes(tmp_path):
    """Guards against tokens for our own checkpoints alone."""
    prepare_audio_shards([Noise()], tmp_path / "audio", 16000, "wav")
    save_transformers(small_codec(), tmp_path / "codec")
    codec = CodecCheckpoint(tmp_path / "codec", device="cpu")
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False,
        callbacks=[TokenShardWriter(tmp_path / "tokens")],
    )  # fmt: skip
    data = AudioDataModule(tmp_path / "audio", evaluation_batch_size=1)
    trainer.predict(CodecTokeniser(codec), data, return_predictions=False)
    sources, tokens = (ShardIndex.load(tmp_path / kind / "train", kind) for kind in ("audio", "tokens"))
    assert tokens.header["codec_fingerprint"] == codec.fingerprint and tokens.keys.tolist() == sources.keys.tolist()
    for row in (0, 7):
        samples = read_samples(sources, row, ShardReader(sources).read(row))
        alone_BS, _ = codec.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        assert Sample.read(ShardReader(tokens), row, "tokens").codes == alone_BS[0].tolist()
