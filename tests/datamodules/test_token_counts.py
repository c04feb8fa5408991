"""Rows planned by token counts: against documents that are read, a loop over the loader, and earlier runs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from datamodules import tokens
from datamodules.mixture import MixedRows
from datamodules.prompt_sets.text_and_shard_prompts import PromptPlan
from datamodules.shards.samples import Sample
from datamodules.shards.shards import ShardIndex, ShardWriter
from datamodules.tasks import SpeechUnderstanding, TextReplay, TextToSpeech, VoiceCloning
from datamodules.token_counts import count_tokens, stored_counts
from datamodules.tokens import TokenDataModule, TokenRows
from datamodules.training_steps import main, training_steps
from modules.lm.text import prompt_format
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.lm.text.phoneme_tokenizer import PhonemeTokenizer
from modules.lm.text.word_blocks import WordBlocks
from tests.toys.tiny_llama import tiny_tokenizer

NUM_CODES = 24
WORDS = ["convert", "the", "text", "speech", "date", "system", "user", "é"]


class StartToken(ByteTokenizer):
    """A third-party tokenizer that adds a start token to every text."""

    vocab_size = 257

    def encode(self, text: str) -> list[int]:
        return [256, *super().encode(text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    generator = np.random.default_rng(0)
    header = {"codebook_size": NUM_CODES, "codec_fingerprint": "a", "frame_rate": 50.0}
    for split, number in (("train", 150), ("test", 12)):
        with ShardWriter(folder / split, "tokens", header, 40) as writer:
            for place in range(number):
                text = " ".join(generator.choice(WORDS, generator.integers(3, 12)))
                codes = generator.integers(0, NUM_CODES, generator.integers(5, 30)).astype(np.uint16)
                about = {"text": text, "speaker": ("ann", "bob")[place % 2], "language": "en"}
                writer.write(f"k{place}", {"codes.npy": codes, "json": json.dumps(about).encode()}, len(codes), text)
    with ShardWriter(folder / "chat/train", "text", {}) as writer:
        for place in range(30):
            messages = [{"role": "user", "content": "the date " * (place + 1)}, {"role": "assistant", "content": "é"}]
            text = "".join(message["content"] for message in messages)
            writer.write(f"c{place}", {"json": json.dumps({"messages": messages}).encode()}, 2, text)
    return folder


def chat(folder, **settings):
    tokenizer = HuggingFaceTokenizer(str(folder / "tokenizer"))
    return prompt_format.LlasaChat(tokenizer, NUM_CODES, **settings)


def without_counts(*folders):
    for folder in folders:
        for path in folder.glob("token_counts_*"):
            path.unlink()


def test_counts_are_the_tokens_of_documents_that_are_read(folder):
    """Guards against rows planned by bytes with a byte-pair tokenizer, and against plans too short for a prefix, a
    voice, the other direction or a conversation."""
    without_counts(folder / "train", folder / "chat/train")
    index, texts = ShardIndex.load(folder / "train", "tokens"), ShardIndex.load(folder / "chat/train", "text")
    form = chat(folder, prefix="{language} {speaker}: ", answer_prefix="Speaker {speaker} ")
    assert stored_counts(index, form) is None
    counts = count_tokens(index, form, num_workers=2)
    stored = stored_counts(index, form)
    for name in ("text_N", "extra_N"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(counts, name))
    assert stored_counts(index, chat(folder)) is None, "counts of another format"
    longer = chat(folder, prefix="{language} {speaker}: ", answer_prefix="Speaker {speaker} ",
                  understanding_instruction="Write down, word for word, what is said in this recording: ")  # fmt: skip
    assert stored_counts(index, longer) is None, "the other direction has another length"
    rows = TokenRows(index, form, 400, 0, counts=[counts])
    for row in range(len(index)):
        sample = Sample.read(rows.reader, row, "tokens")
        said = sample.utterance()
        assert counts.text_N[row] == len(form.tokenizer.tokenizer.encode(said.text, add_special_tokens=False))
        both = (form.example_tokens(said.text, said.codes, said.speaker, said.language)[0],
                form.understanding_tokens(said.text, said.codes)[0])  # fmt: skip
        assert rows.document_lengths[row] == max(map(len, both))
    assert counts.text_N.sum() < 0.7 * index.text_lengths.sum()
    tasks = [(TextToSpeech(), index), (VoiceCloning(), index), (SpeechUnderstanding(), index),
             (TextReplay(folder / "chat"), texts)]  # fmt: skip
    mixed = MixedRows(tasks, form, 500, 0, counts=[counts, counts, counts, count_tokens(texts, form)])
    mixed.load(mixed.rows(0, 0))
    assert mixed.skipped.number == 0
    for sample in range(len(texts)):
        assert mixed.sources[3].lengths[sample] == len(mixed.document((3, sample, -1), 500)[0])


def test_max_steps_are_those_of_a_loop_over_the_loader(folder, capsys):
    """Guards against a number of steps that misses the end of an epoch, or samples in no row."""
    without_counts(folder / "train")
    settings = ["--row_length", "256", "--rows_per_step", "4", "--epochs", "3", "--num_workers", "1"]
    form = ["--prompt_format", "modules.lm.text.prompt_format.LlasaChat",
            "--prompt_format.codebook_size", str(NUM_CODES),
            "--prompt_format.tokenizer", "modules.lm.text.huggingface_tokenizer.HuggingFaceTokenizer",
            "--prompt_format.tokenizer.source", str(folder / "tokenizer")]  # fmt: skip
    main([str(folder / "train"), *form, *settings])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("max_steps")]
    data = TokenDataModule(folder, chat(folder), 256, batch_size=4, num_batches=10_000)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)
    data.setup("fit")
    loader = data.train_dataloader()
    num_steps, num_documents = 0, 0
    for batch in loader:
        num_documents += int((batch.documents_RL.max(1).values + 1).sum())
        num_steps += 1
        position = loader.state_dict()
        if (position["epoch"], position["window"], position["row"]) >= (2, loader.plan.num_windows - 1, 1):
            planned = loader.plan.rows(position["epoch"], position["window"])
            if position["epoch"] > 2 or position["row"] == len(planned):
                break
    assert int(line.split()[1]) == num_steps
    assert num_documents >= 3 * 150 and loader.dataset.skipped.number == 0
    by_bytes = TokenRows(loader.plan.index, chat(folder), 256, 0)
    fuller, emptier = (training_steps(rows, 4).fullness for rows in (loader.plan, by_bytes))
    without_counts(folder / "train")
    used = [float((rows.load(rows.rows(0, 0)).documents_RL >= 0).float().mean()) for rows in (loader.plan, by_bytes)]
    assert used[0] == pytest.approx(fuller, abs=0.01) and used[0] > 0.9 > used[1] + 0.1
    assert emptier > used[1], "by bytes rows only seem full"


def test_a_run_resumes_with_the_rows_that_it_began_with(folder):
    """Guards against other rows after a resume: tokens have been counted since, or the checkpoint is older."""
    without_counts(folder / "train")

    def loader(state=None, num_batches=24):
        data = TokenDataModule(folder, chat(folder), 256, batch_size=2, num_batches=num_batches)
        data.trainer = SimpleNamespace(global_rank=0, world_size=1)
        data.setup("fit")
        found = data.train_dataloader()
        if state is not None:
            found.load_state_dict(state)
        return found

    def tokens(batches):
        return torch.stack([batch.tokens_RL for batch in batches])

    by_bytes = tokens(loader())
    begun = loader(num_batches=9)
    list(begun)
    older = {name: value for name, value in begun.state_dict().items() if name != "planned_by"}
    assert older == {"epoch": older["epoch"], "window": older["window"], "row": older["row"]}
    count_tokens(ShardIndex.load(folder / "train", "tokens"), chat(folder))
    for state in (begun.state_dict(), older):
        assert torch.equal(tokens(loader(state, 15)), by_bytes[9:])
    by_tokens = tokens(loader())
    assert not torch.equal(by_tokens, by_bytes), "a new run plans by tokens"
    begun = loader(num_batches=9)
    list(begun)
    assert torch.equal(tokens(loader(begun.state_dict(), 15)), by_tokens[9:])
    without_counts(folder / "train")
    with pytest.raises(ValueError, match="count again"):
        loader(begun.state_dict())


def test_a_fit_counts_a_small_corpus_itself(folder, monkeypatch, caplog):
    """Guards against rows of the first fit that stay partly empty, and against a count that a large corpus, another
    stage or a tokenizer of bytes would wait for."""

    def planned_by(form, stage=TrainerFn.FITTING, resumed=None):
        data = TokenDataModule(folder, form, 256)
        data.trainer = SimpleNamespace(global_rank=0, world_size=1, state=SimpleNamespace(fn=stage), ckpt_path=resumed)
        data.prepare_data()
        data.setup("fit")
        return data.train_dataloader().state_dict()["planned_by"]

    without_counts(folder / "train")
    assert planned_by(chat(folder), TrainerFn.TESTING) == planned_by(chat(folder), resumed="last.ckpt") == ""
    assert planned_by(prompt_format.TextToSpeech(ByteTokenizer(), NUM_CODES)) == ""
    assert not list((folder / "train").glob("token_counts_*"))
    monkeypatch.setattr(tokens, "MAX_COUNTED", 149)
    caplog.clear()
    assert planned_by(chat(folder)) == ""
    assert "partly empty" in caplog.text
    monkeypatch.setattr(tokens, "MAX_COUNTED", 150)
    caplog.clear()
    assert planned_by(chat(folder)) == stored_counts(ShardIndex.load(folder / "train", "tokens"), chat(folder)).name
    assert not caplog.text
    monkeypatch.setattr(tokens, "count_tokens", None)
    assert planned_by(chat(folder)), "counted once"
    without_counts(folder / "train")


def test_a_start_token_is_planned(folder):
    """Guards against plans of as many tokens as bytes for a tokenizer that adds one: rows then lose their last
    documents (under an older index, which has no speakers to plan for)."""
    index = ShardIndex.load(folder / "train", "tokens")
    for settings in ({}, {"prefix": "{speaker} ", "answer_prefix": "Speaker {speaker} "}):
        form = prompt_format.TextToSpeech(StartToken(), NUM_CODES, **settings)
        tight = prompt_format.TextToSpeech(ByteTokenizer(), NUM_CODES, **settings)
        assert form.num_extra_tokens == tight.num_extra_tokens + (2 if settings else 1)
        assert prompt_format.TextToSpeech(StartToken("0123 "), NUM_CODES).num_extra_tokens == 5, "knows no letter"
        older = replace(index, speakers=None, speaker_of=None)
        for rows in (TokenRows(older, form, 160, 0), MixedRows([(TextToSpeech(), index)], form, 160, 0)):
            planned = rows.rows(0, 0)
            batch = rows.load(planned)
            assert rows.skipped.number == 0
            assert int((batch.documents_RL.max(1).values + 1).sum()) == sum(map(len, planned))
    plain = prompt_format.TextToSpeech(StartToken(), NUM_CODES)
    rows = TokenRows(index, plain, 160, 0)
    for sample in range(len(index)):
        assert len(rows.document(sample)[0]) == rows.document_lengths[sample]
    assert PromptPlan(index, index, plain).tokens.row_length == rows.document_lengths.max()


def test_formats_that_write_words_have_counts_of_their_own(tmp_path):
    """Guards against word blocks planned by the counts of text-then-codes, which lack the words of the answer, and
    against the counts of another share of spelled words."""
    header = {"codebook_size": NUM_CODES, "codec_fingerprint": "a", "frame_rate": 25.0}
    with ShardWriter(tmp_path, "tokens", header) as writer:
        for place, text in enumerate(("the cat sat", "see the old cat")):
            words = [[word, number + 1.0] for number, word in enumerate(text.split())]
            about = json.dumps({"text": text, "words": words}).encode()
            writer.write(f"k{place}", {"codes.npy": np.arange(9, dtype=np.uint16), "json": about}, 9, text)
    index = ShardIndex.load(tmp_path, "tokens")
    forms = [form(PhonemeTokenizer(share), NUM_CODES)
             for form in (prompt_format.TextToSpeech, WordBlocks) for share in (0.0, 0.5)]  # fmt: skip
    assert len({count_tokens(index, form).name for form in forms}) == 4
    for form in forms:
        rows = TokenRows(index, form, 100, 0, counts=[stored_counts(index, form)])
        assert [len(rows.document(row)[0]) for row in range(2)] == rows.document_lengths.tolist()
    planned = TokenRows(index, WordBlocks(ByteTokenizer(), NUM_CODES), 100, 0)  # by bytes
    assert all(len(planned.document(row)[0]) <= planned.document_lengths[row] for row in range(2))
