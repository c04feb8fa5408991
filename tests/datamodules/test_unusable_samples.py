"""Unusable samples: skipped one by one, replaced, and counted over workers and ranks."""

import contextlib
import io
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks.skipped_samples import SkippedSamples
from datamodules.audio import AudioRows
from datamodules.mixture import MixedRows
from datamodules.prompt_sets.text_and_shard_prompts import PromptPlan
from datamodules.shards.order import PlannedBatches, PlannedLoader, ResumableLoader, evaluation_loader
from datamodules.shards.shards import ShardIndex, ShardWriter
from datamodules.shards.skips import MAX_IN_A_ROW, TooManySkipped, replacements
from datamodules.shards.stored_arrays import read_array
from datamodules.tasks import SpeechUnderstanding, TextToSpeech, VoiceCloning
from datamodules.tokens import TokenDataModule, TokenRows
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech as Format
from modules.lm_module import LMModule
from modules.tokens import MARKERS
from tests.toys.lm_toys import SIZE

NUM_CODES = 24
FORMAT = Format(ByteTokenizer(), NUM_CODES, prefix="{language} ")
CODES = np.arange(9, dtype=np.uint16)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def of_length(number: int) -> bytes:
    """An array whose header claims `number` values; version 1 of the format, written by hand."""
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({number},), }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + CODES.tobytes()


GOOD = {"text": "one", "speaker": "ann", "language": "en"}
TOKEN_FAULTS = {
    "number": (GOOD | {"text": 5}, npy(CODES)),
    "null": (GOOD | {"text": None}, npy(CODES)),
    "textless": ({"speaker": "ann"}, npy(CODES)),
    "list": ([1, 2], npy(CODES)),
    "matrix": (GOOD, npy(np.zeros((3, 3), np.uint16))),
    "scalar": (GOOD, npy(np.array(3, np.uint16))),
    "floats": (GOOD, npy(CODES.astype(np.float32))),
    "objects": (GOOD, npy(np.array([{}], dtype=object))),
    "header": (GOOD, npy(CODES).replace(b"'shape'", b"'shap(")),
    "huge": (GOOD, of_length(10**12)),
    "negative": (GOOD, of_length(-3)),
    "longer": (GOOD | {"text": "x" * 200}, npy(CODES)),  # than the index says, and than a row
    "outside": (GOOD, npy(CODES + 30)),
}


def write_tokens(folder: Path, num_good: int = 6, faults: dict | None = None) -> ShardIndex:
    """Write good samples of different texts, each followed by a faulty one."""
    header = {"codebook_size": NUM_CODES, "codec_fingerprint": "a", "frame_rate": 50.0}
    faults = TOKEN_FAULTS if faults is None else faults
    with ShardWriter(folder, "tokens", header, 7) as writer:
        for number in range(max(num_good, len(faults))):
            if number < num_good:
                files = {"json": json.dumps(GOOD | {"text": "o" * (number + 1)}).encode(), "codes.npy": npy(CODES)}
                writer.write(f"good{number}", files, len(CODES), "o" * (number + 1))
            for key, (about, codes) in list(faults.items())[number : number + 1]:
                writer.write(key, {"json": json.dumps(about).encode(), "codes.npy": codes}, len(CODES), "one")
    return ShardIndex.load(folder, "tokens")


def by_hand(text: str, language: str = "en ") -> list[int]:
    marker = {name: 256 + place for place, name in enumerate(MARKERS)}
    said = [marker[MARKERS[2]], *(language + text).encode(), marker[MARKERS[3]], marker[MARKERS[4]]]
    return [*said, *(264 + code for code in CODES.tolist()), marker[MARKERS[5]]]


def documents(batch) -> list[list[int]]:
    found = []
    for tokens_L, documents_L in zip(batch.tokens_RL, batch.documents_RL, strict=True):
        assert int(documents_L.max()) >= 0, "a row of nothing"
        found += [tokens_L[documents_L == number].tolist() for number in range(int(documents_L.max()) + 1)]
    return found


