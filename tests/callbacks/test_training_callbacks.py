"""audio_samples, codec_health, media and run_layout in a real Trainer with a toy codec module."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from scipy.stats import entropy

from callbacks import media
from callbacks.audio_samples import AudioSamples
from callbacks.codec_health import CodecHealth
from callbacks.run_layout import RunLayout, described_run, readable_size
from callbacks.scaling_report import ScalingReport
from modules.batches import AudioBatch

RATE, HOP, CODEBOOK_SIZE = 16000, 160, 32


class QuantisedLevels(LightningModule):
    """Code = level of every HOP-th sample; dropout shows whether the module was in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))
        self.dropout, self.frozen = torch.nn.Dropout(0.5), torch.nn.Dropout(0.5).eval()
        self.modes_at_resynthesis: list[bool] = []

    def codes(self, audio_BT):
        return ((audio_BT[:, ::HOP] + 1) / 2 * (CODEBOOK_SIZE - 1)).long()

    def resynthesise(self, audio_BT, num_samples_B):
        self.modes_at_resynthesis.append(self.dropout.training)
        return self.dropout(audio_BT * self.gain.detach())

    def training_step(self, batch, batch_idx):
        assert self.dropout.training and not self.frozen.training
        return (batch.audio_BT * self.gain - batch.audio_BT).square().mean()

    def validation_step(self, batch, batch_idx):
        return {"codes_BS": self.codes(batch.audio_BT), "num_codes_B": batch.num_samples_B // HOP}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class RecordingLogger(Logger):
    """A logger with the methods of Lightning's WandbLogger."""

    def __init__(self) -> None:
        super().__init__()
        self.audio: list[tuple[str, int, np.ndarray, int]] = []
        self.images: list[tuple[str, int, np.ndarray]] = []
        self.metrics: list[tuple[int, dict]] = []

    name, version = "recording", 0

    def log_audio(self, key, audios, step=None, **arguments):
        assert isinstance(audios, list) and len(arguments["sample_rate"]) == len(audios)
        self.audio.append((key, step, audios[0], arguments["sample_rate"][0]))

    def log_image(self, key, images, step=None):
        self.images.append((key, step, images[0]))

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, metrics))

    def log_hyperparams(self, *arguments, **more):
        pass


def batches(num_batches: int, seed: int) -> list[AudioBatch]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(num_batches):
        audio_BT = torch.rand(3, 4800, generator=generator) * 1.2 - 0.6
        num_samples_B = torch.tensor([4800, 3200, 1600])
        for row, length in enumerate(num_samples_B):
            audio_BT[row, length:] = 0
        made.append(AudioBatch(audio_BT, num_samples_B, [f"item{number}_{row}" for row in range(3)], [{}] * 3))
    return made


def fitted(callbacks, logger, max_steps=6):
    module = QuantisedLevels()
    trainer = Trainer(
        accelerator="cpu", max_steps=max_steps, val_check_interval=3, logger=logger, callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
        num_sanity_val_steps=1,  # has fewer batches than a validation
    )  # fmt: skip
    trainer.fit(module, Loader(batches(6, seed=0)), Loader(batches(2, seed=1)))
    return module, trainer


class Loader(torch.utils.data.DataLoader):
    """Returns prepared batches."""

    def __init__(self, made: list[AudioBatch]) -> None:
        super().__init__(made, batch_size=None)


def test_audio_samples_logs_fixed_items_at_every_validation():
    """Guards against logged padding, other items each time, dropout in reconstructions, or a module left in eval."""
    logger = RecordingLogger()
    module, _ = fitted([AudioSamples(RATE, num_items=2, max_seconds=0.25)], logger)
    first = batches(2, seed=1)[0].audio_BT
    expected = {"item0_0": first[0, :4000], "item0_1": first[1, :3200]}
    recordings = {name: (step, audio) for name, step, audio, rate in logger.audio if name.startswith("recording/")}
    assert {name: step for name, (step, _) in recordings.items()} == {f"recording/{key}": 0 for key in expected}
    reconstructions = [entry for entry in logger.audio if entry[0].startswith("reconstruction/")]
    assert [(name, step) for name, step, _, _ in reconstructions] == [
        (f"reconstruction/{key}", step) for step in (3, 6) for key in expected
    ]
    for name, _, audio, rate in reconstructions:
        assert rate == RATE
        np.testing.assert_allclose(audio, expected[name.removeprefix("reconstruction/")].numpy() * 0.5, atol=1e-6)
    assert [(name, step) for name, step, _ in logger.images] == [
        (f"val/mel/{key}", step) for step in (3, 6) for key in expected
    ]
    assert module.modes_at_resynthesis == [False, False]
    assert module.dropout.training and not module.frozen.training


