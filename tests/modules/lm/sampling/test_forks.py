"""Branches that are forked, reordered and dropped: nothing is processed twice, and each continues correctly."""

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from modules.api import SamplingSettings
from modules.lm.sampling.sampler import KVCacheSampler
from modules.search.algorithms.adaptive import Adaptive
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.diverse_beam import DiverseBeam
from modules.search.algorithms.partial_beam import PartialBeam
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.driver import run_searches
from modules.search.scorer import Scorer
from tests.toys.lm_toys import FORMAT, PROMPTS, eager_copy, splitmix_uniform, toy_network
from tests.toys.search_toys import ToyCodec, ToyVerifier, mean_level


@pytest.fixture(scope="module")
def network() -> LlamaForCausalLM:
    return toy_network()


@pytest.fixture(scope="module")
def plain(network) -> LlamaForCausalLM:
    return eager_copy(network)


def test_forked_reordered_and_dropped_branches_are_never_read_again(network):
    """Guards against computing a prefix twice when a search forks, reorders or drops branches: every token processed by
    the network is counted, and must be a prompt's (once) or a sampled one; and against forks that share memory with a
    dropped parent."""
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings(), max_batch_rows=5)
    seen: list[int] = []
    hook = network.model.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(keywords["input_ids"].numel()), with_kwargs=True
    )
    try:
        beams, num_drawn = sampler.start(PROMPTS), 0
        num_read = sum(seen)
        assert num_read == sum(len(FORMAT.prompt_tokens(prompt.text)) - 1 for prompt in PROMPTS)
        for num_new in (6, 5, 7):
            children = sampler.extend(beams, 3, num_new, list(range(num_new, num_new + 3 * len(beams))))
            lengths = [one.codes_S.numel() + one.stopped for one in children]
            num_drawn += sum(lengths) - sum(3 * beam.codes_S.numel() for beam in beams)
            kept = [place for place in range(len(children))[::-2] if not children[place].stopped][:4]
            sampler.drop([*beams, *(one for place, one in enumerate(children) if place not in kept)])
            beams = [children[place] for place in kept]  # in another order
        assert sampler.num_recomputed_tokens == 0
        # Finished rows stay until a quarter of their batch has finished; processing 18 prompts again would double the
        # sum.
        assert num_drawn <= sum(seen) - num_read <= num_drawn * 4 / 3
        sampler.drop(beams[:1])
        sampler.extend([beams[0], beams[0], beams[1]], 1, 2, [1, 2, 3])
        assert sampler.num_recomputed_tokens == len(FORMAT.prompt_tokens(beams[0].prompt.text)) + len(beams[0].codes_S)
    finally:
        hook.remove()


@torch.no_grad()
def test_a_fork_continues_its_parent(network, plain):
    """Guards against children that continue another branch's cache, or noise that restarts at position 0."""
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings())
    parent = next(one for one in sampler.extend(sampler.start(PROMPTS[:1]), 8, 6, list(range(8))) if not one.stopped)
    children = sampler.extend([parent], 3, 5, [50, 51, 52])
    assert len({tuple(child.codes_S.tolist()) for child in children}) == 3
    space, prompt_tokens = FORMAT.token_space, FORMAT.prompt_tokens(PROMPTS[0].text)
    allowed = [space.speech_end, *range(space.code_offset, space.vocab_size)]
    for child, seed in zip(children, (50, 51, 52), strict=True):
        codes = parent.codes_S.tolist()
        while len(codes) < parent.codes_S.numel() + 5:
            logits = plain(torch.tensor([prompt_tokens + [space.code_offset + code for code in codes]])).logits
            cumulative = np.cumsum(logits[0, -1, allowed].double().softmax(-1).numpy())
            word = int(np.argmax(cumulative > splitmix_uniform(seed, len(codes)) * cumulative[-1]))
            if word == 0:
                break
            codes.append(word - 1)
        assert child.codes_S.tolist() == codes


@pytest.mark.parametrize(
    "algorithm",
    [
        ProcessBeam("reward", 3, 2, 24, 5),
        PartialBeam("reward", 3, 2, 2, 24, 10, 5),
        DiverseBeam("reward", 2, 2, 24, 2, 5),
        Adaptive("reward", 4, 24, price=0.0, health="reward", min_health=0.3, block_tokens=6),
        BestOfN(4, 24),
    ],
    ids=lambda algorithm: algorithm.name,
)
def test_no_search_reads_a_token_twice(network, algorithm):
    """Guards against a search that extends dropped branches: the real sampler would silently process their prefix
    again, and the computed costs, which assume the cache, would be wrong."""
    reward = ToyVerifier("reward", mean_level)
    reward.judges_partial = True
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings(), max_batch_rows=7)
    traces = run_searches(PROMPTS, algorithm, sampler, Scorer(ToyCodec()), [reward], 5)
    assert sampler.num_recomputed_tokens == 0
    assert all(trace.candidates and not candidate.is_partial for trace in traces for candidate in trace.candidates)
    assert all(trace.cost.lm_flops > trace.cost.prompt_flops > 0 for trace in traces)