@pytest.mark.parametrize("num_workers", [0, 2])
def test_whatever_is_wrong_with_a_sample_is_a_counted_skip(tmp_path, num_workers):
    """Guards against one bad sample that ends a training, a skip that stays in a loader worker, a count without the
    key, and a skip that also loses a good sample. A row of only a bad sample gets another document."""
    index = write_tokens(tmp_path)
    rows = TokenRows(index, FORMAT, row_length=120, seed=0)
    batches = [[[sample]] for sample in range(len(index))]
    loader = evaluation_loader(rows, batches, 0, 1, num_workers)
    read = [documents(batch) for batch in loader]
    good = [by_hand("o" * (number + 1)) for number in range(6)]
    keys = [str(key) for key in index.keys]
    for place, key in enumerate(keys):
        allowed = [[good[int(key[4:])]]] if key.startswith("good") else [[document] for document in good]
        assert read[place] in allowed, key
    again = evaluation_loader(TokenRows(index, FORMAT, row_length=120, seed=0), batches, 0, 1, 0)
    assert [documents(batch) for batch in again] == read, "the same replacements in every process"
    assert set(loader.dataset.skipped.reasons) == set(TOKEN_FAULTS)
    assert loader.dataset.skipped.number >= len(TOKEN_FAULTS)
    assert all(loader.dataset.skipped.reasons.values())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mixture_of_tasks_skips_the_same_samples(tmp_path, num_workers):
    """Guards against a second reader with other rules, and against a bad voice that ends a training."""
    index = write_tokens(tmp_path)
    tasks = [
        (TextToSpeech(), index),
        (SpeechUnderstanding(), index),
        (VoiceCloning(unknown_speakers="one_voice"), index),
    ]
    rows = MixedRows(tasks, FORMAT, 160, seed=0, window_size=60)
    loader = ResumableLoader(rows, 2, 25, num_workers=num_workers)
    batches = list(loader)
    assert len(batches) == 25 and all(batch.documents_RL.max(1).values.min() >= 0 for batch in batches)
    reasons = loader.dataset.skipped.reasons
    assert {key.split()[0] for key in reasons if not key.startswith("good")} == set(TOKEN_FAULTS)
    assert all("after the voice" in why for key, why in reasons.items() if key.startswith("good"))


def test_a_resumed_run_replaces_as_the_uninterrupted_one(tmp_path):
    """Guards against replacements that depend on what was read before."""
    index = write_tokens(tmp_path)

    def loader(num_batches):
        return ResumableLoader(TokenRows(index, FORMAT, 70, 0), 2, num_batches)

    whole, first, rest = loader(30), loader(11), loader(19)
    everything = [batch.tokens_RL for batch in whole]
    list(first)
    rest.load_state_dict(first.state_dict())
    assert torch.equal(torch.stack([batch.tokens_RL for batch in rest]), torch.stack(everything[11:]))


