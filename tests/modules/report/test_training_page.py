"""The page of a voice in training, read as a browser reads it."""

import base64
import io
import re
from html.parser import HTMLParser

import soundfile
import torch

from modules.api import Audio
from modules.report.training_page import SpeechColumn, training_page


class Table(HTMLParser):
    """Text and audio of every cell, by row."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.rows: list[list[list]] = []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([])
        elif tag == "audio":
            content = dict(attributes)["src"].removeprefix("data:audio/flac;base64,")
            self.rows[-1][-1].append(soundfile.SoundFile(io.BytesIO(base64.b64decode(content))))

    def handle_data(self, text):
        if self.rows and self.rows[-1] and text.strip():
            self.rows[-1][-1].append(text.strip())


def test_clips_stand_in_the_row_of_their_text_and_the_column_of_their_time():
    """Guards against clips under another heading, where a sentence lacks one, and against a page that needs files."""
    texts = {"b": 'Is it <b> & "c"?', "a": "Two."}
    clips = {(key, place): Audio(torch.full((80 * (1 + place),), 0.25), 800) for key in texts for place in range(2)}
    clips["a", 1] = Audio(torch.zeros(0), 800)
    columns = [
        SpeechColumn("teacher", "the recording", {"b": clips["b", 0]}),
        SpeechColumn("0.5 h", "step 1,200", {"a": clips["a", 1], "b": clips["b", 1]}, "synthetic speech"),
    ]
    page = training_page("A <voice>", texts, columns)
    heading, *rows = Table(page).rows
    assert heading == [["sentence"], ["teacher", "the recording"], ["0.5 h", "step 1,200"]]
    assert [row[0] for row in rows] == [['Is it <b> & "c"?'], ["Two."]]
    (teacher, _), (spoken, seconds) = rows[0][1:]
    assert (teacher.frames, spoken.frames, seconds) == (80, 160, "0.2 s")
    assert (teacher.comment, spoken.comment) == ("", "synthetic speech")
    assert rows[1][1:] == [["nothing"], ["nothing"]]
    assert not re.search(r"https?://|src=\"(?!data:)", page)
