"""A corpus through `predict`: batches bounded in seconds, and the codes that each recording has alone."""

import io
import json

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from callbacks.token_shards import TokenShardWriter
from datamodules.audio import AudioDataModule
from datamodules.preparation import prepare_audio_shards
from datamodules.shards import ShardIndex, ShardReader
from datamodules.sources.source import Recording
from modules.api import Audio
from modules.codec.losses import MultiResolutionMelLoss
from modules.codec_module import CodecModule
from tests.test_codec_parts import tiny_codec

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
    def on_predict_start(self, trainer, module):
        self.lengths = []

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_index, dataloader_idx=0):
        self.lengths.append(batch.num_samples_B.tolist())


@pytest.mark.parametrize("batch_seconds", [0.0, 3.0])
def test_a_corpus_has_the_codes_of_its_recordings_alone(batch_seconds, tmp_path):
    """Guards against batches beyond the bound, recordings lost or twice, and codes that depend on the batch."""
    prepare_audio_shards([Noise()], tmp_path / "audio", 16000, "wav")
    codec, recorder = tiny_codec(), Recorder()
    module = CodecModule(codec, nn.Identity(), MultiResolutionMelLoss(16000), torch.optim.SGD, torch.optim.SGD)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False,
        callbacks=[TokenShardWriter(tmp_path / "tokens"), recorder],
    )  # fmt: skip
    data = AudioDataModule(tmp_path / "audio", evaluation_batch_size=8, evaluation_batch_seconds=batch_seconds)
    trainer.predict(module, data, return_predictions=False)
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
