"""Token shards written unit by unit: a unit is one shard of audio, whose tokens are one shard of the same number.

Finished units are kept in FOLDER/unfinished, so that a killed run resumes; the complete set is moved into FOLDER at the
end, index.json last, as by ShardWriter.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.index_file import IndexColumns, write_index
from datamodules.shards.samples import name_in, text_of
from datamodules.shards.shards import ShardIndex, ShardWriter
from datamodules.shards.stored_arrays import npy
from datamodules.shards.units import SplitRows, UnitFolder, UnitResult, UnitTars
from modules.atomic_file import write_whole

Coded = tuple[int, np.ndarray, dict[str, Any]]  # row in the audio index, codes (S,), json


class TokenUnits:
    """The token shards of one split.

    Args:
        folder: Folder of the split.
        header: Codebook size, frame rate, sample rate and the codec's fingerprint.
        audio: Index of the recordings.

    Raises ValueError if `folder` contains shards of another kind or header, or tar files without an index.
    """

    def __init__(self, folder: Path, header: dict[str, Any], audio: ShardIndex) -> None:
        self.folder, self.header, self.audio = folder, header, audio
        self.shards = np.unique(audio.shard_of).tolist()
        self._writer = ShardWriter(folder, "tokens", header)
        self._units = UnitFolder(folder, "unfinished")
        self.digest = _digest(audio)

    def begin(self) -> None:
        """Prepare the folder: what an interrupted run has finished is kept if it had the same codec and audio."""
        about = {"header": self.header, "audio": self.digest}
        self._writer.recover()
        plan = self._units.plan_path
        if self.is_merged():
            shutil.rmtree(self._units.state, ignore_errors=True)  # left by a kill at the very end
            return
        if not plan.is_file() or json.loads(plan.read_text()) != about:
            shutil.rmtree(self._units.state, ignore_errors=True)
            write_whole(plan, json.dumps(about))

    def is_merged(self) -> bool:
        """Whether the folder holds the tokens of this codec and audio."""
        index = self.folder / "index.json"
        if not index.is_file():
            return False
        about = json.loads(index.read_text())
        return (about["header"], about["report"].get("audio")) == (json.loads(json.dumps(self.header)), self.digest)

    def done(self) -> list[int]:
        """Shards of audio whose tokens are finished."""
        if self.is_merged():
            return self.shards
        return [shard for shard in self.shards if self._units.is_done(_name(shard))]

    def write(self, shard: int, coded: Sequence[Coded], skipped: Sequence[tuple[str, str]]) -> None:
        """Write the tokens of one shard of audio, atomically."""
        result, name = UnitResult(skipped=list(skipped)), _name(shard)
        kind = np.uint16 if self.header["codebook_size"] <= 2**16 else np.int32
        with UnitTars(self._units, name) as tars:
            for row, codes_S, about in sorted(coded, key=lambda one: one[0]):
                key, text = str(self.audio.keys[row]), text_of(about)
                files = {"codes.npy": npy(codes_S.astype(kind)), "json": json.dumps(about).encode()}
                path, offset, size = tars.write("tokens", key, files)
                values = {"keys": key, "lengths": len(codes_S), "text_lengths": len(text.encode())}
                labels = {f"{name}s": name_in(about, name) for name in ("source", "speaker", "language", "license")}
                other = {"offsets": offset, "sizes": size, "contents": "", "texts": "", "paths": path, "abouts": ""}
                result.splits.setdefault("tokens", SplitRows()).add({**values, **labels, **other}, {})
            paths = {path: self._units.state / tar for path, (_, tar) in tars.close().items()}
            self._units.finish(name, result, paths)

    def merge(self) -> tuple[int, int]:
        """Move the complete set into the folder. Returns the numbers of samples and codes; (0, 0), with nothing
        written, if no sample could be used.

        Raises ValueError if the folder has shards with samples that the new ones lack; nothing is replaced then.
        """
        if self.is_merged():
            index = ShardIndex.load(self.folder, "tokens")
            return len(index), int(index.lengths.sum())
        columns = IndexColumns()
        skipped = [(item["key"], f"preparation: {item['reason']}") for item in self.audio.report.get("skipped", ())]
        for shard in self.shards:
            result = UnitResult.read(self._units.result_path(_name(shard)))
            skipped += result.skipped
            if "tokens" in result.splits:
                columns.add(result.splits["tokens"])
        if not len(columns):
            self._units.remove()
            return 0, 0
        write_index(self._units.state, "tokens", self.header, columns, skipped, audio=self.digest)
        self._writer.replace()
        return len(columns), sum(columns.columns["lengths"])


def _name(shard: int) -> str:
    return f"{shard:06d}"


def _digest(index: ShardIndex) -> str:
    """Hash of what decides the units of an index."""
    digest = hashlib.sha256(json.dumps([index.header, index.shards]).encode())
    for array in (index.keys, index.lengths, index.shard_of, index.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
