"""Codec training that is killed with SIGKILL and restarted by the same command, against uninterrupted training. Run as
a script with a folder, this file makes the runs."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toys.killed_runs import (
    assert_continued,
    assert_no_damage,
    experiment,
    import_before_forks,
    journal,
    run_script,
)

NUM_STEPS, STEPS_PER_CHECKPOINT, DISCRIMINATOR_START = 24, 3, 11
LEARNED = "{class_path: modules.codec.parts.quantizers.SimVQ, init_args: {channels: 16, codebook_size: 32}}"
SCALAR = "{class_path: modules.codec.parts.quantizers.FiniteScalarQuantizer, init_args: {channels: 16, levels: [4, 4]}}"
EMA = "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}"
GUARD = "{class_path: callbacks.step_guard.StepGuard}"
# Config values of a setting, and the kills: the first "random" one comes before the discriminators start.
SETTINGS = {
    "learned_workers0": {"WORKERS": 0, "QUANTIZER": LEARNED, "CALLBACK": EMA},
    "scalar_workers2": {"WORKERS": 2, "QUANTIZER": SCALAR, "CALLBACK": GUARD},
}
KILLS = {"learned_workers0": ("random", "write", "random"), "scalar_workers2": ("random", "replace")}
# The decoder samples noise (dropout 0.1); rows cross the end of an epoch, steps the end of the Trainer's passes.
CONFIG = f"""
seed_everything: 3
num_threads: 1
stage: {{folder: FOLDER/run, outputs: ['${{stage.folder}}/checkpoints/last.ckpt']}}
ckpt_path: last
model:
  class_path: modules.codec_module.CodecModule
  init_args:
    generator:
      class_path: modules.codec.generator.CodecGenerator
      init_args:
        encoder:
          class_path: modules.codec.parts.spectral_encoder.SpectralEncoder
          init_args:
            {{sample_rate: 16000, hop_length: 320, num_mels: 20, channels: 16, num_layers: 1, hidden_channels: 16}}
        quantizer: QUANTIZER
        decoder:
          class_path: modules.codec.parts.transformer_decoder.TransformerDecoder
          init_args: {{channels: 16, num_layers: 1, num_heads: 2, hidden_channels: 16, num_groups: 4}}
    discriminator:
      class_path: modules.codec.training.discriminators.DiscriminatorEnsemble
      init_args:
        discriminators:
          - class_path: modules.codec.training.discriminators.MultiPeriodDiscriminator
            init_args: {{periods: [2], channels: [4, 4]}}
          - class_path: modules.codec.training.discriminators.MultiResolutionDiscriminator
            init_args: {{fft_sizes: [78], channels: [4, 4]}}
    reconstruction_loss:
      class_path: modules.codec.training.losses.MultiResolutionMelLoss
      init_args: {{sample_rate: 16000, window_lengths: [256], num_mels: [10]}}
    optimizer: &adam {{class_path: torch.optim.AdamW, init_args: {{lr: 0.003, betas: [0.8, 0.9]}}}}
    discriminator_optimizer: *adam
    scheduler: {{class_path: modules.schedule.WarmupCosine, init_args: {{num_warmup_steps: 4, num_steps: {NUM_STEPS}}}}}
    discriminator_scheduler:
      class_path: modules.schedule.WarmupLinear
      init_args: {{num_warmup_steps: 6, num_steps: {NUM_STEPS}}}
    discriminator_start_step: {DISCRIMINATOR_START}
    discriminator_samples: 1000
data:
  class_path: datamodules.audio.AudioDataModule
  init_args:
    folder: SHARDS
    audio_format: wav
    segment_seconds: 0.15
    batch_size: 3
    num_batches: 10
    num_workers: WORKERS
trainer:
  accelerator: cpu
  devices: 1
  max_steps: {NUM_STEPS}
  log_every_n_steps: 1
  limit_val_batches: 0
  logger: false
  default_root_dir: FOLDER/run  # else config.yaml lands where the command runs
  enable_progress_bar: false
  enable_model_summary: false
  use_distributed_sampler: false
  callbacks:
    - CALLBACK
    - {{class_path: tests.toys.killed_runs.Journal, init_args: {{path: FOLDER/journal}}}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        {{dirpath: '${{stage.folder}}/checkpoints', every_n_train_steps: {STEPS_PER_CHECKPOINT}, save_last: true,
         save_top_k: 1, monitor: null}}
"""


def run_setting(folder: Path, name: str) -> None:
    config = CONFIG.replace("SHARDS", str(folder / "shards"))
    for key, value in SETTINGS[name].items():
        config = config.replace(key, str(value))
    experiment(folder / name, config, KILLS[name], STEPS_PER_CHECKPOINT)


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Contents of a checkpoint by path; tensors as bits."""
    if isinstance(value, dict):
        pairs = [(f"{name}/{key}", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(f"{name}/{number}", item) for number, item in enumerate(value)]
    elif isinstance(value, torch.Tensor):
        return {name: (value.dtype, value.shape, value.contiguous().numpy().tobytes())}
    else:
        return {name: value}
    return {key: leaf for one in pairs for key, leaf in leaves(one[1], one[0]).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("survival")
    run_script(__file__, folder)
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_continues_bit_for_bit(folder, name):
    """Guards against noise, crops, windows, batches, weights, moments, rates or averages of another step."""
    assert_continued(folder / name, KILLS[name], NUM_STEPS, STEPS_PER_CHECKPOINT)
    last_lines = {line[0]: " ".join(line) for line in journal(folder / name / "killed")}
    trained = ["train/discriminator_gradient_norm" in last_lines[str(attempt)] for attempt in range(len(KILLS[name]))]
    assert not trained[0] and ("workers2" in name or trained[-1]), "a kill before discriminators start, one after"


@pytest.mark.parametrize("name", SETTINGS)
def test_the_last_checkpoint_is_that_of_the_uninterrupted_run(folder, name):
    """Guards against differences that only the next run would show: an average, a moment, a position."""
    last = {}
    for kind in ("whole", "killed"):
        content = torch.load(folder / name / kind / "run/checkpoints/last.ckpt", weights_only=True)
        assert any(key.startswith("EMAWeightAveraging") for key in content["callbacks"]) == ("learned" in name)
        text = f"{folder / name / kind}"  # the folders' names
        last[kind] = {
            key.replace(text, ""): leaf.replace(text, "") if isinstance(leaf, str) else leaf
            for key, leaf in leaves(content).items()
        }
    assert sum("/optimizer_states/" in key for key in last["whole"]) > 100
    differing = {key for key, leaf in last["whole"].items() if last["killed"].get(key, "missing") != leaf}
    assert not differing | (last["killed"].keys() - last["whole"].keys())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_kill_leaves_no_damaged_checkpoint_under_a_name_that_is_read(folder, name):
    """Guards against a truncated checkpoint that resuming, tokenising or evaluation would take for complete."""
    assert_no_damage(folder / name, KILLS[name])


if __name__ == "__main__":
    import_before_forks("modules.codec_module", "modules.codec.parts.transformer_decoder", "vector_quantize_pytorch")
    from datamodules.shards.preparation import prepare_audio_shards
    from tests.toys.tiny_corpus import TinyCorpus

    prepare_audio_shards([TinyCorpus(num_prompts=2)], Path(sys.argv[1]) / "shards", 16000, "wav")
    for setting in sys.argv[2:] or SETTINGS:
        run_setting(Path(sys.argv[1]), setting)
