"""text_style: transcripts in one case without punctuation."""

import pytest

from datamodules.sources.text_style import text_style


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("HE HOPED THERE'D BE STEW", "upper"),
        ("l'homme peut-être", "lower"),
        ("w tej książce", "lower"),
        ("He said no", ""),
        ("HELLO!", ""),
        ("go, then", ""),
        ("12", ""),
        ("我 用 iphone", ""),
        ("今天天气很好", ""),
        ("", ""),
    ],
)
def test_text_style(text: str, style: str):
    """Guards against ordinary text, or text in a script without case, that passes for a transcript in one case."""
    assert text_style(text) == ({"text_style": style} if style else {})
