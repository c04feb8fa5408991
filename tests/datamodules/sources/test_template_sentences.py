"""TemplateSentences."""

import re
from itertools import islice

from datamodules.sources.template_sentences import TemplateSentences


def test_sentences_are_different_and_always_the_same() -> None:
    """Guards against a corpus that changes from run to run or with its size, and against repeated sentences."""
    found = list(TemplateSentences(6000).sentences())
    assert len({text for _, text in found}) == len({name for name, _ in found}) == 6000
    assert list(islice(TemplateSentences(5000).sentences(), 5000)) == found[:5000]
    assert found[0] == ("template-0-000000", "Ben bought 682 buttons and 18 stamps.")
    assert next(TemplateSentences(1, seed=1).sentences())[1] != found[0][1]


def test_sentences_hold_what_dictionaries_lack() -> None:
    """Guards against templates that lose a kind of sentence, and fields that are not filled."""
    texts = [text for _, text in TemplateSentences(640).sentences()]
    kinds = (r"\d:\d\d", r"\$\d+\.\d\d", r"\$\d+\b", r"\?$", r"\d,\d{3}", r"\d\.\d ", r"%", r"Dr\. [A-Z]", r"Mrs?\. ")
    kinds += (r"[a-z]+, [a-z]+ and", r"'s ", r"n't ", r"(January|March|May) \d", r"!$", r"; ", r": ", r" 1[789]\d\d\b")
    assert all(any(re.search(kind, text) for text in texts) for kind in kinds)
    assert all(re.fullmatch(r"[A-Z0-9$][A-Za-z0-9 ,.;:?!'$%-]*[.?!]", text) for text in texts)
