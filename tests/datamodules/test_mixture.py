"""Mixed tasks: documents against sequences written out by hand, shares and losses against naive counts."""

import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer

from datamodules.mixture import MixedRows
from datamodules.shards.order import ResumableLoader
from datamodules.shards.shards import ShardIndex, ShardWriter
from datamodules.shards.text_shards import main as write_text
from datamodules.tasks import SpeechUnderstanding, TextReplay, TextToSpeech, VoiceCloning
from datamodules.tokens import TokenDataModule
from modules.lm.network import LlamaSize
from modules.lm.text import prompt_format
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.lm_module import LMModule
from modules.tokens import MARKERS, Utterance
from tests.toys.tiny_llama import tiny_llama

NUM_CODES = 64
PLAIN = prompt_format.TextToSpeech(ByteTokenizer(), NUM_CODES, prefix="{speaker}: ")
WEIGHTS = {"text_to_speech": 5.0, "voice_cloning": 2.0, "speech_understanding": 3.0}


def write(folder, num_samples=60):
    generator = np.random.default_rng(0)
    with ShardWriter(folder, "tokens", {"codebook_size": NUM_CODES, "codec_fingerprint": "a"}, 9) as writer:
        for number in range(num_samples):
            codes = generator.integers(0, NUM_CODES, generator.integers(5, 30)).astype(np.uint16)
            speaker = ("ann", "bob", "cy")[min(number % 7, 2)] if number else "alone"
            about = {"text": f"t{number}", "speaker": speaker, "language": "en"}
            files = {"codes.npy": codes, "json": json.dumps(about).encode()}
            writer.write(f"k{number}", files, len(codes), about["text"])
    return ShardIndex.load(folder, "tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mix")
    for split in ("train", "test"):
        write(folder / split)
    lines = [{"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a {n}"}]}
             for n in range(40)]  # fmt: skip
    broken = ["not json", json.dumps({"messages": [{"role": "assistant", "content": "a"}]}), json.dumps([])]
    (folder / "chat.jsonl").write_text("\n".join([*map(json.dumps, lines), *broken]))
    write_text([str(folder / "chat.jsonl"), str(folder / "chat")])
    return folder


def speech_tasks():
    kinds = (TextToSpeech, VoiceCloning, SpeechUnderstanding)
    return [kind(weight) for kind, weight in zip(kinds, WEIGHTS.values(), strict=True)]


def mixed(folder, row_length=128, window_size=64, seed=0):
    index = ShardIndex.load(folder / "train", "tokens")
    return MixedRows([(task, index) for task in speech_tasks()], PLAIN, row_length, seed, window_size)


def written(text):
    return list(text.encode())


def test_each_task_is_the_sequence_written_out_by_hand(folder):
    """Guards against loss on a prompt, codes of the prompt after those of the answer, and an end without loss."""
    rows = mixed(folder)
    source = rows.sources[0]
    sample, voice = rows._sample(source, 5), rows._sample(source, 12)
    marker = {name: 256 + place for place, name in enumerate(MARKERS)}
    codes, voice_codes = ([256 + 8 + code for code in item.codes] for item in (sample, voice))
    text_start, text_end = marker[MARKERS[2]], marker[MARKERS[3]]
    prompt = [text_start, *written("cy: t5"), text_end, marker[MARKERS[4]]]
    assert rows.document((0, 5, -1), 999) == ([*prompt, *codes, marker[MARKERS[5]]], len(prompt))
    cloned = [text_start, *written("cy: t12 t5"), text_end, marker[MARKERS[4]], *voice_codes]
    assert rows.document((1, 5, 12), 999) == ([*cloned, *codes, marker[MARKERS[5]]], len(cloned))
    heard = [marker[MARKERS[6]], *codes, marker[MARKERS[7]], marker[MARKERS[0]]]
    assert rows.document((2, 5, -1), 999) == ([*heard, *written("t5"), marker[MARKERS[1]]], len(heard))


