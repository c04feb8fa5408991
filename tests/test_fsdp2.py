"""FSDP2 on two processes against one process, without a GPU. Run as a script, this file is one of the trainings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader, Dataset

from datamodules.shards import ShardWriter
from datamodules.tokens import TokenDataModule
from modules.batches import TokenBatch
from modules.lm.network import LlamaSize
from modules.lm.prompt_format import TextToSpeech
from modules.lm.tokenizer import ByteTokenizer
from modules.lm_module import LMModule

NUM_STEPS, ROWS_PER_RANK, ROW_LENGTH = 10, 2, 32
FORMAT = TextToSpeech(ByteTokenizer(), codebook_size=16)
SIZE = LlamaSize(hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_key_value_heads=2)


class Rows(Dataset):
    """Two documents a row, whose numbers of targets differ from row to row. Batch s of rank r: its rows of step s."""

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


class Data(TokenDataModule):
    """Trains on Rows, and validates on the rows of shards: 5 rows, 3 batches."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        super().__init__(folder, FORMAT, ROW_LENGTH, batch_size=2, num_validation_rows=5)
        self.rows = rows

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, batch_size=None)


def write_shards(folder: Path) -> None:
    """Ten recordings, of which ROW_LENGTH tokens hold two at most, with numbers of codes that differ."""
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
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stdout + process.stderr
    train(folder, num_ranks=1)
    return folder


def test_two_sharded_processes_train_as_one(folder):
    """Guards against gradients that are summed or averaged wrongly over ranks, ranks with more targets that weigh the
    same, clipping by a rank's own norm, and ranks that see the same rows."""
    keys = ("1_0", "2_0", "2_1")
    records = {key: json.loads((folder / f"record_{key}.json").read_text()) for key in keys}
    weights = {key: torch.load(folder / f"weights_{key}.pt", weights_only=True) for key in records}
    ranks_differ = False
    for step in range(NUM_STEPS):
        (whole, num_whole), (first, num_first), (second, num_second) = (
            record["losses"][step] for record in records.values()
        )
        assert num_whole == num_first + num_second
        assert (first * num_first + second * num_second) / num_whole == pytest.approx(whole, abs=1e-5)
        ranks_differ |= num_first != num_second
    assert ranks_differ  # else the weights by targets are not tested
    for name, weight in weights["1_0"].items():
        torch.testing.assert_close(weights["2_0"][name], weight, rtol=0, atol=1e-5, msg=name)
        assert torch.equal(weights["2_0"][name], weights["2_1"][name])
    assert records["2_0"]["hash"] == records["2_1"]["hash"]


def test_two_sharded_processes_validate_as_one(folder):
    """Guards against a rank with a batch less, for which the other waits for ever; rows that count twice or not at all;
    and a mean over ranks or batches in place of targets."""
    whole, first, second = (json.loads((folder / f"record_{key}.json").read_text()) for key in ("1_0", "2_0", "2_1"))
    assert len(whole["validated"]) == 3 and len(first["validated"]) == len(second["validated"]) == 2
    assert sum(first["validated"]) != sum(second["validated"])  # else the weights by targets are not tested
    assert sum(first["validated"]) + sum(second["validated"]) == sum(whole["validated"])
    assert first["val_loss"] == second["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)


def test_checkpoint_of_sharded_training_loads_in_one_process(folder):
    """Guards against checkpoints that only as many processes can read."""
    checkpoint = torch.load(folder / "sharded.ckpt", map_location="cpu", weights_only=False)
    module = LMModule(FORMAT, SIZE)
    module.configure_model()
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    assert module.model_hash == json.loads((folder / "record_2_0.json").read_text())["hash"]


if __name__ == "__main__":
    train(Path(sys.argv[1]), num_ranks=2)