def test_a_damaged_shard_of_many_samples_does_not_end_a_training(tmp_path):
    """Guards against replacements from the neighbours in the same damaged shard: a hundred in a row would end the
    run."""
    header = {"codebook_size": NUM_CODES, "codec_fingerprint": "a", "frame_rate": 50.0}
    with ShardWriter(tmp_path, "tokens", header, 300) as writer:
        for number in range(900):
            files = {"json": json.dumps(GOOD).encode(), "codes.npy": npy(CODES)}
            writer.write(f"key{number}", files, len(CODES), GOOD["text"])
    index = ShardIndex.load(tmp_path, "tokens")
    shard = tmp_path / index.shards[1]
    shard.write_bytes(bytes(shard.stat().st_size))
    rows = TokenRows(index, FORMAT, row_length=60, seed=0)
    loader = evaluation_loader(rows, [[[sample]] for sample in range(900)], 0, 1, 0)
    assert sum(len(documents(batch)) for batch in loader) == 900
    assert set(loader.dataset.skipped.reasons) == {f"key{number}" for number in range(300, 600)}
    for size in (1, 2, 3, 7, 100, 360, 1024):
        assert sorted(replacements(size // 2, size)) == list(range(size)), "each sample is tried once"


def test_arrays_of_impossible_size_ask_for_no_memory():
    """Guards against 2 TB allocated for a header of 1e12 values, where memory is overcommitted."""
    for damaged in (of_length(10**12), of_length(10**30), npy(CODES.reshape(3, 3))[:-1]):
        with pytest.raises(ValueError, match=r"Expected|exceed|too large"):
            read_array(damaged)
    for whole in (CODES, CODES.reshape(3, 3), np.asfortranarray(np.eye(3)), np.array(3)):
        np.testing.assert_array_equal(read_array(npy(whole)), whole)


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV", subtype="FLOAT")
    return stream.getvalue()


WAVE = np.linspace(-0.5, 0.5, 800, dtype=np.float32)
AUDIO_FAULTS = {
    "no_audio": (GOOD, b"no recording"),
    "stereo": (GOOD, wav(np.stack([WAVE, WAVE], 1))),
    "other_rate": (GOOD, wav(WAVE, 16000)),
    "not_finite": (GOOD, wav(np.full(800, np.nan, np.float32))),
    "nothing": (GOOD, wav(WAVE[:0])),
    "list": ([], wav(WAVE)),
    "text": (GOOD | {"text": 7}, wav(WAVE)),
}


def write_audio(folder: Path) -> ShardIndex:
    with ShardWriter(folder, "audio", {"sample_rate": 8000, "audio_format": "wav"}, 4) as writer:
        for number, (key, (about, content)) in enumerate(AUDIO_FAULTS.items()):
            name = {"text": f"t{number}"}
            writer.write(
                f"good{number}", {"json": json.dumps(name).encode(), "wav": wav(WAVE * number)}, 800, name["text"]
            )
            writer.write(key, {"json": json.dumps(about).encode(), "wav": content}, 800, "one")
    return ShardIndex.load(folder, "audio")


def test_crops_and_recordings_that_cannot_be_used(tmp_path):
    """Guards against stereo or NaN in a batch, a training batch that shrinks (which recompiles and blocks a rank), and
    an evaluation that scores one recording in place of another."""
    index = write_audio(tmp_path)
    crops = AudioRows(index, 500, seed=0)
    for number, key in enumerate(AUDIO_FAULTS):
        batch = crops.load([(2 * number, 100), (2 * number + 1, 200)])
        other = int(batch.keys[1].removeprefix("good"))  # the key of a good one
        assert batch.keys[0] == f"good{number}", key
        torch.testing.assert_close(batch.audio_BT[0], torch.from_numpy(WAVE * number)[100:600])
        torch.testing.assert_close(batch.audio_BT[1], torch.from_numpy(WAVE * other)[200:700])
    assert {note.key for note in crops.skipped.take()} == set(AUDIO_FAULTS)
    whole = AudioRows(index, 0, seed=0)
    assert whole.load([(0, 0), (1, 0), (2, 0)]).keys == ["good0", "good1"]
    loader = evaluation_loader(whole, [[(0, 0)], [(1, 0)], [(3, 0), (4, 0)]], 0, 1, 0)
    assert [batch.keys for batch in loader] == [["good0"], ["good2"]], "a batch of nothing is left out"
    assert set(loader.dataset.skipped.reasons) == {"no_audio", "stereo"}
    waiting = AudioRows(index, 0, seed=0, keeps_batches=True)
    (key,) = waiting.load([(1, 0)]).keys
    assert key.startswith("good"), "where ranks wait, a batch of another sample takes its place"


def test_prompts_that_cannot_be_used_are_left_out(tmp_path):
    """Guards against a sweep that ends at one recording, and metadata without language or speaker."""
    index = write_audio(tmp_path)
    loader = PlannedLoader(PlannedBatches(PromptPlan(index, None, FORMAT)), sampler=[[0, 1], [3], [4]], batch_size=None)
    batches = list(loader)
    assert [[prompt.key for prompt in batch.prompts] for batch in batches] == [["good0"], ["good2"]]
    assert batches[0].prompts[0].language == "" and batches[0].prompts[0].reference is not None
    assert set(loader.dataset.skipped.reasons) == {"no_audio", "stereo"}


def test_a_corpus_that_the_tokenizer_refuses_stops_at_once(tmp_path):
    """Guards against skipping a whole corpus, or looping for ever, because of one setting: the demo's `characters`."""
    write_tokens(tmp_path / "train", 2 * MAX_IN_A_ROW, {})
    write_tokens(tmp_path / "test", 5, {})
    data = TokenDataModule(tmp_path, Format(ByteTokenizer(characters="abc "), NUM_CODES), 400)
    with pytest.raises(TooManySkipped, match=r"100 in a row could not be used.*`characters: null`"):
        data.setup("fit")
    tasks = [TextToSpeech(), SpeechUnderstanding()]
    with pytest.raises(TooManySkipped, match="text_to_speech"):
        TokenDataModule(tmp_path, data.prompt_format, 400, tasks=tasks).setup("fit")
    rows = TokenRows(ShardIndex.load(tmp_path / "test", "tokens"), data.prompt_format, 400, 0)
    for num_workers in (0, 1):
        with pytest.raises(TooManySkipped, match=r"^Expected usable samples .* but 5 in a row could not be used"):
            list(ResumableLoader(rows, 1, 3, num_workers=num_workers))
    TokenDataModule(tmp_path, Format(ByteTokenizer(), NUM_CODES), 400).setup("fit")


def fit_on_rank(rank: int, folder: Path, port: int, num_ranks: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks), "TORCHELASTIC_RUN_ID": "1",
                   "LOCAL_WORLD_SIZE": str(num_ranks), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    model = LMModule(FORMAT, SIZE, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0))
    data = TokenDataModule(folder, FORMAT, 64, batch_size=2, num_batches=8, num_validation_rows=99, num_workers=2)
    trainer = Trainer(
        accelerator="cpu", devices=num_ranks, strategy="ddp", max_steps=8, log_every_n_steps=1, num_sanity_val_steps=0,
        logger=CSVLogger(folder / "log", version=""), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=[SkippedSamples()],
    )  # fmt: skip
    with (folder / f"said{rank}").open("w") as stream, contextlib.redirect_stdout(stream):
        trainer.fit(model, data)
    (folder / f"own{rank}").write_text(str(trainer.train_dataloader.dataset.skipped.number))


def test_skips_of_all_workers_and_ranks_are_logged_and_printed(tmp_path):
    """Guards against skips that only the worker process or one rank knows."""
    for split in ("train", "test"):
        write_tokens(tmp_path / split)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(fit_on_rank, (tmp_path, port, 2), nprocs=2, start_method="fork")
    own = [int((tmp_path / f"own{rank}").read_text()) for rank in range(2)]
    assert min(own) > 0
    lines = (tmp_path / "log/lightning_logs/metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("train/num_skipped_samples")
    logged = [float(line.split(",")[place]) for line in lines[1:] if line.split(",")[place]]
    assert logged == sorted(logged) and logged[-1] == sum(own)
    said = (tmp_path / "said0").read_text()
    assert f"training: {sum(own)} samples" in said and f"validation: {len(TOKEN_FAULTS)} samples" in said
    assert "samples" not in (tmp_path / "said1").read_text()


class FailsAt(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 5:
            raise RuntimeError("as if something broke")


def test_an_interrupted_training_reports_what_it_skipped(tmp_path, capsys):
    """Guards against a count reported only after a complete run: most runs end with Ctrl-C or a time limit."""
    for split in ("train", "test"):
        write_tokens(tmp_path / split)
    model = LMModule(FORMAT, SIZE, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0))
    data = TokenDataModule(tmp_path, FORMAT, 64, batch_size=2, num_batches=8)
    trainer = Trainer(
        accelerator="cpu", max_steps=8, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[SkippedSamples(), FailsAt()],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="broke"):
        trainer.fit(model, data)
    assert f"training: {trainer.train_dataloader.dataset.skipped.number} samples" in capsys.readouterr().out
