"""The real vLLM on a CPU behind the Sampler: the same distribution as ours, token by token, and the same curve.

`make test-vllm` runs it; it is skipped if vLLM is not installed.
"""

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from transformers import LlamaForCausalLM

from benchmarks.sampling_engines import p_value, places_of_draws
from callbacks.inference_scaling import InferenceScaling
from modules.api import Prompt, Sampler, SamplingSettings
from modules.lm.network import build_llama
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.sampling.vllm_engine import VLLM
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm.text.word_blocks import WordBlocks
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.analysis.results import SweepResults
from modules.search.costs import growth_flops
from modules.search.driver import run_searches
from modules.search.scorer import Scorer
from tests.callbacks.test_inference_scaling import ToyPrompts
from tests.toys.lm_toys import FORMAT, PROMPTS, SIZE, eager_copy
from tests.toys.search_toys import HOP_LENGTH, ToyCodec, ToyVerifier, mean_level

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")

SPACE = FORMAT.token_space
BLOCK = 32  # tokens of a block of vLLM's cache
SETTINGS = [
    SamplingSettings(),
    SamplingSettings(temperature=0.7, top_k=8, top_p=0.9),
    SamplingSettings(temperature=1.2, min_p=0.05),
]
UNLIKELY = 1e-4


@pytest.fixture(scope="module")
def engine() -> Iterator[VLLM]:
    """One vLLM for all tests: eager, with the smallest blocks that its CPU kernels support well, few tokens per
    step."""
    few = {"block_size": BLOCK, "max_num_batched_tokens": 512}
    engine = VLLM(cache_gigabytes=0.25, enforce_eager=True, max_model_len=512, engine_arguments=few)
    yield engine
    engine.close()


def speech_network(prompt_format: TextToSpeech, seed: int = 0) -> LlamaForCausalLM:
    """Random weights, a non-uniform distribution, a head size that vLLM's CPU kernels support."""
    torch.manual_seed(seed)
    network = build_llama(replace(SIZE, hidden_size=128), prompt_format.token_space.vocab_size)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(6 if parameter.ndim == 2 else 1)
    return network


@pytest.fixture(scope="module")
def network():
    return speech_network(FORMAT)


@pytest.fixture(scope="module")
def plain(network):
    return eager_copy(network)


def drawn_tokens(children) -> list[list[int]]:
    ends = [[SPACE.speech_end] if child.stopped else [] for child in children]
    return [(child.codes_S + SPACE.code_offset).tolist() + end for child, end in zip(children, ends, strict=True)]


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_draw_is_from_the_networks_own_distribution(engine, network, plain, settings):
    """Guards against words that are not speech, settings with another meaning, positions off by one, an end that is not
    the model's: at fixed prompts both engines' samples are uniform in the distribution of a network without them."""
    samplers = {
        "ours": KVCacheSampler(network, FORMAT, settings),
        "vllm": engine.sampler(network, FORMAT, settings, "toy"),
    }
    other = replace(settings, temperature=0.7 * settings.temperature)
    for name, sampler in samplers.items():
        assert isinstance(sampler, Sampler)
        children = sampler.extend(sampler.start(PROMPTS), 60, 12, list(range(180)))
        assert any(child.stopped for child in children) and not all(child.stopped for child in children)
        own, wrong = [], []
        for index, prompt in enumerate(PROMPTS):
            tokens, drawn = FORMAT.prompt_tokens(prompt.text), drawn_tokens(children[60 * index : 60 * (index + 1)])
            own.append(places_of_draws(plain, SPACE, tokens, drawn, settings, index))
            wrong.append(places_of_draws(plain, SPACE, tokens, drawn, other, index))
        assert p_value(torch.cat(own)) > UNLIKELY, name
        assert p_value(torch.cat(wrong)) < UNLIKELY, f"{name}: the test could not tell another temperature"


