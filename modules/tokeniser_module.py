"""CodecTokeniser: encodes audio shards with any codec, or evaluates it: for `predict` and `test`.

Shapes: B batch, T samples, S frames.
"""

import lightning as L

from modules.batches import AudioBatch, CodePrediction
from modules.codec.formats.checkpoints import CodecCheckpoint
from modules.codec.generator import CodecGenerator, check_input_rate
from modules.codec.streaming import EncodeWindow, encode_batch_in_windows


class CodecTokeniser(L.LightningModule):
    """The codes of any codec that CodecCheckpoint reads: a checkpoint of ours, a released X-codec2 or NeuCodec, or a
    folder of transformers'. Runs without `ckpt_path`, on every device of the Trainer. In `test` callbacks evaluate the
    codec as `generator` (CodecEvaluation).

    Args:
        codec: The codec. Its own `device` has no effect here.
        encode_window: Encodes recordings one by one in overlapping windows: hours of audio in bounded memory.
    """

    generator: CodecGenerator

    def __init__(self, codec: CodecCheckpoint, encode_window: EncodeWindow | None = None) -> None:
        super().__init__()
        self.codec, self.encode_window = codec, encode_window

    def configure_model(self) -> None:
        if not hasattr(self, "generator"):
            self.generator = self.codec.load()

    def setup(self, stage: str) -> None:
        if stage not in ("predict", "test"):
            raise ValueError(f"Expected CodecTokeniser for predict and test alone, but got {stage}.")

    def on_test_start(self) -> None:
        check_input_rate(self.generator, getattr(self.trainer, "datamodule", None))

    def test_step(self, batch: AudioBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        pass  # callbacks collect the batch

    def on_predict_start(self) -> None:
        check_input_rate(self.generator, getattr(self.trainer, "datamodule", None))

    def predict_step(self, batch: AudioBatch, batch_index: int, dataloader_idx: int = 0) -> CodePrediction:
        given = batch.audio_BT, batch.num_samples_B
        if self.encode_window is None:
            return CodePrediction(*self.generator.encode(*given), batch)
        return CodePrediction(*encode_batch_in_windows(self.generator, *given, self.encode_window), batch)
