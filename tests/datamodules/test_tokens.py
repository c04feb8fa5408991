"""Packed rows: nothing lost, no loss where there should be none, damaged samples counted."""

import json

import numpy as np
import pytest

from datamodules.packing import NO_LABEL, pack
from datamodules.shards.shards import ShardIndex, ShardWriter
from datamodules.tokens import TokenDataModule, TokenRows, load_token_index
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech

FORMAT = TextToSpeech(ByteTokenizer(), codebook_size=64)


def write(folder, num_samples=40, codebook_size=64, fingerprint="a"):
    generator = np.random.default_rng(0)
    header = {"codebook_size": codebook_size, "codec_fingerprint": fingerprint}
    with ShardWriter(folder, "tokens", header, samples_per_shard=9) as writer:
        for number in range(num_samples):
            codes = generator.integers(0, codebook_size, generator.integers(5, 60)).astype(np.uint16)
            text = "x" * int(generator.integers(1, 9)) + "é"
            files = {"codes.npy": codes, "json": json.dumps({"text": text}).encode()}
            writer.write(f"k{number}", files, len(codes), text)
    return ShardIndex.load(folder, "tokens")


def test_packing_keeps_every_document_and_wastes_little():
    lengths = np.random.default_rng(0).integers(20, 200, 1000).tolist()
    rows = pack([*lengths, 600], 512)
    assert sorted(document for row in rows for document in row) == list(range(1000)), "600 does not fit and is left out"
    assert all(sum(lengths[document] for document in row) <= 512 for row in rows)
    assert sum(lengths) / (512 * len(rows)) > 0.95


def test_rows_hold_the_documents_of_a_naive_loop(tmp_path):
    """Guards against labels shifted by one, loss on text, and documents that learn from their neighbours."""
    index = write(tmp_path)
    rows = TokenRows(index, FORMAT, row_length=160, seed=0)
    planned = rows.rows(0, 0)
    assert sorted(sample for row in planned for sample in row) == list(range(40))
    batch = rows.load(planned)
    for row, samples in enumerate(planned):
        start = 0
        for number, sample in enumerate(samples):
            tokens, num_context = rows.document(sample)
            assert len(tokens) == rows.document_lengths[sample], "the plan counts the length without reading"
            for offset, token in enumerate(tokens):
                place = start + offset
                assert batch.tokens_RL[row, place] == token
                assert batch.positions_RL[row, place] == offset
                assert batch.documents_RL[row, place] == number
                learned = offset + 1 < len(tokens) and offset + 1 >= num_context
                assert batch.labels_RL[row, place] == (tokens[offset + 1] if learned else NO_LABEL)
            start += len(tokens)
        assert (batch.documents_RL[row, start:] == -1).all()
        assert (batch.labels_RL[row, start:] == NO_LABEL).all()


def test_shards_of_another_codebook_or_codec_are_refused(tmp_path):
    write(tmp_path / "other", codebook_size=32)
    with pytest.raises(ValueError, match="of another codec"):
        load_token_index(tmp_path / "other", FORMAT)
    write(tmp_path / "train", fingerprint="a")
    write(tmp_path / "test", fingerprint="b")
    with pytest.raises(ValueError, match="one codec"):
        TokenDataModule(tmp_path, FORMAT).setup("fit")


def test_damaged_samples_and_codes_outside_the_codebook_are_counted(tmp_path):
    index = write(tmp_path)
    path = tmp_path / index.shards[0]
    content = bytearray(path.read_bytes())
    content[index.offsets[3] : index.offsets[3] + 600] = b"\0" * 600
    path.write_bytes(content)
    narrow = TokenRows(index, TextToSpeech(ByteTokenizer(), codebook_size=8), 160, 0)
    whole = TokenRows(index, FORMAT, 160, 0)
    assert whole.document(3) is None
    assert whole.skipped.number == 1
    assert whole.load([[2, 3, 4]]).documents_RL.max() == 1
    assert narrow.document(5) is None, "a code of 8 or more"


def test_rows_too_short_for_any_sample_are_refused(tmp_path):
    with pytest.raises(ValueError, match="row_length"):
        TokenRows(write(tmp_path), FORMAT, row_length=8, seed=0)
