"""Comparison of texts, so that one sentence counts as the same text wherever it is written."""

import re


def comparable(text: str) -> str:
    """The words of a text in lower case, without punctuation: "Yes, Sir!" and "yes sir" are the same text."""
    return " ".join(re.findall(r"\w+(?:['\u2019]\w+)*", text.casefold()))