def test_log_probability_is_the_teacher_forced_one_under_any_settings(engine, network, plain):
    """Guards against log-probabilities over all words, of the sharpened distribution, or without the end."""
    sampler = engine.sampler(network, FORMAT, SamplingSettings(temperature=0.5, top_k=4), "toy")
    allowed = [SPACE.speech_end, *range(SPACE.code_offset, SPACE.vocab_size)]
    half = sampler.extend(sampler.start(PROMPTS), 2, 6, list(range(6)))
    for child in sampler.extend(half, 1, 14, list(range(6))):
        tokens, (drawn,) = FORMAT.prompt_tokens(child.prompt.text), drawn_tokens([child])
        with torch.no_grad():
            logits = plain(torch.tensor([tokens + drawn[:-1]])).logits[0][len(tokens) - 1 :, allowed].double()
        words = torch.tensor([allowed.index(token) for token in drawn])
        expected = logits.log_softmax(-1).gather(1, words[:, None]).sum()
        assert child.log_probability == pytest.approx(float(expected), abs=2e-3)


def test_a_candidate_depends_on_its_seed_alone(engine, network):
    """Guards against noise shared by a batch, seeds that are ignored, and sampling ended branches again."""
    sampler = engine.sampler(network, FORMAT, SamplingSettings(), "toy")
    together = sampler.extend(sampler.start(PROMPTS), 3, 30, list(range(9)))
    alone = sampler.extend(sampler.start(PROMPTS[1:2]), 1, 30, [4])[0]
    assert alone.codes_S.tolist() == together[4].codes_S.tolist()
    assert len({tuple(child.codes_S.tolist()) for child in together}) == 9
    ended = next(child for child in together if child.stopped)
    copies = sampler.extend([ended], 2, 5, [1, 2])
    assert [copy.codes_S.tolist() for copy in copies] == [ended.codes_S.tolist()] * 2
    assert all(copy.stopped and copy.log_probability == ended.log_probability for copy in copies)


def test_more_prompts_than_one_step_reads(engine, network):
    """Guards against a prompt that vLLM processes in two steps: on a CPU it cannot discard the sample between them, and
    either dies or returns a candidate that depends on its batch."""
    sampler = engine.sampler(network, FORMAT, SamplingSettings(), "toy")
    prompts = [Prompt(word, f"{word} two three four five six seven " * 6) for word in ("zero", "eight", "nine")]
    assert sum(map(sampler.num_prompt_tokens, prompts)) > 512 and sampler.num_prompt_tokens(prompts[0]) < 512
    together = sampler.extend(sampler.start(prompts), 2, 12, list(range(6)))
    for place, child in enumerate(together):
        (alone,) = sampler.extend(sampler.start([child.prompt]), 1, 12, [place])
        assert alone.codes_S.tolist() == child.codes_S.tolist()


def test_a_prompt_is_read_once_and_a_fork_reads_a_block(engine, network):
    """Guards against a disabled prefix cache: N children would process the prompt N times, forks their whole past."""
    sampler = engine.sampler(network, FORMAT, SamplingSettings(top_k=2), "toy")
    prompt = Prompt("long", "one two three four five six seven " * 6)
    num_tokens = sampler.num_prompt_tokens(prompt)
    assert num_tokens > 6 * BLOCK
    children = sampler.extend(sampler.start([prompt]), 12, 8, list(range(12)))
    assert num_tokens <= sampler.num_read_tokens <= num_tokens + 12 * BLOCK
    growing = [child for child in children if not child.stopped]
    before = sampler.num_read_tokens
    sampler.extend(growing, 2, 4, list(range(2 * len(growing))))
    assert growing and sampler.num_read_tokens - before <= 2 * len(growing) * 2 * BLOCK


class LevelVerifier(ToyVerifier):
    judges_partial = True


