"""FSDP2 and DDP on two processes against one process, without a GPU. Run as a script, this file trains on one rank."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForCausalLM

from datamodules.shards.shards import ShardWriter
from datamodules.tokens import TokenDataModule
from modules.batches import TokenBatch
from modules.lm.attention import find_segments
from modules.lm.checkpoints import main, read_model
from modules.lm.network import LlamaSize
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule

NUM_STEPS, ROWS_PER_RANK, ROW_LENGTH = 10, 2, 32
FORMAT = TextToSpeech(ByteTokenizer(), codebook_size=16)
SIZE_NUMBERS = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 4, "num_key_value_heads": 2}
SIZE = LlamaSize(**SIZE_NUMBERS)


class Rows(Dataset):
    """Two documents per row, whose numbers of targets differ from row to row. Batch s of rank r: its rows of step s."""

    def __init__(self, rank: int, num_ranks: int):
        num_rows = 2 * ROWS_PER_RANK // num_ranks
        self.first_row, self.num_rows = rank * num_rows, num_rows

    def __len__(self) -> int:
        return NUM_STEPS

    def __getitem__(self, step: int) -> TokenBatch:
        batch = TokenBatch(*(torch.full((self.num_rows, ROW_LENGTH), fill) for fill in (0, -100, 0, -1)))
        for row in range(self.num_rows):
            generator = torch.Generator().manual_seed(100 * step + self.first_row + row)
            start = 0
            for document, text in enumerate(("one", "two")):
                num_codes = int(torch.randint(2, 8, (), generator=generator))
                codes = torch.randint(16, (num_codes,), generator=generator).tolist()
                tokens, num_context = FORMAT.example_tokens(text, codes)
                end = start + len(tokens)
                batch.tokens_RL[row, start:end] = torch.tensor(tokens)
                batch.labels_RL[row, start + num_context - 1 : end - 1] = torch.tensor(tokens[num_context:])
                batch.positions_RL[row, start:end] = torch.arange(len(tokens))
                batch.documents_RL[row, start:end] = document
                start = end
        return batch


NUM_UNEVEN, NUM_ACCUMULATED = 5, 3  # a window of three micro-batches, and a last one of two


class UnevenRows(Rows):
    """Rows with none, one, a few or all targets, so that a rank has no target in two of five batches."""

    def __len__(self) -> int:
        return NUM_UNEVEN

    def __getitem__(self, step: int) -> TokenBatch:
        batch = super().__getitem__(step)
        for row in range(self.num_rows):
            num_kept = (0, 0, ROW_LENGTH, 3)[(step + self.first_row + row) % 4]
            targets = (batch.labels_RL[row] >= 0).nonzero().squeeze(1)
            batch.labels_RL[row, targets[num_kept:]] = -100
        return batch


class Updates(Callback):
    """State before each update as a callback reads it: whole gradients; and the metrics after it."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.metrics: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        gradients = {name: weight.grad for name, weight in module.named_parameters()}
        whole = {n: one.full_tensor() if hasattr(one, "full_tensor") else one for n, one in gradients.items()}
        self.gradients.append({name: one.clone() for name, one in whole.items()})

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if trainer.global_step > len(self.metrics):
            found = trainer.callback_metrics
            self.metrics.append((float(found["train/loss"]), float(found["train/num_targets"])))


