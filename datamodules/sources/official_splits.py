"""Official splits of a corpus, as the names of its files and folders state them."""

import re
from collections.abc import Iterable

# Words of published names, as Hugging Face's `datasets` reads them (data_files.SPLIT_KEYWORDS), by the split of shards.
KEYWORDS = {
    "train": ("train", "training"),
    "held_out": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def official_splits(names: Iterable[str]) -> dict[str, str]:
    """The split of each name that states one as a word, the last one if several: `data/train-00000-of-00002.parquet`,
    `dev/wav.scp`; "" if none does. train becomes "" where nothing is published for validation: part of it is held out.
    """
    split_of = {keyword: split for split, keywords in KEYWORDS.items() for keyword in keywords}
    stated = {}
    for name in names:
        found = [split_of[word] for word in re.split(r"[^a-z]+", name.lower()) if word in split_of]
        stated[name] = found[-1] if found else ""
    if "held_out" not in stated.values():
        stated = {name: "" if split == "train" else split for name, split in stated.items()}
    return stated
