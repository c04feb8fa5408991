"""Keys of stored candidates, scores and codes: everything that changes a result changes its key, and nothing else."""

import dataclasses
import importlib
import inspect
import json
import logging
import pkgutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import modules.verifiers
from modules.api import Audio, Candidate, Prompt, SamplingSettings, Verifier
from modules.frontend.alignment import PhonemeAligner
from modules.frontend.phonemes import pronunciations, spoken_words
from modules.lm.adapters import LowRankAdapters, add_adapters
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama, model_hash
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import LlasaChat, TextToSpeech
from modules.provenance import digest
from modules.search.algorithms.adaptive import Adaptive
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.diverse_beam import DiverseBeam
from modules.search.algorithms.partial_beam import PartialBeam
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.candidate_store import FORMAT_VERSION, CandidateStore
from modules.search.identity import candidate_identity, score_identity
from modules.settings import NOT_SETTINGS
from modules.tokens import TokenSpace, Utterance
from modules.verifiers.alignment import AlignmentScore
from modules.verifiers.audio import BatchVerifier, ClipVerifier
from modules.verifiers.embeddings.audio_models import AudioModel
from modules.verifiers.embeddings.funasr_models import Emotion2Vec, FunASRModel, Paraformer
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.embeddings.wavlm_speaker import FineTunedWavLM
from modules.verifiers.emotion import EmotionLabel, EmotionSimilarity
from modules.verifiers.ensemble import Ensemble
from modules.verifiers.health import Health
from modules.verifiers.likelihood import Likelihood
from modules.verifiers.naturalness import AudioRegressor, DistillMos, Dnsmos, Utmos
from modules.verifiers.recognisers.ctc import CTC
from modules.verifiers.recognisers.moonshine import Moonshine
from modules.verifiers.recognisers.normalise import BasicWords, Digits, EnglishWords, LetterWords
from modules.verifiers.recognisers.pocketsphinx import Pocketsphinx
from modules.verifiers.recognisers.whisper import FasterWhisper
from modules.verifiers.recognisers.word_templates import WordTemplates
from modules.verifiers.seconds_per_character import SecondsPerCharacter
from modules.verifiers.speaker import Speaker, XVector
from modules.verifiers.text_probability import TextProbability
from modules.verifiers.transcript import Transcript
from tests.toys.audio_model_toys import save_audio_model
from tests.toys.search_toys import ToyCodec, ToyFormat, ToyVerifier, first_level, mean_level

PROMPT = Prompt("key", "one two", language="en", speaker="ann")
VOICE = Utterance("hello", (1, 2, 3), "ann", "en")


def key_of(prompt_format: Any = None, prompt: Prompt = PROMPT, model: str = "m", **changes: Any) -> str:
    settings = {"codec": ToyCodec(), "sampling": SamplingSettings(), "algorithm": BestOfN(4, 12), "seed": 7} | changes
    codec = settings.pop("codec")
    return digest(candidate_identity(model, prompt_format or ToyFormat(), codec, prompt, **settings))


# ------------------------------------------------------------------------------------------------- what a prompt says


class Template:
    """A byte tokenizer with a chat template; the template contains the date."""

    vocab_size = 512

    def __init__(self, opening: str = "user: ") -> None:
        self.opening = opening

    def encode(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]

    encode_template = encode

    def render(self, messages: list[dict[str, str]], date: str, begin_answer: bool = True) -> str:
        return f"{date} {self.opening}" + "".join(one["content"] for one in messages) + ("answer: " * begin_answer)