def test_audio_samples_every_n_steps():
    """Guards against a step counter that also triggers in validation, or twice at one step."""
    logger = RecordingLogger()
    module, _ = fitted([AudioSamples(RATE, num_items=1, every_n_steps=2)], logger)
    assert module.modes_at_resynthesis == [False] * 3  # and training_step asserts that the mode is restored
    assert [step for name, step, _, _ in logger.audio if name.startswith("reconstruction/")] == [2, 4, 6]
    with pytest.raises(ValueError, match="Expected `every_n_steps`"):
        AudioSamples(RATE, every_n_steps=0)


def test_codec_health_equals_a_naive_count():
    """Guards against counts carried over from the sanity check or the last validation, and against counted padding."""
    logger = RecordingLogger()
    fitted([CodecHealth(CODEBOOK_SIZE)], logger)
    seen = Counter()
    for batch in batches(2, seed=1):
        for audio_T, length in zip(batch.audio_BT, batch.num_samples_B.tolist(), strict=True):
            seen.update(((audio_T[:length:HOP] + 1) / 2 * (CODEBOOK_SIZE - 1)).long().tolist())
    logged = [metrics for _, metrics in logger.metrics if "val/code_usage" in metrics]
    assert len(logged) == 2
    for metrics in logged:
        assert metrics["val/code_usage"] == pytest.approx(len(seen) / CODEBOOK_SIZE)
        assert metrics["val/code_perplexity"] == pytest.approx(np.exp(entropy(list(seen.values()))), rel=1e-5)
    assert [(name, step) for name, step, _ in logger.images] == [("val/code_frequencies", step) for step in (3, 6)]


def test_codec_health_names_a_validation_step_without_codes():
    """Guards against a KeyError deep in the loop."""
    with pytest.raises(ValueError, match="Expected `validation_step` to return a dict with codes_BS"):
        CodecHealth(8).on_validation_batch_end(None, None, {"loss": 1}, None, 0)


def test_tensorboard_gets_audio_and_figures(tmp_path):
    """Guards against a media module that only knows loggers with log_audio."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    fitted([AudioSamples(RATE, num_items=1), CodecHealth(CODEBOOK_SIZE)], logger, max_steps=3)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "audio": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["audio"]) == {"recording/item0_0", "reconstruction/item0_0"}
    assert set(tags["images"]) == {"val/mel/item0_0", "val/code_frequencies"}
    assert {"val/code_usage", "val/code_perplexity"} <= set(tags["scalars"])
    assert events.Images("val/mel/item0_0")[0].width > 400


def test_other_loggers_are_reported_once_and_do_not_stop_the_run(tmp_path, caplog):
    """Guards against a crash, or a line per step, with loggers that only accept scalars."""
    media._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="callbacks.media"):
        fitted([AudioSamples(RATE)], CSVLogger(tmp_path))
    assert Counter(record.message for record in caplog.records if record.name == "callbacks.media") == {
        "CSVLogger takes no audio: it gets the scalars only.": 1,
        "CSVLogger takes no figures: it gets the scalars only.": 1,
    }


class WritesCheckpoint(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        (self.folder / "checkpoints").mkdir()
        (self.folder / "checkpoints" / "last.ckpt").write_bytes(b"x" * 2000)


def test_run_layout_prints_what_is_there_at_start_and_end(tmp_path, capsys):
    """Guards against a layout that lists files that do not exist, or misses files that the run wrote."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_bytes(b"x" * 1500)
    (tmp_path / "candidates").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "of_a_user.txt").write_bytes(b"x" * 20)
    (tmp_path / "config.yaml").write_bytes(b"x" * 30)
    lines = [" ".join(line.split()) for line in described_run(tmp_path).splitlines()]
    assert lines[1:] == [
        "candidates/ empty samples of a sweep, with codes and scores",
        "config.yaml 30 B",
        "notes/ 1 file, 20 B",
        "report/ 1 file, 1.5 kB the report page, with audio",
    ]
    assert described_run(tmp_path / "none") == f"{tmp_path}/none/ is empty"
    fitted([RunLayout(tmp_path), WritesCheckpoint(tmp_path)], False, max_steps=1)
    before, after = capsys.readouterr().out.split("fit ended")
    assert before.count(f"{tmp_path}/\n") == 1 and "checkpoints" not in before
    assert "1 file, 2.0 kB" in after and "report:" not in after, "this run wrote no report"
    report = ScalingReport()
    report.page = tmp_path / "elsewhere" / "index.html"
    fitted([RunLayout(tmp_path), report], False, max_steps=1)
    assert f"  report: {report.page.as_uri()}" in capsys.readouterr().out.split("fit ended")[1]
    assert [readable_size(size) for size in (0, 999, 1000, 20_000_000, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "20.0 MB",
        "5.0 TB",
    ]
