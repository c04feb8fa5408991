"""Voices by short names: what is found, with which codec, and what is said where there is none."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from modules.api import Prompt, SamplingSettings
from modules.codec.formats.checkpoints import load_codec, save_transformers
from modules.lm.checkpoints import export, read_model, restored_network
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.text.prompt_format import LlasaChat
from modules.search.protocol import SpeechModel
from modules.speech.export import facts_of_run
from modules.speech.models import find_model, list_models
from modules.speech.voice_facts import VoiceFacts
from tests.toys.codec_references import small_codec
from tests.toys.llasa_folder import NUM_CODES, NUM_WORDS, llama_file, save_network, true_tokenizer
from tests.toys.tiny_voice import FORMAT, lm_checkpoint, save_codec, save_run
from tests.toys.tiny_voice import NUM_CODES as NUM_TINY_CODES

CPU = torch.device("cpu")


def drawn(sampler, text="four two"):
    (branch,) = sampler.extend(sampler.start([Prompt("k", text)]), 1, 30, [0])
    return branch.codes_S.tolist()


def aged(path: Path, seconds: float) -> Path:
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))
    return path


def change(path: Path, by: Callable[[dict], object]) -> None:
    content = torch.load(path, weights_only=True)
    by(content)
    torch.save(content, path)


def problem(name, root, error=ValueError, **options) -> str:
    with pytest.raises(error) as raised:
        find_model(name, root, **options).codec  # noqa: B018
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---------------------------------------------------------------------------------------------------------- our runs


@pytest.mark.parametrize("stores_facts", [True, False])
@pytest.mark.parametrize("name", ["runs/a", "runs/a/lm", "a", "runs/a/lm/checkpoints/last.ckpt", None])
def test_every_name_of_a_run_leads_to_the_same_voice(name, stores_facts, tmp_path):
    """Guards against a name that is not understood, and facts that checkpoints of earlier versions do not store."""
    path = save_run(tmp_path, "a", stores_facts)
    model = find_model(name, tmp_path, device="cpu")
    assert model.facts == VoiceFacts(
        "runs/a", "run", ("en",), ("CC0-1.0",),
        num_parameters=sum(weight.numel() for weight in restored_network(read_model(path)).parameters()),
        num_bytes=4 * sum(weight.numel() for weight in restored_network(read_model(path)).parameters()),
        words=("four", "one", "two"), codec="runs/a/codec/checkpoints/last.ckpt", max_tokens=256, longest_text=9,
        sampling=SamplingSettings(temperature=0.6), num_codes=NUM_TINY_CODES,
        codec_fingerprint=read_model(path)["codec_fingerprint"], date=model.facts.date,
    )  # fmt: skip


def test_a_voice_speaks_as_its_checkpoint_and_is_loaded_once(tmp_path, monkeypatch):
    """Guards against other weights or another codec than those of the run, and against loading for each sentence."""
    path = save_run(tmp_path, "a")
    model = find_model("runs/a", tmp_path, device="cpu")
    loads = []
    real = type(model.saved).load
    monkeypatch.setattr(type(model.saved), "load", lambda *given: loads.append(given) or real(*given))
    for _ in range(3):
        model.load(CPU, torch.float32)
    assert len(loads) == model.num_loads == 1
    assert isinstance(model, SpeechModel)
    settings = model.facts.sampling
    expected = drawn(KVCacheSampler(restored_network(read_model(path)), FORMAT, settings))
    assert len(set(expected)) > 3
    assert drawn(model.sampler(settings)) == expected
    codes = torch.tensor([expected])
    codec = load_codec(tmp_path / "runs/a/codec/checkpoints/last.ckpt")
    length = torch.tensor([len(expected)])
    assert torch.equal(model.codec.decode(codes, length), codec.decode(codes, length))
    assert model.codec is model.codec


def test_the_newest_of_several_is_taken_and_said(tmp_path):
    """Guards against a choice by name or chance, in silence; and against a run that a stage has moved aside."""
    old = aged(save_run(tmp_path, "old"), 100)
    save_run(tmp_path, "new", seed=1)
    second = tmp_path / "runs/new/lm_large/checkpoints/last.ckpt"
    second.parent.mkdir(parents=True)
    torch.save(lm_checkpoint("", seed=2), second)
    aged(second, 10)
    moved = tmp_path / "runs/new/lm.superseded-ab/checkpoints/last.ckpt"
    moved.parent.mkdir(parents=True)
    shutil.copy(old, moved)
    (moved.parents[1] / "export").mkdir()
    (moved.parents[1] / "export/voice.json").write_text("{}")
    assert find_model(None, tmp_path).facts.name == "runs/new/lm"
    model = find_model("runs/new", tmp_path)
    assert model.facts.name == "runs/new/lm"
    assert model.facts.notes == ("the newest of 2 in runs/new; others: runs/new/lm_large",)
    assert [facts.name for facts in list_models(tmp_path)] == ["runs/new/lm", "runs/new/lm_large", "runs/old"]


def test_the_codec_is_the_one_that_the_model_was_trained_on(tmp_path):
    """Guards against speech that is noise: a codec retrained since, another run's, a given one of other codes."""
    save_run(tmp_path, "a")
    recorded = tmp_path / "runs/a/codec/checkpoints/last.ckpt"
    save_codec(tmp_path / "runs/b/codec/checkpoints/last.ckpt", scale=0.5)
    kept = tmp_path / "runs/c/codec/checkpoints/last.ckpt"
    kept.parent.mkdir(parents=True)
    shutil.copy(recorded, kept)
    save_codec(recorded, scale=2)  # trained again
    model = find_model("runs/a", tmp_path, device="cpu")
    assert model.codec.fingerprint == model.codec_fingerprint
    assert model.facts.codec == "runs/c/codec/checkpoints/last.ckpt"
    kept.unlink()
    said = problem("runs/a", tmp_path, device="cpu")
    assert "--codec" in said and "its encoder is another" in said and "runs/a/codec" in said
    said = problem("runs/a", tmp_path, codec="runs/b/codec/checkpoints/last.ckpt", device="cpu")
    assert "`runs/b/codec/checkpoints/last.ckpt` to be the codec of runs/a" in said and "fingerprint" in said
    for absent, reason in (("runs/none.ckpt", "there is nothing."), ("someone/codec", "neither here nor on the hub: ")):
        said = problem("runs/a", tmp_path, FileNotFoundError, codec=absent, device="cpu")
        assert said.startswith(f"Expected `{absent}` to be the codec of runs/a, but ") and reason in said
        assert said.count("Expected") == 1 and len(said) <= 300
    said = problem("runs/a", tmp_path, codec="runs/a/lm/checkpoints/last.ckpt", device="cpu")
    assert "describes no generator" in said and said.count("Expected") == 1


