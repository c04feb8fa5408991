"""Writes the first N minutes of token shards as splits of their own: FOLDER/train_N beside FOLDER/train.

    python -m studies.new_language.minutes runs/new_language/tokens 1 3 10

The order is that of the keys' hashes: an unbiased choice, and more minutes include the fewer ones.
"""

import argparse
import json
from pathlib import Path

from datamodules.shards.shards import ShardIndex, ShardReader, ShardWriter, by_hash


def write_minutes(folder: Path, minutes: float, split: str = "train") -> float:
    """Write FOLDER/SPLIT_N of FOLDER/SPLIT; returns the minutes of speech in it, the last recording included."""
    index = ShardIndex.load(folder / split, "tokens")
    reader, frame_rate = ShardReader(index), index.header["frame_rate"]
    num_codes, wanted = 0, minutes * 60 * frame_rate
    with ShardWriter(folder / f"{split}_{minutes:g}", "tokens", index.header) as writer:
        for row in by_hash(index.keys.tolist()):
            if num_codes >= wanted:
                break
            files = {name: content for name, content in reader.read(row).items() if not name.startswith("__")}
            text = json.loads(files["json"])["text"]
            writer.write(str(index.keys[row]), files, int(index.lengths[row]), text)
            num_codes += int(index.lengths[row])
    return num_codes / frame_rate / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("minutes", type=float, nargs="+")
    given = parser.parse_args()
    for minutes in given.minutes:
        taken = write_minutes(given.folder, minutes)
        print(f"{given.folder}/train_{minutes:g}: {taken:.2f} minutes")


if __name__ == "__main__":
    main()
