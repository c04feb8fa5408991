"""WordNetSentences on a tiny package of the real one's layout."""

from pathlib import Path

import pytest

from datamodules.sources.wordnet import FOLDER, WordNetSentences, definitions, examples
from tests.toys.debian_packages import write_deb

LICENCE = "  1 This software is provided by Princeton University  \n  2   \n  3 WordNet 3.0 Copyright 2006  \n"
SYNSET = "{offset:08d} 00 a 01 able 0 001 = 05200169 n 0000 | {gloss}  \n"
GLOSSES = {
    "noun": (
        'an old clock (of wood); a very old watch; "the clock, it  stopped at once!"; "two words"',
        'having 4 legs; "the table has 4 legs"; "thou art my only friend"; "what a load of shit it was"',
    ),
    "verb": ('make a noise; "the clock, it stopped at once!"; "why did it stop?"',),
    "adj": ("of or relating to clocks",),
    "adv": ("in the way of a very very very very very very very very very old clock indeed",),
}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    files = {}
    for part, glosses in GLOSSES.items():
        lines = [SYNSET.format(offset=number, gloss=gloss) for number, gloss in enumerate(glosses)]
        files[f"{FOLDER}/data.{part}"] = (LICENCE + "".join(lines)).encode()
    write_deb(tmp_path / "wordnet-base_1%3a3.0-37_all.deb", files)
    return tmp_path


def test_examples_and_definitions_that_can_be_spoken(packages: Path) -> None:
    """Guards against figures, coarse, archaic, short, long and repeated texts, and ids that change with the others."""
    found = dict(WordNetSentences("examples", packages=packages).sentences())
    assert found == {
        "wordnet-example-noun-00000000-0": "the clock, it stopped at once!",
        "wordnet-example-verb-00000000-1": "why did it stop?",
    }
    found = dict(WordNetSentences("definitions", packages=packages).sentences())
    texts = ["an old clock", "a very old watch", "make a noise", "of or relating to clocks"]
    assert list(found.values()) == texts and list(found)[1] == "wordnet-definition-noun-00000000-1"


def test_the_licence_is_stored_and_the_cache_is_not_named(packages: Path) -> None:
    """Guards against shards without WordNet's terms, and shards that another machine takes for others by its paths."""
    one = WordNetSentences("examples", packages=packages)
    terms = "This software is provided by Princeton University\n\nWordNet 3.0 Copyright 2006"
    assert one.credits() == f"Text: examples of WordNet 3.0 (https://wordnet.princeton.edu).\n{terms}"
    assert str(one) == "WordNetSentences(kind='examples')"


def test_a_gloss_is_divided() -> None:
    assert examples('to go; "he  went"; "gone"') == ["he went", "gone"]
    assert definitions('(usually followed by `to\') having means; able; "able to swim"')[:2] == ["having means", "able"]


def test_missing_and_broken_packages_are_told(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected `packages` to hold wordnet-base"):
        list(WordNetSentences(packages=tmp_path / "none").sentences())
    write_deb(packages / "wordnet-base_9_all.deb", {"usr/other": b""})
    with pytest.raises(ValueError, match=r"to hold WordNet's data, but got none at '.*data.noun'"):
        list(WordNetSentences(packages=packages).sentences())


@pytest.mark.skipif(not Path("/", FOLDER).is_dir(), reason="apt-get install wordnet-base")
def test_the_real_wordnet(tmp_path: Path) -> None:
    """Guards against a pattern that misses most of the real files, and a download where the package is installed."""
    found = list(WordNetSentences("examples", cache=tmp_path / "none").sentences())
    assert len({text for _, text in found}) == len({name for name, _ in found}) == len(found) > 40_000
    assert all(3 <= len(text.split()) <= 14 and text.isascii() for _, text in found)
    assert "copyright" in WordNetSentences(cache=tmp_path).credits().lower() and not list(tmp_path.iterdir())