def test_what_is_read_at_inference_is_what_was_read_in_training(folder):
    """Guards against a prompt at inference that differs by a token from the part without loss in training."""
    chat = prompt_format.LlasaChat(HuggingFaceTokenizer(str(tiny_llama(folder / "llama"))), NUM_CODES, "{language} ")
    voice = Utterance("two", [7, 8])
    for form in (PLAIN, chat):
        for given in ({}, {"speaker": "ann", "language": "en"}, {"voice": voice}):
            tokens, num_context = form.example_tokens("one", [1, 2], **given)
            assert tokens[:num_context] == form.prompt_tokens("one", **given)
        tokens, num_context = form.understanding_tokens("one", [1, 2])
        assert tokens[:num_context] == form.understanding_prompt_tokens([1, 2])
    assert form.prompt_tokens("one", language="en") == form.prompt_tokens("en one", language="")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "one two"}]
    tokens, num_context = chat.chat_tokens(messages)
    tokenizer = chat.tokenizer.tokenizer
    whole = tokenizer.apply_chat_template(messages, tokenize=False, date_string=chat.date)
    assert tokenizer.decode(tokens) == whole
    assert tokenizer.decode(tokens[num_context:]) == "one two<|eot_id|>"


def test_shares_are_the_weights_and_streams_are_complete(folder):
    """Guards against a task without samples, samples that are never used, and voices of another speaker."""
    rows = mixed(folder)
    planned = [item for window in range(12) for row in rows.rows(0, window) for item in row]
    counts = Counter(task for task, _, _ in planned)
    for place, weight in enumerate(WEIGHTS.values()):
        expected = 12 * 64 * weight / 10
        assert abs(counts[place] - expected) <= 1, "one sample in sixty has no other of its speaker: others stand in"
    drawn = [sample for task, sample, _ in planned if task == 0]
    seen = Counter(drawn)
    assert len(seen) == 60 and max(seen.values()) - min(seen.values()) <= 1
    assert planned == [item for window in range(12) for row in mixed(folder).rows(0, window) for item in row]
    assert planned != [item for window in range(12) for row in mixed(folder, seed=1).rows(0, window) for item in row]
    index = rows.sources[0].index
    voices = set()
    for task, sample, voice in planned:
        assert (voice >= 0) == (task == 1)
        if task == 1:
            assert voice != sample and index.speaker_of[voice] == index.speaker_of[sample]
            voices.add((sample, voice))
    assert len(voices) > 60, "a sample must meet more than one voice of its speaker"


def test_mixed_rows_fit_and_resume_for_any_number_of_ranks(folder):
    """Guards against rows that overflow, and against an order that depends on the number of ranks."""

    def tokens(loaders, num_batches):
        merged = []
        for _, parts in zip(range(num_batches), zip(*map(iter, loaders), strict=True), strict=False):
            merged.append(torch.cat([torch.stack([part.tokens_RL, part.tasks_RL]) for part in parts], 1).sort(1)[0])
        return torch.stack(merged)

    whole = tokens([ResumableLoader(mixed(folder), 4, 30)], 30)
    pair = [ResumableLoader(mixed(folder), 2, 30, rank, 2) for rank in range(2)]
    assert torch.equal(tokens(pair, 30), whole)
    first = ResumableLoader(mixed(folder), 4, 11)
    list(first)
    rest = ResumableLoader(mixed(folder), 4, 19)
    rest.load_state_dict(first.state_dict())
    assert torch.equal(tokens([rest], 19), whole[11:])


def test_a_document_longer_than_planned_is_counted_and_left_out(folder):
    """Guards against a row that overflows because a speaker's name is longer than planned."""
    rows = mixed(folder)
    row = [(0, 5, -1), (0, 6, -1)]
    rows.row_length = len(rows.document(row[0], 999)[0]) + 3
    batch = rows.load([row])
    assert batch.documents_RL.max() == 0 and rows.skipped.number == 1


