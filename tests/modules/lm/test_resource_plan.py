"""Memory and time estimates against published sizes, torch's own counters, and the tensors that autograd saves."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from modules.batches import TokenBatch
from modules.lm.adapters import LowRankAdapters, add_adapters
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama
from modules.lm.resource_plan import (
    FINE_TUNING_ROWS,
    LLASA_ADAPTERS,
    LLASA_SPACE,
    PEAKS,
    Hardware,
    block_activation_bytes,
    described,
    fine_tuned,
    memory_plan,
    num_parameters,
    read_hardware,
    read_size,
    training_flops,
)
from modules.lm_module import LMModule
from modules.schedule import WarmupCosine
from tests.test_configs import DryCLI

REPOSITORY = Path(__file__).resolve().parents[3]
SIZES, HARDWARE = (sorted((REPOSITORY / "configs/lm" / name).glob("*.yaml")) for name in ("size", "hardware"))
RECIPES = [REPOSITORY / f"configs/lm/llasa_{name}.yaml" for name in ("1b", "3b", "8b")]
# Llama 3.2 1B, 3B and Llama 3.1 8B as published, and 65,544 more rows: once if tied, twice if not.
PUBLISHED = {
    "llama_1b": 1_235_814_400 + 65_544 * 2048,
    "llama_3b": 3_212_749_824 + 65_544 * 3072,
    "llama_8b": 8_030_261_248 + 2 * 65_544 * 4096,
}
SMALL = LlamaSize(hidden_size=64, intermediate_size=176, num_layers=3, num_heads=4, num_key_value_heads=2)


def batch_of(num_rows: int, row_length: int, vocab_size: int) -> TokenBatch:
    tokens = torch.randint(vocab_size, (num_rows, row_length))
    return TokenBatch(tokens, tokens, torch.arange(row_length).repeat(num_rows, 1), torch.zeros_like(tokens))


@pytest.mark.parametrize("hardware", HARDWARE, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", SIZES, ids=lambda path: path.stem)
def test_every_combination_builds_on_the_meta_device(size, hardware, tmp_path, monkeypatch):
    """Guards against overlays that do not fit each other, and against numbers that are not the published model's."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)
    # A trainer for GPUs cannot be built without them: its devices are removed, other settings are kept.
    local = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}
    (tmp_path / "here.yaml").write_text(
        yaml.safe_dump({"trainer": local, "model": {"init_args": {"pretrained": None}}})
    )
    overlays = [size, hardware, REPOSITORY / "configs/lm/data/hours_80k.yaml", tmp_path / "here.yaml"]
    arguments = [word for path in (RECIPES[0], *overlays) for word in ("--config", str(path))]
    cli = DryCLI(["fit", *arguments, "--data.init_args.prompt_format.init_args.tokenizer.init_args.source", "none"])
    assert isinstance(cli.model, LMModule) and cli.model.size == read_size(size)
    about = read_hardware(hardware)
    assert cli.trainer.accumulate_grad_batches == about.num_accumulated and cli.trainer.max_steps == 22659
    assert cli.trainer.val_check_interval == 2000 * about.num_accumulated, "2,000 updates, counted in micro-batches"
    assert cli.datamodule.batch_size == about.rows_per_rank
    if about.is_half:
        assert abs(about.tokens_per_step / 2**21 - 1) < 0.07, "2M tokens a step"
    with torch.device("meta"):
        network = build_llama(cli.model.size, LLASA_SPACE.vocab_size)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == PUBLISHED.get(size.stem, count) == num_parameters(cli.model.size, LLASA_SPACE.vocab_size)
    if size.stem in PUBLISHED:
        assert f"{count:,} parameters" in size.read_text(), "the comment at the top says another number"


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_that_torch_counts(tied):
    """Guards against an overestimated utilisation."""
    size = LlamaSize(**{**vars(SMALL), "tie_embeddings": tied})
    model = SpeechLanguageModel(build_llama(size, 500))
    with FlopCounterMode(display=False) as counter:
        model(batch_of(2, 40, 500)).total.backward()
    # torch counts full squares of attention, not causal pairs: a document of twice the length has as many pairs.
    planned = training_flops(size, 500, document_tokens=2 * 40 - 1) * 2 * 40
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.15)


ALL_ADAPTED = LowRankAdapters(rank=8, dropout=0.1)


