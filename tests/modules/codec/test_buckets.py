"""Speed-ups of codec inference do not change its results: buckets of similar lengths, fast relative positions."""

import math
from itertools import combinations, pairwise

import pytest
import torch
from transformers import Wav2Vec2BertConfig
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

from modules.codec.buckets import CALL_SECONDS, like_lengths
from modules.codec.parts.relative_attention import RelativeKeyAttention
from tests.toys.codec_references import noise_items, perturbed, small_codec

LENGTHS = (24000, 3200, 22001, 640, 9600, 3000)


def least_cost(lengths: list[int], steps_per_call: int, most_steps: float) -> int:
    """Minimum over every partition of the sorted lengths that the bound allows."""
    lengths = sorted(lengths)
    costs = []
    for num_cuts in range(len(lengths)):
        for cuts in combinations(range(1, len(lengths)), num_cuts):
            parts = [lengths[start:stop] for start, stop in pairwise((0, *cuts, len(lengths)))]
            if all(len(part) == 1 or max(part) * len(part) <= most_steps for part in parts):
                costs.append(sum(steps_per_call + max(part) * len(part) for part in parts))
    return min(costs)


@pytest.mark.parametrize("most_steps", [math.inf, 40])
def test_buckets_are_those_that_cost_least(most_steps):
    """Guards against lost or duplicate rows, more padding or more calls than necessary, and calls above the bound."""
    generator = torch.Generator().manual_seed(0)
    counts = set()
    for _ in range(40):
        lengths_B = torch.randint(0, 30, (int(torch.randint(1, 9, (), generator=generator)),), generator=generator)
        buckets = like_lengths(lengths_B, 7, most_steps)
        assert sorted(row for rows in buckets for row in rows) == list(range(len(lengths_B)))
        assert int(lengths_B[buckets[0]].max()) == int(lengths_B.max())
        steps = [int(lengths_B[rows].max()) * len(rows) for rows in buckets]
        assert all(len(rows) == 1 or total <= most_steps for rows, total in zip(buckets, steps, strict=True))
        cost = sum(7 + int(lengths_B[rows].max()) * len(rows) for rows in buckets)
        assert cost == least_cost(lengths_B.tolist(), 7, most_steps)
        counts.add(len(buckets))
    assert len(counts) > 2


def test_a_batch_is_split_and_gives_what_one_call_gives():
    """Guards against computation on padding (a batch in one piece), and against rows returned in another order,
    truncated or with codes of another item."""
    codec = small_codec()
    audio_BT, num_samples_B = noise_items(*LENGTHS)
    seen = []
    codec.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    codec.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    codes_BS, num_codes_B = codec.encode(audio_BT, num_samples_B)
    decoded_BT = codec.decode(codes_BS, num_codes_B)
    encoded, decoded = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert [shape[0] for shape in encoded] == [shape[0] for shape in decoded] == [2, 1, 3]
    assert sum(rows * steps for rows, steps in encoded) <= sum(LENGTHS) + 3 * CALL_SECONDS * 16000
    assert sum(shape[0] * shape[1] for shape in decoded) <= int(num_codes_B.sum()) + 3 * CALL_SECONDS * 50
    whole_BS, whole_B = codec._encode(audio_BT, num_samples_B)
    assert torch.equal(num_codes_B, whole_B) and codes_BS.shape == whole_BS.shape
    whole_BT = codec._decode(whole_BS, whole_B)[0]
    assert decoded_BT.shape == whole_BT.shape
    for item, num_codes in enumerate(num_codes_B.tolist()):
        assert torch.equal(codes_BS[item, :num_codes], whole_BS[item, :num_codes])
        heard_T, expected_T = decoded_BT[item, : num_codes * 320], whole_BT[item, : num_codes * 320]
        torch.testing.assert_close(heard_T, expected_T, atol=1e-5, rtol=1e-4)