def test_everything_that_the_model_receives_changes_the_key() -> None:
    """Guards against reusing candidates of another template, instruction, date, tokenizer, prefix, speaker, language or
    spoken prompt because texts and keys are equal."""
    named = {"prefix": "{speaker} {language}: "}
    formats = {
        "template": LlasaChat(Template(), 16, **named),
        "another template": LlasaChat(Template("human: "), 16, **named),
        "instruction": LlasaChat(Template(), 16, **named, synthesis_instruction="Speak:"),
        "date": LlasaChat(Template(), 16, **named, date="1 Jan 2026"),
        "no prefix": LlasaChat(Template(), 16),
        "prefix": LlasaChat(Template(), 16, prefix="{speaker}/{language}: "),
        "answer prefix": LlasaChat(Template(), 16, **named, answer_prefix="Speaker {speaker} "),
        "plain": TextToSpeech(ByteTokenizer(), 16, **named),
        "tokenizer": TextToSpeech(Template(), 16, **named),
    }
    keys = {name: key_of(one) for name, one in formats.items()}
    assert len(set(keys.values())) == len(formats), keys
    told = formats["template"]
    prompts = {
        "key": dataclasses.replace(PROMPT, key="other"),
        "text": dataclasses.replace(PROMPT, text="one three"),
        "speaker": dataclasses.replace(PROMPT, speaker="bob"),
        "language": dataclasses.replace(PROMPT, language="de"),
        "voice": dataclasses.replace(PROMPT, voice=VOICE),
        "voice's text": dataclasses.replace(PROMPT, voice=dataclasses.replace(VOICE, text="bye")),
        "voice's codes": dataclasses.replace(PROMPT, voice=dataclasses.replace(VOICE, codes=(1, 2, 4))),
    }
    assert len({keys["template"], *(key_of(told, one) for one in prompts.values())}) == 1 + len(prompts)


def test_a_speaker_that_the_format_ignores_does_not_change_the_key() -> None:
    """Guards against sampling again for values that the model does not receive."""
    plain = TextToSpeech(ByteTokenizer(), 16)
    assert key_of(plain) == key_of(plain, dataclasses.replace(PROMPT, speaker="bob"))


# ------------------------------------------------------------------------------------- how candidates are searched for


@pytest.mark.parametrize(
    "algorithm",
    [
        BestOfN(4, 12),
        Adaptive("a", max_candidates=6, max_new_tokens=30, price=0.0, round_size=2),
        ProcessBeam("a", 3, 2, 30),
        PartialBeam("a", 3, 2, 2, 200),
        DiverseBeam("a", 4, 2, 30),
    ],
    ids=lambda one: type(one).__name__,
)
def test_every_argument_of_a_search_changes_the_key(algorithm: Any) -> None:
    """Guards against an argument missing in the identity: covers all arguments of the constructor."""
    before = key_of(algorithm=algorithm)
    for name in inspect.signature(type(algorithm)).parameters:
        value = getattr(algorithm, name)
        other = "other" if name in ("reward", "health") else (value or 0) + 0.5
        changed = dataclasses.replace(algorithm)
        object.__setattr__(changed, name, other)  # bypasses the checks: only the key is used
        assert key_of(algorithm=changed) != before, name


def test_every_sampling_setting_model_codec_and_seed_changes_the_key() -> None:
    """Guards against reusing candidates of another temperature, model, codec, seed, engine or reward verifier."""
    others = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.2}
    others |= {"force_words": True}
    assert set(others) == {one.name for one in dataclasses.fields(SamplingSettings)}
    assert set(others) - set(SamplingSettings().stored()) == {"force_words"}, "stored candidates have no such key"
    engine = type("Engine", (), {"identity": lambda self: {"name": "engine"}})()
    keys = [
        key_of(),
        *(key_of(sampling=SamplingSettings(**{name: value})) for name, value in others.items()),
        key_of(model="other"),
        key_of(seed=8),
        key_of(codec=type("Other", (ToyCodec,), {"fingerprint": "other"})()),
        key_of(steering={"a": "score of a"}),
        key_of(engine=engine),
    ]
    assert len(set(keys)) == len(keys)


def test_no_key_contains_a_module_path(without_folders: None) -> None:
    """Guards against a moved module that invalidates all stored candidates."""
    identity = candidate_identity("m", ToyFormat(), ToyCodec(), PROMPT, SamplingSettings(), BestOfN(4, 12), 7)
    assert "modules." not in json.dumps(identity) and '"class": "BestOfN"' in json.dumps(identity)
    for verifier in verifiers():
        assert "modules." not in json.dumps(verifier.facts.settings), verifier.facts.name


