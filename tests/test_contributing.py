"""CONTRIBUTING.md followed to the letter: each example runs through the real thing, and without any one of the members
that its protocol asks for it is refused with that member's name."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch

from callbacks.codec_evaluation import CodecEvaluation
from callbacks.inference_scaling import InferenceScaling
from callbacks.spoken_texts import SpokenTexts
from callbacks.synthesis import SpeechWriter
from datamodules.audio import AudioDataModule
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.sources.source import Source
from modules.api import (
    Codec,
    Sampler,
    SamplerEngine,
    SamplingSettings,
    Verifier,
)
from modules.evaluation.opus_and_codec2 import CodecResynthesiser
from modules.evaluation.systems import Resynthesiser
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.candidate_store import CandidateStore
from modules.search.panel import Panel
from modules.search.protocol import SearchAlgorithm
from modules.search.summary import summarise
from modules.search.sweep import Sweep
from modules.verifiers.recognisers.normalise import EnglishWords
from tests.callbacks.test_codec_evaluation import TEXTS, recorded, run_test, spoken
from tests.conftest import REPOSITORY, SAMPLE_RATE
from tests.toys.search_toys import CODEBOOK_SIZE, ToyCodec, ToyFormat, ToySampler, ToyVerifier, mean_level, toy_prompts

EXAMPLES = dict(
    re.findall(r"^```python\n# (\S+)\n(.*?)^```", (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"), re.M | re.S)
)
VERIFIER, ALGORITHM = "modules/verifiers/brightness.py", "modules/search/algorithms/until_ended.py"
ENGINE, SOURCE = "modules/lm/sampling/uniform.py", "datamodules/sources/speaker_folders.py"
CODEC, SYSTEM = "modules/codec/mu_law.py", "modules/evaluation/pulses.py"


def example(path: str, name: str, leave_out: str = "") -> Any:
    """The class `name` of the example; without the lines of a field or the member `leave_out`."""
    text = EXAMPLES[path]
    if leave_out and re.search(rf"^ +{leave_out}=", text, re.M):
        text = re.sub(rf"^ +{leave_out}=.*\n", "", text, flags=re.M)
    namespace: dict[str, Any] = {"__name__": path.removesuffix(".py").replace("/", ".")}
    exec(compile(text, path, "exec"), namespace)
    kind = namespace[name]
    if leave_out and leave_out in vars(kind):
        delattr(kind, leave_out)
    return kind


def swept(folder: Path, **changes: Any) -> Any:
    """Results of a sweep over two prompts with toys in place of what `changes` does not name."""
    given = {"codec": ToyCodec(), "algorithm": BestOfN(3, 12), "verifier": ToyVerifier("level", mean_level)}
    given |= {"sampler": ToySampler()} | changes
    panel = Panel([given["verifier"]], [ToyVerifier("judge", mean_level)])
    parts = given["codec"], given["algorithm"], SamplingSettings(), panel
    sweep = Sweep(*parts, CandidateStore(folder), "model", 0, prompt_format=ToyFormat())
    sweep.run(toy_prompts(2), given["sampler"])
    return summarise([[sweep]], {"prompts": toy_prompts(2)}, num_resamples=50)


def scaling(folder: Path, **changes: Any) -> InferenceScaling:
    given = {"codec": ToyCodec(), "algorithm": BestOfN(3, 12), "sampling": SamplingSettings()}
    given |= {"selectors": [], "judges": [ToyVerifier("judge", mean_level)], "folder": folder}
    return InferenceScaling(**given | changes)


def members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def refused(what: str, member: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=rf"^Expected {what}.*\b{member}\b") as raised:
        call()
    assert "\n" not in str(raised.value)


MODULE = SimpleNamespace(
    prompt_format=ToyFormat(),
    codec_fingerprint="",
    model_hash="model",
    device_mesh=None,
    sampler=lambda settings, engine=None: None,
)

# ------------------------------------------------------------------------------------------------------ they all work


def test_the_verifier_scores_a_sweep_and_is_asked_again_under_another_setting(tmp_path: Path) -> None:
    """Guards against an example that does not run, and against scores that are kept under another setting."""
    brightness = example(VERIFIER, "Brightness")
    results = swept(tmp_path, verifier=brightness(cutoff=100.0))
    first = [one.scores["brightness"] for trace in results.traces("prompts") for one in trace.candidates]
    again = swept(tmp_path, verifier=brightness(cutoff=200.0), sampler=ToySampler(fail_at_call=1))
    second = [one.scores["brightness"] for trace in again.traces("prompts") for one in trace.candidates]
    assert any(a != b for a, b in zip(first, second, strict=True) if a == a)
    assert {point.selector for point in results.points} >= {"brightness", "random"}


def test_the_search_algorithm_samples_until_one_ends(tmp_path: Path) -> None:
    """Guards against an example that does not run."""
    results = swept(tmp_path, algorithm=example(ALGORITHM, "UntilEnded")(4, 12))
    for trace in results.traces("prompts"):
        assert [one.stopped for one in trace.candidates[:-1]] == [False] * (len(trace.candidates) - 1)
        assert trace.candidates[-1].stopped or len(trace.candidates) == 4
    assert results.description["algorithm"]["name"] == "until_ended"


def test_the_engine_samples_what_it_says(tmp_path: Path) -> None:
    """Guards against an example that does not run, and a wrong log-probability. The reference counts the codes."""
    engine = example(ENGINE, "Uniform")()
    sampler = engine.sampler(None, ToyFormat(), SamplingSettings(), "model")
    results = swept(tmp_path, sampler=sampler)
    for trace in results.traces("prompts"):
        for one in trace.candidates:
            num_drawn = one.num_codes + one.stopped
            assert one.log_probability == pytest.approx(-num_drawn * torch.tensor(CODEBOOK_SIZE + 1).log().item())
    assert engine.identity()


def test_the_corpus_is_prepared(tmp_path: Path) -> None:
    """Guards against an example that stops at a file without a text."""
    for number, (key, text) in enumerate(TEXTS.items()):
        path = tmp_path / "corpus" / f"speaker{number % 2}" / f"{key}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, spoken(number).numpy(), SAMPLE_RATE)
        path.with_suffix(".txt").write_text(text)
    path.with_suffix(".txt").unlink()
    source = example(SOURCE, "SpeakerFolders")(tmp_path / "corpus", "CC0-1.0")
    data = AudioDataModule(tmp_path / "shards", [source], sample_rate=SAMPLE_RATE)
    data.prepare_data()
    indices = prepare_audio_shards([source], tmp_path / "shards", SAMPLE_RATE)
    assert sum(len(index) for index in indices.values()) == len(TEXTS) - 1
    assert "CC0-1.0" in (tmp_path / "shards/CREDITS.txt").read_text()


def test_the_codec_and_the_resynthesiser_stand_in_the_table_and_the_codec_in_a_sweep(tmp_path: Path) -> None:
    """Guards against examples that do not run, and against bits that are not theirs."""
    mu_law, pulses = example(CODEC, "MuLaw"), example(SYSTEM, "Pulses")
    comparisons = [CodecResynthesiser(mu_law(), "mu-law at 8 kHz"), pulses(4)]
    evaluation = CodecEvaluation(tmp_path / "table", None, EnglishWords(), comparisons)
    run_test(recorded(tmp_path), evaluation, tmp_path)
    assert evaluation.table["mu-law at 8 kHz"]["bit_rate"].value == pytest.approx(8 * 8000)
    assert evaluation.table["PCM 4 bit"]["bit_rate"].value == pytest.approx(4 * SAMPLE_RATE)
    assert evaluation.table["PCM 4 bit"]["stoi"].value > 0.5 and evaluation.table["mu-law at 8 kHz"]["stoi"].value > 0.5
    swept(tmp_path / "candidates", codec=mu_law())


# ---------------------------------------------------------------------------------------- without a member, they do not


@pytest.mark.parametrize(
    "member",
    [*members(Verifier), "name", "model_hash", "settings", "families", "worst_score", "needs_text", "needs_reference"],
)
def test_a_verifier_without_a_member_is_refused(tmp_path: Path, member: str) -> None:
    """Guards against a verifier that is looked up by chance, and keeps stale scores."""
    verifier = example(VERIFIER, "Brightness", leave_out=member)()
    codec, sampling = ToyCodec(), SamplingSettings()
    for call in (
        lambda: Panel([verifier], [ToyVerifier("judge", mean_level)]),
        lambda: scaling(tmp_path, judges=[verifier]).on_test_start(None, MODULE),
        lambda: SpeechWriter(codec, BestOfN(2, 9), sampling, tmp_path, verifier).on_predict_start(None, MODULE),
        lambda: SpokenTexts(codec, ["text"], sampling, 9, judge=verifier).on_fit_start(None, MODULE),
        lambda: CodecEvaluation(tmp_path, None, EnglishWords(), verifiers=[verifier]).on_test_start(None, MODULE),
    ):
        refused("verifier Brightness", member, call)


@pytest.mark.parametrize("member", members(SearchAlgorithm))
def test_a_search_algorithm_without_a_member_is_refused(tmp_path: Path, member: str) -> None:
    """Guards against a search that stops in the middle of a sweep."""
    algorithm = example(ALGORITHM, "UntilEnded", leave_out=member)(4, 12)
    refused("search algorithm UntilEnded", member, lambda: swept(tmp_path, algorithm=algorithm))
    refused("search algorithm", member, lambda: scaling(tmp_path, algorithm=algorithm).on_test_start(None, MODULE))


@pytest.mark.parametrize("member", members(Sampler))
def test_a_sampler_without_a_member_is_refused(tmp_path: Path, member: str) -> None:
    """Guards against a sampler that stops in the middle of a sweep."""
    sampler = example(ENGINE, "UniformSampler", leave_out=member)(CODEBOOK_SIZE)
    refused("sampler UniformSampler", member, lambda: swept(tmp_path, sampler=sampler))


@pytest.mark.parametrize("member", members(SamplerEngine))
def test_an_engine_without_a_member_is_refused(tmp_path: Path, member: str) -> None:
    """Guards against candidates without the engine's identity."""
    engine = example(ENGINE, "Uniform", leave_out=member)()
    writer = SpeechWriter(ToyCodec(), BestOfN(2, 9), SamplingSettings(), tmp_path, engine=engine)
    refused("sampling engine Uniform", member, lambda: scaling(tmp_path, engine=engine).on_test_start(None, MODULE))
    refused("sampling engine Uniform", member, lambda: writer.on_predict_start(None, MODULE))