@pytest.mark.parametrize("adapters", [None, LLASA_ADAPTERS, ALL_ADAPTED], ids=["whole", "two", "all"])
def test_activations_are_those_that_autograd_keeps(adapters):
    """Guards against an estimate below the actual training's: bytes saved by one more block."""
    kept = []
    for num_layers in (2, 4):
        size = LlamaSize(**{**vars(SMALL), "num_layers": num_layers})
        network = build_llama(size, 50)
        if adapters is not None:
            add_adapters(network, adapters)
        model, found = SpeechLanguageModel(network), {}
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

        def keep(tensor, found=found, weights=weights):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(batch_of(2, 64, 50))
        kept.append(sum(size for size, _ in found.values()))
    measured = (kept[1] - kept[0]) / 2 / (2 * 64)
    assert block_activation_bytes(SMALL, is_half=False, adapters=adapters) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("adapters", [LLASA_ADAPTERS, ALL_ADAPTED, replace(ALL_ADAPTED, train_embeddings=True)])
@pytest.mark.parametrize("tied", [True, False])
def test_adapters_are_what_peft_adds_and_trains(adapters, tied):
    """Guards against gradients and moments of frozen weights, and against forgotten ones of embeddings."""
    size = LlamaSize(**{**vars(SMALL), "tie_embeddings": tied})
    network = build_llama(size, 500)
    add_adapters(network, adapters)
    weights = list(network.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    plan = memory_plan(size, 500, Hardware("cpu", 1, 1, 1, is_sharded=False, is_half=False), True, adapters)
    assert plan.weights == 4 * sum(weight.numel() for weight in weights)
    assert (plan.gradients, plan.moments) == (4 * trained, 8 * trained)


def test_recomputed_activations_have_the_adapters_gradients():
    """Guards against adapters that get no gradient, since a frozen embedding's output needs none."""
    found = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        network = build_llama(SMALL, 50)
        add_adapters(network, replace(LLASA_ADAPTERS, dropout=0.0))
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        for weight in trained.values():
            torch.nn.init.normal_(weight)
        if recomputes:
            network.gradient_checkpointing_enable()
        SpeechLanguageModel(network.train())(batch_of(2, 24, 50)).total.backward()
        found.append({name: weight.grad for name, weight in trained.items()})
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


def test_sharding_and_recomputation_take_what_they_should():
    """Guards against sharding what every rank holds, or omitting the moments."""
    size = read_size(REPOSITORY / "configs/lm/size/llama_8b.yaml")
    one, eight = (read_hardware(REPOSITORY / f"configs/lm/hardware/{name}.yaml") for name in ("gpu1", "gpu8"))
    whole, sharded = (memory_plan(size, LLASA_SPACE.vocab_size, place, False) for place in (one, eight))
    assert whole.weights + whole.gradients + whole.moments == 16 * PUBLISHED["llama_8b"]
    assert sharded.moments == whole.moments / 8 and sharded.activations == whole.activations
    again = memory_plan(size, LLASA_SPACE.vocab_size, eight, True)
    assert again.activations < sharded.activations / 10 and again.total < 80e9


def test_the_page_is_what_the_command_prints():
    """Guards against numbers in the docs that no command prints."""
    page = (REPOSITORY / "docs/lm_plan.md").read_text()
    assert described(SIZES, HARDWARE, 0.45, 989e12, 50e9).strip() in page
    released = [path for path in SIZES if path.stem in PUBLISHED]
    table = fine_tuned(released, LLASA_ADAPTERS, 0.45, PEAKS)
    assert table in (REPOSITORY / "docs/llasa.md").read_text()
    config = yaml.safe_load((REPOSITORY / "configs/llasa/finetune.yaml").read_text())
    assert LowRankAdapters(**config["model"]["init_args"]["adapters"]) == LLASA_ADAPTERS
    assert config["data"]["init_args"]["batch_size"] == FINE_TUNING_ROWS


def test_warm_up_as_a_fraction_is_that_many_steps():
    """Guards against a recipe whose warm-up does not follow the number of steps."""
    rates = []
    for num_warmup_steps in (0.03, 30):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        schedule = WarmupCosine(optimizer, num_warmup_steps, 1000, final_fraction=0.1)
        rates.append([])
        for _ in range(1000):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    assert rates[0] == rates[1]
    assert max(rates[0]) == rates[0][29] == 1.0 and rates[0][-1] == pytest.approx(0.1, abs=1e-4)
