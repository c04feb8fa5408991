"""Token shards to training batches: ours against the data path of Llasa's recipe, same utterances, alternating, one
core.

    python -m benchmarks.lm_data_path [--num_samples 2000] [--index_samples 10000000] [--json FILE]

Ours reads a WebDataset of codes and texts in its shuffled order, tokenises the texts and packs rows of 2,048 tokens
(datamodules/tokens.py), with text as bytes and as byte pairs. The recipe reads rows of ids that were tokenised and
padded beforehand (peers/llasa_recipe.py). Documents and labels of a batch are compared before timing. Useful tokens
exclude padding; files are in the page cache.

Also resumes a run in the middle of an index of ten million samples, which simulates a corpus: its rows refer to the
same few shards repeatedly. Timed from opening the index to the first batch, in a process where everything is imported;
the batch is compared with the planned one.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from torch.utils.data import DataLoader
from transformers import default_data_collator

from benchmarks.codec_inference import SPREAD
from benchmarks.peers.llasa_recipe import NO_LABEL, PaddedUtterances, stored_rows
from benchmarks.scaffold import machine, options, report
from datamodules.shards.order import ResumableLoader
from datamodules.shards.shards import ARRAYS, ShardIndex, ShardWriter
from datamodules.tokens import TokenDataModule, TokenRows, load_token_index
from modules.batches import TokenBatch
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from tests.toys.tiny_llama import tiny_tokenizer

ROW_LENGTH, CODEBOOK_SIZE = 2048, 65536
MEAN_SECONDS, FRAME_RATE, LETTER_RATE = 6.6, 50, 15
WORDS = [
    "the",
    "date",
    "of",
    "one",
    "two",
    "three",
    "is",
    "what",
    "a",
    "user",
    "or",
    "the",
    "system",
    "converts",
    "to",
    "speech",
    "on",
    "the",
    "second",
    "of",
    "july",
]
Labelled = tuple[tuple[int, ...], tuple[int, ...]]  # tokens of a document, and the label of each


def write_shards(folder: Path, num_samples: int) -> list[tuple[str, np.ndarray]]:
    """Write random codes and words, with lengths distributed like LJSpeech's. Returns what was written."""
    generator = np.random.default_rng(0)
    seconds = generator.choice(np.array(SPREAD) / np.mean(SPREAD) * MEAN_SECONDS, num_samples)
    written = []
    with ShardWriter(folder, "tokens", {"codebook_size": CODEBOOK_SIZE, "codec_fingerprint": "none"}) as writer:
        for number, length in enumerate(seconds):
            codes = generator.integers(0, CODEBOOK_SIZE, round(FRAME_RATE * length)).astype(np.uint16)
            text = " ".join(generator.choice(WORDS, 1 + round(LETTER_RATE * length / 5)))
            about = {"text": text, "speaker": "one", "language": "en", "source": "synthetic", "duration": float(length)}
            files = {"codes.npy": codes, "json": json.dumps(about).encode()}
            writer.write(f"utterance_{number:08d}", files, len(codes), text)
            written.append((text, codes))
    return written


def padded_utterances(prompt_format: TextToSpeech, written: list[tuple[str, np.ndarray]]) -> PaddedUtterances:
    documents = [prompt_format.example_tokens(text, codes)[0] for text, codes in written]
    return PaddedUtterances(stored_rows(documents, ROW_LENGTH, pad=0), prompt_format.token_space, pad=0)


def packed_documents(batch: TokenBatch) -> list[Labelled]:
    documents = []
    for tokens_L, labels_L, numbers_L in zip(batch.tokens_RL, batch.labels_RL, batch.documents_RL, strict=True):
        for number in range(int(numbers_L.max()) + 1):
            chosen_L = numbers_L == number
            documents.append((tuple(tokens_L[chosen_L].tolist()), tuple(labels_L[chosen_L].tolist())))
    return documents


def padded_document(data: PaddedUtterances, number: int) -> Labelled:
    batch = default_data_collator([data[number]])
    chosen_L = batch["attention_mask"][0].bool()
    labels = batch["labels"][0, chosen_L].tolist()
    return tuple(batch["input_ids"][0, chosen_L].tolist()), (*labels[1:], NO_LABEL)


def check_documents(rows: TokenRows, data: PaddedUtterances) -> int:
    """Return the number of documents compared. Raises AssertionError if a batch of ours lacks the recipe's
    documents."""
    planned = rows.rows(0, 0)[:4]
    expected = [padded_document(data, sample) for row in planned for sample in row]
    if packed_documents(rows.load(planned)) != expected:
        raise AssertionError("Expected the documents and labels of the recipe in the packed rows, but got others.")
    return len(expected)


