"""Optimisations for many candidates of one prompt, against plain implementations.

Shapes: R rows, H query heads, K key-value heads, S keys, D head size, V words.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from modules.api import SamplingSettings
from modules.lm.attention import packed_attention
from modules.lm.sampling import kv_cache as cache
from modules.lm.sampling.distribution import draw, draw_restricted, restrict
from modules.lm.sampling.kv_cache import Prefix, RowCache
from modules.lm.sampling.onednn_linear import weight_product
from modules.lm.sampling.sampler import KVCacheSampler
from tests.toys.lm_toys import FORMAT, PROMPTS, toy_network

NUM_LAYERS, NUM_GROUPS, NUM_HEADS, HEAD_SIZE = 2, 2, 4, 8


def random_prefixes(tail_lengths: list[list[int]]) -> list[Prefix]:
    """Prefixes for a list of tail lengths per root; roots have 11 tokens, 10 and so on."""
    torch.manual_seed(0)
    shape = (NUM_LAYERS, 2, NUM_GROUPS)
    roots = [torch.randn(*shape, 11 - index, HEAD_SIZE) for index in range(len(tail_lengths))]
    return [
        Prefix(root, torch.randn(*shape, length, HEAD_SIZE), 1)
        for root, lengths in zip(roots, tail_lengths, strict=True)
        for length in lengths
    ]


@pytest.mark.parametrize("tail_lengths", [[[0] * 5, [0] * 4], [[3, 0, 7, 1, 1], [2, 2, 9, 0]], [[4], [1, 3]]])
def test_attention_over_a_shared_prompt_equals_that_over_whole_rows(tail_lengths):
    """Guards against rows that attend to another prompt, a softmax over each half separately, and unmasked padding."""
    prefixes = random_prefixes(tail_lengths)
    rows = RowCache(prefixes, 3)
    assert (rows.roots is not None) == (len(prefixes) >= 8)
    whole = [list(torch.cat([one.root_A2KSD, one.tail_A2KSD], dim=3)) for one in prefixes]  # (2, K, S, D) per layer
    for num_fed in (1, 2):
        mask = rows.attention_mask()
        for layer in range(NUM_LAYERS):
            query = torch.randn(len(prefixes), NUM_HEADS, 1, HEAD_SIZE)
            new = torch.randn(2, len(prefixes), NUM_GROUPS, 1, HEAD_SIZE)
            keys, values = rows.update(*new, layer)
            module = SimpleNamespace(layer_idx=layer)
            actual, _ = packed_attention(module, query, keys, values, mask, roots=rows.roots)
            for index, layers in enumerate(whole):
                layers[layer] = torch.cat([layers[layer], new[:, index]], dim=2)
                key, value = layers[layer].repeat_interleave(NUM_HEADS // NUM_GROUPS, dim=1)
                expected = F.scaled_dot_product_attention(query[index], key, value)
                torch.testing.assert_close(actual[index, 0], expected[:, 0])
        rows.advance()
        for index, layers in enumerate(whole):
            left = rows.prefix(index, num_fed, 5)
            torch.testing.assert_close(torch.cat([left.root_A2KSD, left.tail_A2KSD], dim=3), torch.stack(layers))
            assert left.root_A2KSD is prefixes[index].root_A2KSD


def test_a_prompts_cache_is_never_copied_for_its_candidates(monkeypatch):
    """Guards against memory and time proportional to candidates times prompt; and against candidates that change if few
    rows share a prompt and it is copied after all."""
    sampler = KVCacheSampler(toy_network(), FORMAT, SamplingSettings())
    branches = sampler.start(PROMPTS)
    children = sampler.extend(branches, 6, 8, list(range(18)))
    growing = [child for child in children if not child.stopped]
    assert growing
    for child in growing:
        prompt = next(one for one in branches if one.prompt is child.prompt).state
        assert child.state.root_A2KSD is prompt.root_A2KSD
        assert child.state.tail_A2KSD.untyped_storage().nbytes() == child.state.tail_A2KSD.numel() * 4
    assert RowCache([child.state for child in growing for _ in range(4)], 1).data.shape[4] <= 8 + 1
    shared = sampler.extend(growing, 4, 20, list(range(4 * len(growing))))
    monkeypatch.setattr(cache, "_MIN_ROWS_PER_ROOT", 1000)
    copied = sampler.extend(growing, 4, 20, list(range(4 * len(growing))))
    assert [one.codes_S.tolist() for one in shared] == [one.codes_S.tolist() for one in copied]


@pytest.mark.parametrize(
    "settings",
    [(1.0, 0, 1.0, 0), (0.7, 5, 1.0, 0), (1.3, 0, 0.6, 0), (0.9, 20, 0.75, 0), (0.8, 0, 1.0, 0.1), (1.5, 30, 0.9, 0.1)],
)  # fmt: skip
def test_weighing_only_what_is_kept_draws_the_same_words(settings):
    """Guards against words out of index order, swapped rows, and ties that are cut off."""
    generator = torch.Generator().manual_seed(3)
    logits_RV = (torch.randn(400, 300, generator=generator) * 8).round() / 4  # many ties
    logits_RV[:, 7] = float("-inf")
    uniform_R = torch.rand(400, generator=generator, dtype=torch.float64)
    settings = SamplingSettings(*settings)
    expected = draw(restrict(logits_RV, settings), uniform_R)
    assert torch.equal(draw_restricted(logits_RV, settings, uniform_R), expected)
    assert len(expected.unique()) > 50


def test_the_product_with_a_part_of_the_head_is_torch_s():
    """Guards against a kernel without support for views, and one that is used where it does not exist."""
    torch.manual_seed(0)
    head = torch.randn(900, 24)
    for rows in (torch.randn(16, 24), torch.randn(1, 24)):
        torch.testing.assert_close(weight_product(rows, head[301:801]), rows @ head[301:801].T)
        half = weight_product(rows.bfloat16(), head.bfloat16())
        torch.testing.assert_close(half, rows.bfloat16() @ head.bfloat16().T)