def test_a_batch_of_one_length_stays_whole_where_it_fits_and_an_item_may_be_empty():
    codec = small_codec()
    seen = []
    codec.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    audio_BT, _ = noise_items(16000, 16000, 16000)
    codec.encode(audio_BT, torch.tensor([16000, 16000, 16000]))
    assert seen == [(3, 16000)]
    seen.clear()
    codec.encoder.acoustic.base_channels = 2**25 // 8 // 32000  # of which 32,000 samples fit a call
    codec.encode(audio_BT, torch.tensor([16000, 16000, 16000]))
    assert sorted(rows for rows, _ in seen) == [1, 2]
    codes_BS, num_codes_B = codec.encode(audio_BT, torch.tensor([12000, 0, 100]))
    assert codes_BS.shape == (3, 51) and num_codes_B.tolist() == [38, 1, 1]
    audio_BT = codec.decode(codes_BS, torch.tensor([51, 0, 1]))
    assert audio_BT.shape == (3, 51 * 320) and audio_BT.isfinite().all()


def test_a_tail_of_unequal_items_is_the_end_of_each():
    """Guards against look-back and buckets that count frames from different starts."""
    codec = small_codec()
    codes_BS, num_codes_B = torch.randint(0, codec.facts.codebook_size, (3, 90)), torch.tensor([20, 90, 84])
    tail_BT = codec.decode(codes_BS, num_codes_B, 17)
    for item, num_codes in enumerate(num_codes_B.tolist()):
        alone_T = codec.decode(codes_BS[item : item + 1, :num_codes], num_codes_B[item : item + 1])[0, 17 * 320 :]
        torch.testing.assert_close(tail_BT[item, : len(alone_T)], alone_T, atol=1e-5, rtol=1e-4)


def test_weight_norms_are_multiplied_out_once_for_all_buckets():
    """Guards against 38 million weights computed again for each bucket."""
    codec = small_codec()
    calls = []
    norm = codec.encoder.acoustic.input_convolution.parametrizations.weight[0]
    norm.register_forward_hook(lambda module, inputs, output: calls.append(output))
    codec.encode(*noise_items(*LENGTHS))
    assert len(calls) == 1


@pytest.mark.parametrize("num_frames", [5, 40, 150])
def test_positions_by_distance_are_transformers_attention(num_frames):
    """Guards against distances clipped elsewhere, a missing scale, and keys seen beyond an item's length."""
    config = Wav2Vec2BertConfig(hidden_size=32, num_attention_heads=2)
    config._attn_implementation = "sdpa"
    theirs = perturbed(Wav2Vec2BertSelfAttention(config), 0).double()
    ours = RelativeKeyAttention(theirs).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x_BSC = torch.randn(3, num_frames, 32, dtype=torch.float64)
    seen = torch.arange(num_frames) < torch.tensor([num_frames, num_frames // 2, 1])[:, None, None, None]
    added = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, float("-inf"))
    for mask in (None, seen, added):
        torch.testing.assert_close(ours(x_BSC, attention_mask=mask)[0], theirs(x_BSC, attention_mask=mask)[0])
    with torch.no_grad():
        before = ours(x_BSC)[0]
        theirs.distance_embedding.weight.zero_()
        assert (ours(x_BSC)[0] - before).abs().max() > 1e-2, "positions must count"


def test_the_speech_encoder_runs_with_them_under_its_own_names():
    """Guards against the slow layer left in place, and against other names in a checkpoint."""
    network = small_codec().encoder.semantic.network
    layers = network.encoder.layers
    assert all(isinstance(layer.self_attn, RelativeKeyAttention) for layer in layers)
    assert "encoder.layers.1.self_attn.distance_embedding.weight" in network.state_dict()
    fresh = type(network)(network.config)
    fresh.load_state_dict(network.state_dict())
    features = torch.randn(2, 30, 160)
    mask = torch.arange(30) < torch.tensor([[30], [11]])
    given, expected = (model.eval()(features, attention_mask=mask).last_hidden_state for model in (network, fresh))
    torch.testing.assert_close(given[mask], expected[mask], atol=1e-5, rtol=1e-4)