def accumulate(num_ranks: int, strategy: object) -> Updates:
    """One pass over UnevenRows whose updates change nothing: every window has the gradient of the initial weights."""
    torch.manual_seed(0)
    updates = Updates()
    module = LMModule(FORMAT, SIZE, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    trainer = Trainer(
        accelerator="cpu", devices=num_ranks, strategy=strategy, max_epochs=1, use_distributed_sampler=False,
        accumulate_grad_batches=NUM_ACCUMULATED, gradient_clip_val=1e9, callbacks=[updates], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(UnevenRows(int(os.environ.get("LOCAL_RANK", "0")), num_ranks), batch_size=None))
    return updates


def whole_batches() -> list[tuple[dict[str, torch.Tensor], float, int]]:
    """For each window: the gradient of the mean over all targets in one backward pass, the mean, and their number."""
    torch.manual_seed(0)
    module = LMModule(FORMAT, SIZE)
    llama, rows, found = module.network.llama, UnevenRows(0, 1), []
    for start in range(0, NUM_UNEVEN, NUM_ACCUMULATED):
        batches = [rows[step] for step in range(start, min(start + NUM_ACCUMULATED, NUM_UNEVEN))]
        tokens, labels, positions, documents = (
            torch.cat([getattr(batch, name) for batch in batches])
            for name in ("tokens_RL", "labels_RL", "positions_RL", "documents_RL")
        )
        hidden_RLC = llama.model(
            input_ids=tokens, position_ids=positions, segments=find_segments(documents)
        ).last_hidden_state
        loss = F.cross_entropy(llama.lm_head(hidden_RLC).flatten(0, 1), labels.flatten())
        module.zero_grad()
        loss.backward()
        gradients = {name: weight.grad.clone() for name, weight in module.named_parameters()}
        found.append((gradients, float(loss.detach()), int((labels >= 0).sum())))
    return found


class Data(TokenDataModule):
    """Trains on Rows, and validates on the rows of shards: 5 rows, 3 batches."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        super().__init__(folder, FORMAT, ROW_LENGTH, batch_size=2, num_validation_rows=5)
        self.rows = rows

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, batch_size=None)


def write_shards(folder: Path) -> None:
    """Ten recordings, of which at most two fit in ROW_LENGTH tokens, with different numbers of codes."""
    for split in ("train", "test"):
        with ShardWriter(folder / split, "tokens", {"codebook_size": 16, "codec_fingerprint": "a"}, 20) as writer:
            for number in range(10):
                codes = np.random.default_rng(number).integers(0, 16, 5 + number).astype(np.uint16)
                files = {"codes.npy": codes, "json": json.dumps({"text": "five"}).encode()}
                writer.write(f"k{number}", files, len(codes), "five")


class Record(Callback):
    """Each step's mean loss and number of targets on this rank, and the gathered weights at the end."""

    def __init__(self, folder: Path, num_ranks: int):
        self.folder, self.num_ranks, self.losses = folder, num_ranks, []
        self.num_validated = []

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_index, dataloader_idx=0) -> None:
        self.num_validated.append(int((batch.labels_RL >= 0).sum()))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        metrics = trainer.callback_metrics
        self.losses.append((float(metrics["train/loss"]), float(metrics["train/num_targets"])))

    def on_train_end(self, trainer, module) -> None:
        sharded = {name: weight for name, weight in module.state_dict().items() if hasattr(weight, "full_tensor")}
        assert bool(sharded) == (self.num_ranks > 1)
        model_hash = module.model_hash
        weights = {n: w.full_tensor() if n in sharded else w for n, w in module.state_dict().items()}
        torch.save(weights, self.folder / f"weights_{self.num_ranks}_{trainer.global_rank}.pt")
        record = {"losses": self.losses, "hash": model_hash, "validated": self.num_validated}
        record["val_loss"] = float(trainer.callback_metrics["val/loss"])
        (self.folder / f"record_{self.num_ranks}_{trainer.global_rank}.json").write_text(json.dumps(record))


