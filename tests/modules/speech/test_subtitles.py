"""Subtitles, read back by FFmpeg's SubRip demuxer."""

from itertools import pairwise
from pathlib import Path

import pytest

from modules.frontend.alignment import TimedWord
from modules.speech.subtitles import MAX_CHARACTERS, Cue, cues, srt

LONG = (
    "The quick brown fox jumps over the lazy dog, and then it runs far away from the angry farmer, who shouts at it "
    "until the sun goes down behind the hills of the old country."
)


def timed(words: list[str], start: float, step: float = 0.5, length: float = 0.4) -> list[TimedWord]:
    return [TimedWord(word, start + step * i, start + step * i + length) for i, word in enumerate(words)]


def read_back(path: Path) -> list[Cue]:
    """Cues of a file as FFmpeg reads them; line breaks as line feeds."""
    import av

    found = []
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        assert stream.codec_context.codec.id == 94225
        for packet in container.demux(stream):
            if packet.size:
                start = float(packet.pts * packet.time_base)
                end = start + float(packet.duration * packet.time_base)
                found.append(Cue(bytes(packet).decode().replace("\r\n", "\n"), start, end))
    return found


def test_ffmpeg_reads_the_same_cues(tmp_path) -> None:
    """Guards against times that overflow (an hour, 59.9996 s), commas, numbering, and texts that look like numbers."""
    expected = cues(
        [
            ("Hello: “World”.", 0.0, 1.2345, None),
            ("42", 1.5, 2.0, None),
            (LONG, 2.0, 59.9996, None),
            ("Ünïcödé,\n\nwith a blank line --> and an arrow?", 59.9996, 3599.9999, None),
            ("An hour later.", 3661.007, 36_000.25, None),
        ]
    )
    file = tmp_path / "x.srt"
    file.write_text(srt(expected), encoding="utf-8", newline="")
    found = read_back(file)
    assert [cue.text for cue in found] == [cue.text for cue in expected] and len(expected) > 6
    for cue, one in zip(expected, found, strict=True):
        assert one.start == pytest.approx(cue.start, abs=6e-4) and one.end == pytest.approx(cue.end, abs=1.1e-3)
    assert "\r" not in srt(expected) and srt(expected).startswith("1\n00:00:00,000 --> 00:00:01,23")


def test_long_sentences_are_cut_where_the_next_word_starts() -> None:
    """Guards against more than two lines, lost words, and cuts in proportion although times are known."""
    words = LONG.lower().replace(",", "").replace(".", "").split()
    times = timed(words, 5.0)
    found = cues([(LONG, 4.5, times[-1].end + 0.5, times)])
    assert " ".join(cue.text for cue in found).split() == LONG.split() and len(found) > 1
    shown = 0
    for cue, following in pairwise(found):
        shown += len(cue.text.split())
        assert cue.end == following.start == pytest.approx(times[shown].start)
    assert found[0].start == 4.5 and found[-1].end == times[-1].end + 0.5
    for cue in found:
        lines = cue.text.split("\n")
        assert len(lines) <= 2 and all(0 < len(line) <= MAX_CHARACTERS for line in lines)


def test_words_that_are_written_otherwise_lie_between_their_neighbours() -> None:
    """Guards against times that shift by a word after "7:30", which is spoken as two words."""
    text = "It is 7:30 " + "and we really must leave this very lovely place before all of the others do as well"
    spoken = ["it", "is", "seven", "thirty", *text.split()[3:]]
    times = timed(spoken, 10.0)
    first, second = cues([(text, 10.0, times[-1].end, times)])
    assert second.start == pytest.approx(times[len(first.text.split()) + 1].start)


def test_without_times_cuts_are_in_proportion_to_characters() -> None:
    found = cues([("a" * 40 + " " + "b" * 40 + " " + "c" * 40 + " " + "d" * 39, 10.0, 26.3, None)])
    assert [cue.text for cue in found] == ["a" * 40 + "\n" + "b" * 40, "c" * 40 + "\n" + "d" * 39]
    assert found[1].start == pytest.approx(10 + 16.3 * 82 / 162)


def test_odd_texts() -> None:
    """Guards against empty cues, and words longer than a line."""
    assert cues([]) == cues([(" \n ", 0.0, 1.0, None)]) == [] and srt([]) == ""
    found = cues([("x" * 100 + " end", 0.0, 10.0, None)])
    assert all(len(line) <= MAX_CHARACTERS for cue in found for line in cue.text.split("\n"))
    assert "".join("".join(cue.text for cue in found).split()) == "x" * 100 + "end"


def test_times_that_cannot_be_are_refused() -> None:
    """Guards against words timed from the start of their sentence instead of the whole audio."""
    with pytest.raises(ValueError, match="add the sentence's start"):
        cues([("one two", 10.0, 12.0, timed(["one", "two"], 0.1))])
    for start, end in ((2.0, 1.0), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="start at 0 or later"):
            cues([("one", start, end, None)])