def test_a_process_reward_search_runs_on_forks(engine, network):
    """Guards against branches that vLLM cannot fork, and costs with another prompt length than ours."""
    settings = SamplingSettings(temperature=0.9)
    algorithm, codec = ProcessBeam("level", 2, 3, 24, 8), ToyCodec()
    codec.codebook_size = SPACE.codebook_size
    costs = {}
    for sampler in (KVCacheSampler(network, FORMAT, settings), engine.sampler(network, FORMAT, settings, "toy")):
        traces = run_searches(PROMPTS, algorithm, sampler, Scorer(codec), [LevelVerifier("level", mean_level)], seed=0)
        assert all(len(trace.candidates) == 2 for trace in traces)
        for trace in traces:
            num_tokens = sampler.num_prompt_tokens(trace.prompt)
            kept = sum(growth_flops(sampler, num_tokens, 0, one.num_codes) for one in trace.candidates)
            assert trace.cost.prompt_flops == sampler.flops(num_tokens, 0)
            assert trace.cost.lm_flops >= trace.cost.prompt_flops + kept / 2
        costs[type(sampler).__name__] = [trace.cost.prompt_flops for trace in traces]
    assert len({tuple(one) for one in costs.values()}) == 1


class ToyLanguageModel(LightningModule):
    """The interface of LMModule that a sweep uses, over the toy network."""

    codec_fingerprint = ""
    model_hash = "toy"  # the other tests' network: vLLM need not restart

    def __init__(self, network, prompt_format) -> None:
        super().__init__()
        self.llama, self.prompt_format = [network], prompt_format

    def sampler(self, settings, engine=None):
        if engine is None:
            return KVCacheSampler(self.llama[0], self.prompt_format, settings)
        return engine.sampler(self.llama[0], self.prompt_format, settings, self.model_hash)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return None


def num_repeats(samples_T: torch.Tensor) -> float:
    """Number of repeated adjacent codes, a statistic that depends on the temperature."""
    codes_S = samples_T[::HOP_LENGTH]
    return float((codes_S[1:] == codes_S[:-1]).sum())


def sweep_of(folder, network, engine, temperature) -> SweepResults:
    """A sweep of 40 prompts whose samples nearly all end."""
    codec = ToyCodec()
    codec.codebook_size = SPACE.codebook_size
    callback = InferenceScaling(
        codec,
        BestOfN(8, 80),
        SamplingSettings(temperature=temperature),
        selectors=[ToyVerifier("first", lambda samples_T: float(samples_T[0]))],
        judges=[
            ToyVerifier("level", mean_level),
            ToyVerifier("length", lambda samples_T: samples_T.numel() / HOP_LENGTH),
            ToyVerifier("repeats", num_repeats),
        ],
        folder=folder,
        num_resamples=500,
        engine=engine,
    )
    numbers = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    prompts = [Prompt(f"{one} {two}", f"{one} {two}") for one in numbers for two in numbers[:5]]
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
    )  # fmt: skip
    trainer.test(ToyLanguageModel(network, FORMAT), datamodule=ToyPrompts({"set": prompts}), verbose=False)
    return callback.results


def curve_of(results: SweepResults) -> dict:
    """(selector, judge, n) -> point."""
    return {(one.selector, one.judge, one.n): one for one in results.points}


def flops_by_hand(results: SweepResults, network, has_selector: bool, n: int) -> torch.Tensor:
    """(P,) FLOPs of each prompt: it is processed once, and n of its candidates are sampled, decoded and perhaps
    scored."""
    sampler, flops_P = KVCacheSampler(network, FORMAT, SamplingSettings()), []
    for trace in results.traces("set"):
        num_tokens = sampler.num_prompt_tokens(trace.prompt)
        lengths = [one.num_codes for one in trace.candidates]
        drawn = sum(growth_flops(sampler, num_tokens, 0, length) for length in lengths)
        # The toys: 10 a code of the codec, 100 a second (50 codes) of the verifier.
        per_code = 10 + (100 / 50 if has_selector and n > 1 else 0)
        flops_P.append(sampler.flops(num_tokens, 0) + n / len(lengths) * (drawn + per_code * sum(lengths)))
    return torch.tensor(flops_P, dtype=torch.float64)