def train(folder: Path, num_ranks: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = LMModule(FORMAT, SIZE, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
    trainer = Trainer(
        accelerator="cpu",
        devices=num_ranks,
        strategy=ModelParallelStrategy(num_ranks, 1, save_distributed_checkpoint=False) if num_ranks > 1 else "auto",
        max_steps=NUM_STEPS,
        num_sanity_val_steps=0,
        gradient_clip_val=0.5,
        use_distributed_sampler=False,
        callbacks=[Record(folder, num_ranks)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, Data(folder / "shards", Rows(int(os.environ.get("LOCAL_RANK", "0")), num_ranks)))
    if num_ranks > 1:
        trainer.save_checkpoint(folder / "sharded.ckpt")
        sharding = ModelParallelStrategy(num_ranks, 1, save_distributed_checkpoint=False)
        for name, strategy in (("ddp", "ddp"), ("fsdp2", sharding)):
            updates = accumulate(num_ranks, strategy)
            torch.save((updates.gradients, updates.metrics), folder / f"updates_{name}_{trainer.global_rank}.pt")
        save_shards(folder, num_ranks)


def save_shards(folder: Path, num_ranks: int) -> None:
    """A step of a module built by the command line, its folder of shards, and its weights gathered."""
    strategy = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": num_ranks, "tensor_parallel_size": 1},
    }
    settings = {
        "accelerator": "cpu", "devices": num_ranks, "strategy": strategy, "max_steps": 1,
        "use_distributed_sampler": False, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False,
    }  # fmt: skip
    arguments = {
        "prompt_format.class_path": "modules.lm.text.prompt_format.TextToSpeech",
        "prompt_format.init_args.tokenizer.class_path": "modules.lm.text.byte_tokenizer.ByteTokenizer",
        "prompt_format.init_args.codebook_size": "16",
        "optimizer": "torch.optim.AdamW",
        **{f"size.{name}": str(value) for name, value in SIZE_NUMBERS.items()},
    }
    cli = LightningCLI(
        LMModule, run=False, save_config_callback=None, trainer_defaults=settings, auto_configure_optimizers=False,
        args=[f"--model.{name}={value}" for name, value in arguments.items()],
    )  # fmt: skip
    cli.trainer.fit(cli.model, DataLoader(Rows(int(os.environ["LOCAL_RANK"]), num_ranks), batch_size=None))
    cli.trainer.save_checkpoint(folder / "shards.ckpt")
    weights = {name: weight.full_tensor() for name, weight in cli.model.state_dict().items()}
    torch.save(weights, folder / f"gathered_{cli.trainer.global_rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fsdp2")
    write_shards(folder / "shards")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        __file__,
        str(folder),
    ]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stdout + process.stderr
    train(folder, num_ranks=1)
    return folder


def test_two_sharded_processes_train_as_one(folder):
    """Guards against gradients that are summed or averaged incorrectly over ranks, equal weights for ranks with more
    targets, clipping by a rank's own norm, ranks with the same rows, and a logged loss of one rank."""
    keys = ("1_0", "2_0", "2_1")
    records = {key: json.loads((folder / f"record_{key}.json").read_text()) for key in keys}
    weights = {key: torch.load(folder / f"weights_{key}.pt", weights_only=True) for key in records}
    counts = [[int((Rows(rank, 2)[step].labels_RL >= 0).sum()) for step in range(NUM_STEPS)] for rank in (0, 1)]
    assert counts[0] != counts[1]  # otherwise the weights by targets are not tested
    for step, ((whole, num_whole), first, second) in enumerate(
        zip(*(record["losses"] for record in records.values()), strict=True)
    ):
        assert first == second == [pytest.approx(whole, abs=1e-5), num_whole]
        assert num_whole == counts[0][step] + counts[1][step]
    for name, weight in weights["1_0"].items():
        torch.testing.assert_close(weights["2_0"][name], weight, rtol=0, atol=1e-5, msg=name)
        assert torch.equal(weights["2_0"][name], weights["2_1"][name])
    assert records["2_0"]["hash"] == records["2_1"]["hash"]


@pytest.mark.parametrize("name", ["one process", "ddp", "fsdp2"])
def test_accumulated_gradients_are_those_of_the_whole_batch(folder, name):
    """Guards against a mean of micro-batches' means, a short last window with less weight, equal weights for ranks with
    different targets, gradients that are divided after callbacks have read them, and a logged loss of a part."""
    if name == "one process":
        updates = accumulate(1, "auto")
        ranks = [(updates.gradients, updates.metrics)]
    else:
        ranks = [torch.load(folder / f"updates_{name}_{rank}.pt", weights_only=True) for rank in (0, 1)]
    expected = whole_batches()
    for gradients, metrics in ranks:
        assert len(gradients) == len(metrics) == len(expected) == 2
        for got, (loss, num_targets), (gradient, mean, num_whole) in zip(gradients, metrics, expected, strict=True):
            assert (loss, num_targets) == (pytest.approx(mean, rel=1e-6), num_whole)
            difference, norm = (
                torch.cat([one.flatten().double() for one in ones]).norm()
                for ones in ([got[name] - gradient[name] for name in gradient], gradient.values())
            )
            assert difference < 1e-6 * norm


def test_two_sharded_processes_validate_as_one(folder):
    """Guards against a rank with a batch less, for which the other waits for ever; rows that count twice or not at all;
    and a mean over ranks or batches instead of targets."""
    whole, first, second = (json.loads((folder / f"record_{key}.json").read_text()) for key in ("1_0", "2_0", "2_1"))
    assert len(whole["validated"]) == 3 and len(first["validated"]) == len(second["validated"]) == 2
    assert sum(first["validated"]) != sum(second["validated"])  # otherwise the weights by targets are not tested
    assert sum(first["validated"]) + sum(second["validated"]) == sum(whole["validated"])
    assert first["val_loss"] == second["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)


def test_checkpoint_of_sharded_training_loads_in_one_process(folder):
    """Guards against checkpoints that only the same number of processes can read."""
    checkpoint = torch.load(folder / "sharded.ckpt", map_location="cpu", weights_only=False)
    module = LMModule(FORMAT, SIZE)
    module.configure_model()
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    assert module.model_hash == json.loads((folder / "record_2_0.json").read_text())["hash"]


def test_shards_are_joined_by_the_printed_command_and_exported(folder, repository):
    """Guards against a command that fails on the strategy's output, and weights lost in consolidation."""
    shards, target = folder / "shards.ckpt", folder / "exported"
    with pytest.raises(ValueError, match="folder of shards") as refused:
        read_model(shards)
    command = re.search(r"python (-m lightning\S+) (\S+?):? ", f"{refused.value} ")
    assert Path(command[2]) == shards
    for page in ("language_model.md", "codec.md"):
        assert f"python {command[1]} DIR" in (repository / "docs" / page).read_text()
    joining = [sys.executable, *shlex.split(command[1]), command[2]]
    done = subprocess.run(joining, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    joined = Path(f"{shards}.consolidated")
    main(["export", str(joined), str(target)])
    exported, gathered = AutoModelForCausalLM.from_pretrained(target).state_dict(), torch.load(folder / "gathered_0.pt")
    assert len(gathered) == len(exported)
    for name, weight in gathered.items():
        assert torch.equal(exported[name.removeprefix("model.llama.")], weight), name
    content = torch.load(joined, weights_only=True)
    assert "optimizer_0" in content and "optimizer_states" not in content, "a Trainer could resume: docs say it cannot"


if __name__ == "__main__":
    train(Path(sys.argv[1]), num_ranks=2)
