"""Another engine behind the Sampler, as far as possible without vLLM: tests/vllm runs the real one."""

import json
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from modules.api import Branch, Prompt, Sampler, SamplerEngine, SamplingSettings
from modules.lm.adapters import LowRankAdapters, add_adapters
from modules.lm.flops import TransformerSize
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.sampling.vllm_engine import (
    VLLM,
    changed_environment,
    devices_of_rank,
    rank_variables,
    vllm_version,
    write_network,
)
from modules.lm.sampling.vllm_sampler import VLLMSampler, request_seed, request_settings
from modules.lm.sampling.vllm_worker import WORKER_EXTENSION, SpeechOnly
from modules.lm.text.answers import answer_words
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.word_blocks import WordBlocks
from modules.search.algorithms.best_of_n import BestOfN
from modules.tokens import Utterance
from tests.callbacks.test_inference_scaling import ToyModule, callback_in, run
from tests.toys.lm_toys import FORMAT, PROMPTS, eager_copy, toy_network
from tests.toys.search_toys import ToySampler, toy_prompts

SPACE = FORMAT.token_space


class ToyEngine:
    """Has an identity; its sampler is another toy."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.toy_sampler = ToySampler()

    def identity(self) -> dict:
        return {"name": "toy engine", "version": self.version}

    def sampler(self, network, prompt_format, settings, model_hash) -> ToySampler:
        return self.toy_sampler


class EngineModule(ToyModule):
    """Requests a sampler from the engine, like LMModule."""

    def sampler(self, settings, engine=None):
        return self.toy_sampler if engine is None else engine.sampler(None, None, settings, self.model_hash)


class RecordedLLM:
    """Answers each request with two codes and the end, and records the requests."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.asked, self.settings = tokens, [], []
        self.model_config = SimpleNamespace(max_model_len=40)

    def generate(self, prompts, sampling_params, use_tqdm=True):
        self.asked, self.settings = prompts, sampling_params
        answer = SimpleNamespace(token_ids=self.tokens, cumulative_logprob=-2.0)
        return [SimpleNamespace(outputs=[answer], num_cached_tokens=4) for _ in prompts]


@pytest.fixture
def params(monkeypatch):
    """vllm.SamplingParams as a plain namespace."""
    monkeypatch.setitem(__import__("sys").modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))


def size() -> TransformerSize:
    return TransformerSize.of(toy_network())


def test_without_vllm_the_error_has_the_install_command(monkeypatch):
    """Guards against importing vLLM whenever a config is read, and against a bare ModuleNotFoundError."""
    vllm_version.cache_clear()
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    engine = VLLM()
    assert isinstance(engine, SamplerEngine)
    with pytest.raises(ImportError, match=r"requirements-vllm\.txt"):
        engine.sampler(toy_network(), FORMAT, SamplingSettings(), "hash")
    with pytest.raises(ImportError, match=r"requirements-vllm\.txt"):
        engine.identity()
    vllm_version.cache_clear()


def test_words_that_are_no_speech_get_no_probability():
    """Guards against log-probabilities over all words, and against sampled markers or text tokens."""
    torch.manual_seed(0)
    head = torch.nn.Linear(6, SPACE.vocab_size + 5, bias=False)  # with padding rows after the vocabulary
    model = SimpleNamespace(compute_logits=lambda hidden: head(hidden))
    worker = SpeechOnly()
    worker.model_runner = SimpleNamespace(get_model=lambda: model)
    hidden = torch.randn(3, 6)
    allowed = [SPACE.speech_end, *range(SPACE.code_offset, SPACE.vocab_size)]
    with torch.no_grad():
        expected = head(hidden)[:, allowed].log_softmax(-1)
        worker.restrict_to_speech(answer_words(FORMAT, "speech").allowed)
        actual = model.compute_logits(hidden).log_softmax(-1)
    torch.testing.assert_close(actual[:, allowed], expected)
    assert int((actual > -torch.inf).sum()) == 3 * len(allowed)
    room, _, name = WORKER_EXTENSION.rpartition(".")
    assert (room, name) == (SpeechOnly.__module__, SpeechOnly.__qualname__)


def test_a_request_is_the_parents_tokens_with_new_noise(params):
    """Guards against children that do not continue their parent, and noise that repeats in the next block."""
    codes = [5, 0, 23]
    llm = RecordedLLM([SPACE.code_offset + 7, SPACE.code_offset, SPACE.speech_end])
    sampler = VLLMSampler(llm, FORMAT, SamplingSettings(temperature=0.7, top_k=9), size())
    assert isinstance(sampler, Sampler)
    growing = Branch(PROMPTS[0], torch.tensor(codes), -1.5)
    ended = Branch(PROMPTS[1], torch.tensor([3]), -0.5, stopped=True)
    children = sampler.extend([growing, ended], 2, 6, [11, 12, 13, 14])
    tokens = [*FORMAT.prompt_tokens("one"), *(SPACE.code_offset + code for code in codes)]
    assert [asked["prompt_token_ids"] for asked in llm.asked] == [tokens, tokens]
    assert [vars(one) for one in llm.settings] == [
        request_settings(sampler.settings, SPACE.speech_end, 6) | {"seed": request_seed(seed, 3)} for seed in (11, 12)
    ]
    assert [child.codes_S.tolist() for child in children] == [[5, 0, 23, 7, 0]] * 2 + [[3]] * 2
    assert [child.log_probability for child in children] == [-3.5, -3.5, -0.5, -0.5]
    assert all(child.stopped for child in children)
    assert sampler.num_read_tokens == 2 * (len(tokens) - 4)
    seeds = {request_seed(seed, num_codes) for seed in range(50) for num_codes in range(50)}
    assert len(seeds) == 2500 and min(seeds) >= 0 and max(seeds) < 2**63


