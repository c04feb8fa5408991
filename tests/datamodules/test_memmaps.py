"""Token memmaps, the form of Llasa's published training data: read as they are, nothing lost without being counted."""

import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from transformers import PreTrainedTokenizerFast

import run
from datamodules import memmap_rows
from datamodules.memmap_index import MemmapIndex
from datamodules.memmap_rows import memmap_files
from datamodules.memmaps import MemmapDataModule
from datamodules.packing import NO_LABEL
from datamodules.shards.order import ResumableLoader
from datamodules.shards.shards import ShardWriter
from datamodules.shards.skips import TooManySkipped
from datamodules.tasks import SpeechUnderstanding, TextToSpeech, VoiceCloning
from datamodules.tokens import TokenLoader, TokenRows
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.lm.text.prompt_format import LlasaChat
from modules.tokens import TokenSpace
from tests.toys.llasa_folder import NUM_CODES, NUM_TEXT, released_tokenizer, save_network

ROOT = Path(__file__).resolve().parents[2]
PAD, WIDTH, FIRST_CODE = NUM_TEXT - 256 + 9, 96, 128_264
TEXT, TEXT_END, SPEECH, SPEECH_END = 128_258, 128_259, 128_260, 128_261  # as in the released vocabulary


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    return released_tokenizer()


@pytest.fixture(scope="module")
def llasa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llasa")
    torch.manual_seed(0)
    save_network(folder, tied=True)
    return folder


@pytest.fixture(scope="module")
def chat(reference: PreTrainedTokenizerFast) -> LlasaChat:
    tokenizer = HuggingFaceTokenizer("released")
    tokenizer.tokenizer = reference  # to save and load it takes seconds: tests/modules/lm/test_released_llasa.py
    return LlasaChat(tokenizer, NUM_CODES)


def utterance(number: int, width: int = WIDTH, num_codes: int | None = None) -> list[int]:
    """A row as published, from its ids: bytes of a text are their own ids in this vocabulary."""
    generator = np.random.default_rng(number)
    text = [*generator.integers(60, 90, 2 + number % 7).tolist(), 300 + number]  # the last: no encoder chooses it
    codes = generator.integers(0, NUM_CODES, num_codes or 5 + number % 30)
    row = [TEXT, *text, TEXT_END, SPEECH, *(codes + FIRST_CODE).tolist(), SPEECH_END]
    return (row + [PAD] * width)[:width]


def write(folder: Path, split: str, rows: list[list[int]], num_stated: int | None = None) -> Path:
    """As the data's authors write it: an array in a file, and its shape in another."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}_input_ids.memmap"
    array = np.memmap(path, dtype="int32", mode="w+", shape=(len(rows), len(rows[0])))
    array[:] = rows
    array.flush()
    np.save(folder / f"{split}_input_ids_shape.npy", (num_stated or len(rows), len(rows[0])))
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two parts of the data, the second without validation."""
    folder = tmp_path_factory.mktemp("memmaps")
    write(folder / "a", "train", [utterance(number) for number in range(150)])
    write(folder / "b", "train", [utterance(number) for number in range(150, 230)])
    write(folder / "a", "val", [utterance(number) for number in range(500, 520)])
    return [folder / "a", folder / "b"]


