"""TokenShardWriter: writes the codec's predictions as token shards."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter

from datamodules.shards.shards import ShardWriter
from modules.batches import CodePrediction


class TokenShardWriter(BasePredictionWriter):
    """Writes `folder/SPLIT` token shards: KEY.codes.npy (uint16 where it fits) and KEY.json, in batch order.

    The index's header has codebook size, frame rate and the codec's fingerprint; the language model rejects shards of
    another codec. Existing shards in `folder` are replaced at the end, as described in ShardWriter.

    Raises ValueError, before the first batch, on more than one device and if `folder` has other shards.

    Args:
        folder: Output folder.
        samples_per_shard: Samples per tar file.
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
        writer = self._writers[split]
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
        codec = pl_module.generator
        header = {
            "codebook_size": codec.facts.codebook_size,
            "frame_rate": codec.facts.frame_rate,
            "sample_rate": codec.facts.sample_rate,
            "codec_fingerprint": codec.fingerprint,
        }
        for split in trainer.datamodule.predict_splits:
            writer = ShardWriter(self.folder / split, "tokens", header, self.samples_per_shard)
            self._writers[split] = writer.__enter__()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        writers, self._writers = self._writers, {}
        refusals: list[ValueError] = []
        for split, writer in writers.items():  # a rejected split must not lose the others
            if not writer.num_samples:
                writer.discard()
                continue
            try:
                writer.__exit__(None, None, None)
            except ValueError as refusal:
                refusals.append(refusal)
            else:
                print(f"{self.folder / split}: {writer.num_samples} token samples, {writer.total_length} codes")
        if refusals:
            raise refusals[0]

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        for writer in self._writers.values():
            writer.discard()
        self._writers.clear()