def share_alike(first: dict, second: dict, judge: str | None = None) -> float:
    """Fraction of the points (of one judge) whose difference lies in its interval, that of two independent means."""
    keys = [key for key in first if judge in (None, key[1])]
    halves = [[(point.high - point.low) / 2 for point in (first[key], second[key])] for key in keys]
    return sum(
        abs(first[key].score - second[key].score) <= math.hypot(*both) for key, both in zip(keys, halves, strict=True)
    ) / len(keys)


def test_a_whole_sweep_gives_the_same_curve(tmp_path, engine, network):
    """Guards against an engine whose candidates are sampled correctly and then stored, decoded or counted incorrectly,
    and against sweep settings that do not reach it: half the temperature must show."""
    own, drawn = sweep_of(tmp_path / "ours", network, None, 1.0), sweep_of(tmp_path / "vllm", network, engine, 1.0)
    ours, other = curve_of(own), curve_of(drawn)
    assert other.keys() == ours.keys()
    assert share_alike(other, ours) >= 0.9
    colder = curve_of(sweep_of(tmp_path / "colder", network, engine, 0.5))
    assert share_alike(colder, ours) < 0.9 and share_alike(colder, ours, "repeats") < 0.5, "the test could not tell"
    for (selector, _, n), point in other.items():
        if selector.startswith("oracle"):
            assert math.isnan(point.flops), "an oracle cannot be run"
            continue
        counted = (selector == "first", n if selector == "first" else 1)  # random needs no second sample
        theirs_P, ours_P = flops_by_hand(drawn, network, *counted), flops_by_hand(own, network, *counted)
        assert point.flops == pytest.approx(float(theirs_P.mean()), rel=1e-9)
        error = math.hypot(*(float(flops_P.std()) / math.sqrt(len(flops_P)) for flops_P in (theirs_P, ours_P)))
        assert abs(float(theirs_P.mean() - ours_P.mean())) < 4 * error  # by chance in one test of 16,000


def test_other_formats_have_other_words(tmp_path, engine):
    """Guards against a restriction to the words of the previous model."""
    other = TextToSpeech(ByteTokenizer(), codebook_size=40)
    sampler = engine.sampler(speech_network(other, seed=1), other, SamplingSettings(), "another")
    children = sampler.extend(sampler.start(PROMPTS), 30, 10, list(range(90)))
    assert max(int(child.codes_S.max()) for child in children if child.codes_S.numel()) >= 24


def test_words_may_stand_among_the_codes(engine, network, plain):
    """Guards against an engine that keeps the words of another format of the same network, words that are lost from the
    branch, and children that continue the codes alone."""
    form = WordBlocks(ByteTokenizer(), codebook_size=24)
    allowed = [*range(SPACE.text_vocab_size), SPACE.speech_end, *range(SPACE.code_offset, SPACE.vocab_size)]
    sampler = engine.sampler(network, form, SamplingSettings(temperature=0.8), "toy")
    half = sampler.extend(sampler.start(PROMPTS), 2, 10, list(range(6)))
    children = sampler.extend(half, 1, 10, list(range(6)))
    assert any(int(child.tokens_S.min()) < 256 and child.codes_S.numel() for child in children)
    for child in children:
        drawn = [*child.tokens_S.tolist(), *([SPACE.speech_end] if child.stopped else [])]
        assert child.codes_S.tolist() == [one - SPACE.code_offset for one in drawn if one >= SPACE.code_offset]
        tokens = form.prompt_tokens(child.prompt.text)
        with torch.no_grad():
            logits = plain(torch.tensor([tokens + drawn[:-1]])).logits[0][len(tokens) - 1 :, allowed].double()
        words = torch.tensor([allowed.index(token) for token in drawn])
        expected = logits.log_softmax(-1).gather(1, words[:, None]).sum()
        assert child.log_probability == pytest.approx(float(expected), abs=5e-3)