# ------------------------------------------------------------------------------------------------- the language model

SIZE = LlamaSize(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_key_value_heads=1)
SPACE = TokenSpace(text_vocab_size=20, codebook_size=16)


def network(size: LlamaSize = SIZE, adapters: LowRankAdapters | None = None, **config: Any) -> SpeechLanguageModel:
    """The weights are the same at every call."""
    torch.manual_seed(0)
    llama = build_llama(size, SPACE.vocab_size)
    if adapters is not None:
        add_adapters(llama, adapters)
    for name, value in config.items():
        setattr(llama.config, name, value)
    return SpeechLanguageModel(llama)


def test_a_model_is_known_by_all_that_decides_its_logits() -> None:
    """Guards against a model with other rotary frequencies, another epsilon, precision or adapter scale that counts as
    the same: the weights do not show these."""
    changed = {
        "rope": network(dataclasses.replace(SIZE, rope_theta=5e5)),
        "epsilon": network(rms_norm_eps=1e-5),
        "activation": network(hidden_act="gelu"),
        "heads": network(dataclasses.replace(SIZE, num_heads=4, num_key_value_heads=2)),
        "dtype": network().to(torch.bfloat16),
        "adapters": network(adapters=LowRankAdapters(rank=2, alpha=4)),
        "alpha": network(adapters=LowRankAdapters(rank=2, alpha=8)),
    }
    hashes = {name: model_hash(one, SPACE) for name, one in changed.items()}
    hashes |= {"plain": model_hash(network(), SPACE)}
    hashes |= {"space": model_hash(network(), TokenSpace(text_vocab_size=19, codebook_size=17))}
    assert len(set(hashes.values())) == len(hashes), hashes
    alike = [network(use_cache=True), network(attention_dropout=0.1), network(initializer_range=0.5)]
    assert {model_hash(one, SPACE) for one in alike} == {hashes["plain"]}


# ------------------------------------------------------------------------------------------------------------- scores


def normalisers() -> list[Any]:
    return [BasicWords(), LetterWords(), EnglishWords(), Digits()]


@cache
def verifiers() -> list[Verifier]:
    """One of each kind; ensembles have their own test. Their folders do not exist (`without_folders`)."""
    return [
        Transcript(FasterWhisper(), BasicWords()),
        Transcript(Pocketsphinx(), Digits(), "character"),
        Transcript(CTC("a folder"), BasicWords(), name="ctc"),
        Transcript(Paraformer(), BasicWords(), name="paraformer"),
        Transcript(WordTemplates(Path("a folder")), BasicWords(), name="templates"),
        Speaker(Resemblyzer()),
        Speaker(XVector("a folder"), name="x-vector"),
        Speaker(FineTunedWavLM(Path("a file")), name="wavlm"),
        Speaker(Emotion2Vec(), name="emotion2vec"),
        *(Likelihood(), SecondsPerCharacter(), Health()),
        *(Dnsmos(), DistillMos(), Utmos()),
        AudioRegressor("a folder"),
        EmotionLabel("a folder", "happy"),
        EmotionSimilarity("a folder"),
        AlignmentScore(PhonemeAligner(pronunciations), spoken_words),
        TextProbability(Moonshine("a folder")),
        Transcript(Moonshine("a folder"), BasicWords(), name="moonshine"),
    ]


@pytest.fixture
def without_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AudioModel, "families", frozenset({"family"}))
    for kind in (AudioModel, FunASRModel, FasterWhisper, Moonshine):
        monkeypatch.setattr(kind, "files_hash", "files")
    for kind in (AudioModel, FunASRModel, FasterWhisper, FineTunedWavLM, Moonshine, Utmos, WordTemplates):
        monkeypatch.setattr(kind, "model_hash", "weights")


