"""modules/speech/streaming.py: streamed codes and audio against best-of-one and its decode; what is sampled and
freed."""

from dataclasses import replace

import pytest
import torch

from modules.api import Prompt, SamplingSettings
from modules.lm.sampling.sampler import KVCacheSampler
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.driver import run_searches
from modules.search.growth import candidate_seed
from modules.search.scorer import Scorer
from modules.speech.streaming import SpeechStream
from modules.tokens import Utterance
from tests.toys.lm_toys import FORMAT, PROMPTS, toy_network
from tests.toys.neighbour_codecs import HOP, NeighbourCodec
from tests.toys.search_toys import TreeSampler

VOICE = Utterance("seven", (5, 23, 0, 11, 9, 9, 2, 4))
SETTINGS = {
    "plain": SamplingSettings(),
    "penalised": SamplingSettings(temperature=0.8, top_p=0.9, repetition_penalty=1.3),
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("max_new_tokens", [7, 48])
def test_a_stream_is_the_first_candidate_of_best_of_n(settings: str, max_new_tokens: int) -> None:
    """Guards against noise that starts anew with each chunk, other codes at a limit, and a voice that the decoder does
    not continue. The reference samples in one call and decodes the whole."""
    network = toy_network()
    with torch.no_grad():
        network.lm_head.weight[FORMAT.token_space.speech_end].zero_()  # else the first codes are the last
    sampler, codec = KVCacheSampler(network, FORMAT, SETTINGS[settings]), NeighbourCodec()
    prompts = [PROMPTS[0], replace(PROMPTS[1], voice=VOICE)]
    traces = run_searches(prompts, BestOfN(1, max_new_tokens), sampler, Scorer(codec), [], 3)
    whole = [candidate for trace in traces for candidate in trace.candidates]
    Scorer(codec).decode(whole)
    for prompt, expected in zip(prompts, whole, strict=True):
        stream = SpeechStream(sampler, codec, prompt, candidate_seed(3, prompt.key, 0), max_new_tokens)
        heard_T = torch.cat(list(stream))
        assert torch.equal(stream.branch.codes_S, expected.codes_S)
        assert stream.branch.log_probability == pytest.approx(expected.log_probability, abs=1e-3)
        assert stream.branch.stopped == expected.stopped and stream.branch.state is None
        assert torch.equal(heard_T, expected.audio.samples_T)
    assert sampler.num_recomputed_tokens == 0
    assert max(candidate.num_codes for candidate in whole) == max_new_tokens


def test_no_more_is_sampled_than_the_next_chunk_needs() -> None:
    """Guards against a stream that samples everything first, and one that samples token by token."""
    sampler, codec = TreeSampler(num_codes=200), NeighbourCodec()
    stream = SpeechStream(sampler, codec, Prompt("a", "one"), 4, 1000)
    sampled = [(sampler.num_tokens, chunk_T.numel() // HOP) for chunk_T in stream]
    assert sampled[:4] == [(10, 5), (20, 10), (45, 25), (70, 25)]
    assert sum(size for _, size in sampled) == 200
    assert len(sampler.extended) == len({tokens for tokens, _ in sampled}), "one call per chunk"
    assert codec.longest_decode == 50 + 25 + 5


@pytest.mark.parametrize("num_heard", [0, 1, 3])
def test_a_listener_that_leaves_frees_the_branches(num_heard: int) -> None:
    """Guards against caches that stay after a closed pipe, and against more than two branches at a time."""
    sampler = TreeSampler(num_codes=200)
    chunks = iter(SpeechStream(sampler, NeighbourCodec(), Prompt("a", "one"), 4, 1000))
    for _ in range(num_heard):
        next(chunks)
    chunks.close()
    assert not sampler.alive
    for _ in SpeechStream(sampler, NeighbourCodec(), Prompt("a", "one"), 4, 1000):
        break
    assert not sampler.alive


@pytest.mark.parametrize(("num_codes", "max_new_tokens", "stopped"), [(0, 100, True), (60, 60, False), (60, 61, True)])
def test_the_end_of_a_stream(num_codes: int, max_new_tokens: int, stopped: bool) -> None:
    """Guards against a stream that never ends at its limit, and against silence instead of nothing."""
    sampler, codec = TreeSampler(num_codes=num_codes), NeighbourCodec()
    stream = SpeechStream(sampler, codec, Prompt("a", "one"), 4, max_new_tokens)
    assert sum(chunk_T.numel() for chunk_T in stream) == num_codes * HOP
    assert (stream.branch.codes_S.numel(), stream.branch.stopped) == (num_codes, stopped)
    assert not sampler.alive


def test_a_sampler_that_fails_leaves_nothing_behind() -> None:
    """Guards against branches that stay after an error in the middle."""
    sampler = TreeSampler(num_codes=200)
    chunks = iter(SpeechStream(sampler, NeighbourCodec(), Prompt("a", "one"), 4, 1000))
    next(chunks)
    sampler.next_code = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        next(chunks)
    assert not sampler.alive
