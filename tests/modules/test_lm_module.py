"""LMModule through the command line's parser, Lightning's Trainer and its checkpoints."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from modules.api import Prompt, SamplingSettings
from modules.batches import PromptBatch, TokenBatch
from modules.lm.network import LlamaSize
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule

CONFIG = """
trainer:
  accelerator: cpu
  devices: 1
  max_steps: {max_steps}
  logger: false
  gradient_clip_val: 1.0
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  default_root_dir: {folder}
model:
  class_path: modules.lm_module.LMModule
  init_args:
    prompt_format:
      class_path: modules.lm.text.prompt_format.TextToSpeech
      init_args:
        tokenizer:
          class_path: modules.lm.text.byte_tokenizer.ByteTokenizer
          init_args: {{characters: "abcdefghijklmnopqrstuvwxyz "}}
        codebook_size: {codebook_size}
    size: {{hidden_size: 32, intermediate_size: 48, num_layers: 2, num_heads: 4, num_key_value_heads: 2}}
    optimizer:
      class_path: torch.optim.AdamW
      init_args: {{lr: 0.01}}
    scheduler:
      class_path: torch.optim.lr_scheduler.LinearLR
      init_args: {{total_iters: 4}}
data:
  class_path: {data}
"""
EXAMPLES = [("one", [3, 4, 5, 3]), ("two", [9, 9, 1]), ("one two", [3, 4, 5, 9, 9, 1])]


def example_batch() -> TokenBatch:
    """Each example is one padded row."""
    prompt_format = TextToSpeech(ByteTokenizer(), 16)
    length = 24
    batch = TokenBatch(*(torch.full((len(EXAMPLES), length), fill) for fill in (0, -100, 0, -1)))
    for row, (text, codes) in enumerate(EXAMPLES):
        tokens, num_context = prompt_format.example_tokens(text, codes)
        batch.tokens_RL[row, : len(tokens)] = torch.tensor(tokens)
        batch.labels_RL[row, num_context - 1 : len(tokens) - 1] = torch.tensor(tokens[num_context:])
        batch.positions_RL[row, : len(tokens)] = torch.arange(len(tokens))
        batch.documents_RL[row, : len(tokens)] = 0
    return batch


class ExampleData(LightningDataModule):
    """The same batch at every step."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader([example_batch()] * 4, batch_size=None)

    val_dataloader = train_dataloader

    def test_dataloader(self) -> DataLoader:
        prompts = [Prompt(text, text) for text, _ in EXAMPLES]
        return DataLoader([PromptBatch(prompts, example_batch()), PromptBatch(prompts)], batch_size=None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


def command_line(folder: Path, codebook_size: int = 16, max_steps: int = 60) -> LightningCLI:
    config = folder / f"config_{codebook_size}.yaml"
    data = f"{ExampleData.__module__}.ExampleData"
    config.write_text(CONFIG.format(folder=folder, codebook_size=codebook_size, max_steps=max_steps, data=data))
    return LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        parser_kwargs={"parser_mode": "omegaconf+"},
        save_config_callback=None,
        run=False,
        args=["--config", str(config)],
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[LightningCLI, Path]:
    torch.set_num_threads(1)
    cli = command_line(tmp_path_factory.mktemp("lm"))
    cli.trainer.fit(cli.model, cli.datamodule)
    path = Path(cli.trainer.default_root_dir) / "model.ckpt"
    cli.trainer.save_checkpoint(path)
    return cli, path


def test_training_learns_the_examples_and_the_sampler_speaks_them(trained):
    """Guards against labels off by one, a loss that does not reach the weights, and a sampler with another prompt."""
    cli, _ = trained
    assert float(cli.trainer.callback_metrics["train/loss"]) < 0.1
    assert float(cli.trainer.callback_metrics["train/num_targets"]) == 4 + 3 + 6 + 3
    sampler = cli.model.sampler(SamplingSettings(top_k=1))
    children = sampler.extend(sampler.start([Prompt(text, text) for text, _ in EXAMPLES]), 1, 20, [0, 1, 2])
    assert [(child.codes_S.tolist(), child.stopped) for child in children] == [(codes, True) for _, codes in EXAMPLES]


def test_checkpoint_rebuilds_the_whole_module_from_weights_only(trained):
    """Guards against hyper-parameters that need pickled classes, and weights initialised after they were restored."""
    cli, path = trained
    loaded = LMModule.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    assert loaded.prompt_format.tokenizer.characters == "abcdefghijklmnopqrstuvwxyz "
    assert loaded.size == LlamaSize(32, 48, 2, 4, 2)
    assert loaded.model_hash == cli.model.model_hash
    batch = example_batch()
    assert torch.equal(loaded.network(batch).total, cli.model.network(batch).total)
    with torch.no_grad():
        loaded.network.llama.model.norm.weight[0] += 1e-6
    assert loaded.model_hash != cli.model.model_hash


def test_validation_and_test_give_the_loss_per_target(trained):
    """Guards against a mean over batches, and against a test that fails on prompts without codes."""
    cli, _ = trained
    with torch.no_grad():
        loss = cli.model.network(example_batch())
    expected = float(loss.total / loss.num_targets)
    for run, key in ((cli.trainer.validate, "val/loss"), (cli.trainer.test, "test/loss")):
        (metrics,) = run(cli.model, cli.datamodule, verbose=False)
        assert metrics[key] == pytest.approx(expected, rel=1e-4)


class TwoSets(ExampleData):
    """Two prompt sets: all examples, and the first alone."""

    prompt_set_names = ("all", "first one")

    def test_dataloader(self) -> list[DataLoader]:
        whole = example_batch()
        first = TokenBatch(
            *(one[:1] for one in (whole.tokens_RL, whole.labels_RL, whole.positions_RL, whole.documents_RL))
        )
        return [DataLoader([PromptBatch([Prompt("a", "one")], one)], batch_size=None) for one in (whole, first)]


def test_the_loss_of_several_prompt_sets_has_their_names(trained):
    """Guards against charts called dataloader_idx_0, and the loss of one set under the name of another."""
    cli, _ = trained
    data = TwoSets()
    expected = {}
    for name, loader in zip(data.prompt_set_names, data.test_dataloader(), strict=True):
        with torch.no_grad():
            loss = cli.model.network(next(iter(loader)).tokens)
        expected[f"test/loss/{name}"] = pytest.approx(float(loss.total / loss.num_targets), rel=1e-4)
    first, second = cli.trainer.test(cli.model, data, verbose=False)
    assert first | second == expected


def test_scheduler_steps_with_the_optimizer(tmp_path):
    """Guards against a schedule in epochs: warm-up over 4 steps must be done after 4 batches."""
    cli = command_line(tmp_path, max_steps=4)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_checkpoint_of_another_token_space_is_refused(trained, tmp_path):
    """Guards against a model with the codes of another codec's codebook."""
    _, path = trained
    other = TextToSpeech(ByteTokenizer(), codebook_size=32)
    with pytest.raises(ValueError, match=r"'codebook_size': 32\}, but got one with .*'codebook_size': 16\}"):
        LMModule.load_from_checkpoint(path, weights_only=True, prompt_format=other)
    module = LMModule(other, LlamaSize(32, 48, 2, 4, 2))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="Expected a checkpoint with the `token_space`"):
        trainer.test(module, ExampleData(), ckpt_path=path, weights_only=True)


