"""Networks built for FSDP2 on two processes against whole ones. Run as a script, this file is one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaForCausalLM

from modules.batches import TokenBatch
from modules.lm.adapters import LowRankAdapters, add_adapters
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama
from modules.lm.sharding import build_sharded

NUMBERS = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 3, "num_heads": 4, "num_key_value_heads": 2}
VOCAB_SIZE = 301  # odd: the ranks' shards differ in size
CASES = ("tied", "untied", "adapters")


def build(case: str) -> LlamaForCausalLM:
    return build_llama(LlamaSize(**NUMBERS, tie_embeddings=case != "untied"), VOCAB_SIZE)


def prepare(case: str, network: LlamaForCausalLM) -> None:
    if case == "adapters":
        add_adapters(network, LowRankAdapters(rank=2))


def loss_of(model: SpeechLanguageModel) -> torch.Tensor:
    tokens = torch.randint(VOCAB_SIZE, (2, 16), generator=torch.Generator().manual_seed(1))
    return model(TokenBatch(tokens, tokens, torch.arange(16).repeat(2, 1), torch.zeros_like(tokens))).total


def process(folder: Path) -> None:
    """Run every case on this rank: its gathered weights, which of them are trained, its loss, the next random
    number."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    mesh = init_device_mesh("cpu", (2,))
    for case in CASES:
        torch.manual_seed(7)
        num_builds = []

        def counted(case: str = case, num_builds: list = num_builds) -> LlamaForCausalLM:
            num_builds.append(1)
            return build(case)

        model = build_sharded(counted, lambda network, case=case: prepare(case, network), mesh)
        after = torch.rand(3)
        weights = {name: weight.full_tensor() for name, weight in model.state_dict().items()}
        found = {
            "weights": weights,
            "trained": [name for name, weight in model.named_parameters() if weight.requires_grad],
            "num_local": sum(weight.to_local().numel() for weight in model.parameters()),
            "num_builds": len(num_builds),
            "after": after,
            "loss": loss_of(model).detach(),
        }
        torch.save(found, folder / f"{case}_{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    root = Path(__file__).parents[3]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, __file__, str(folder)], cwd=root, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_one_process(folder: Path, case: str) -> None:
    """Guards against weights that were not sent or initialised, untied weights, position embeddings left on the meta
    device, ranks that continue with different random numbers, and a rank that builds the whole network."""
    torch.manual_seed(7)
    network = build(case)
    prepare(case, network)
    after = torch.rand(3)
    model = SpeechLanguageModel(network)
    expected = model.state_dict()
    for rank in range(2):
        found = torch.load(folder / f"{case}_{rank}.pt", weights_only=True)
        assert found["weights"].keys() == expected.keys()
        for name, weight in expected.items():
            assert torch.equal(found["weights"][name], weight), name
        assert found["trained"] == [name for name, weight in model.named_parameters() if weight.requires_grad]
        assert found["num_builds"] == (rank == 0)
        assert torch.equal(found["after"], after)
        torch.testing.assert_close(found["loss"], loss_of(model).detach(), rtol=1e-5, atol=0)
        num_weights = sum(weight.numel() for weight in model.parameters())
        assert found["num_local"] == pytest.approx(num_weights / 2, rel=0.05), "the rank keeps more than its shards"


if __name__ == "__main__":
    process(Path(sys.argv[1]))
