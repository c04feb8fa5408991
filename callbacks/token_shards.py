"""TokenShardWriter: writes the codec's predictions as token shards."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from callbacks.skipped_samples import counts_of
from datamodules.shards.shards import ShardIndex
from datamodules.shards.token_units import Coded, TokenUnits
from modules.batches import CodePrediction


class TokenShardWriter(BasePredictionWriter):
    """Writes `folder/SPLIT` token shards: KEY.codes.npy (uint16 where it fits) and KEY.json, in the order of the audio.

    One shard of audio becomes one shard of tokens. Each is written when it is complete, by the device that has encoded
    it; a run that was killed goes on with the shards that are missing. The index's header has codebook size, frame
    rate and the codec's fingerprint; the language model rejects shards of another codec. Its report lists what was
    skipped here and in the preparation. Existing shards in `folder` are replaced at the end, as described in
    ShardWriter.

    Raises ValueError, before the first batch, if `folder` has other shards.

    Args:
        folder: Output folder.
        samples_per_shard: Has no effect: tokens have the shards of their audio. Kept for configs of earlier versions.
    """

    def __init__(self, folder: Path, samples_per_shard: int = 1000) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self._units: dict[str, TokenUnits] = {}
        self._coded: list[Coded] = []
        self._place: tuple[int, int] | None = None  # number of the loader and shard of `_coded`

    def predicted_shards(self, trainer: L.Trainer, split: str, audio: ShardIndex) -> Collection[int]:
        """Shards that an interrupted run has finished; asked by the datamodule on all ranks."""
        codec = trainer.lightning_module.generator
        header = {
            "codebook_size": codec.facts.codebook_size,
            "frame_rate": codec.facts.frame_rate,
            "sample_rate": codec.facts.sample_rate,
            "codec_fingerprint": codec.fingerprint,
        }
        units = self._units[split] = TokenUnits(self.folder / split, header, audio)
        if trainer.is_global_zero:
            units.begin()
        trainer.strategy.barrier("token shards begin")
        done = trainer.strategy.broadcast(units.done())
        if done and trainer.is_global_zero:
            print(f"{self.folder / split}: {len(done)} of {len(units.shards)} shards were finished earlier", flush=True)
        if len(done) == len(units.shards):
            self._merge(trainer, split)
        return done

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
        if split not in self._units:
            raise ValueError(f"Expected AudioDataModule as `data`, but got {type(trainer.datamodule).__name__}.")
        units = self._units[split]
        place = dataloader_idx, int(units.audio.shard_of[batch.rows[0]])
        if self._place is not None and self._place != place:
            self._finish_shard(trainer)
        self._place = place
        codes_BS = prediction.codes_BS.cpu().numpy()
        for number, num_codes in enumerate(prediction.num_codes_B.tolist()):
            self._coded.append((batch.rows[number], codes_BS[number, :num_codes], batch.metadata[number]))

    def _finish_shard(self, trainer: L.Trainer) -> None:
        """Write the shard of the last batches, unless some of its recordings have not been read: the end of a trial of
        a few batches."""
        if self._place is None:
            return
        (loader, shard), coded = self._place, self._coded
        self._place, self._coded = None, []
        units = self._units[trainer.datamodule.predict_splits[loader]]
        loaders = trainer.predict_dataloaders
        (count,) = counts_of(loaders[loader] if isinstance(loaders, list) else loaders)
        rows = {row for row, _, _ in coded}
        keys = [str(units.audio.keys[row]) for row in units.audio.rows_of(shard) if row not in rows]
        if all(key in count.reasons for key in keys):
            units.write(shard, coded, [(key, count.reasons[key]) for key in keys])

    def _finish_unreadable(self, trainer: L.Trainer) -> None:
        """Write shards of which no recording could be read, so that they are done too."""
        loaders = trainer.predict_dataloaders
        for number, split in enumerate(trainer.datamodule.predict_splits):
            units = self._units.get(split)
            (count,) = counts_of(loaders[number] if isinstance(loaders, list) else loaders)
            if units is None or not count.number:
                continue
            for shard in set(units.shards) - set(units.done()):
                keys = [str(units.audio.keys[row]) for row in units.audio.rows_of(shard)]
                if all(key in count.reasons for key in keys):
                    units.write(shard, [], [(key, count.reasons[key]) for key in keys])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish_shard(trainer)
        self._finish_unreadable(trainer)
        trainer.strategy.barrier("token shards end")
        refusals: list[ValueError] = []
        for split in list(self._units):  # a rejected split must not lose the others
            try:
                self._merge(trainer, split)
            except ValueError as refusal:
                refusals.append(refusal)
        if refusals:
            raise refusals[0]

    def _merge(self, trainer: L.Trainer, split: str) -> None:
        """Merge a split, on the first rank."""
        units = self._units.pop(split)
        if trainer.is_global_zero:
            left = len(units.shards) - len(units.done())
            if left:
                print(f"{self.folder / split}: {left} of {len(units.shards)} shards are missing; the same command "
                      "goes on with them", flush=True)  # fmt: skip
            else:
                num_samples, num_codes = units.merge()
                print(f"{self.folder / split}: {num_samples} token samples, {num_codes} codes", flush=True)
        trainer.strategy.barrier("token shards merged")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._units.clear()
        self._place, self._coded = None, []
