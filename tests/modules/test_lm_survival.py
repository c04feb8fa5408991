"""Language-model training that is killed with SIGKILL and restarted by the same command, against uninterrupted
training. Run as a script with a folder, this file makes the runs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.toys.killed_runs import assert_continued, assert_no_damage, experiment, import_before_forks, run_script

NUM_STEPS, STEPS_PER_CHECKPOINT = 40, 3
# Ranks, workers, micro-batches per step, and the kills: "window" twice is two consecutive kills inside a step.
SETTINGS = {
    "ranks1_workers0": (1, 0, 4, ("random", "window", "window", "interrupt", "write")),
    "ranks2_workers2": (2, 2, 2, ("random", "window", "write", "removal", "replace")),
}
CONFIG = f"""
seed_everything: 3
num_threads: 1
stage: {{folder: FOLDER/run, outputs: ['${{stage.folder}}/checkpoints/last.ckpt']}}
ckpt_path: last
model:
  class_path: modules.lm_module.LMModule
  init_args:
    size: {{hidden_size: 16, intermediate_size: 24, num_layers: 1, num_heads: 2, num_key_value_heads: 1}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
    scheduler: {{class_path: modules.schedule.WarmupCosine, init_args: {{num_warmup_steps: 4, num_steps: {NUM_STEPS}}}}}
data:
  class_path: datamodules.tokens.TokenDataModule
  init_args:
    folder: SHARDS
    prompt_format:
      class_path: modules.lm.text.prompt_format.TextToSpeech
      init_args: {{tokenizer: {{class_path: modules.lm.text.byte_tokenizer.ByteTokenizer}}, codebook_size: 32}}
    row_length: 64
    batch_size: BATCH
    num_batches: PASS_LENGTH
    num_workers: WORKERS
trainer:
  accelerator: cpu
  devices: RANKS
  strategy: STRATEGY
  max_steps: {NUM_STEPS}
  gradient_clip_val: 1.0
  accumulate_grad_batches: ACCUMULATE
  limit_val_batches: 0
  logger: false
  default_root_dir: FOLDER/run  # else config.yaml lands where the command runs
  enable_progress_bar: false
  enable_model_summary: false
  use_distributed_sampler: false
  callbacks:
    - {{class_path: callbacks.step_guard.StepGuard}}
    - {{class_path: tests.toys.killed_runs.Journal, init_args: {{path: FOLDER/journal}}}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        {{dirpath: '${{stage.folder}}/checkpoints', every_n_train_steps: {STEPS_PER_CHECKPOINT}, save_last: true,
         save_top_k: 1, monitor: null}}
"""


def write_shards(folder: Path) -> None:
    from datamodules.shards.shards import ShardWriter

    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        with ShardWriter(folder / split, "tokens", {"codebook_size": 32, "codec_fingerprint": "a"}, 9) as writer:
            for number in range(40):
                codes = generator.integers(0, 32, generator.integers(5, 40)).astype(np.uint16)
                files = {"codes.npy": codes, "json": json.dumps({"text": f"t{number}"}).encode()}
                writer.write(f"k{number}", files, len(codes), f"t{number}")


def run_setting(folder: Path, name: str) -> None:
    num_ranks, num_workers, num_accumulated, kills = SETTINGS[name]
    values = {"SHARDS": folder / "shards", "WORKERS": num_workers, "RANKS": num_ranks, "BATCH": 2 // num_ranks}
    values |= {"PASS_LENGTH": NUM_STEPS * num_accumulated, "ACCUMULATE": num_accumulated}
    values["STRATEGY"] = "ddp" if num_ranks > 1 else "auto"
    config = CONFIG
    for key, value in values.items():
        config = config.replace(key, str(value))
    experiment(folder / name, config, kills, STEPS_PER_CHECKPOINT, num_ranks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("survival")
    run_script(__file__, folder)
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_continues_bit_for_bit(folder, name):
    """Guards against a batch skipped or repeated, weights or moments of another step, a start from the first step."""
    num_ranks, _, _, kills = SETTINGS[name]
    assert_continued(folder / name, kills, NUM_STEPS, STEPS_PER_CHECKPOINT, num_ranks)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_kill_leaves_no_damaged_checkpoint_under_a_name_that_is_read(folder, name):
    """Guards against a truncated checkpoint that resuming, export or a sweep would take for complete."""
    assert_no_damage(folder / name, SETTINGS[name][-1])


if __name__ == "__main__":
    import_before_forks("transformers.models.llama.modeling_llama", "datamodules.tokens", "modules.lm_module")
    write_shards(Path(sys.argv[1]) / "shards")
    for setting in sys.argv[2:] or SETTINGS:
        run_setting(Path(sys.argv[1]), setting)