def documents(batch) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of each document of a batch."""
    found = []
    for row, documents_L in enumerate(batch.documents_RL):
        for number in range(int(documents_L.max()) + 1):
            here = documents_L == number
            found.append((batch.tokens_RL[row, here].tolist(), batch.labels_RL[row, here].tolist()))
    return found


def index_of(folders: list[Path], space: TokenSpace, split: str = "train") -> MemmapIndex:
    return MemmapIndex.of([file for folder in folders for file in memmap_files(folder, split)], space)


def test_documents_are_those_of_the_chat_template_around_each_row(parts, chat, reference) -> None:
    """Guards against text that is decoded and encoded again, padding as part of a document, a template that the
    released models have not seen, loss on the text, and rows lost or doubled."""
    rows = TokenRows(index_of(parts, chat.token_space), chat, 512, seed=0)
    planned = [row for window in range(rows.num_windows) for row in rows.rows(0, window)]
    assert max(map(len, planned)) > 1, "packed"
    found = documents(rows.load(planned))
    stored = np.concatenate([np.fromfile(one / "train_input_ids.memmap", np.int32).reshape(-1, WIDTH) for one in parts])
    messages = [{"role": "user", "content": "Convert the text to speech:<|TEXT_UNDERSTANDING_START|>"},
                {"role": "assistant", "content": "<|SPEECH_GENERATION_START|>"}]  # fmt: skip
    template = reference.apply_chat_template(
        messages, tokenize=True, continue_final_message=True, date_string="26 Jul 2024", return_dict=False
    )
    place, speech_place = template.index(TEXT), template.index(SPEECH)
    expected = {}
    for row in stored.tolist():
        start, stop = row.index(SPEECH), row.index(SPEECH_END) + 1
        tokens = template[:place] + row[:start] + template[place + 1 : speech_place] + row[start:stop]
        answer = tokens.index(SPEECH) + 1
        labels = [NO_LABEL] * (answer - 1) + tokens[answer:] + [NO_LABEL]
        expected[tuple(tokens)] = labels
    assert len(expected) == 230 and sorted(expected) == sorted(tuple(tokens) for tokens, _ in found)
    assert all(expected[tuple(tokens)] == labels for tokens, labels in found)


def test_documents_are_those_of_the_decoded_rows(tmp_path, chat, reference) -> None:
    """Guards against a template around the row that differs from transformers' own over the row's content as text."""
    texts = ["One, two.", " the 3rd", "a", "zwölf", "z: ", "Convert the text"]
    codes = [[place, 65_535, *range(place * 3)] for place in range(len(texts))]
    contents = [f"<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|><|SPEECH_GENERATION_START|>"
                + "".join(f"<|s_{code}|>" for code in said) + "<|SPEECH_GENERATION_END|>"
                for text, said in zip(texts, codes, strict=True)]  # fmt: skip
    ids = [reference.encode(content, add_special_tokens=False) for content in contents]
    write(tmp_path, "train", [(one + [PAD] * WIDTH)[:WIDTH] for one in ids])
    rows = TokenRows(index_of([tmp_path], chat.token_space), chat, 512, seed=0)
    found = [tokens for tokens, _ in documents(rows.load(rows.rows(0, 0)))]
    expected = []
    for row in np.fromfile(tmp_path / "train_input_ids.memmap", np.int32).reshape(-1, WIDTH).tolist():
        said = reference.decode(row[: row.index(SPEECH_END) + 1])
        place = said.index("<|SPEECH_GENERATION_START|>")
        messages = [{"role": "user", "content": f"Convert the text to speech:{said[:place]}"},
                    {"role": "assistant", "content": said[place:]}]  # fmt: skip
        expected.append(
            reference.apply_chat_template(
                messages, tokenize=True, continue_final_message=True, date_string="26 Jul 2024", return_dict=False
            )
        )
    assert sorted(found) == sorted(expected)


GOOD = utterance(3)
END, SPLIT = GOOD.index(SPEECH_END), GOOD.index(TEXT_END)
DAMAGED = {
    "truncated": utterance(5, num_codes=200),
    "truncated ": ([TEXT] + [65] * WIDTH)[:WIDTH],
    "does not begin": [PAD, *GOOD[1:]],
    "an id outside": [*GOOD[:2], 193_800, *GOOD[3:]],
    "an id outside ": [*GOOD[:2], -1, *GOOD[3:]],
    "codes in the text": [*GOOD[:2], FIRST_CODE, *GOOD[3:]],
    "markers are missing": [PAD if token == SPEECH_END else token for token in GOOD],
    "markers are missing ": [PAD if token == TEXT_END else token for token in GOOD],
    "markers are missing  ": [*GOOD[:SPLIT], SPEECH, TEXT_END, *GOOD[SPLIT + 2 :]],
    "no text": [TEXT, TEXT_END, SPEECH, *GOOD[SPLIT + 2 :], *[PAD] * (SPLIT - 1)],
    "no codes": [*GOOD[: SPLIT + 2], SPEECH_END, *[PAD] * (WIDTH - SPLIT - 3)],
    "other ids among": [*GOOD[: SPLIT + 4], 65, *GOOD[SPLIT + 5 :]],
}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_rows_are_counted_with_their_reasons(tmp_path, chat, num_workers) -> None:
    """Guards against a row that ends a training or is trained on, a skip without its reason, and good rows lost."""
    rows = [utterance(number) for number in range(40)]
    write(tmp_path, "train", [*rows[:20], *DAMAGED.values(), *rows[20:]])
    plan = TokenRows(index_of([tmp_path], chat.token_space), chat, 512, seed=0)
    planned = plan.rows(0, 0)
    loader = ResumableLoader(plan, 1, len(planned), num_workers=num_workers)
    found = [tokens for batch in loader for tokens, _ in documents(batch)]
    assert {tuple(one[one.index(TEXT) : one.index(TEXT_END)]) for one in found} == {
        tuple(one[: one.index(TEXT_END)]) for one in rows
    }
    reasons = loader.dataset.skipped.reasons
    assert loader.dataset.skipped.number == len(reasons) == len(DAMAGED)
    for number, name in enumerate(DAMAGED):
        assert reasons[f"{tmp_path.name}/train_input_ids:{20 + number}"].startswith(name.strip())
    write(tmp_path / "none", "train", list(DAMAGED.values()))
    with pytest.raises(TooManySkipped, match="in a row could not be used"):
        TokenRows(index_of([tmp_path / "none"], chat.token_space), chat, 512, seed=0).check()


def test_a_resumed_order_is_the_uninterrupted_one(parts, chat) -> None:
    """Guards against rows skipped or repeated after a resume with other ranks and workers, in tasks too, and against
    a resume on data that has changed."""

    def loaders(data: MemmapDataModule, num_ranks: int, num_workers: int, state: dict | None = None):
        for rank in range(num_ranks):
            rows = data._training_rows(" ".join(one.name for one in data._counts()))
            loader = TokenLoader(rows, data._training_rows, 4 // num_ranks, 6, rank, num_ranks, num_workers)
            if state:
                loader.load_state_dict(state)
            yield loader

    def content(batches) -> list[list[int]]:
        return [sorted(tokens for batch in at_once for tokens in batch.tokens_RL.tolist()) for at_once in batches]

    for tasks in (None, [TextToSpeech(0.5), SpeechUnderstanding(0.5)]):
        data = MemmapDataModule(parts, chat, row_length=512, tasks=tasks)
        (whole,) = loaders(data, 1, 0)
        expected = content((batch,) for batch in whole)
        assert len({str(one) for one in expected}) == 6
        (begun,) = loaders(data, 1, 0)
        for _, batch in zip(range(3), begun, strict=False):
            assert batch is not None
        state = begun.state_dict()
        later = content(zip(*loaders(data, 2, 1, state), strict=True))
        assert later[:3] == expected[3:]
    changed = MemmapDataModule(parts[:1], chat, row_length=512)
    with pytest.raises(ValueError, match="Bring back the data"):
        next(loaders(changed, 1, 0, state))


def test_rows_are_read_in_windows_and_alone(tmp_path, chat, monkeypatch) -> None:
    """Guards against a file that is read whole, when it is scanned or for one row."""
    num_rows, width = 20_000, 2048
    path = tmp_path / "train_input_ids.memmap"
    with path.open("wb") as stream:
        stream.truncate(num_rows * width * 4)  # 164 MB without a block on the disk
        for row in range(0, num_rows, 500):
            stream.seek(row * width * 4)
            stream.write(np.array(utterance(row // 500, width), np.int32).tobytes())
    np.save(tmp_path / "train_input_ids_shape.npy", (num_rows, width))
    sizes, pread = [], os.pread
    monkeypatch.setattr("os.pread", lambda handle, size, place: sizes.append(size) or pread(handle, size, place))
    tracemalloc.start()
    index = index_of([tmp_path], chat.token_space)
    sample = index.reader().sample(1500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6 and sizes == [width * 4]
    assert sample.text_tokens == utterance(3)[1 : utterance(3).index(TEXT_END)]
    assert (index.faults == 0).sum() == 40


def test_lengths_are_stored_and_belong_to_one_file(tmp_path, chat, monkeypatch) -> None:
    """Guards against a scan in every run and rank, lengths of a file that has changed, half-written ones, parts whose
    lengths overwrite each other in a cache, and hours of reading before the place to store proves read-only."""
    scans = []
    scan = memmap_rows.scan
    monkeypatch.setattr(memmap_rows, "scan", lambda file, space: scans.append(file.path) or scan(file, space))
    for part in ("a", "b"):
        write(tmp_path / part, "train", [utterance(number) for number in range(20 if part == "a" else 30)])
        write(tmp_path / part, "val", [utterance(50)])
    folders, cache = [tmp_path / "a", tmp_path / "b"], tmp_path / "cache"
    first = MemmapDataModule(folders, chat, row_length=512, cache_folder=cache)
    first.prepare_data()
    assert len(scans) == 4 and len(list(cache.iterdir())) == 4 and len(list((tmp_path / "a").iterdir())) == 4
    second = MemmapDataModule(folders, chat, row_length=512, cache_folder=cache)
    second.setup("fit")
    assert len(scans) == 4
    index = second._memmap_index("train")
    assert len(index) == 50 and index.text_lengths.tolist() == first._memmap_index("train").text_lengths.tolist()
    changed = [utterance(number) for number in range(100, 120)]
    write(tmp_path / "a", "train", changed)
    third = MemmapDataModule(folders, chat, row_length=512, cache_folder=cache)
    lengths = third._memmap_index("train").lengths[:20].tolist()
    assert scans[4:] == [tmp_path / "a/train_input_ids.memmap"]
    assert lengths == [row.index(SPEECH_END) - row.index(SPEECH) - 1 for row in changed]
    assert third._memmap_index("train").rows_hash != index.rows_hash
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cache_folder"):
        MemmapDataModule(folders, chat, cache_folder=tmp_path / "file/in").prepare_data()
    assert len(scans) == 5


def test_names_and_shapes_that_are_not_there_are_said(tmp_path, chat) -> None:
    """Guards against a folder that is silently not read, and an error that does not say what is there."""
    with pytest.raises(FileNotFoundError, match="no such folder"):
        MemmapDataModule([tmp_path / "none"], chat).prepare_data()
    path = write(tmp_path, "train", [utterance(1)])
    with pytest.raises(FileNotFoundError, match=r"Expected `val_input_ids.memmap` .* got .*train_input_ids_shape.npy"):
        MemmapDataModule([tmp_path], chat).prepare_data()
    shape = tmp_path / "train_input_ids_shape.npy"
    for stored in (np.array([1.0, 96.0]), np.array([96]), np.array([1, 70_000])):
        np.save(shape, stored)
        with pytest.raises(ValueError, match="rows and ids of a row"):
            memmap_files(tmp_path, "train")
    shape.rename(tmp_path / "shape.npy")
    with pytest.raises(FileNotFoundError, match=r"train_input_ids_shape.npy` beside .* got shape.npy"):
        memmap_files(tmp_path, "train")
    np.save(tmp_path / "train_rank0_partial1_input_ids_shape.npy", (1, WIDTH))  # as some writers name several files
    path.rename(tmp_path / "train_rank0_partial1_input_ids.memmap")
    assert len(index_of([tmp_path], chat.token_space)) == 1
    with pytest.raises(ValueError, match="at least one folder"):
        MemmapDataModule([], chat)
    with pytest.raises(ValueError, match="do not state who speaks"):
        MemmapDataModule([tmp_path], chat, tasks=[VoiceCloning()])


def test_memmaps_are_mixed_with_ones_own_shards(parts, chat, tmp_path) -> None:
    """Guards against a mixture in which one of the two is not read, another codec's shards, lost hours and licences."""
    for split in ("train", "test"):
        header = {"codebook_size": NUM_CODES, "codec_fingerprint": "own", "frame_rate": 50.0}
        with ShardWriter(tmp_path / split, "tokens", header) as writer:
            for number in range(20):
                codes = np.full(9, number, np.uint16)
                about = {"text": "mine", "speaker": "ann", "license": "CC0", "language": "en"}
                writer.write(f"k{number}", {"codes.npy": codes, "json": json.dumps(about).encode()}, 9, "mine")
    tasks = [TextToSpeech(0.5), SpeechUnderstanding(0.2, name="read"), TextToSpeech(0.3, tmp_path, "own")]
    data = MemmapDataModule(parts, chat, license="as stated", codec="HKUSTAudio/xcodec2", row_length=512, tasks=tasks)
    data.setup("fit")
    rows = data._rows("train")
    planned = rows.rows(0, 0)
    batch = rows.load(planned)
    assert rows.skipped.number == 0
    counts = Counter(item[0] for row in planned for item in row)
    assert [counts[place] / sum(counts.values()) for place in range(3)] == pytest.approx([0.5, 0.2, 0.3], abs=0.01)
    found = [tokens for tokens, _ in documents(batch)]
    texts = [tokens[tokens.index(TEXT) + 1 : tokens.index(TEXT_END)] for tokens in found if TEXT in tokens]
    assert texts.count(chat.tokenizer.encode("mine")) == counts[2] and len(texts) == counts[0] + counts[2]
    reading = [tokens for tokens in found if tokens[-1] == chat.token_space.marker("<|TEXT_GENERATION_END|>")]
    assert len(reading) == counts[1] and all(tokens[-2] >= 300 for tokens in reading), "the ids of the row's text"
    assert data.codec_fingerprint == "own" and data.frame_rate == 50.0
    facts = data.training_facts
    assert facts["codec"] == "HKUSTAudio/xcodec2" and facts["speaks"] and facts["words"] is None
    num_codes = int(data._memmap_index("train").lengths.sum())
    assert facts["license_hours"] == pytest.approx({"as stated": num_codes / 180_000, "CC0": 0.001}, abs=1e-5)
    assert facts["licenses"] == ["CC0", "as stated"] and facts["languages"] == ["en"]
    with pytest.raises(ValueError, match="of one codec"):
        MemmapDataModule(parts, chat, codec_fingerprint="other", row_length=512, tasks=tasks).setup("fit")