@pytest.mark.parametrize("member", members(Source))
def test_a_source_without_a_member_is_refused(tmp_path: Path, member: str) -> None:
    """Guards against a preparation that stops after hours, at the credits."""
    source = example(SOURCE, "SpeakerFolders", leave_out=member)(tmp_path, "CC0-1.0")
    refused("source SpeakerFolders", member, lambda: AudioDataModule(tmp_path / "shards", [source]).prepare_data())


CODEC_FACTS = ["sample_rate", "input_sample_rate", "frame_rate", "codebook_size", "look_back_frames"]


@pytest.mark.parametrize("member", members(Codec))
def test_a_codec_without_a_member_is_refused(tmp_path: Path, member: str) -> None:
    """Guards against a codec whose scores are kept for another decoder, and one that stops in the middle of a sweep."""
    codec = example(CODEC, "MuLaw", leave_out=member)()
    comparisons = [CodecResynthesiser(codec, "other")]
    for call in (
        lambda: scaling(tmp_path, codec=codec).on_test_start(None, MODULE),
        lambda: SpeechWriter(codec, BestOfN(2, 9), SamplingSettings(), tmp_path).on_predict_start(None, MODULE),
        lambda: CodecEvaluation(tmp_path, None, EnglishWords(), comparisons).on_test_start(None, MODULE),
    ):
        with pytest.raises(ValueError, match=rf"Expected codec MuLaw to have `{member}`"):
            call()


@pytest.mark.parametrize("fact", CODEC_FACTS)
def test_a_codec_without_a_fact_does_not_exist(fact: str) -> None:
    """Guards against facts with a default that is wrong for most codecs."""
    with pytest.raises(TypeError, match=f"CodecFacts.*{fact}"):
        example(CODEC, "MuLaw", leave_out=fact)


@pytest.mark.parametrize("member", [*members(Resynthesiser), "name"])
def test_a_resynthesiser_without_a_member_is_refused(tmp_path: Path, member: str) -> None:
    """Guards against a comparison that stops the evaluation after hours."""
    system = example(SYSTEM, "Pulses", leave_out=member)(4)
    evaluation = CodecEvaluation(tmp_path, None, EnglishWords(), [system])
    refused("comparison Pulses", member, lambda: evaluation.on_test_start(None, MODULE))


def test_no_example_is_forgotten() -> None:
    """Guards against an example in the text that no test runs."""
    assert set(EXAMPLES) == {VERIFIER, ALGORITHM, ENGINE, SOURCE, CODEC, SYSTEM}
    assert all(10 <= len(text.splitlines()) <= 60 for text in EXAMPLES.values())
