"""TrainingSpeech inside a fit, by a clock of the test: what was spoken when, also over an interrupted run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import training_speech
from callbacks.run_checkpoint import RunCheckpoint
from callbacks.training_speech import SpokenAt, TrainingSpeech
from datamodules.shards.shards import ShardWriter, by_hash
from modules.api import Audio, Prompt, SamplingSettings
from modules.audio import encoded
from modules.lm_module import LMModule
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.driver import run_searches
from modules.search.scorer import Scorer
from tests.callbacks.test_spoken_texts import Codec, Data
from tests.toys.lm_toys import FORMAT, SIZE
from tests.toys.search_toys import ToyCodec

TEXTS = {f"toy_{number}": f'sentence "{number}" & more' for number in range(5)}
CHOSEN = [list(TEXTS)[place] for place in by_hash(list(TEXTS))[:2]]
SAMPLING = SamplingSettings(temperature=0.3)
STEP_SECONDS = 900  # of the clock


class Clock(Callback):
    """Every step takes a quarter of an hour; `kill_at` kills the run after that step."""

    def __init__(self, kill_at: int = 0) -> None:
        self.now, self.kill_at = 0.0, kill_at

    def on_train_batch_start(self, trainer, *args) -> None:
        self.now += STEP_SECONDS

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.kill_at:
            raise Killed


class Killed(BaseException):
    pass


class SlowCodec(Codec):
    """Takes hours to decode, or fails."""

    def __init__(self, clock: Clock, fails: bool = False) -> None:
        super().__init__()
        self.clock, self.fails = clock, fails

    def decode(self, *args):
        self.clock.now += 10_000
        if self.fails:
            raise RuntimeError("broken decoder")
        return super().decode(*args)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Audio shards of one split; the level of a recording is the number of its sentence / 10."""
    with ShardWriter(tmp_path / "shards/held_out", "audio", {"sample_rate": 800, "audio_format": "wav"}) as writer:
        for number, (key, text) in enumerate(TEXTS.items()):
            recording = Audio(torch.full((320,), (number + 1) / 10), 800)
            about = {"text": text, "language": "en"}
            writer.write(key, {"wav": encoded(recording, "wav"), "json": json.dumps(about).encode()}, 320, text)
    return tmp_path / "shards"


def fit(
    monkeypatch: pytest.MonkeyPatch, folder: Path, shards: Path, kill_at: int = 0, fails: bool = False, **changes
) -> tuple[LMModule, TrainingSpeech]:
    """Eight steps, a checkpoint after every third and at the end."""
    clock = Clock(kill_at)
    monkeypatch.setattr(training_speech, "perf_counter", lambda: clock.now)
    settings = {"codec": SlowCodec(clock, fails), "num_sentences": 2, "hours": (0.5, 1.0, 5.0), "max_new_tokens": 12}
    speech = TrainingSpeech(**(settings | {"audio_folder": shards, "sampling": SAMPLING} | changes))
    saver = RunCheckpoint(folder / "checkpoints", every_n_train_steps=3, save_top_k=-1, filename="{step}")
    torch.manual_seed(0)
    module = LMModule(FORMAT, SIZE)
    trainer = Trainer(
        accelerator="cpu", max_steps=8, callbacks=[speech, clock, saver], enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=folder,
        logger=TensorBoardLogger(folder, name="log", version=""),
    )  # fmt: skip
    resumed = sorted((folder / "checkpoints").glob("*.ckpt"))
    try:
        trainer.fit(module, datamodule=Data(), ckpt_path=str(resumed[-1]) if resumed else None, weights_only=False)
    except Killed:
        assert kill_at
    return module, speech


def clips(folder: Path, name: str) -> list[np.ndarray]:
    return [soundfile.read(folder / f"speech/{name}/{key}.wav")[0] for key in sorted(CHOSEN)]


