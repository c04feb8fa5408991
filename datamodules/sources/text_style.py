"""Style of a transcript: whether it has capitals and punctuation, as text to be spoken does."""

import re

WITHIN_WORDS = "'\u2019-"  # marks that such transcripts keep


def text_style(text: str) -> dict[str, str]:
    """Return {"text_style": "upper"} or {"text_style": "lower"} of a text in one case without punctuation, else {}.

    It is stored with the recording, so that a model need not learn to write or read in such a style unknowingly. A
    text in a script without case has none.
    """
    letters = [character for character in text if character.isalpha()]
    if not letters or re.search(rf"[^\w\s{WITHIN_WORDS}]", text):
        return {}
    if all(map(str.isupper, letters)):
        return {"text_style": "upper"}
    return {"text_style": "lower"} if all(map(str.islower, letters)) else {}
