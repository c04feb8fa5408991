"""A corpus through `predict`: batches bounded in seconds, and codes that equal those of each recording alone."""

import io
import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from callbacks.token_shards import TokenShardWriter
from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.sources.source import Recording
from modules.api import Audio
from modules.codec.training.losses import MultiResolutionMelLoss
from modules.codec_module import CodecModule
from tests.modules.codec.test_parts import tiny_codec

SECONDS = [0.3 + 0.11 * number for number in range(17)]


class Noise:
    num_recordings = len(SECONDS)

    def recordings(self):
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


def predict(codec, folder: Path, *callbacks: L.Callback, limit: int | None = None, **settings) -> None:
    """Encode `folder/audio` into `folder/tokens`."""
    module = CodecModule(codec, nn.Identity(), MultiResolutionMelLoss(16000), torch.optim.SGD, torch.optim.SGD)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False,
        callbacks=[TokenShardWriter(folder / "tokens"), *callbacks], limit_predict_batches=limit,
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


def test_predict_with_a_wrong_folder_leaves_its_shards(tmp_path):
    """Guards against token shards destroyed by a trial of a few batches, or on opening those of another codec."""
    prepare_audio_shards([Noise()], tmp_path / "audio", 16000, "wav")
    codec, recorder = tiny_codec(), Recorder()
    predict(codec, tmp_path)
    files = {path.name: path.read_bytes() for path in (tmp_path / "tokens/train").iterdir()}
    with pytest.raises(ValueError, match=r"1 are missing.*tokens/train/unfinished"):
        predict(codec, tmp_path, limit=1, evaluation_batch_size=16)
    with torch.no_grad():
        next(codec.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="to be free for tokens shards"):
        predict(codec, tmp_path, recorder)
    assert not recorder.lengths, "told before the first batch"
    for name, content in files.items():
        assert (tmp_path / "tokens/train" / name).read_bytes() == content
