"""Resynthesis of a folder of recordings: the README's command with a tiny codec, compared with the codec item by
item."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import run
from modules.codec.formats.checkpoints import CodecCheckpoint
from tests.conftest import REPOSITORY, SAMPLE_RATE, speech_like

# The demo's codec with minimal widths, on the CPU.
TINY_MODEL = """
model:
  init_args:
    scheduler: {init_args: {num_warmup_steps: 0}}
    generator:
      init_args:
        encoder: {init_args: {channels: 8, num_layers: 1, hidden_channels: 8}}
        quantizer: {init_args: {channels: 8}}
        decoder: {init_args: {channels: 8, num_layers: 1, hidden_channels: 8}}
"""
TINY_TRAINER = """
trainer:
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
"""
FIT = """
stage: {folder: runs/demo/codec}
data:
  init_args:
    folder: fit_shards
    sources: [{class_path: datamodules.sources.folder.FolderSource, init_args: {folder: voices, require_text: false}}]
    batch_size: 2
    segment_seconds: 0.5
"""


def write_recordings(folder: Path, lengths: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Synthetic speech: name -> (number of samples, rate) as wav files; returns the samples."""
    folder.mkdir(parents=True)
    written = {}
    for number, (name, (num_samples, rate)) in enumerate(lengths.items()):
        words = ["one", "two", "three", "four", "five", "six", "seven"][number:][: 1 + num_samples // 6000]
        samples_T = speech_like(words, 120.0 + number, torch.Generator().manual_seed(number)).float()
        written[name] = torch.nn.functional.pad(samples_T, (0, num_samples))[:num_samples].numpy()
        soundfile.write(folder / f"{name}.wav", written[name], rate, subtype="FLOAT")
    return written


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a tiny codec's checkpoint in the demo's place, and two folders of recordings."""
    place = tmp_path_factory.mktemp("resynthesis")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("sys.argv", ["run.py"])
        write_recordings(place / "voices", {"first": (9600, SAMPLE_RATE), "second.take": (12345, SAMPLE_RATE)})
        write_recordings(place / "others", {"third": (24000, 48000)})
        (place / "tiny.yaml").write_text(TINY_MODEL + TINY_TRAINER)
        (place / "fit.yaml").write_text(FIT)
        config = str(REPOSITORY / "configs/demo/codec.yaml")
        small = ["--config", "tiny.yaml", "--config", "fit.yaml", "--trainer.max_steps", "1"]
        small += ["--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "0", "--trainer.logger", "false"]
        callbacks = '[{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": '
        callbacks += '"runs/demo/codec/checkpoints", "save_last": true, "every_n_train_steps": 1}}]'
        run.main(["fit", "--config", config, *small, "--trainer.callbacks", callbacks])
    assert (place / "runs/demo/codec/checkpoints/last.ckpt").is_file()
    return place


def resynthesise(folder: str) -> None:
    """The command of the config's first lines."""
    config = str(REPOSITORY / "configs/demo/resynthesise.yaml")
    chosen = ["--data.init_args.sources.init_args.folder", folder]
    run.main(["predict", "--config", config, "--config", "tiny.yaml", *chosen])


def test_a_folder_of_recordings_is_resynthesised_and_another_folder_is_not_taken_for_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Guards against reusing the shards of an earlier folder, padding in the files, and wrong bits.

    The reference decodes every recording alone, through CodecCheckpoint.
    """
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("sys.argv", ["run.py"])
    resynthesise("voices")
    output = workplace / "runs/demo/resynthesis"
    assert sorted(path.name for path in output.glob("*.wav")) == ["first.wav", "second_take.wav"]

    summary = json.loads((output / "resynthesis.json").read_text())
    codec = CodecCheckpoint(workplace / "runs/demo/codec/checkpoints/last.ckpt")
    assert summary["codec_fingerprint"] == codec.fingerprint
    for key, name in (("first", "first"), ("second_take", "second.take")):
        original_T, _ = soundfile.read(workplace / f"voices/{name}.wav", dtype="float32")
        soundfile.write(workplace / "sixteen_bits.wav", original_T, SAMPLE_RATE, subtype="PCM_16")  # as in the shards
        pulses_T = torch.from_numpy(soundfile.read(workplace / "sixteen_bits.wav", dtype="float32")[0])
        codes_BS, num_codes_B = codec.encode(pulses_T[None], torch.tensor([len(original_T)]))
        expected_T = codec.decode(codes_BS, num_codes_B)[0, : len(original_T)].clamp(-1, 1).numpy()
        heard_T, rate = soundfile.read(output / f"{key}.wav", dtype="float32")
        assert rate == SAMPLE_RATE
        assert heard_T.shape == original_T.shape
        assert np.abs(heard_T - expected_T).max() < 1e-4
        about = summary["recordings"][key]
        assert about["seconds"] == pytest.approx(len(original_T) / SAMPLE_RATE)
        assert about["bits"] == math.ceil(len(original_T) / 320) * 12
    assert summary["bits"] == sum(about["bits"] for about in summary["recordings"].values())

    capsys.readouterr()
    resynthesise("others")
    assert "the earlier run is kept" in capsys.readouterr().out
    assert [path.name for path in output.glob("*.wav")] == ["third.wav"]
    assert soundfile.info(output / "third.wav").frames == 8000  # 0.5 s, from 48 kHz
    assert list(json.loads((output / "resynthesis.json").read_text())["recordings"]) == ["third"]

    write_recordings(workplace / "others/more", {"fourth": (8000, SAMPLE_RATE)})
    resynthesise("others")
    assert len(list(output.glob("*.wav"))) == 2
    capsys.readouterr()
    resynthesise("others")
    assert "finished earlier" in capsys.readouterr().out


def test_a_missing_folder_is_named(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Guards against a traceback for a misspelt folder."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("sys.argv", ["run.py"])
    with pytest.raises(SystemExit) as stop:
        resynthesise("nowhere")
    assert stop.value.code == 2
    assert "nowhere" in capsys.readouterr().err
