"""What a row of a token memmap holds: windows of rows against a loop over each."""

from pathlib import Path

import numpy as np
import pytest

from datamodules import memmap_rows
from datamodules.memmap_rows import FAULTS, MemmapFile, held, rows_of
from modules.tokens import TokenSpace


def parsed(row: list[int], space: TokenSpace) -> tuple[int, int]:
    """Numbers of text ids and codes of a row, by a loop; (0, 0) if it is not an utterance."""
    ids = iter(row)
    if next(ids) != space.text_start:
        return 0, 0
    counts = [0, 0]
    for token in ids:
        if token == space.text_end and not counts[1]:
            break
        if not 0 <= token < space.text_vocab_size:
            return 0, 0
        counts[0] += 1
    if next(ids, None) != space.speech_start:
        return 0, 0
    for token in ids:
        if token == space.speech_end:
            return (counts[0], counts[1]) if min(counts) else (0, 0)
        if not space.code_offset <= token < space.vocab_size:
            return 0, 0
        counts[1] += 1
    return 0, 0


def test_a_scan_finds_what_a_loop_over_each_row_finds() -> None:
    """Guards against fast tests of a whole window that let a damaged row through, or lose a good one."""
    space, generator = TokenSpace(20, 10), np.random.default_rng(0)
    ids_NL = np.empty((4000, 14), np.int32)
    for row in ids_NL:
        num_text, num_codes = generator.integers(0, 5), generator.integers(0, 8)
        good = [space.text_start, *generator.integers(0, 20, num_text), space.text_end, space.speech_start,
                *generator.integers(28, 38, num_codes), space.speech_end]  # fmt: skip
        padding = generator.choice([3, -100, space.speech_end, 30, space.text_end])
        row[:] = [*good, *[padding] * 14][:14]
        for _ in range(generator.integers(0, 3)):
            row[generator.integers(14)] = generator.choice([-1, 0, 5, 20, *range(22, 26), 28, 37, 38, 2**31 - 1])
    found = held(ids_NL, space)
    expected = [parsed(row, space) for row in ids_NL.tolist()]
    assert list(zip(found.text_N.tolist(), found.codes_N.tolist(), strict=True)) == expected
    assert (found.fault_N == 0).tolist() == [pair != (0, 0) for pair in expected]
    assert 500 < (found.fault_N == 0).sum() < 3500 and len(set(found.fault_N.tolist())) == len(FAULTS)


def test_a_damaged_result_is_made_again_and_others_see_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an empty file, as a kill or another node's test of the folder leaves it, that ends every later
    run, and against such a file while the rows are read."""
    space = TokenSpace(20, 10)
    row = [space.text_start, 1, 2, space.text_end, space.speech_start, 28, 29, 30, space.speech_end]
    path, cache = tmp_path / "train_input_ids.memmap", tmp_path / "cache"
    np.array([row, row], "<i4").tofile(path)
    np.save(tmp_path / "train_input_ids_shape.npy", (2, len(row)))
    seen, scan = [], memmap_rows.scan
    monkeypatch.setattr(memmap_rows, "scan", lambda *given: seen.append(list(cache.iterdir())) or scan(*given))
    assert rows_of(MemmapFile.of(path), space, cache).codes_N.tolist() == [3, 3]
    (stored,) = cache.iterdir()
    whole = stored.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"PK" + bytes(100)):
        stored.write_bytes(content)
        assert rows_of(MemmapFile.of(path), space, cache).text_N.tolist() == [2, 2]
        assert stored.read_bytes()[:4] == whole[:4] and list(cache.iterdir()) == [stored]
    assert rows_of(MemmapFile.of(path), space, cache).text_N.tolist() == [2, 2]
    assert seen == [[], *[[stored]] * 3]
