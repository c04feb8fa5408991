"""Rows of token memmaps, the form in which Llasa's training data is published: what each holds, found in one pass.

`SPLIT_input_ids.memmap` beside `SPLIT_input_ids_shape.npy` is (N, L) int32, an utterance a row, in one id space:

    <|TEXT_UNDERSTANDING_START|> text <|TEXT_UNDERSTANDING_END|>
    <|SPEECH_GENERATION_START|> codes <|SPEECH_GENERATION_END|> anything up to the row's end

Shapes: N rows of L ids; C rows of one window of a file; B of its rows that cannot be used.
"""

import contextlib
import io
import struct
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.shards.skips import Skip
from datamodules.shards.stored_arrays import mapped_arrays
from modules.atomic_file import write_whole
from modules.tokens import TokenSpace

WINDOW_BYTES = 2**22  # read at once
MAX_ROW_LENGTH = 2**15  # so that lengths, and their sum with those of a template, fit two bytes
ID = np.dtype("<i4")
VERSION = 1  # of the stored lengths
FAULTS = (  # by number; 0: none
    "",
    "truncated: the row ends before <|SPEECH_GENERATION_END|>",
    "does not begin with <|TEXT_UNDERSTANDING_START|>",
    "an id outside the vocabulary",
    "codes in the text",
    "markers are missing or out of order",
    "no text",
    "no codes",
    "other ids among the codes",
)
TRUNCATED, START, OUTSIDE, CODES_IN_TEXT, MARKERS, NO_TEXT, NO_CODES, OTHERS_IN_CODES = range(1, len(FAULTS))


@dataclass(frozen=True)
class MemmapRows:
    """Ids of the text and number of codes of each row, (N,) uint16, both 0 for a row with a fault; `fault_N` uint8 is
    its place in FAULTS."""

    text_N: np.ndarray
    codes_N: np.ndarray
    fault_N: np.ndarray


