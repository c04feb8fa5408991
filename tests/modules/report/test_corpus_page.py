"""The report of a corpus, read as a browser reads it: tables against the numbers given, players against the audio."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch

from modules.api import Audio
from modules.report.corpus_page import CorpusExample, CorpusTables, Measured, corpus_page, playable
from modules.report.drawings import histogram, waveform

RATE = 16_000
TONE = Audio(0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE // 4) / RATE), RATE)
BAR = re.compile(r"M([\d.]+) 130V([\d.]+)H([\d.]+)V130Z")
LABEL = re.compile(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"[^>]*>([^<]*)<')


class Page(HTMLParser):
    """Tables by id, rows of cells; sources of players; all text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.players: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._rows: list[list[str]] = []
        self.feed(content)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [value for name, value in given.items() if name in ("href", "src")]
        if tag == "table":
            self._rows = self.tables.setdefault(given.get("id") or f"table {len(self.tables)}", [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th") and self._rows:
            self._rows[-1].append("")
        elif tag == "audio":
            self.players.append(given["src"])

    def handle_data(self, data):
        self.text += data + " "
        if self.lasttag in ("td", "th", "code", "br", "small") and self._rows and self._rows[-1]:
            self._rows[-1][-1] += data.strip()


def example(key: str, *reasons: str, text: str = "A text.", speaker: str = "ann", audio: Audio = TONE) -> CorpusExample:
    return CorpusExample(key, audio, text, speaker, reasons, {"snr": 12.345, "error_rate": math.nan})


def tables() -> CorpusTables:
    return CorpusTables(
        "Corpus of <two> & more",
        {"sample_rate": RATE, "quality": {"min_snr": 15.0}},
        {"train": (6, 2.5), "held_out": (2, 0.25)},
        [
            Measured("snr", np.array([20.0, 30, math.nan, 40, 50, 60, 70, 80]), "dB above the noise", (15.0,)),
            Measured("dnsmos", np.full(8, math.nan)),
        ],
        {
            "speaker": {f"s{number}": number / 10 for number in range(20)},
            "language": {"en": 2.0, "": 0.75},
            "licence": {},
        },
        [("k9", "clipping: 3.1 %"), ("k5", "silent"), ("k7", "clipping: 4 %")],
        {"duplicate audio": ["k4", "k2"], "repeated text": []},
        [example("k8", "random"), example("k1", "lowest snr", "random", text="<b>loud</b>")],
        "Licence: own.",
    )


def test_the_numbers_on_the_page_are_those_given() -> None:
    """Guards against totals that leave out a split, reasons that are counted by their details, and lost verdicts."""
    content = corpus_page(tables())
    page = Page(content)
    assert "8 recordings kept, 2.8 h · 5 recordings left out" in page.text
    assert [row[:2] for row in page.tables["splits"][1:]] == [["train", "6"], ["held_out", "2"], ["all", "8"]]
    assert page.tables["splits"][1][2:] == ["2.5 h", "25.0 min"]
    assert page.tables["reasons"][1:] == [["clipping", "2", "15 %", "k7: 4 %k9: 3.1 %"], ["silent", "1", "7.7 %", "k5"]]
    assert page.tables["verdicts"][1:] == [["duplicate audio", "2", "15 %", "k2k4"]]
    assert page.tables["quantiles"][1][1:] == ["20", "20.6", "50", "79.4", "80", "1", "15"]
    assert page.tables["quantiles"][2][1:] == ["–"] * 5 + ["8", "off"]
    assert "By speaker: 20" in page.text and "The other 5 together: 1.0 h" in page.text
    assert "not stated 45.0 min" in page.text and "None is stated." in page.text
    assert "“<b>loud</b>”" in page.text and "<b>loud" not in content
    assert page.text.index("lowest snr") < page.text.index("k8 · speaker ann")  # random ones last
    assert "min_snr 15.0" in page.text and "Licence: own." in page.text and "nan" not in page.text.lower().split()


def test_the_page_is_whole_and_the_same_every_time() -> None:
    """Guards against requests to a network, and against pages that differ between two processes of one corpus."""
    content = corpus_page(tables())
    assert content == corpus_page(tables())
    page = Page(content)
    assert all(link.startswith(("#", "data:")) for link in page.links) and "://" not in content
    anchors = {link for link in page.links if link.startswith("#")}
    assert anchors and all(f'id="{link[1:]}"' in content for link in anchors)


def test_players_hold_the_recording() -> None:
    """Guards against silent players, and long recordings that make the page too large to open."""
    long = Audio(TONE.samples_T.repeat(64), RATE)
    page = Page(corpus_page(CorpusTables("a", examples=[example("k", "random", audio=one) for one in (TONE, long)])))
    found = []
    for source in page.players:
        assert source.startswith("data:audio/mpeg;base64,")
        found.append(soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    (short, rate), (cut, _) = found
    assert rate == RATE and abs(len(short) / RATE - 0.25) < 0.15 and abs(len(cut) / RATE - 15) < 0.15
    loudest = np.abs(np.fft.rfft(short[: RATE // 5])).argmax() * 5
    assert abs(loudest - 440) <= 5 and np.abs(short).max() > 0.4
    for given, wanted in ((4_000, 8_000), (23_000, 24_000), (96_000, 48_000), (44_100, 44_100)):
        audio = playable(Audio(torch.tensor([0.0, math.nan, 0.5] * 1000), given))
        assert audio.sample_rate == wanted and audio.samples_T.isfinite().all()
        assert abs(audio.seconds - 3000 / given) < 0.01


@pytest.mark.parametrize(
    "given",
    [
        CorpusTables("nothing"),
        CorpusTables("no measure", {}, {"train": (0, 0.0)}, [Measured("snr", np.zeros(0))], {"speaker": {}}),
        CorpusTables(
            "one", {}, {"train": (1, 1e-4)}, [Measured("snr", np.ones(1), thresholds=(1.0,))], {"speaker": {"": 0}},
            examples=[example("k", "random", text="", speaker="", audio=Audio(torch.zeros(1), RATE))],
        ),
        CorpusTables("none kept", skipped=[("k", "silent")], hours_by={"speaker": {str(n): 0.0 for n in range(20)}}),
        CorpusTables("empty", examples=[example("k", audio=Audio(torch.zeros(0), RATE))]),
    ],
    ids=lambda given: given.title,
)  # fmt: skip
def test_small_corpora_have_a_page_too(given: CorpusTables) -> None:
    """Guards against a preparation that fails after hours because nobody speaks, or one recording is left."""
    page = Page(corpus_page(given))
    kept = "1 recording kept" if given.title == "one" else "0 recordings kept"
    assert given.title in page.text and kept in page.text
    assert len(page.players) == len(given.examples)


def test_a_histogram_counts_and_places() -> None:
    """Guards against bars and thresholds that do not stand above their values."""
    values = np.concatenate([np.random.default_rng(0).normal(40, 8, 500), [100.0, math.nan]])
    drawing = histogram(values, (15.0, 1e6), 'snr "quoted"')
    labels = [
        (float(x), float(text.replace(",", ""))) for x, _, anchor, text in LABEL.findall(drawing) if anchor == "middle"
    ]
    scale, offset = np.polyfit(*zip(*labels, strict=True), 1)
    heights = [
        (float(y) - 4, float(text.replace(",", ""))) for _, y, anchor, text in LABEL.findall(drawing) if anchor == "end"
    ]
    decade, shift = np.polyfit([y for y, _ in heights], [math.log10(count) for _, count in heights], 1)
    total = 0
    for left, top, right in BAR.findall(drawing):
        low, high = (scale * float(x) + offset for x in (left, right))
        count = 10 ** (decade * float(top) + shift)
        assert count == pytest.approx(((values > low - 0.2) & (values < high + 0.2)).sum(), rel=0.5, abs=1)
        total += count
    assert total == pytest.approx(501, rel=0.01)
    (line,) = re.findall(r'<line x1="([\d.]+)"[^>]*stroke-dasharray', drawing)  # the other is too far off
    assert scale * float(line) + offset == pytest.approx(15, abs=0.2)
    assert 'aria-label="snr &quot;quoted&quot;"' in drawing


def test_a_waveform_has_the_extremes_of_every_stretch() -> None:
    samples = np.random.default_rng(0).uniform(-1.5, 1, 3000).astype(np.float32)
    points = re.search(r'points="([^"]*)"', waveform(samples))[1].split()
    drawn = [tuple(map(float, point.split(","))) for point in points]
    for column in (0, 17, 299):
        part = np.clip(samples[10 * column : 10 * column + 10], -1, 1)
        assert [y for x, y in drawn if x == column] == pytest.approx(
            [50 - 50 * part.max(), 50 - 50 * part.min()], abs=0.06
        )
    assert waveform(np.zeros(0, np.float32)) == ""
