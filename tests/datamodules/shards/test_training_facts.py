"""What a checkpoint says about its training data, against the texts that the shards were made of."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from datamodules.shards.shards import ShardWriter
from datamodules.shards.training_facts import MAX_WORDS, TrainingFacts, facts_of_config, facts_of_shards, words_of
from datamodules.tasks import SpeechUnderstanding, TextToSpeech, VoiceCloning
from datamodules.tokens import TokenDataModule
from modules.lm.checkpoints import read_model
from modules.lm_module import LMModule
from modules.speech.voice_facts import facts_of_checkpoint
from tests.toys.tiny_voice import FORMAT, LICENSE_HOURS, NUM_CODES, PROMPT_FORMAT, SIZE, TEXTS, write_tokens

CODEC, WORDS = "runs/a/codec.ckpt", ("four", "one", "two")
EXPECTED = TrainingFacts(
    CODEC, ("en",), ("CC0-1.0",), ("anna", "ben"), WORDS, row_length=256, longest_text=9, license_hours=LICENSE_HOURS
)


@pytest.fixture
def tokens(tmp_path):
    write_tokens(tmp_path / "tokens", TEXTS, "f", CODEC, ("anna", "ben"))
    return tmp_path / "tokens"


def test_the_facts_are_those_of_the_samples(tokens):
    """Guards against facts that lead to refusing a word that was trained, or to speaking one that was not."""
    assert facts_of_shards([tokens / "train"], row_length=256) == EXPECTED
    stored = json.loads(json.dumps(EXPECTED.plain()))
    assert TrainingFacts.of_plain({**stored, "of_a_later_version": 1}) == EXPECTED
    assert words_of("It's 2 o\u2019clock, GO!") == ["it's", "2", "o\u2019clock", "go"]


def test_many_words_are_an_open_vocabulary_and_are_not_all_read(tmp_path, monkeypatch):
    """Guards against a closed vocabulary of a large corpus, and against reading all of it."""
    import datamodules.shards.training_facts as module

    texts = [f"w{number}" for number in range(MAX_WORDS)]
    write_tokens(tmp_path / "few", texts, "f", "")
    write_tokens(tmp_path / "many", [*texts, "one", *["again"] * 300], "f", "")
    assert len(facts_of_shards([tmp_path / "few/train"]).words) == MAX_WORDS
    read = []
    monkeypatch.setattr(module, "words_of", lambda text: read.append(text) or words_of(text))
    assert facts_of_shards([tmp_path / "many/train"]).words is None
    assert len(read) == MAX_WORDS + 1


def test_a_damaged_sample_is_passed_over(tokens):
    """Guards against a run that cannot save its checkpoint because of one bad sample."""
    shard = tokens / "train/000000.tar"
    content = bytearray(shard.read_bytes())
    place = content.index(b'"text": "Two')
    content[place : place + 12] = b"}" * 12
    shard.write_bytes(content)
    assert facts_of_shards([tokens / "train"]).words == ("four", "two")


def test_a_run_without_stored_facts_has_those_of_its_config(tokens, tmp_path):
    """Guards against losing the words of models that were trained before checkpoints stored them."""
    arguments = {"folder": "tokens", "row_length": 256, "tasks": None}
    data = {"class_path": "datamodules.tokens.TokenDataModule", "init_args": arguments}
    assert facts_of_config(data, tmp_path) == EXPECTED
    cloning = {"class_path": "datamodules.tasks.VoiceCloning", "init_args": {"folder": "tokens"}}
    listening = {"class_path": "datamodules.tasks.SpeechUnderstanding", "init_args": {"folder": "elsewhere"}}
    both = {**data, "init_args": {**arguments, "tasks": [cloning, listening]}}
    assert facts_of_config(both, tmp_path).spoken_prompts
    assert facts_of_config({**data, "init_args": {"folder": "gone"}}, tmp_path) is None
    assert facts_of_config({"class_path": "someone.Data", "init_args": arguments}, tmp_path) is None


@pytest.mark.parametrize("tasks", [None, [VoiceCloning(), TextToSpeech(), SpeechUnderstanding(weight=0.1)]])
def test_a_trained_checkpoint_stores_the_facts_as_plain_data(tasks, tokens, tmp_path):
    """Guards against checkpoints without facts, with objects that weights_only refuses, or that lose them in loading
    and saving again."""
    module = LMModule(FORMAT, size=SIZE, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3))
    data = TokenDataModule(tokens, FORMAT, 256, 1, 1, validation_split="train", num_validation_rows=1, tasks=tasks)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=False)
    expected = {**EXPECTED.plain(), "spoken_prompts": tasks is not None}
    assert content["training_facts"] == expected
    # The command line describes the prompt format as plain data.
    content["hyper_parameters"] = {"prompt_format": PROMPT_FORMAT, "size": vars(SIZE)}
    torch.save(content, path)
    assert read_model(path)["training_facts"] == expected
    assert facts_of_checkpoint(path, "a", tmp_path).words == EXPECTED.words
    module.training_facts = {}
    module.on_load_checkpoint(content)
    assert module.training_facts == expected
    del content["training_facts"]  # as written by an earlier version
    module.on_load_checkpoint(content)
    assert module.training_facts == {}


def test_a_model_that_listens_or_reads_does_not_speak(tokens, tmp_path, caplog):
    """Guards against a false warning, and a recogniser that counts as a voice."""
    listening = SpeechUnderstanding(weight=1.0)
    stored = TokenDataModule(tokens, FORMAT, 256, tasks=[listening]).training_facts
    assert TrainingFacts.of_plain(stored) == TrainingFacts(row_length=256, speaks=False)
    assert not caplog.text
    assert TrainingFacts.of_plain({"codec": CODEC}).speaks  # of a version that did not say it
    task = {"class_path": "datamodules.tasks.SpeechUnderstanding"}
    arguments = {"folder": "tokens", "row_length": 256, "tasks": [task]}
    data = {"class_path": "datamodules.tokens.TokenDataModule", "init_args": arguments}
    assert facts_of_config(data, tmp_path) == TrainingFacts(row_length=256, speaks=False)


def test_shards_that_are_gone_cost_no_checkpoint(tmp_path, caplog):
    """Guards against training that ends because its facts cannot be read."""
    assert TokenDataModule(tmp_path / "gone", FORMAT).training_facts == {}
    assert "says nothing about its training data" in caplog.text


def write_licensed(folder: Path, licenses: Sequence[str], frame_rate: float | None = 50.0) -> None:
    """Token shards of `folder/train`: sample n has 10 (n + 1) codes."""
    header = {"codebook_size": NUM_CODES, "codec_fingerprint": "f"} | ({"frame_rate": frame_rate} if frame_rate else {})
    with ShardWriter(folder / "train", "tokens", header) as writer:
        for number, license in enumerate(licenses):
            codes = np.zeros(10 * (number + 1), np.uint16)
            files = {"codes.npy": codes, "json": json.dumps({"text": "one", "license": license}).encode()}
            writer.write(f"k{number}", files, len(codes), "one")


def hours(*numbers: int) -> float:
    """Of samples with these numbers."""
    return sum(10 * (number + 1) for number in numbers) / 50 / 3600


def test_hours_by_licence_are_those_of_the_index_or_of_the_samples_read(tmp_path, monkeypatch):
    """Guards against a licence that is counted by recordings, and one that is lost because few samples are read."""
    import datamodules.shards.training_facts as module

    write_licensed(tmp_path, ["a", "b", "", "a", "b"])
    folder = tmp_path / "train"
    expected = {"": hours(2), "a": hours(0, 3), "b": hours(1, 4)}
    assert facts_of_shards([folder, folder]).license_hours == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(module, "MAX_READ", 2)  # the first and the last
    scale = hours(0, 1, 2, 3, 4) / hours(0, 4)
    estimated = {"a": scale * hours(0), "b": scale * hours(4)}
    assert facts_of_shards([folder]).license_hours == pytest.approx(estimated, abs=1e-6)
    arrays = dict(np.load(folder / "index.npz"))
    arrays |= {"licenses": np.array(["rare", "b", "gone"]), "license_of": np.array([1, 1, 0, 1, 1])}
    np.savez(folder / "index.npz", **arrays)
    facts = facts_of_shards([folder])
    assert facts.license_hours == pytest.approx({"b": hours(0, 1, 3, 4), "rare": hours(2)}, abs=1e-6)
    assert facts.licenses == ("a", "b", "rare")
    assert TrainingFacts.of_plain(json.loads(json.dumps(facts.plain()))) == facts
    write_licensed(tmp_path / "old", ["a"], frame_rate=None)
    assert facts_of_shards([tmp_path / "old/train"]).license_hours == {}


def test_a_fit_prints_its_licences_once(tmp_path, capsys):
    """Guards against a model whose licences nobody saw before it was trained."""
    write_licensed(tmp_path / "one", ["CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-4.0"], 10 / 3600)  # 1, 2, 3 h
    write_licensed(tmp_path / "two", [""], 10 / 3600 * 60)
    tasks = [TextToSpeech(), TextToSpeech(folder=tmp_path / "two", name="two"), SpeechUnderstanding()]
    arguments = {"validation_split": "train", "num_validation_rows": 1, "tasks": tasks}
    data = TokenDataModule(tmp_path / "one", FORMAT, 256, **arguments)
    data.setup("fit")
    lines = [line for line in capsys.readouterr().out.splitlines() if "licences" in line]
    named = "CC-BY-4.0 4.0 h, CC-BY-NC-4.0 2.0 h, not stated 1.00 min"
    assert lines == [f"licences of the training data: {named}"]
    data.setup("validate")
    data.trainer = SimpleNamespace(global_rank=1, world_size=1)
    data.setup("fit")
    assert "licences" not in capsys.readouterr().out