def test_every_class_that_scores_is_walked_over() -> None:
    """Guards against a new verifier, recogniser or encoder whose arguments no test below covers."""
    found = set()
    for module in pkgutil.walk_packages(modules.verifiers.__path__, "modules.verifiers."):
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and not getattr(kind, "_is_protocol", False):
                found |= {kind} if any(hasattr(kind, one) for one in ("score", "transcribe", "embed")) else set()
    parts = [getattr(one, name) for one in verifiers() for name in ("recogniser", "encoder") if hasattr(one, name)]
    assert found - {Ensemble, BatchVerifier, ClipVerifier} == {type(one) for one in [*verifiers(), *parts]}


def with_arguments(built: Any, **changes: Any) -> Any:
    """The same class with other arguments; the rest are its attributes."""
    names = inspect.signature(type(built)).parameters
    given = {name: getattr(built, name) for name in names if name not in NOT_SETTINGS}
    if not isinstance(built, FasterWhisper):
        given["model"] = "a folder"
    return type(built)(**{name: value for name, value in (given | changes).items() if name in names})


OTHERS: dict[str, Any] = {
    "unit": "word", "field": "sig_mos", "compute_type": "float32", "beam_size": 5, "window_seconds": 15.0,
    "grammar": None, "label": "sad", "languages": ["en"], "pronounce": spoken_words, "words": str.split,
}  # fmt: skip


def other_value(name: str, value: Any) -> Any:
    if name in OTHERS:
        return OTHERS[name] if OTHERS[name] != value else "character"
    return value / 2 + 1 if name == "max_seconds_per_character" else value * 1.5


@pytest.mark.parametrize("verifier", verifiers(), ids=lambda one: type(one).__name__)
def test_every_argument_of_a_verifier_changes_its_score_key(verifier: Any, without_folders: None) -> None:
    """Guards against an argument that changes scores and not their key: covers all arguments of the constructors, and
    those of the recogniser, encoder or aligner inside. Arguments without an effect must not invalidate scores."""
    before = score_identity(verifier, PROMPT, "decoder")
    for name in inspect.signature(type(verifier)).parameters:
        if name in ("recogniser", "encoder", "aligner"):
            held = getattr(verifier, name)
            for own in inspect.signature(type(held)).parameters:
                if own not in NOT_SETTINGS:
                    other = with_arguments(held, **{own: other_value(own, getattr(held, own))})
                    assert key_with(verifier, **{name: other}) != before, own
        elif name == "normaliser":
            keys = {key_with(verifier, normaliser=one) for one in normalisers()}
            assert len(keys) == len(normalisers())
        elif name in NOT_SETTINGS:
            other = {"name": "another", "device": "cuda", "families": ["x"]}.get(name, 3)
            assert name == "model" or key_with(verifier, **{name: other}) == before, name
        else:
            changed = with_arguments(verifier, **{name: other_value(name, getattr(verifier, name))})
            assert score_identity(changed, PROMPT, "decoder") != before, name
    assert score_identity(verifier, PROMPT, "another decoder") != before
    other = SimpleNamespace(facts=dataclasses.replace(verifier.facts, model_hash="other weights"))
    assert score_identity(other, PROMPT, "decoder") != before


def key_with(verifier: Any, **changes: Any) -> str:
    return score_identity(with_arguments(verifier, **changes), PROMPT, "decoder")


def test_another_spelling_table_is_another_score(tmp_path: Path) -> None:
    """Guards against reusing scores under another table of the same name."""
    tables = {"a.json": '{"colour": "color"}', "b.json": '{"colour": "color", "grey": "gray"}'}
    keys = []
    for name, content in tables.items():
        (tmp_path / name).write_text(content)
        keys.append(Transcript(FasterWhisper(), EnglishWords(tmp_path / name)).facts.settings)
    assert keys[0] != keys[1]
    assert keys[0]["normaliser"] == keys[1]["normaliser"]


