"""python -m studies.slurm.random_tokens FOLDER: writes random token shards for trials, with the demo's vocabulary."""

import json
import sys
from pathlib import Path

import numpy as np

from datamodules.shards.shards import ShardWriter

HEADER = {"codebook_size": 4096, "codec_fingerprint": "noise"}


def write_random_tokens(folder: Path, num_samples: int = 400) -> None:
    """Write the splits train and test; 20 to 200 codes per sample, always the same ones."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        with ShardWriter(folder / split, "tokens", HEADER, num_samples // 4) as writer:
            for number in range(num_samples):
                codes = generator.integers(0, HEADER["codebook_size"], generator.integers(20, 200)).astype(np.uint16)
                text = f"number {number}"
                files = {"codes.npy": codes, "json": json.dumps({"text": text}).encode()}
                writer.write(f"noise{number}", files, len(codes), text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_random_tokens(Path(sys.argv[1]))