class Interrupted(Callback):
    """Records what each step reads; ends a fit after `stop_after` steps."""

    read: dict[str, list[int]]
    stop_after = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args, **kwargs) -> None:
        batch = args[1]
        self.read[trainer.default_root_dir].append(int((batch.tokens_RL * torch.arange(1, 321)).sum()))
        if trainer.global_step == self.stop_after:
            raise RuntimeError("interrupted")


OVERLAY = """
model:
  init_args:
    pretrained: {{source: {llasa}}}
    optimizer: {{init_args: {{lr: 0.01}}}}
data:
  init_args: {{row_length: 320, num_batches: 4, num_validation_rows: 1, num_workers: 0, folders: [{folder}]}}
trainer:
  {{max_steps: 4, val_check_interval: 4, log_every_n_steps: 1, callbacks: [tests.datamodules.test_memmaps.Interrupted]}}
checkpoint: {{every_n_train_steps: 2}}
"""


def test_a_released_model_is_continued_and_resumed(tmp_path, llasa, reference, monkeypatch, capsys) -> None:
    """Guards against the config, options and overlay of the command that the documentation names, skipped rows that the
    run does not report, missing and surplus rows that it does not count, and a resume at another place in the data."""
    rows = [utterance(number) for number in range(40)]
    write(tmp_path / "data", "train", [*rows, DAMAGED["truncated"], DAMAGED["no codes"]], num_stated=47)
    path = write(tmp_path / "data", "val", rows[:6], num_stated=5)
    with path.open("ab") as stream:
        stream.write(b"\0" * 40)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *args, **kwargs: reference)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "tiny.yaml").write_text(OVERLAY.format(llasa=llasa, folder=tmp_path / "data"))
    configs = [f"{ROOT}/configs/llasa/continue.yaml", f"{ROOT}/configs/lm/hardware/cpu.yaml", "tiny.yaml"]
    command = ["fit", *[word for one in configs for word in ("--config", one)]]
    from tests.datamodules.test_memmaps import Interrupted as Named  # the class that the yaml names

    Named.read = Counter()
    Named.read = {f"{name}": [] for name in ("runs/whole", "runs/resumed")}
    Named.stop_after = 0
    run.main([*command, "--stage.folder", "runs/whole"])
    said = capsys.readouterr().out
    assert "training: " in said and "42 whole rows of the 47 that its shape states" in said
    assert "goes on for 2 rows after the 5" in said
    Named.stop_after = 3
    with pytest.raises((RuntimeError, SystemExit)):
        run.main([*command, "--stage.folder", "runs/resumed"])
    Named.stop_after = 0
    run.main([*command, "--stage.folder", "runs/resumed"])
    whole, resumed = (Named.read[f"runs/{name}"] for name in ("whole", "resumed"))
    assert len(set(whole)) == 4 and resumed == [*whole[:3], *whole[2:]], "from the checkpoint after two steps"
    weights = [torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "resumed")]
    assert all(torch.equal(one, weights[1]["state_dict"][name]) for name, one in weights[0]["state_dict"].items())
    facts = weights[0]["training_facts"]
    assert facts["codec"] == "HKUSTAudio/xcodec2" and facts["licenses"] == [] and set(facts["license_hours"]) == {""}
