"""A sweep over several language models: against separate sweeps, and SavedModel against LMModule."""

import csv
import re
from pathlib import Path

import pytest
import torch

from modules.api import Prompt, SamplingSettings
from modules.lm.checkpoints import export
from modules.lm.saved_model import SavedModel
from modules.lm_module import LMModule
from tests.callbacks.test_inference_scaling import timeless
from tests.callbacks.test_sweep_grid import TreeModule, run
from tests.modules.lm.test_checkpoints import trained
from tests.test_configs import REPOSITORY, DryCLI
from tests.toys.report_toys import Page
from tests.toys.search_toys import CODEBOOK_SIZE, ToyFormat, TreeSampler
from tests.toys.tiny_llama import tiny_llama


class OtherSampler(TreeSampler):
    """Samples other codes, twice as many."""

    def next_code(self, codes, seed):
        code = super().next_code(codes, seed + 1)
        return super().next_code(codes, seed + 2) if code is None else code


class OtherModule(TreeModule):
    model_hash = "another model"


class ToyModel:
    """A SweptModel that records its calls in a list shared by all models of a sweep."""

    codec_fingerprint = ""
    model_hash = ""

    def __init__(self, name, events, codebook_size=CODEBOOK_SIZE, fingerprint="") -> None:
        self.name, self.events, self.codec_fingerprint = name, events, fingerprint
        self.prompt_format = ToyFormat(codebook_size)
        self.toy_sampler = OtherSampler()

    def load(self, device, dtype) -> None:
        self.events.append(f"load {self.name}")
        self.model_hash = "another model"

    def free(self) -> None:
        self.events.append(f"free {self.name}")
        self.model_hash = ""

    def sampler(self, settings, engine=None) -> TreeSampler:
        assert self.model_hash, "not loaded"
        self.events.append("sample")
        return self.toy_sampler


def numbers_of(points):
    return [(one.algorithm, one.selector, one.judge, one.n, one.score, one.low, one.high) for one in points]


def drawn(rows) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in ("algorithm", "prompt_key", "seed", "num_codes", "lm_flops")) for row in rows]


def test_models_are_swept_one_after_the_other(tmp_path):
    """Guards against candidates of one model under another's name, two models in memory at once, baselines of another
    model at equal compute, tables without model names, and sampling a finished sweep again."""
    settings = {"more_temperatures": None}
    alone = {
        "small": run(tmp_path / "small", **settings)[0].results.points,
        "large": run(tmp_path / "large", module=lambda _: OtherModule(OtherSampler()), **settings)[0].results.points,
    }
    assert numbers_of(alone["small"]) != numbers_of(alone["large"])
    events = []
    others = [ToyModel("large", events)]
    callback, _, _ = run(tmp_path, more_models=others, model_name="small", **settings)
    assert events == ["load large", *["sample"] * 3, "free large"]
    results = callback.results
    for name, points in alone.items():
        assert numbers_of(one for one in results.points if one.model == name) == numbers_of(points)
    assert len(list((tmp_path / "candidates").glob("*.json"))) == 5 * 3 * 2
    report = {}
    for path in (tmp_path / "report").glob("*.csv"):
        with path.open() as stream:
            report[path.name] = list(csv.DictReader(stream))
    for name in ("curve.csv", "prompts.csv", "over_optimisation.csv"):
        assert {row["model"] for row in report[name]} == {"small", "large"}, name
    for name in alone:
        own = [row for row in report["candidates.csv"] if row["model"] == name]
        with (tmp_path / name / "report" / "candidates.csv").open() as stream:
            assert drawn(own) == drawn(csv.DictReader(stream)) != []
    (pair,) = (row for row in report["comparisons.csv"] if row["n"] == "4" and
               (row["first"], row["second"]) == tuple(f"{name} best_of_n T=0.9: reward" for name in alone))  # fmt: skip
    reached = {name: next(one.score for one in points if (one.selector, one.n) == ("reward", 4))
               for name, points in alone.items()}  # fmt: skip
    assert float(pair["difference"]) == pytest.approx(reached["small"] - reached["large"])
    beside = {(row["search"], row["baseline"]) for row in report["equal_compute.csv"]}
    assert beside == {(f"{name} {search} T=0.9: reward", f"{name} best_of_n T=0.9: reward")
                      for name in alone for search in ("process_beam", "adaptive")}  # fmt: skip
    page = Page((tmp_path / "report" / "index.html").read_text())
    shown = next(table for table in page.tables.values() if table and table[0][0] == "search")
    assert {row[0] for row in shown[1:]} == {f"{name} {search} T=0.9" for name in alone
                                            for search in ("best_of_n", "process_beam", "adaptive")}  # fmt: skip
    assert results.description["models"] == {"small": "toy model", "large": "another model"}
    again = [ToyModel("large", [])]
    later, sampler, _ = run(tmp_path, more_models=again, model_name="small", **settings)
    assert sampler.num_tokens == again[0].toy_sampler.num_tokens == 0
    assert timeless(later.results.points) == timeless(results.points)