def test_losses_by_task_are_means_over_their_targets(folder):
    """Guards against one task's loss under another's name, and means over batches in place of targets."""
    data = TokenDataModule(folder, PLAIN, 128, batch_size=3, num_batches=4, num_validation_rows=6, tasks=speech_tasks())
    module = LMModule(PLAIN, LlamaSize(32, 48, 1, 2, 2), optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0))
    trainer = Trainer(
        accelerator="cpu", max_steps=4, log_every_n_steps=4, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for stage, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        losses = {name: [] for name in WEIGHTS}
        for batch in loader:
            for row in range(len(batch.tokens_RL)):
                for number in range(int(batch.documents_RL[row].max()) + 1):
                    here = batch.documents_RL[row] == number
                    task = list(WEIGHTS)[int(batch.tasks_RL[row, here][0])]
                    tokens, labels = batch.tokens_RL[row, here], batch.labels_RL[row, here]
                    with torch.no_grad():
                        scores = module.network.llama(tokens[None]).logits[0]
                    losses[task] += F.cross_entropy(scores, labels, reduction="none")[labels >= 0].tolist()
        for name, values in losses.items():
            assert logged[f"{stage}/loss_{name}"] == pytest.approx(np.mean(values), rel=1e-4), (stage, name)
        if stage == "val":
            assert logged["val/loss"] == pytest.approx(np.mean(list(chain(*losses.values()))), rel=1e-4)


def test_text_replay_is_mixed_with_speech(folder):
    """Guards against lost conversations, and against a mixture that reads codes from text."""
    chat = prompt_format.LlasaChat(HuggingFaceTokenizer(str(tiny_llama(folder / "chat_llama"))), NUM_CODES)
    tasks = [TextToSpeech(0.5), TextReplay(folder / "chat", 0.5)]
    data = TokenDataModule(folder, chat, 256, batch_size=2, num_batches=8, tasks=tasks)
    data.setup("fit")
    assert data.task_names == ["text_to_speech", "text_replay"] and data.codec_fingerprint == "a"
    rows = data._rows("train")
    assert len(rows.sources[1].index) + len(ShardIndex.load(folder / "chat/test", "text")) == 40
    reports = [ShardIndex.load(folder / "chat" / split, "text").report for split in ("train", "test")]
    assert sum(report["num_skipped"] for report in reports) == 3
    planned = rows.rows(0, 0)
    batch = rows.load(planned)
    assert set(batch.tasks_RL.unique().tolist()) == {0, 1} and rows.skipped.number == 0
    for planned_row in planned[:4]:
        for item in planned_row:
            assert len(rows.document(item, 999)[0]) <= rows.sources[item[0]].lengths[item[1]]
    with pytest.raises(ValueError, match="with a chat template for text"):
        TokenDataModule(folder, PLAIN, 256, tasks=tasks)._rows("train")


def test_mixtures_that_cannot_be_are_refused(folder, tmp_path):
    """Guards against a zero share, two losses under one name, and cloning without a second recording."""
    index = ShardIndex.load(folder / "train", "tokens")
    for tasks, message in (
        ([TextToSpeech(0.0)], "above 0"),
        ([TextToSpeech(), TextToSpeech()], "name` of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            MixedRows([(task, index) for task in tasks], PLAIN, 128, 0)
    with pytest.raises(ValueError, match="row_length"):
        MixedRows([(TextToSpeech(), index)], PLAIN, 8, 0)
    lonely = write(tmp_path / "lonely", num_samples=2)
    with pytest.raises(ValueError, match="two recordings"):
        MixedRows([(VoiceCloning(), lonely)], PLAIN, 128, 0)
    with pytest.raises(ValueError, match="speech among the `tasks`"):
        TokenDataModule(folder, PLAIN, tasks=[TextReplay(folder / "chat")]).setup("fit")
    with pytest.raises(ValueError, match="prefix"):
        prompt_format.TextToSpeech(ByteTokenizer(), 4, prefix="{voice}")


def test_a_bad_line_loses_one_conversation(tmp_path, capsys):
    """Guards against a line that ends the conversion: text that is not a string or not Unicode, or deeply nested."""
    good = {"messages": [{"role": "user", "content": "caf\u00e9 \ufffd"}, {"role": "assistant", "content": "a"}]}
    lines = [json.dumps(good).encode()] * 30
    lines += [
        b"[" * 100_000,
        json.dumps(good).encode("utf-8").replace(b'"a"', b"7"),
        json.dumps(good).encode().replace(b'"a"', b'"\\ud800"'),
        json.dumps(good, ensure_ascii=False).encode("latin-1", "ignore"),
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
    ]
    (tmp_path / "chat.jsonl").write_bytes(b"\n".join(lines))
    write_text([str(tmp_path / "chat.jsonl"), str(tmp_path / "chat")])
    assert capsys.readouterr().out.splitlines()[:5] == [
        "skipped 5 lines",
        "  2 x text that is no Unicode",
        "  1 x no JSON",
        "  1 x a role or content is no string",
        "  1 x no conversation that ends with the assistant",
    ]
    assert sum(len(ShardIndex.load(tmp_path / "chat" / split, "text")) for split in ("train", "test")) == 30
    (tmp_path / "chat.jsonl").write_bytes(lines[0])
    with pytest.raises(SystemExit):
        write_text([str(tmp_path / "chat.jsonl"), str(tmp_path / "chat")])
    assert "are missing or of another length" in capsys.readouterr().err