def test_settings_with_another_meaning_in_vllm_are_refused(params):
    """Guards against two engines with different distributions under one name, and against truncated candidates."""
    refused = {"temperature": 0.001}, {"min_p": 0.1, "top_p": 0.9}, {"force_words": True}
    for settings in (SamplingSettings(**one) for one in refused):
        with pytest.raises(ValueError, match="under vLLM"):
            VLLM().sampler(toy_network(), FORMAT, settings, "hash")
    blocks = WordBlocks(ByteTokenizer(), 24)
    with pytest.raises(ValueError, match="words that the model has to write"):
        VLLMSampler(RecordedLLM([]), blocks, SamplingSettings(repetition_penalty=1.2), size())
    penalty = VLLMSampler(RecordedLLM([]), FORMAT, SamplingSettings(repetition_penalty=1.2), size())
    penalty.start(PROMPTS)
    with pytest.raises(ValueError, match="repetition_penalty"):
        penalty.start([Prompt("v", "one", voice=Utterance("two", [1, 2]))])
    sampler = VLLMSampler(RecordedLLM([SPACE.text_start]), FORMAT, SamplingSettings(), size())
    with pytest.raises(ValueError, match="max_model_len"):
        sampler.extend(sampler.start(PROMPTS), 1, 40, [1, 2, 3])
    with pytest.raises(RuntimeError, match="words of an answer only"):
        sampler.extend(sampler.start(PROMPTS), 1, 4, [1, 2, 3])
    with pytest.raises(ValueError, match="as codes"):
        sampler.start([Prompt("v", "one", voice=Utterance("two"))])


def test_both_engines_count_the_same_work():
    """Guards against curves over FLOPs that depend on the engine."""
    network = toy_network()
    ours = KVCacheSampler(network, FORMAT, SamplingSettings())
    other = VLLMSampler(RecordedLLM([]), FORMAT, SamplingSettings(), TransformerSize.of(network))
    prompts = [*PROMPTS, Prompt("v", "one", voice=Utterance("two", [1, 2]))]
    assert [ours.num_prompt_tokens(one) for one in prompts] == [other.num_prompt_tokens(one) for one in prompts]
    assert [ours.flops(*sizes) for sizes in ((7, 0), (7, 90))] == [other.flops(*sizes) for sizes in ((7, 0), (7, 90))]


def test_the_folder_for_vllm_holds_the_network_with_its_adapters(tmp_path):
    """Guards against sampling from the frozen base, and against a network without its adapters afterwards."""
    network = toy_network()
    add_adapters(network, LowRankAdapters(rank=2))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    tokens = torch.tensor([FORMAT.prompt_tokens("one")])
    names = sorted(network.state_dict())
    write_network(network, tmp_path / "folder")
    assert sorted(network.state_dict()) == names
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", attn_implementation="eager").eval()
    with torch.no_grad():
        hidden = (
            network.eval()
            .model(input_ids=tokens, position_ids=torch.arange(tokens.shape[1])[None], use_cache=False, segments=None)
            .last_hidden_state
        )
        torch.testing.assert_close(read(tokens).logits, network.lm_head(hidden), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(read(tokens).logits, eager_copy(toy_network())(tokens).logits, atol=1e-2)


def test_a_rank_has_its_share_of_the_gpus(monkeypatch):
    """Guards against two ranks whose engines share a device, and variables of one launcher that affect another."""
    assert devices_of_rank(["4", "5", "6", "7"], 1, 2) == ["6", "7"]
    assert devices_of_rank(["3"], 5, 1) == ["3"]  # the launcher shows each rank one device
    with pytest.raises(ValueError, match="tensor_parallel_size"):
        devices_of_rank(["0", "1", "2"], 1, 2)
    import os

    monkeypatch.setenv("WORLD_SIZE", "2")
    with changed_environment(rank_variables(1)):
        assert "WORLD_SIZE" not in os.environ
    assert os.environ["WORLD_SIZE"] == "2"


def test_candidates_of_two_engines_are_never_mixed(tmp_path):
    """Guards against a sweep resumed with another engine, or another version, that reuses the first one's samples."""
    prompts = {"set": toy_prompts(3)}
    own, first, second = ToySampler(), ToyEngine("1"), ToyEngine("2")
    run(tmp_path, prompts, callback_in(tmp_path), own)
    counts = []
    for engine in (first, first, second):
        callback = callback_in(tmp_path, engine=engine)
        callback_run = run(tmp_path, prompts, callback, ToySampler(), module=EngineModule)
        counts.append((first.toy_sampler.num_drawn, second.toy_sampler.num_drawn))
        assert callback_run.description["engine"] == engine.identity()
    num_all = 3 * callback.algorithm.num_candidates
    assert counts == [(num_all, 0), (num_all, 0), (num_all, num_all)]
    assert own.num_drawn == num_all
    identities = [json.loads(path.read_text())["identity"] for path in (tmp_path / "candidates").glob("*.json")]
    assert len(identities) == 9
    assert sorted(one.get("engine", {}).get("version", "") for one in identities) == [""] * 3 + ["1"] * 3 + ["2"] * 3
    assert isinstance(callback.algorithm, BestOfN)
