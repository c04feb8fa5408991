"""configs/codec/{evaluate,streaming}.yaml as commands with small settings, on a checkpoint of another network than
theirs."""

import json
from pathlib import Path

import pytest
import torch
import transformers

import run
from tests.conftest import REPOSITORY

TINY = """
data:
  init_args:
    sources: [{class_path: tests.toys.tiny_corpus.TinyCorpus}]
    batch_size: 2
    num_validation_samples: 1
trainer: {accelerator: cpu, max_steps: 1, val_check_interval: 1}
model:
  init_args:
    scheduler: {init_args: {num_warmup_steps: 0}}
    generator:
      init_args:
        encoder: {init_args: {channels: 16, num_layers: 1, hidden_channels: 16}}
        quantizer: {init_args: {channels: 16, levels: [5, 5]}}
        decoder: {init_args: {channels: 16, num_layers: 1, hidden_channels: 16}}
"""
SOURCES = """
data: {init_args: {sources: [{class_path: tests.toys.tiny_corpus.TinyCorpus}]}}
trainer: {accelerator: cpu}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with one step's checkpoint of a tiny codec, and a random DAC."""
    place = tmp_path_factory.mktemp("codec")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    patch.syspath_prepend(str(REPOSITORY))
    Path("tiny.yaml").write_text(TINY)
    Path("sources.yaml").write_text(SOURCES)
    Path("configs").symlink_to(REPOSITORY / "configs")
    run.main(["fit", "--config", "configs/demo/codec.yaml", "--config", "tiny.yaml"])
    torch.manual_seed(0)
    config = transformers.DacConfig(
        encoder_hidden_size=4, decoder_hidden_size=64, downsampling_ratios=[2, 4, 5, 8], n_codebooks=3, codebook_size=32
    )
    transformers.DacModel(config).save_pretrained(place / "random_dac")
    yield place
    patch.undo()


def command(name: str, *options: str) -> dict:
    configs = ["--config", f"configs/codec/{name}.yaml", "--config", "sources.yaml"]
    checkpoint = ["--ckpt_path", "runs/demo/codec/checkpoints/last.ckpt"]
    run.main(["test", *configs, *checkpoint, "--codec_evaluation.recogniser.window_seconds=4", *options])
    folder = {"evaluate": "codec_evaluation", "streaming": "codec_streaming"}[name]
    assert Path(f"runs/{folder}/report/index.html").is_file()
    return json.loads(Path(f"runs/{folder}/codec_evaluation.json").read_text())


def test_the_codec_of_the_checkpoint_is_compared_with_a_transformers_codec(folder: Path) -> None:
    """Guards against using the yaml's network instead of the checkpoint's, and a README option without effect."""
    card = command(
        "evaluate",
        "--codec_evaluation.verifiers=[]",
        "--codec_evaluation.comparisons+=modules.evaluation.transformers_codec.TransformersCodec",
        "--codec_evaluation.comparisons.model=random_dac",
        "--codec_evaluation.comparisons.num_codebooks=2",
    )
    assert card["codec"]["codebook_size"] == 25
    assert card["facts"]["random_dac x2"] == {
        "codebook_size": 32, "num_codebooks": 2, "frame_rate": 50.0, "latency_seconds": None
    }  # fmt: skip
    dac = card["systems"]["random_dac x2"]
    seconds = card["seconds"]
    assert dac["bit_rate"]["value"] == pytest.approx(-(-seconds * 50 // 1) * 2 * 5 / seconds)
    assert {"encode_rtf", "decode_rtf", "code_usage"} <= set(dac)
    assert card["comparisons"]["random_dac x2"]["settings"] == {"model": "random_dac", "num_codebooks": 2}
    assert len(card["comparisons"]["random_dac x2"]["model_hash"]) == 64
    assert "X-codec2" in Path("runs/codec_evaluation/codec_table.md").read_text()


def test_streams_are_compared_with_the_offline_codec(folder: Path) -> None:
    """Guards against streams of another codec: with 25 frames of look-ahead this decoder has its whole receptive
    field."""
    card = command("streaming")
    systems, facts = card["systems"], card["facts"]
    names = [name for name in systems if name.startswith("stream ")]
    assert len(names) >= 8 and "stream 25/50/5" in names
    for name in ("stoi", "pesq_wb"):
        assert systems["stream 25/50/25"][name]["value"] == pytest.approx(systems["codec"][name]["value"], abs=1e-3)
        assert systems["stream 25/0/0"][name]["value"] != pytest.approx(systems["codec"][name]["value"], abs=1e-6)
    assert {systems[name]["bit_rate"]["value"] for name in names} == {systems["codec"]["bit_rate"]["value"]}
    assert [facts[f"stream {name}"]["latency_seconds"] for name in ("25/50/5", "5/50/5")] == [0.6, 0.2]
    assert facts["codec"]["latency_seconds"] is None