def test_columns_are_spoken_at_their_hours_and_at_the_end(tmp_path, shards, monkeypatch):
    """Guards against hours that count the speaking itself, an hour that is spoken twice or never, clips of other
    weights, and references of other sentences."""
    module, speech = fit(monkeypatch, tmp_path / "run", shards)
    assert speech.columns == [SpokenAt("0.5_h", 0.5, 2), SpokenAt("1_h", 1.0, 4), SpokenAt("end", 2.0, 8)]
    for key, teacher, codec in zip(
        sorted(CHOSEN), clips(tmp_path / "run", "teacher"), clips(tmp_path / "run", "codec"), strict=True
    ):
        level = (list(TEXTS).index(key) + 1) / 10
        assert teacher == pytest.approx(np.full(320, level), abs=1e-4)
        assert codec == pytest.approx(np.full(320, int(level * 16) / 16), abs=1e-3)  # the codes of ToyCodec
    prompts = [Prompt(key, TEXTS[key]) for key in sorted(CHOSEN)]
    scorer = Scorer(Codec())
    with torch.no_grad():
        sampler = module.eval().sampler(SAMPLING)
        traces = run_searches(prompts, BestOfN(1, 12), sampler, scorer, [], 0)
    samples = [trace.candidates[0] for trace in traces]
    scorer.decode(samples)
    for said, sample in zip(clips(tmp_path / "run", "end"), samples, strict=True):
        assert said == pytest.approx(sample.audio.samples_T.clamp(-1, 1).numpy(), abs=1e-3)
    events = EventAccumulator(str(tmp_path / "run/log")).Reload()
    logged = {tag: [one.step for one in events.Images(tag)] for tag in events.Tags()["images"]}
    audible: dict[str, list[int]] = {}
    for column in speech.columns:
        for key, said in zip(sorted(CHOSEN), clips(tmp_path / "run", column.name), strict=True):
            if len(said):
                audible.setdefault(f"val/training_speech/{TEXTS[key]}", []).append(column.step)
    assert logged == audible and audible
    references = {f"val/training_speech/{TEXTS[key]}/{name}" for key in CHOSEN for name in ("teacher", "codec")}
    assert set(events.Tags()["audio"]) == {*references, *audible}


def test_a_resumed_run_keeps_columns_and_hours(tmp_path, shards, monkeypatch):
    """Guards against hours that start over, that count what was trained twice, and a page that forgets columns."""
    fit(monkeypatch, tmp_path / "killed", shards, kill_at=5)
    first = tmp_path / "killed/speech/0.5_h" / f"{CHOSEN[0]}.wav"
    written = first.stat().st_mtime_ns
    _, resumed = fit(monkeypatch, tmp_path / "killed", shards)
    _, straight = fit(monkeypatch, tmp_path / "straight", shards)
    assert resumed.state_dict() == straight.state_dict() and resumed.seconds == 8 * STEP_SECONDS
    assert first.stat().st_mtime_ns == written
    pages = [(tmp_path / name / "report/training_speech.html").read_text() for name in ("killed", "straight")]
    headings = [re.findall("<th>(.*?)<small>(.*?)</small>", page) for page in pages]
    assert headings[0] == headings[1] and headings[0][2:] == [
        ("0.5 h", "step 2"), ("1 h", "step 4"), ("end", "step 8, 2.00 h"),
    ]  # fmt: skip


def test_a_run_that_was_killed_at_its_end_speaks_then(tmp_path, shards, monkeypatch):
    """Guards against a last column that is missing since all steps are done."""
    _, whole = fit(monkeypatch, tmp_path / "run", shards)
    said = clips(tmp_path / "run", "end")
    shutil.rmtree(tmp_path / "run/speech/end")
    _, resumed = fit(monkeypatch, tmp_path / "run", shards)
    assert resumed.state_dict() == whole.state_dict() and resumed.page.read_text() == whole.page.read_text()
    for before, after in zip(said, clips(tmp_path / "run", "end"), strict=True):
        assert np.array_equal(before, after)


def test_training_goes_on_without_speech(tmp_path, shards, monkeypatch, caplog):
    """Guards against a failure of the codec that ends hours of training, a column without clips, and speech that
    changes the training."""
    broken, speech = fit(monkeypatch, tmp_path / "broken", shards, fails=True)
    assert speech.columns == [] and caplog.text.count("TrainingSpeech could not speak at step") == 3
    assert "broken decoder" in caplog.text
    whole, _ = fit(monkeypatch, tmp_path / "whole", shards)
    for name, weight in broken.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name])


def test_wrong_settings_are_refused_before_the_first_step(tmp_path, shards, monkeypatch):
    """Guards against noise of another codec that is taken for a bad model, found after half an hour."""
    with pytest.raises(ValueError, match="`codec` to have the language model's codebook_size=24, but got 16"):
        fit(monkeypatch, tmp_path / "run", shards, codec=ToyCodec())
    with pytest.raises(FileNotFoundError, match="other"):
        fit(monkeypatch, tmp_path / "run", shards, split="other")
    with pytest.raises(ValueError, match="`hours` that ascend from above 0"):
        TrainingSpeech(Codec(), shards, hours=(1.0, 0.5))
    with pytest.raises(ValueError, match="`num_sentences` to be at least 1"):
        TrainingSpeech(Codec(), shards, num_sentences=0)
