"""benchmarks/speech_latency.py in small form: the ways speak as much, and a stream of other codes is detected."""

import pytest

from benchmarks import speech_latency
from benchmarks.sampling_engines import plain_copy
from benchmarks.speech_latency import Speaker
from modules.api import SamplingSettings
from modules.lm.sampling.sampler import KVCacheSampler
from tests.toys.lm_toys import FORMAT, PROMPTS, toy_network
from tests.toys.neighbour_codecs import NeighbourCodec


def toy_speaker() -> Speaker:
    network, settings = toy_network(), SamplingSettings(temperature=3.0)
    sampler = KVCacheSampler(network, FORMAT, settings)
    return Speaker(sampler, NeighbourCodec(), plain_copy(network), FORMAT, settings, max_new_tokens=30)


def test_every_way_speaks_as_many_codes() -> None:
    """Guards against a comparison of utterances of different lengths, and against a first chunk that waits."""
    result = speech_latency.measure(toy_speaker(), PROMPTS)
    lengths = {name: [one["num_codes"] for one in spoken["rounds"]] for name, spoken in result.items()}
    assert lengths["stream"] == lengths["whole"] == lengths["generate_and_whole_decode"]
    assert max(lengths["stream"]) > 15
    longest = max(result["stream"]["rounds"], key=lambda one: one["num_codes"])
    assert 0 < longest["first"] < longest["whole"]


def test_other_codes_stop_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a check that always passes."""
    speaker = toy_speaker()
    speech_latency.check_codes(speaker, PROMPTS)
    seeds = iter(range(100))
    monkeypatch.setattr(speech_latency, "seed_of", lambda prompt: next(seeds))
    with pytest.raises(AssertionError, match="other codes than offline"):
        speech_latency.check_codes(speaker, PROMPTS)
