"""callbacks/tensorboard_log.py: what TensorBoard shows of a fit, and in which order."""

import math

from lightning.pytorch.callbacks import LearningRateMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.audio_samples import AudioSamples
from callbacks.codec_health import CodecHealth
from callbacks.inference_scaling import log_points
from callbacks.tensorboard_log import TensorBoardLog
from tests.callbacks.test_training_callbacks import CODEBOOK_SIZE, RATE, QuantisedLevels, RecordingLogger, fitted
from tests.toys.report_toys import tone_sweep


def test_groups_of_a_fit_are_train_and_val(tmp_path, monkeypatch):
    """Guards against charts before the training curves: TensorBoard sorts by tag. And against a chart of one point."""
    monkeypatch.setattr(QuantisedLevels, "configure_optimizers", schedule)
    monkeypatch.setattr(QuantisedLevels, "on_train_batch_end", lambda self, *_: self.log("train/loss", 1.0))
    logger = TensorBoardLog(str(tmp_path), name="")
    callbacks = [LearningRateMonitor(), AudioSamples(RATE, num_items=1), CodecHealth(CODEBOOK_SIZE)]
    fitted(callbacks, logger, max_steps=3)
    logger.log_hyperparams({"size": 3})
    logger.log_metrics({"codec/wer": 0.5, "epoch": 0}, 3)  # as a test does
    logger.experiment.flush()
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    shown = {*tags["scalars"], *tags["images"]} - {"codec/wer"}
    assert {"train/loss", "train/epoch", "train/lr-SGD", "val/code_usage", "val/mel/item0_0"} <= shown
    assert {tag.split("/")[0] for tag in shown} == {"train", "val"}


def schedule(self):
    import torch

    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer)]


def test_points_without_a_number_are_not_logged(tmp_path):
    """Guards against a blank chart for a judge that could score nothing."""
    results, logger = tone_sweep(tmp_path).results, RecordingLogger()
    object.__setattr__(results.points[0], "score", math.nan)
    log_points([logger], results)
    assert len(logger.metrics) == len(results.points) - 1
    assert all(math.isfinite(value) for _, metrics in logger.metrics for value in metrics.values())