@dataclass(frozen=True)
class MemmapFile:
    """A memmap of `num_stated` rows by its shape, and of `num_bytes` by its size."""

    path: Path
    num_stated: int
    row_length: int
    num_bytes: int

    @classmethod
    def of(cls, path: Path) -> "MemmapFile":
        """Raises FileNotFoundError if there is no shape beside the memmap, ValueError if it is not that of rows."""
        shape_path = path.with_name(f"{path.stem}_shape.npy")
        if not shape_path.is_file():
            raise FileNotFoundError(f"Expected `{shape_path.name}` beside `{path}`, but got {names_in(path.parent)}.")
        shape = np.load(shape_path, allow_pickle=False)
        is_shape = shape.shape == (2,) and shape.dtype.kind in "iu" and shape[0] >= 0
        if not is_shape or not 0 < shape[1] <= MAX_ROW_LENGTH:
            raise ValueError(
                f"Expected `{shape_path}` to hold rows and ids of a row, at most {MAX_ROW_LENGTH}, but got "
                f"{shape.tolist()}."
            )
        return cls(path, int(shape[0]), int(shape[1]), path.stat().st_size)

    @property
    def row_bytes(self) -> int:
        return self.row_length * ID.itemsize

    @property
    def num_rows(self) -> int:
        """Whole rows that are there and in the shape."""
        return min(self.num_stated, self.num_bytes // self.row_bytes)

    @property
    def lost(self) -> list[Skip]:
        """Rows of the shape that are not in the file, and those after the last of the shape; a started row counts."""
        num_missing = self.num_stated - self.num_rows
        num_surplus = -(-(self.num_bytes - self.num_stated * self.row_bytes) // self.row_bytes)
        if num_missing:
            reason = f"the file holds {self.num_rows} whole rows of the {self.num_stated} that its shape states"
            return [Skip(str(self.path), reason, num_missing)]
        if num_surplus:
            reason = f"the file goes on for {num_surplus} rows after the {self.num_stated} that its shape states"
            return [Skip(str(self.path), reason, num_surplus)]
        return []


def memmap_files(folder: Path, split: str) -> list[MemmapFile]:
    """The memmaps of a split in a folder, by name: `SPLIT_input_ids.memmap` or several `SPLIT_..._input_ids.memmap`.

    Raises FileNotFoundError if the folder has no memmap of any split, or one lacks its shape.
    """
    if not list(folder.glob("*_input_ids.memmap")):
        raise FileNotFoundError(
            f"Expected `train_input_ids.memmap` and `val_input_ids.memmap` in `{folder}`, but got {names_in(folder)}."
        )
    return [MemmapFile.of(path) for path in sorted(folder.glob(f"{split}_*input_ids.memmap"))]


def names_in(folder: Path) -> str:
    """The first names in a folder, for messages."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])]) or "an empty folder"


def rows_of(file: MemmapFile, space: TokenSpace, cache_folder: Path | None = None) -> MemmapRows:
    """What the rows of a memmap hold: as stored beside it or in `cache_folder` by an earlier call, else by reading the
    file once, with a progress bar. Stored results are of a file of one size and time of change.

    Raises OSError before the file is read if the result cannot be stored.
    """
    stat = file.path.stat()
    key = [VERSION, stat.st_size, stat.st_mtime_ns, file.num_rows, file.row_length, *space.as_dict().values()]
    path = _stored_path(file.path, cache_folder)
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile):
        arrays = mapped_arrays(path)  # raises for one that is not there, or damaged
        if arrays["key"].tolist() == key:
            return MemmapRows(*(arrays[name] for name in ("text_N", "codes_N", "fault_N")))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # better now than after an hour; other nodes use `path`
            pass
    except OSError as error:
        raise OSError(
            f"Expected to store the lengths of `{file.path}` in `{path.parent}`, but got: {error}. Name a "
            "`cache_folder`."
        ) from error
    rows = scan(file, space)
    stream = io.BytesIO()
    np.savez(stream, key=np.array(key), text_N=rows.text_N, codes_N=rows.codes_N, fault_N=rows.fault_N)
    write_whole(path, stream.getvalue())
    return rows


def _stored_path(path: Path, cache_folder: Path | None) -> Path:
    if cache_folder is None:
        return path.with_name(f"{path.stem}_rows.npz")
    place = "_".join(path.resolve().parts[1:-1])  # parts of the data have files of one name
    return cache_folder / f"{place}_{path.stem}_rows.npz"


def scan(file: MemmapFile, space: TokenSpace) -> MemmapRows:
    """Read a memmap once, in windows."""
    from tqdm import tqdm

    num_rows, length = file.num_rows, file.row_length
    rows = MemmapRows(np.zeros(num_rows, np.uint16), np.zeros(num_rows, np.uint16), np.zeros(num_rows, np.uint8))
    window_CL = np.empty((max(1, WINDOW_BYTES // file.row_bytes), length), ID)
    with (
        file.path.open("rb", buffering=0) as stream,
        tqdm(total=num_rows, desc=f"lengths of {file.path}", unit="row", unit_scale=True, disable=None) as bar,
    ):
        for start in range(0, num_rows, len(window_CL)):
            part = slice(start, min(start + len(window_CL), num_rows))
            ids_CL = window_CL[: part.stop - start]
            _fill(ids_CL, stream, file.path)
            found = held(ids_CL, space)
            rows.text_N[part], rows.codes_N[part], rows.fault_N[part] = found.text_N, found.codes_N, found.fault_N
            bar.update(len(ids_CL))
    return rows


def _fill(ids_CL: np.ndarray, stream: io.RawIOBase, path: Path) -> None:
    view, filled = memoryview(ids_CL).cast("B"), 0
    while filled < len(view):
        number = stream.readinto(view[filled:])
        if not number:
            raise OSError(f"Expected `{path}` to stay as long as it was, but got its end.")
        filled += number


def held(ids_CL: np.ndarray, space: TokenSpace) -> MemmapRows:
    """What the rows of a window hold. Ids after the end of speech are not looked at."""
    rows_C, length = np.arange(len(ids_CL)), ids_CL.shape[1]
    is_text_CL = ids_CL.view(np.uint32) < space.text_vocab_size  # negative ids are large ones
    is_code_CL = (ids_CL - np.int32(space.code_offset)).view(np.uint32) < space.codebook_size
    is_end_CL = ids_CL == space.speech_end
    is_text_CL[:, 0] = True  # the start, checked by itself
    after_text_C = np.argmin(is_text_CL, axis=1)  # 0: the row is text to its end
    end_C = np.where(is_end_CL.any(axis=1), np.argmax(is_end_CL, axis=1), length)
    is_code_CL &= np.arange(length) < end_C[:, None]
    num_codes_C = np.count_nonzero(is_code_CL, axis=1)
    starts_C = ids_CL[rows_C, np.minimum(after_text_C + 1, length - 1)] == space.speech_start
    is_good_C = (
        (ids_CL[:, 0] == space.text_start)
        & (after_text_C > 1)
        & (ids_CL[rows_C, after_text_C] == space.text_end)
        & starts_C
        & (end_C < length)
        & (num_codes_C > 0)
        & (num_codes_C == end_C - after_text_C - 2)  # so all codes are after the start, and nothing is among them
    )
    fault_C = np.zeros(len(ids_CL), np.uint8)
    bad_B = np.flatnonzero(~is_good_C)
    if len(bad_B):
        fault_C[bad_B] = _faults(ids_CL[bad_B], end_C[bad_B], space)
    text_C, codes_C = (np.where(is_good_C, one, 0).astype(np.uint16) for one in (after_text_C - 1, num_codes_C))
    return MemmapRows(text_C, codes_C, fault_C)


def _faults(ids_BL: np.ndarray, end_B: np.ndarray, space: TokenSpace) -> np.ndarray:
    """The fault of each of some rows that have one, the first of FAULTS that applies."""
    num_rows, length = ids_BL.shape
    places_L, rows_B = np.arange(length), np.arange(num_rows)

    def first(is_wanted_BL: np.ndarray) -> np.ndarray:
        return np.where(is_wanted_BL.any(axis=1), np.argmax(is_wanted_BL, axis=1), length)

    before_end_BL = places_L < end_B[:, None]
    is_text_BL = (ids_BL >= 0) & (ids_BL < space.text_vocab_size)
    is_code_BL = (ids_BL >= space.code_offset) & (ids_BL < space.vocab_size)
    text_end_B = np.minimum(first(ids_BL == space.text_end), end_B)
    speech_start_B = np.minimum(first(ids_BL == space.speech_start), text_end_B)
    codes_start_B = text_end_B + 2
    in_text_BL = (places_L > 0) & (places_L < text_end_B[:, None])
    in_codes_BL = (places_L >= codes_start_B[:, None]) & before_end_BL
    next_B = ids_BL[rows_B, np.minimum(text_end_B + 1, length - 1)]
    is_outside_B = (before_end_BL & ((ids_BL < 0) | (ids_BL >= space.vocab_size))).any(axis=1)
    has_start_B = (text_end_B + 1 >= length) | (next_B == space.speech_start)
    is_text_whole_B = (is_text_BL | ~in_text_BL).all(axis=1)
    are_codes_whole_B = (is_code_BL | ~in_codes_BL).all(axis=1)
    is_cut_B = (end_B == length) & is_text_whole_B & has_start_B & are_codes_whole_B
    has_markers_B = (text_end_B < end_B) & has_start_B & (end_B < length)
    return np.select(
        [
            ids_BL[:, 0] != space.text_start,
            is_outside_B,
            (is_code_BL & (places_L < speech_start_B[:, None])).any(axis=1),
            is_cut_B,
            ~has_markers_B | (~is_text_BL & in_text_BL).any(axis=1),
            text_end_B == 1,
            end_B == codes_start_B,
        ],
        [START, OUTSIDE, CODES_IN_TEXT, TRUNCATED, MARKERS, NO_TEXT, NO_CODES],
        OTHERS_IN_CODES,
    )