def test_an_ensembles_members_and_weights_change_its_key() -> None:
    """Guards against an ensemble identified only by its members' weights, or in which two members may be swapped: which
    weight belongs to which model, and which model occurs twice, changes the score."""
    strict, lax = Health(name="b"), Health(name="b", max_loop_seconds=2.0)
    mean, first = ToyVerifier("a", mean_level, "mean"), ToyVerifier("b", first_level, "first")
    more_mean, more_first = ToyVerifier("c", mean_level, "mean"), ToyVerifier("c", first_level, "first")
    ensembles = [
        Ensemble([Health(), strict]),
        Ensemble([Health(), lax]),
        Ensemble([Health(), strict], "rank"),
        Ensemble([Health(), strict], weights=[1.0, 2.0]),
        Ensemble([mean, first], weights=[1.0, 2.0]),
        Ensemble([first, mean], weights=[1.0, 2.0]),
        Ensemble([mean, first, more_mean]),
        Ensemble([mean, first, more_first]),
    ]
    assert len({score_identity(one, PROMPT, "decoder") for one in ensembles}) == len(ensembles)
    arguments = set(inspect.signature(Ensemble).parameters) - {"name"}
    assert arguments == set(ensembles[0].facts.settings)
    renamed = Ensemble(
        [ToyVerifier("x", mean_level, "mean"), ToyVerifier("y", first_level, "first")], weights=[1.0, 2.0]
    )
    assert score_identity(renamed, PROMPT, "decoder") == score_identity(ensembles[4], PROMPT, "decoder")


def test_files_next_to_the_weights_change_a_score_key(tmp_path: Path) -> None:
    """Guards against reusing scores of a model whose labels, feature extractor or tokenizer were changed. It stays the
    same judge, and notes change nothing."""

    def score_and_key(folder: Path) -> tuple[float, str, str]:
        verifier = EmotionLabel(str(folder), "mood 0")
        audio = Audio(torch.randn(16000, generator=torch.Generator().manual_seed(0)) / 9 + 0.1, 16000)
        heard = Candidate("key", 0, 0, torch.zeros(4, dtype=torch.int64), -8.0, True, audio)
        score = verifier.score(PROMPT, [heard]).item()
        return score, score_identity(verifier, PROMPT, "decoder"), verifier.facts.model_hash

    def changed(file: str, **values: Any) -> None:
        path = tmp_path / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    save_audio_model(tmp_path, "classifier", num_labels=2)
    seen = [score_and_key(tmp_path)]
    changed("config.json", id2label={"0": "mood 1", "1": "mood 0"}, label2id={"mood 1": 0, "mood 0": 1})
    seen.append(score_and_key(tmp_path))
    changed("preprocessor_config.json", do_normalize=False)
    seen.append(score_and_key(tmp_path))
    scores, keys, models = (set(values) for values in zip(*seen, strict=True))
    assert len(scores) == len(keys) == len(seen) and len(models) == 1
    (tmp_path / "README.md").write_text("notes")
    assert score_and_key(tmp_path) == seen[-1]

    whisper = []
    (tmp_path / "model.bin").write_bytes(b"weights")
    for vocabulary in ("one", "two"):
        (tmp_path / "vocabulary.txt").write_text(vocabulary)
        whisper.append(score_identity(Transcript(FasterWhisper(str(tmp_path)), BasicWords()), PROMPT, "decoder"))
    assert whisper[0] != whisper[1]


# ------------------------------------------------------------------------------------------------------ older stores


def test_candidates_of_an_older_format_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against silently repeating hours of sampling, and against a warning for every prompt."""
    for number in range(3):
        (tmp_path / f"key-{number}.json").write_text('{\n "format": 2,\n "identity": {}}')
    (tmp_path / "new.json").write_text(f'{{\n "format": {FORMAT_VERSION}}}')
    store = CandidateStore(tmp_path)
    identity = candidate_identity("m", ToyFormat(), ToyCodec(), PROMPT, SamplingSettings(), BestOfN(4, 12), 7)
    with caplog.at_level(logging.WARNING):
        assert store.load(identity, PROMPT) is None and store.load(identity, PROMPT) is None
    (message,) = caplog.messages
    assert message.startswith("3 files in") and "older format" in message
    assert len(list(tmp_path.iterdir())) == 4