def test_a_model_that_does_not_fit_is_refused_before_sampling(tmp_path):
    """Guards against a sweep that fails at its last model, and against two models in one line."""
    for model, message in (
        (ToyModel("large", [], 99), "The model large: Expected `codec` to have the language model's codebook_size=99"),
        (ToyModel("large", [], fingerprint="x"), "The model large: Expected `codec` with the fingerprint x"),
        (ToyModel("under test", []), "Expected `more_models` of different names"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, more_models=[model])
        assert not model.events and not (tmp_path / "candidates").exists()


@pytest.mark.parametrize("adapters", ["null", "{rank: 2, train_embeddings: true}"])
def test_a_saved_model_is_the_module_that_was_saved(adapters: str, tmp_path: Path) -> None:
    """Guards against a different hash (candidates would be sampled twice), other weights, or another prompt format; a
    folder of Hugging Face without codes, and one of another codebook."""
    torch.manual_seed(0)
    start = tiny_llama(tmp_path / "start")
    _, path = trained(tmp_path / "run", start, adapters)
    module = LMModule.load_from_checkpoint(path, weights_only=True, map_location="cpu").eval()
    export(path, tmp_path / "exported")
    prompt_format = module.prompt_format
    saved, exported = SavedModel("a", str(path)), SavedModel("b", str(tmp_path / "exported"), prompt_format)
    codes = []
    for model in (module, saved, exported):
        if model is not module:
            assert model.prompt_format.token_space == module.token_space
            model.load(torch.device("cpu"), torch.float32)
        sampler = model.sampler(SamplingSettings(temperature=1.0))
        children = sampler.extend(sampler.start([Prompt("a", "one two")]), 4, 20, [0, 1, 2, 3])
        codes.append([child.codes_S.tolist() for child in children])
    assert codes[0] == codes[1] == codes[2] and any(codes[0])
    assert saved.model_hash == module.model_hash and saved.codec_fingerprint == module.codec_fingerprint
    again = LMModule(prompt_format, pretrained=exported.network)
    assert exported.model_hash == again.model_hash
    saved.free()
    with pytest.raises(AssertionError, match="`load` comes first"):
        saved.sampler(SamplingSettings())
    with pytest.raises(ValueError, match="to know the prompt format's 304 text tokens and 16 codes, but got 304 and 0"):
        SavedModel("c", str(start), prompt_format).prompt_format  # noqa: B018
    with pytest.raises(FileNotFoundError, match="Expected a checkpoint of LMModule"):
        SavedModel("c", str(tmp_path / "absent.ckpt")).prompt_format  # noqa: B018


def test_a_config_takes_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a list of models that the documented command line does not accept."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    text = (REPOSITORY / "docs/sweeps.md").read_text()
    (models,) = re.findall(r"--sweep.more_models \\\n +'(.*)'", text)
    config = ["test", "--config", str(REPOSITORY / "configs/demo/sweep.yaml")]
    cli = DryCLI([*config, "--sweep.more_models", models])
    (sweep,) = (one for one in cli.trainer.callbacks if hasattr(one, "more_models"))
    assert [(type(model), model.name) for model in sweep.more_models] == [(SavedModel, "large")]
