"""The page of a voice in training: held-out sentences as they were spoken after some hours, beside the recordings.

The HTML is in the Jinja template training_page.html; this module fills it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.api import Audio
from modules.audio import encoded
from modules.report.page import data_uri, page_environment


@dataclass(frozen=True)
class SpeechColumn:
    """Clips of one speaker, by the sentence's key; a missing one was not spoken. `note` is a line below the heading.
    `comment` is written into the metadata of the clips."""

    heading: str
    note: str
    clips: Mapping[str, Audio]
    comment: str = ""


def training_page(title: str, texts: Mapping[str, str], columns: Sequence[SpeechColumn]) -> str:
    """Render the page: a row for each of `texts`, by key. Audio is lossless and within the page, which makes no network
    requests."""
    environment = page_environment()
    environment.filters["audio_uri"] = lambda audio, comment: data_uri(encoded(audio, "flac", comment), "audio/flac")
    return environment.get_template("training_page.html").render(title=title, texts=texts, columns=columns)