def test_every_codec_that_is_loaded_is_counted(tmp_path, monkeypatch):
    """Guards against seconds of loading that nobody sees: a codec retrained since costs a search through the others."""
    save_run(tmp_path, "a")
    recorded = tmp_path / "runs/a/codec/checkpoints/last.ckpt"
    kept = tmp_path / "runs/b/codec/checkpoints/last.ckpt"
    kept.parent.mkdir(parents=True)
    shutil.copy(recorded, kept)
    loads = []
    monkeypatch.setattr(
        "modules.codec.formats.checkpoints.load_codec", lambda *given: loads.append(given) or load_codec(*given)
    )
    for _ in range(2):
        loads.clear()
        model = find_model("runs/a", tmp_path, device="cpu")
        assert model.num_codec_loads == 0
        assert model.codec is model.codec
        assert model.num_codec_loads == len(loads) > 0
        save_codec(recorded, scale=2)
    assert len(loads) > 1


def test_what_is_no_voice_is_named(tmp_path):
    """Guards against tracebacks for folders of shards, damaged files, codecs, typing errors and empty places."""
    assert "make demo" in problem(None, tmp_path, FileNotFoundError)
    path = save_run(tmp_path, "a")
    said = problem("runs/b", tmp_path, FileNotFoundError)
    assert "got `runs/b`, where there is nothing" in said and "make voice" in said
    assert "Here: runs/a." in problem("runs/b/lm", tmp_path, FileNotFoundError)
    assert "describes none" in problem("runs/a/codec/checkpoints/last.ckpt", tmp_path)
    assert "a checkpoint of LMModule" in problem("runs/a/codec", tmp_path)
    sharded = tmp_path / "runs/s/lm/checkpoints/last.ckpt"
    sharded.mkdir(parents=True)
    (sharded / "meta.pt").touch()
    assert "Join them" in problem("runs/s/lm/checkpoints/last.ckpt", tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    assert "damaged" in problem(str(path), tmp_path)
    listed = {facts.name: facts for facts in list_models(tmp_path)}
    assert "damaged" in listed["runs/a"].problem and "Join them" in listed["runs/s"].problem
    assert "make demo" in problem(None, tmp_path, FileNotFoundError)


def test_a_model_that_was_not_trained_to_speak_is_no_voice(tmp_path):
    """Guards against noise from the newest run by default, where that one was trained on recognition."""
    save_run(tmp_path, "a")
    for name, stores_facts in (("listens", True), ("reads", False)):
        path = save_run(tmp_path, name, stores_facts, seed=1)
        if stores_facts:
            change(path, lambda content: content["training_facts"].update(speaks=False))
        marker = tmp_path / "runs" / name / "lm/stage_fit.json"
        described = json.loads(marker.read_text())
        described["config"]["data"]["init_args"]["tasks"] = [{"class_path": "datamodules.tasks.TextReplay"}]
        marker.write_text(json.dumps(described))
        assert "trained on recognition or text alone" in problem(f"runs/{name}", tmp_path)
        shutil.copytree(tmp_path / "runs" / name / "lm", tmp_path / "runs/a" / name)
    assert find_model(None, tmp_path).facts.name == find_model("runs/a", tmp_path).facts.name == "runs/a"
    problems = {facts.name: facts.problem for facts in list_models(tmp_path)}
    assert problems.pop("runs/a") == "" and len(problems) == 4
    assert all("trained on recognition or text alone" in one for one in problems.values())


def test_a_model_that_started_from_a_pretrained_one_keeps_its_words(tmp_path, monkeypatch):
    """Guards against a Llasa that refuses every word but those of the sentences it was fine-tuned on."""
    monkeypatch.chdir(tmp_path)
    for name, stores_facts in (("a", True), ("b", False)):
        path = save_run(tmp_path, name, stores_facts)
        change(path, lambda content: content["hyper_parameters"].update(pretrained={"source": "someone/llasa"}))
        export(path, tmp_path / f"runs/exported_{name}", training=facts_of_run(path))
        for voice in (f"runs/{name}", f"runs/exported_{name}"):
            facts = find_model(voice, tmp_path).facts
            assert (facts.words, facts.longest_text, facts.languages) == (None, 0, ("en",)), voice


# ------------------------------------------------------------------------------------------------------ released Llasa


@pytest.fixture(scope="module")
def llasa(tmp_path_factory) -> Path:
    """A folder in the shape of Llasa-1B, with Llama 3's true tokenizer."""
    folder = tmp_path_factory.mktemp("llasa")
    true_tokenizer().save_pretrained(folder)
    save_network(folder, tied=True)
    card = "---\nlicense: cc-by-nc-4.0\nlanguage:\n- zh\n- en\nbase_model: x\n---\n# Llasa\n"
    (folder / "README.md").write_text(card)
    return folder


def test_the_tokenizer_is_llama_3s(llasa):
    """Guards against a conversion that splits words otherwise, which every test on it would share."""
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    from tests.toys.llasa_folder import PATTERN

    reference = tiktoken.Encoding(
        "llama3", pat_str=PATTERN, mergeable_ranks=load_tiktoken_bpe(str(llama_file())), special_tokens={}
    )
    tokenizer = Tokenizer.from_file(str(llasa / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == NUM_WORDS
    for text in ("Hello: World. It's 7:30 p.m., isn't it?", "naïve café 中文 \n\n  antidisestablishmentarianism 12345"):
        assert tokenizer.encode(text, add_special_tokens=False).ids == reference.encode(text)


def test_a_released_llasa_is_known_by_its_folder(llasa, tmp_path):
    """Guards against another codec, prompt, limit or setting than the model card's."""
    save_transformers(small_codec(), tmp_path / "codec")
    model = find_model(str(llasa), tmp_path, codec=str(tmp_path / "codec"), device="cpu")
    facts = find_model(str(llasa), tmp_path).facts
    assert (facts.kind, facts.codec, facts.num_codes) == ("released", "HKUSTAudio/xcodec2", NUM_CODES)
    assert any("HKUSTAudio/xcodec2" in note for note in facts.notes)
    assert (facts.languages, facts.licenses, facts.words) == (("zh", "en"), ("cc-by-nc-4.0",), None)
    assert facts.spoken_prompts and facts.max_tokens == 2048
    assert facts.sampling == SamplingSettings(temperature=0.8, top_k=50)
    num_parameters = NUM_WORDS * 16 + 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32 + 3 * 16  # tied: the embedding once
    assert (facts.num_parameters, facts.num_bytes) == (num_parameters, 2 * num_parameters)
    assert isinstance(model.prompt_format, LlasaChat)
    # The model card's code.
    text = "Dealing with family secrets is never easy: it's 7:30 p.m."
    formatted = f"<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>"
    chat = [
        {"role": "user", "content": "Convert the text to speech:" + formatted},
        {"role": "assistant", "content": "<|SPEECH_GENERATION_START|>"},
    ]
    expected = model.prompt_format.tokenizer.tokenizer.apply_chat_template(
        chat, tokenize=True, continue_final_message=True, date_string="26 Jul 2024", return_dict=False
    )
    assert model.prompt_format.prompt_tokens(text) == expected
    model.load(CPU, torch.float32)
    codes = drawn(model.sampler(facts.sampling), text)
    assert codes and max(codes) < NUM_CODES
    length = torch.tensor([len(codes)])
    assert model.codec.decode(torch.tensor([codes]), length).shape[-1] == 320 * len(codes)


def test_another_vocabulary_or_a_text_model_is_refused(llasa, tmp_path):
    """Guards against X-codec2 for codes of another codec."""
    folder = tmp_path / "other"
    shutil.copytree(llasa, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["id"] < NUM_WORDS - 1000]
    path.write_text(json.dumps(content))
    said = problem("other", tmp_path)
    assert "64,536 codes" in said and "--codec PATH_OR_HUB_NAME" in said
    content["added_tokens"] = content["added_tokens"][:256]
    path.write_text(json.dumps(content))
    assert "it is a text model" in problem("other", tmp_path)
    (folder / "model.safetensors").unlink()
    assert problem("other", tmp_path)


def test_the_hubs_cache_serves_a_name_offline(llasa, tmp_path, monkeypatch):
    """Guards against a traceback or a wait where there is no network, and against listing what cannot speak."""
    cache = tmp_path / "hub"
    for name in ("HKUSTAudio/Llasa-1B", "someone/plain-text"):
        repository = cache / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("0123456789" * 4)
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(snapshot.name)
        for file in llasa.iterdir():
            if name.startswith("HKUST") or "tokenizer" not in file.name:
                (snapshot / file.name).symlink_to(file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(cache))
    (facts,) = list_models(tmp_path)
    assert (facts.name, facts.kind, facts.languages) == ("HKUSTAudio/Llasa-1B", "released", ("zh", "en"))
    assert find_model("HKUSTAudio/Llasa-1B", tmp_path).facts == facts
    said = problem("HKUSTAudio/Llasa-3B", tmp_path, FileNotFoundError)
    assert "Expected the model `HKUSTAudio/Llasa-3B` in the hub's cache" in said