def test_sizes_that_do_not_divide_are_refused():
    """Guards against head sizes that fail deep inside the network."""
    with pytest.raises(ValueError, match="Expected `num_heads` to divide `hidden_size`=32"):
        LlamaSize(hidden_size=32, num_heads=5)
    with pytest.raises(ValueError, match="Expected `num_key_value_heads` to divide `num_heads`=4"):
        LlamaSize(hidden_size=32, num_heads=4, num_key_value_heads=3)


def mixed_weights(fused: bool, clip: float | None) -> list[torch.Tensor]:
    """Weights after two updates in bf16-mixed. SGD shows the size of a gradient, which Adam would hide."""
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=0.1, fused=fused)
    size = LlamaSize(32, 48, 2, 4, 2)
    module = LMModule(TextToSpeech(ByteTokenizer(), 16), size=size, optimizer=optimizer, scheduler=None)
    trainer = Trainer(
        accelerator="cpu", precision="bf16-mixed", max_steps=2, gradient_clip_val=clip, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ExampleData())
    return [weight.detach() for weight in module.parameters()]


def test_gradients_of_a_fused_optimizer_are_clipped_in_bf16() -> None:
    """Guards against Lightning's refusal of fused optimizers where there is no scaler, and against no clipping."""
    clipped, plain, free = mixed_weights(True, 0.01), mixed_weights(False, 0.01), mixed_weights(True, None)
    for fused, unfused in zip(clipped, plain, strict=True):
        torch.testing.assert_close(fused, unfused)
    assert any(not torch.allclose(one, other, atol=1e-4) for one, other in zip(clipped, free, strict=True))
