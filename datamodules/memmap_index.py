"""MemmapIndex: the rows of token memmaps as samples, in the place of an index of token shards."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.memmap_rows import FAULTS, ID, MemmapFile, rows_of
from datamodules.shards.samples import Sample
from datamodules.shards.shards import ShardIndex
from datamodules.shards.skips import Skip
from modules.tokens import TokenSpace

BLOCK = 64  # consecutive rows that keep together in the order of an epoch, as a shard does; half a megabyte
FRAME_RATE = 50.0  # codes per second of X-codec2


class RowKeys(Sequence[str]):
    """`FOLDER/FILE:ROW` of every row, made when asked for."""

    def __init__(self, files: Sequence[MemmapFile]) -> None:
        self.names = [f"{file.path.parent.name}/{file.path.stem}" for file in files]
        self.starts = [0, *accumulate(file.num_rows for file in files)]

    def __len__(self) -> int:
        return self.starts[-1]

    def place(self, row: int) -> tuple[int, int]:
        """File of a row, and its place in it."""
        number = bisect_right(self.starts, row) - 1
        return number, row - self.starts[number]

    def __getitem__(self, row: Any) -> Any:
        number, place = self.place(int(row))
        return f"{self.names[number]}:{place}"


@dataclass(frozen=True, kw_only=True)
class MemmapIndex(ShardIndex):
    """Rows of memmaps: `lengths` in codes and `text_lengths` in tokens, both 0 for a row that cannot be used, which its
    number in `faults` explains: it is skipped and counted when it is read. No row is held in memory."""

    files: tuple[MemmapFile, ...]
    space: TokenSpace
    faults: np.ndarray

    @classmethod
    def of(
        cls,
        files: Sequence[MemmapFile],
        space: TokenSpace,
        cache_folder: Path | None = None,
        codec_fingerprint: str = "",
        license: str = "",
    ) -> "MemmapIndex":
        """Scan the files that have not been scanned. Raises ValueError if they have no rows."""
        folder = Path(os.path.commonpath([file.path.parent for file in files]))
        rows = [rows_of(file, space, cache_folder) for file in files]
        num_blocks = [-(-file.num_rows // BLOCK) for file in files]
        firsts = [0, *accumulate(num_blocks)]
        blocks = [np.arange(file.num_rows, dtype=np.int32) // BLOCK + first
                  for file, first in zip(files, firsts, strict=False)]  # fmt: skip
        keys = RowKeys(files)
        if not len(keys):
            raise ValueError(f"Expected at least one whole row in {', '.join(str(one.path) for one in files)}.")
        unknown, unused = np.broadcast_to(np.int32(0), len(keys)), np.empty(0, np.int64)
        return cls(
            folder=folder,
            kind="tokens",
            header={
                "codebook_size": space.codebook_size,
                "codec_fingerprint": codec_fingerprint,
                "frame_rate": FRAME_RATE,
            },
            report={},
            shards=[""] * firsts[-1],
            keys=keys,  # type: ignore[arg-type]
            lengths=np.concatenate([one.codes_N for one in rows]),
            text_lengths=np.concatenate([one.text_N for one in rows]),
            shard_of=np.concatenate(blocks),
            offsets=unused,
            sizes=unused,
            speaker_of=unknown,
            speakers=np.array([["", ""]]),
            license_of=unknown,
            licenses=np.array([license]),
            files=tuple(files),
            space=space,
            faults=np.concatenate([one.fault_N for one in rows]),
        )

    @property
    def lost(self) -> list[Skip]:
        """Rows that shape and file do not have in common."""
        return [skip for file in self.files for skip in file.lost]

    @cached_property
    def rows_hash(self) -> str:
        """Hash of what all rows hold: the order of training is a function of it."""
        digest = hashlib.sha256()
        for array in (self.lengths, self.text_lengths, self.faults):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    def reader(self) -> "MemmapReader":  # type: ignore[override]
        return MemmapReader(self)


class MemmapReader:
    """Random access to the rows of an index: reads the bytes of one row. Can be pickled to loader workers."""

    def __init__(self, index: MemmapIndex) -> None:
        self.index = index
        self._streams: dict[tuple[int, int], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_streams": {}}

    def sample(self, row: int) -> Sample:
        """Raises ValueError for a row with a fault, and if it is no longer what the scan found."""
        index, (number, place) = self.index, self.index.keys.place(row)  # type: ignore[attr-defined]
        if index.faults[row]:
            raise ValueError(FAULTS[index.faults[row]])
        num_bytes = index.files[number].row_bytes
        content = os.pread(self._descriptor(number), num_bytes, place * num_bytes)
        ids_L, space = np.frombuffer(content, ID), index.space
        start = 3 + int(index.text_lengths[row])
        stop = start + int(index.lengths[row])
        markers = [space.text_start, space.text_end, space.speech_start, space.speech_end]
        found = ids_L[[0, start - 2, start - 1, stop]].tolist() if len(ids_L) > stop else []
        if found != markers:
            raise ValueError(f"Expected the markers {markers} where they were found before, but got {found}.")
        return Sample({}, (ids_L[start:stop] - space.code_offset).tolist(), ids_L[1 : start - 2].tolist())

    def _descriptor(self, number: int) -> int:
        source = (os.getpid(), number)  # forked workers must not share file handles
        if source not in self._streams:
            self._streams[source] = self.index.files[number].path.open("rb", buffering=0)
        return self._streams[source].fileno()
