"""Computed costs against torch's counter, and their shares for the size of Llasa-1B."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from modules.api import SamplingSettings
from modules.codec.generator import CodecGenerator
from modules.codec.parts.quantizers import FiniteScalarQuantizer
from modules.codec.parts.spectral_encoder import SpectralEncoder
from modules.codec.parts.vocos_decoder import VocosDecoder
from modules.lm.flops import TransformerSize
from modules.lm.sampling.sampler import KVCacheSampler
from modules.search.costs import decoding_flops, speech_cost
from tests.toys.lm_toys import FORMAT, PROMPTS, toy_network
from tests.toys.search_toys import ToyCodec, ToySampler, ToyVerifier, mean_level

# The counter supports the attention kernels of GPUs; those of CPUs compute the same: queries x keys, and weights x
# values.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        4 * query[0] * query[1] * query[2] * key[2] * query[3]
    )
}


def test_training_flops_are_those_that_torch_counts():
    """Guards against 6ND without the head or the attention, or with the embedding: within 5 % of a forward and backward
    pass, where the attention, half of which is masked, is a small part."""
    config = LlamaConfig(vocab_size=2000, hidden_size=128, intermediate_size=300, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager")  # fmt: skip
    network, size = LlamaForCausalLM(config), TransformerSize.from_config(config)
    matrices = [weight for weight in network.model.layers.parameters() if weight.ndim == 2]
    assert size.num_weights == sum(weight.numel() for weight in matrices)
    tokens = torch.randint(2000, (4, 64))
    with FlopCounterMode(display=False) as counter:
        network(tokens, labels=tokens).loss.backward()
    assert size.training_flops(4 * 64, 64) == pytest.approx(counter.get_total_flops(), rel=0.05)
    long = torch.randint(2000, (1, 600))
    with FlopCounterMode(display=False) as counter:
        network(long, labels=long).loss.backward()
    all_pairs = 3 * 4 * 3 * 128 * (600 * 600 - 600 * 601 / 2)  # the counter includes the masked half
    assert size.training_flops(600, 600) == pytest.approx(counter.get_total_flops() - all_pairs, rel=0.05)
    assert size.training_flops(600, 600, 0.5) < size.training_flops(600, 600)


def test_inference_flops_are_those_of_the_real_sampler():
    """Guards against a formula that differs from actual decoding: a run of the sampler, counted; and against reading
    another size from a configuration than its network has."""
    network = toy_network()
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings())
    (root,) = sampler.start(PROMPTS[2:])
    lengths = [child.codes_S.numel() for child in sampler.extend([root], 40, 60, list(range(40)))]
    seed = max(range(40), key=lambda place: lengths[place])
    num_prompt_tokens = sampler.num_prompt_tokens(PROMPTS[2])
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        (child,) = sampler.extend(sampler.start(PROMPTS[2:]), 1, 60, [seed])
    num_codes = child.codes_S.numel()
    assert num_codes > 25
    assert sampler.flops(num_prompt_tokens, num_codes) == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert TransformerSize.from_config(network.config) == TransformerSize.of(network)


def test_shares_per_second_of_audio():
    """Guards against confusing cost per candidate and per second, and shares that do not add up."""
    codec, sampler = ToyCodec(), ToySampler()
    verifiers = [ToyVerifier("one", mean_level), ToyVerifier("two", mean_level)]
    cost = speech_cost(sampler, codec, verifiers, num_prompt_tokens=10, seconds=4.0)
    assert (cost.prefill, cost.decode, cost.codec) == pytest.approx((1000 * 10 / 4, 1000 * 50, 10 * 50))
    assert cost.verifiers == {"one": pytest.approx(100), "two": pytest.approx(100)}
    assert sum(cost.shares.values()) == pytest.approx(1)
    assert cost.total == pytest.approx(2500 + 50_000 + 500 + 200)


def test_llasa_1b_costs_what_is_published():
    """Guards against a wrong factor: Llasa-1B has 973.1M weights in its layers, and a second of audio (50 codes) was
    estimated independently at 137 GF with the whole head of 193,800 words; the head of 65,537 saves 26 GF of it."""
    size = TransformerSize(2048, 8192, 16, 32, 8, 64, 193_800)
    assert size.num_weights == pytest.approx(973.1e6, rel=0.001)
    whole, cut = (
        (size.speech_flops(300, 500, num_words) - size.speech_flops(300, 0)) / 10 for num_words in (193_800, 65_537)
    )
    assert whole == pytest.approx(137e9, rel=0.05)
    assert whole - cut == pytest.approx(26.3e9, rel=0.01)


@pytest.mark.parametrize("receptive_frames", [None, float("inf")])
def test_a_tail_costs_every_frame_that_is_decoded_again(receptive_frames):
    """Guards against underestimating searches that decode partial audio: frames are counted at the decoder."""
    codec = CodecGenerator(
        SpectralEncoder(16000, 320, num_mels=20, channels=8, num_layers=1, hidden_channels=8),
        FiniteScalarQuantizer(8, [4, 4]),
        VocosDecoder(16000, 320, channels=8, num_layers=2, hidden_channels=8),
    )
    if receptive_frames is not None:
        codec.decoder.receptive_frames = receptive_frames
    decoded = []
    codec.decoder.register_forward_pre_hook(lambda module, arguments: decoded.append(arguments[0].shape[1]))
    codec.decode(torch.zeros(1, 50, dtype=torch.long), torch.tensor([50]), start_frame=25)
    assert decoded[0] == 50 if receptive_frames else 25 < decoded[0] < 50
    assert decoding_flops(codec, 25, 50) == codec.decode_flops(decoded[0])