def useful_tokens_per_second(batches: Iterable[object], count: Callable[[object], int]) -> float:
    """Time loading only: counting a padded batch's tokens is excluded."""
    num_tokens, seconds, iterator = 0, 0.0, iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(iterator, None)
        seconds += time.perf_counter() - start
        if batch is None:
            return num_tokens / seconds
        num_tokens += count(batch)


def throughput(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    written = write_shards(folder / "train", given.num_samples)
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    tokenizers = {"bytes": ByteTokenizer(), "byte pairs": HuggingFaceTokenizer(str(folder / "tokenizer"))}
    formats = {name: TextToSpeech(tokenizer, CODEBOOK_SIZE) for name, tokenizer in tokenizers.items()}
    data = padded_utterances(formats["bytes"], written)
    rows = {
        name: TokenRows(load_token_index(folder / "train", prompt_format), prompt_format, ROW_LENGTH, seed=0)
        for name, prompt_format in formats.items()
    }
    num_compared = check_documents(rows["bytes"], data)
    rates: dict[str, list[float]] = {"recipe": [], **{name: [] for name in rows}}
    for turn in range(given.rounds):
        order = np.random.default_rng(turn).permutation(len(data))[: given.batch_size * given.num_padded_batches]
        padded = DataLoader(data, given.batch_size, sampler=order.tolist(), collate_fn=default_data_collator)
        rates["recipe"].append(useful_tokens_per_second(padded, lambda batch: int(batch["attention_mask"].sum())))
        for name, plan in rows.items():
            packed = ResumableLoader(plan, given.batch_size, given.num_packed_batches)
            rates[name].append(useful_tokens_per_second(packed, lambda batch: int((batch.documents_RL >= 0).sum())))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "useful_tokens_per_second": {name: round(value) for name, value in medians.items()},
        "ours_over_recipe": {name: round(medians[name] / medians["recipe"], 1) for name in rows},
        "goal": 1_000_000,
        "num_documents_compared": num_compared,
    }


def write_tiled_index(source: Path, folder: Path, num_samples: int) -> None:
    """Write an index of `num_samples` whose shards are those of `source`, repeated."""
    index = ShardIndex.load(source, "tokens")
    num_copies = -(-num_samples // len(index))
    arrays = {name: np.tile(getattr(index, name), num_copies)[:num_samples] for name in (*ARRAYS, "speaker_of")}
    arrays["shard_of"] += np.repeat(np.arange(num_copies) * len(index.shards), len(index))[:num_samples]
    folder.mkdir(parents=True)
    np.savez(folder / "index.npz", **arrays)
    shards = [os.path.relpath(source / name, folder) for name in index.shards] * num_copies
    about = {"format": 1, "kind": "tokens", "header": index.header, "report": {}, "shards": shards}
    (folder / "index.json").write_text(json.dumps(about))


def resume(folder: Path, num_samples: int, batch_size: int) -> dict[str, object]:
    """Seconds from opening the index in its middle to the first batch."""
    write_tiled_index(folder / "train", folder / "corpus" / "train", num_samples)
    prompt_format = TextToSpeech(ByteTokenizer(), CODEBOOK_SIZE)
    start = time.perf_counter()
    data = TokenDataModule(
        folder / "corpus", prompt_format, ROW_LENGTH, batch_size, num_batches=10, validation_split="train"
    )
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)
    data.setup("fit")
    loader = data.train_dataloader()
    position = {"epoch": 1, "window": loader.plan.num_windows // 2, "row": 3}
    loader.load_state_dict(position)
    batch = next(iter(loader))
    seconds = time.perf_counter() - start
    plan = loader.plan
    expected = plan.load(plan.rows(position["epoch"], position["window"])[3 : 3 + batch_size])
    for field in dataclasses.fields(batch)[:4]:
        assert torch.equal(getattr(batch, field.name), getattr(expected, field.name)), "another batch than planned"
    return {"seconds_to_first_batch": round(seconds, 3), "goal": 2.0, "num_samples": num_samples}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--num_samples", type=int, default=2000)
    parser.add_argument("--index_samples", type=int, default=10_000_000)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_packed_batches", type=int, default=50)
    parser.add_argument("--num_padded_batches", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = throughput(given, folder) | {"resume": resume(folder, given.index_samples, given.batch_size)}
    result["about"] = {
        "num_samples": given.num_samples,
        "batch_size": given.batch_size,
        "row_length": ROW_LENGTH,
        "rounds": given.rounds,
        "num_threads": 1,
        **machine("transformers"),
    }
    report(result, given.json)


if __name__ == "__main__":
    main()
