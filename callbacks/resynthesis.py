"""ResynthesisWriter: writes the codec's resyntheses as wav files.

Shapes: B items, T audio samples, S code frames.
"""

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from modules.api import Audio
from modules.atomic_file import write_whole
from modules.audio import write_wav
from modules.batches import AudioBatch, CodePrediction


class ResynthesisWriter(BasePredictionWriter):
    """Decodes what the codec's predict_step returns and writes `folder`/KEY.wav (16 bit, at the codec's rate).

    `folder`/resynthesis.json has the codec's properties and, by key, bits and seconds. With several ranks each writes
    the files of its batches, and rank 0 the whole resynthesis.json. The module's `generator` is the Codec.

    Args:
        folder: Output folder.

    Raises:
        ValueError: Two recordings have the same key; the codec decodes NaN or infinity.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self._written: dict[str, dict[str, Any]] = {}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._written = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    @torch.inference_mode()
    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: CodePrediction,
        batch_indices: Any,
        batch: AudioBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        codec, source_rate = pl_module.generator, trainer.datamodule.sample_rate
        decoded_BT = codec.decode(prediction.codes_BS, prediction.num_codes_B).float().cpu()
        lengths = zip(batch.num_samples_B.tolist(), prediction.num_codes_B.tolist(), strict=True)
        for key, decoded_T, (num_samples, num_codes) in zip(batch.keys, decoded_BT, lengths, strict=True):
            if key in self._written:
                raise ValueError(f"Expected keys to be distinct, but got {key!r} twice.")
            samples_T = decoded_T[: round(num_samples * codec.facts.sample_rate / source_rate)]
            write_wav(Audio(samples_T, codec.facts.sample_rate), self.folder / f"{key}.wav")
            self._written[key] = {
                "file": f"{key}.wav",
                "seconds": num_samples / source_rate,
                "bits": num_codes * math.log2(codec.facts.codebook_size),
            }

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        written = self._written
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, written)
            written = {key: about for one in gathered for key, about in one.items()}
        if not trainer.is_global_zero:
            return
        seconds = sum(about["seconds"] for about in written.values())
        bits = sum(about["bits"] for about in written.values())
        summary = {
            "sample_rate": pl_module.generator.facts.sample_rate,
            "codec_fingerprint": pl_module.generator.fingerprint,
            "seconds": seconds,
            "bits": bits,
            "bits_per_second": bits / seconds,
            "recordings": dict(sorted(written.items())),
        }
        write_whole(self.folder / "resynthesis.json", json.dumps(summary, indent=1))
        size = f"{len(written)} wav files, {seconds:.1f} s at {bits / seconds:.0f} bit/s"
        print(f"listen: {self.folder.resolve()}/*.wav ({size})", flush=True)
