"""The sampler against a loop without a cache, transformers' logits processors, and Python's integers."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from modules.api import Prompt, Sampler, SamplingSettings
from modules.lm.sampling.decoding_batch import DecodingBatch
from modules.lm.sampling.distribution import draw, restrict
from modules.lm.sampling.noise import seed_tensor, uniform_noise
from modules.lm.sampling.sampler import KVCacheSampler
from tests.toys.lm_toys import FORMAT, PROMPTS, SIZE, eager_copy, splitmix_uniform, toy_network

SETTINGS = [
    SamplingSettings(),
    SamplingSettings(temperature=1.2, top_k=20, top_p=0.95),
    SamplingSettings(temperature=1.1, min_p=0.02, repetition_penalty=1.4),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


@pytest.fixture(scope="module")
def network() -> LlamaForCausalLM:
    return toy_network()


@pytest.fixture(scope="module")
def plain(network) -> LlamaForCausalLM:
    return eager_copy(network)


@torch.no_grad()
def naive_candidate(plain, prompt, settings, seed, max_new_tokens):
    """Recompute the whole sequence at every step; all logits, with those that are not speech masked; codes in token
    order."""
    space = FORMAT.token_space
    allowed = [space.speech_end, *range(space.code_offset, space.vocab_size)]
    tokens, codes, log_probability = FORMAT.prompt_tokens(prompt.text), [], 0.0
    for position in range(max_new_tokens):
        logits = plain(torch.tensor([tokens])).logits[:, -1, allowed]
        log_probabilities = logits.double().log_softmax(-1)[0]
        seen = torch.tensor([[code + 1 for code in codes]], dtype=torch.int64)  # words of the sliced head
        scores = RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)(seen, logits)
        scores = TemperatureLogitsWarper(settings.temperature)(None, scores)
        if settings.top_k:
            scores = TopKLogitsWarper(settings.top_k)(None, scores)
        if settings.top_p < 1:
            scores = TopPLogitsWarper(settings.top_p)(None, scores)
        if settings.min_p:
            scores = MinPLogitsWarper(settings.min_p)(None, scores)
        cumulative = np.cumsum(scores[0].double().softmax(-1).numpy())
        word = int(np.argmax(cumulative > splitmix_uniform(seed, position) * cumulative[-1]))
        log_probability += float(log_probabilities[word])
        if word == 0:
            return codes, log_probability, True
        codes.append(word - 1)
        tokens.append(allowed[word])
    return codes, log_probability, False


@pytest.mark.parametrize("settings", SETTINGS)
def test_candidates_are_those_of_a_loop_without_a_cache(network, plain, settings):
    """Guards against caches of the wrong row, positions off by one, rows that see padding, refills that mix rows."""
    assert isinstance(KVCacheSampler(network, FORMAT, settings), Sampler)
    seeds = list(range(100, 112))
    expected = [naive_candidate(plain, PROMPTS[index // 4], settings, seed, 24) for index, seed in enumerate(seeds)]
    assert len({len(codes) for codes, _, _ in expected}) > 3 and any(stopped for _, _, stopped in expected)
    for max_batch_rows in (2, 5, 64):
        sampler = KVCacheSampler(network, FORMAT, settings, max_batch_rows)
        children = sampler.extend(sampler.start(PROMPTS), 4, 24, seeds)
        for index, (child, (codes, log_probability, stopped)) in enumerate(zip(children, expected, strict=True)):
            assert child.prompt is PROMPTS[index // 4]
            assert child.codes_S.tolist() == codes
            assert child.stopped == stopped
            assert child.log_probability == pytest.approx(log_probability, abs=1e-3)


def test_a_candidate_does_not_depend_on_its_batch_nor_on_pauses(network):
    """Guards against noise keyed by batch position, and against state lost between two calls or after `drop`."""
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings())
    together = sampler.extend(sampler.start(PROMPTS), 3, 40, list(range(9)))
    alone = sampler.extend(sampler.start(PROMPTS[1:2]), 1, 40, [4])[0]
    assert alone.codes_S.tolist() == together[4].codes_S.tolist()
    branches = [branch for branch in sampler.start(PROMPTS) for _ in range(3)]
    for round_index, num_new in enumerate((7, 1, 12, 20)):
        branches = sampler.extend(branches, 1, num_new, list(range(9)))
        if round_index == 1:
            sampler.drop(branches)
            assert all(branch.state is None for branch in branches)
    for paused, whole in zip(branches, together, strict=True):
        assert paused.codes_S.tolist() == whole.codes_S.tolist()
        assert paused.stopped == whole.stopped
        assert paused.log_probability == pytest.approx(whole.log_probability, abs=1e-3)


def test_looking_at_rows_less_often_changes_nothing(network, monkeypatch):
    """Guards against codes sampled after a row's end (on a GPU rows are checked only every 16 steps) that reach it or
    its cache."""
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings(), max_batch_rows=5)
    branches = sampler.start(PROMPTS)
    expected = sampler.extend(sampler.extend(branches, 4, 9, list(range(12))), 1, 30, list(range(12)))
    initialise = DecodingBatch.__init__

    def look_rarely(batch: DecodingBatch, *arguments: object) -> None:
        initialise(batch, *arguments)
        batch.num_steps_per_look = 16

    monkeypatch.setattr(DecodingBatch, "__init__", look_rarely)
    actual = sampler.extend(sampler.extend(branches, 4, 9, list(range(12))), 1, 30, list(range(12)))
    for branch, reference in zip(actual, expected, strict=True):
        assert branch.codes_S.tolist() == reference.codes_S.tolist()
        assert branch.stopped == reference.stopped
        assert branch.log_probability == pytest.approx(reference.log_probability, abs=1e-3)


def test_runaways_are_marked_and_ended_branches_are_left_alone(network):
    """Guards against an unfinished candidate that counts as finished, and codes sampled after the end."""
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings())
    children = sampler.extend(sampler.start(PROMPTS), 8, 12, list(range(24)))
    runaways = [child for child in children if not child.stopped]
    ended = [child for child in children if child.stopped]
    assert runaways and ended
    assert all(child.codes_S.numel() == 12 and child.state is not None for child in runaways)
    assert all(child.codes_S.numel() < 12 and child.state is None for child in ended)
    copies = sampler.extend(ended[:1], 2, 5, [1, 2])
    assert [copy.codes_S.tolist() for copy in copies] == [ended[0].codes_S.tolist()] * 2
    assert all(copy.stopped and copy.log_probability == ended[0].log_probability for copy in copies)


def test_log_probability_is_the_teacher_forced_one_under_any_settings(network, plain):
    """Guards against log-probabilities of the sharpened distribution, which cannot be compared between settings."""
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings(temperature=0.5, top_k=4, top_p=0.9))
    space = FORMAT.token_space
    for child in sampler.extend(sampler.start(PROMPTS), 2, 25, list(range(6))):
        tokens = [*FORMAT.prompt_tokens(child.prompt.text), *(child.codes_S + space.code_offset).tolist()]
        targets = torch.tensor(
            tokens[len(FORMAT.prompt_tokens(child.prompt.text)) :] + [space.speech_end] * child.stopped
        )
        logits = plain(torch.tensor([tokens])).logits[0, -len(targets) - (not child.stopped) :][: len(targets)].detach()
        outside = torch.ones(space.vocab_size, dtype=torch.bool)
        outside[space.speech_end] = False
        outside[space.code_offset :] = False
        expected = logits.masked_fill(outside, -math.inf).log_softmax(-1).gather(1, targets[:, None]).sum()
        assert child.log_probability == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [(0.7, 0, 1.0, 0), (1.0, 5, 1.0, 0), (1.3, 0, 0.6, 0), (0.9, 20, 0.75, 0), (1.0, 1, 0.5, 0), (0.8, 0, 1.0, 0.1),
     (1.5, 30, 0.9, 0.05), (1.0, 0, 1.0, 1.0)],
)  # fmt: skip
def test_restricted_distribution_is_that_of_transformers(settings):
    """Guards against the nucleus losing the word that crosses its mass, and against top-p before top-k."""
    logits = torch.randn(50, 200, generator=torch.Generator().manual_seed(5)) * 3
    temperature, top_k, top_p, min_p = settings
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    if min_p:
        expected = MinPLogitsWarper(min_p)(None, expected)
    actual = restrict(logits, SamplingSettings(temperature, top_k, top_p, min_p))
    torch.testing.assert_close(actual.softmax(-1), expected.softmax(-1))
    # Sorting on other devices is another code path.
    assert torch.equal(logits.sort(-1, descending=True).values, torch.from_numpy(np.sort(logits.numpy())).flip(-1))


def test_draws_follow_the_distribution_and_never_leave_it():
    """Guards against biased samples and against words of probability zero at the ends of the unit interval."""
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf, 2.0, -math.inf]])
    ends = torch.tensor([2.0**-49, 1 - 2.0**-49], dtype=torch.float64)
    uniform = torch.cat([uniform_noise(torch.arange(20000), torch.zeros(20000, dtype=torch.int64)), ends])
    words = draw(logits.expand(len(uniform), -1), uniform)
    frequencies = words.bincount(minlength=6) / len(words)
    expected = logits[0].softmax(-1)
    assert not frequencies[expected == 0].any()
    assert (frequencies - expected).abs().max() < 0.015  # four standard deviations


def test_noise_is_splitmix64():
    """Guards against int64 arithmetic that is not that of uint64 (sign-copying shifts), which would bias the noise."""
    seeds = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, -5, 123456789]
    for position in (0, 1, 77):
        actual = uniform_noise(seed_tensor(seeds), torch.full((len(seeds),), position))
        assert actual.tolist() == [splitmix_uniform(seed, position) for seed in seeds]
    grid = uniform_noise(torch.arange(300).repeat_interleave(300), torch.arange(300).repeat(300)).view(300, 300)
    assert abs(float(grid.mean()) - 0.5) < 0.005
    assert grid.flatten().unique().numel() == 90000
    neighbours = torch.corrcoef(torch.stack([grid[:-1].flatten(), grid[1:].flatten(), grid.roll(1, 1)[1:].flatten()]))
    assert (neighbours - torch.eye(3)).abs().max() < 0.02


def test_flops_match_torch_s_counter(network, plain):
    """Guards against FLOPs that omit the head or the attention."""
    from torch.utils.flop_counter import FlopCounterMode

    sampler = KVCacheSampler(network, FORMAT, SamplingSettings())
    num_prompt, num_codes = 20, 40
    space = FORMAT.token_space
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = plain.model(torch.zeros(1, num_prompt + num_codes, dtype=torch.int64)).last_hidden_state
        hidden[0, :num_codes] @ plain.lm_head.weight[space.code_offset - 1 :].T
    num_tokens = num_prompt + num_codes
    # The counter counts all pairs of query and key, the model only past ones.
    num_future_pairs = num_tokens * (num_tokens - 1) / 2
    counted = counter.get_total_flops() - 4 * SIZE.hidden_size * SIZE.num_layers * num_future_pairs
    assert sampler.flops(num_prompt, num_codes) == pytest.approx(counted, rel=1e-6)


def test_bad_calls_are_refused(network):
    """Guards against silently reused seeds, and against text that the tokenizer does not support."""
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings())
    branches = sampler.start(PROMPTS)
    with pytest.raises(ValueError, match="Expected `seeds` to hold 6 seeds, but got 3"):
        sampler.extend(branches, 2, 5, [1, 2, 3])
    with pytest.raises(ValueError, match="max_new_tokens"):
        sampler.extend(branches, 1, 0, [1, 2, 3])
    with pytest.raises(ValueError, match="something to speak"):
        sampler.start([Prompt("d", "")])
