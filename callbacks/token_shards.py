"""TokenShardWriter: what the codec predicts, written as token shards."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter

from datamodules.shards import ShardWriter
from modules.batches import CodePrediction


class TokenShardWriter(BasePredictionWriter):
    """Writes `folder/SPLIT` token shards: KEY.codes.npy (uint16 where it fits) and KEY.json, in batch order.

    The index's header holds codebook size, frame rate and the codec's fingerprint; the language model refuses shards of
    another codec. One device writes all: ValueError on more.

    Args:
        folder: Where the shards go.
        samples_per_shard: Samples in one tar file.
    """

    def __init__(self, folder: Path, samples_per_shard: int = 1000) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.samples_per_shard = Path(folder), samples_per_shard
        self._writers: dict[str, ShardWriter] = {}

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: CodePrediction,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        split = trainer.datamodule.predict_splits[dataloader_idx]
        writer = self._writer(split, pl_module)
        codes_BS = prediction.codes_BS.cpu().numpy()
        kind = np.uint16 if writer.header["codebook_size"] <= 2**16 else np.int32
        for row, num_codes in enumerate(prediction.num_codes_B.tolist()):
            codes_S = codes_BS[row, :num_codes].astype(kind)
            metadata = batch.metadata[row]
            files = {"codes.npy": codes_S, "json": json.dumps(metadata).encode()}
            writer.write(batch.keys[row], files, num_codes, metadata["text"])

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError(f"Expected one device to write token shards, but got {trainer.world_size}.")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for split, writer in self._writers.items():
            writer.__exit__(None, None, None)
            print(f"{self.folder / split}: {writer.num_samples} token samples, {writer.total_length} codes")
        self._writers.clear()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        for writer in self._writers.values():
            writer.__exit__(type(exception), exception, exception.__traceback__)

    def _writer(self, split: str, pl_module: L.LightningModule) -> ShardWriter:
        if split not in self._writers:
            codec = pl_module.generator
            header = {
                "codebook_size": codec.codebook_size,
                "frame_rate": codec.frame_rate,
                "sample_rate": codec.sample_rate,
                "codec_fingerprint": codec.fingerprint,
            }
            self._writers[split] = ShardWriter(
                self.folder / split, "tokens", header, self.samples_per_shard
            ).__enter__()
        return self._writers[split]
