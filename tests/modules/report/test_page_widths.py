"""Pages on a telephone: figures whose text can be read at a width of 390 px, and nothing wider than the screen."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch

from callbacks.scaling_report import ScalingReport
from modules.api import Audio
from modules.report.corpus_page import corpus_page
from modules.report.drawings import histogram
from modules.report.figures import both_widths, cost_figure, curve_figure, inline_svg
from modules.report.page import TEMPLATES
from modules.report.training_page import SpeechColumn, training_page
from modules.report.training_record import TrainingCurve, training_figure
from tests.modules.report.test_corpus_page import tables
from tests.toys.report_toys import RATE, curve, tone_sweep

TELEPHONE, SMALLEST_TEXT = 390, 11  # CSS pixels
LONG = "transcript of a recogniser with a very long name"


def inner_width() -> float:
    """Pixels of a figure in a card on a telephone, from the style's paddings."""
    style = (TEMPLATES / "page_style.css").read_text()
    narrow = style[style.index("@media (max-width: 44rem)") :]
    main = float(re.search(r"main \{ padding: [\d.]+rem ([\d.]+)rem", narrow)[1])
    card = float(re.search(r"\.card \{ padding: ([\d.]+)rem", narrow)[1])
    return TELEPHONE - 2 * 16 * (main + card) - 2  # borders


def smallest_text(svg: str) -> float:
    """Font size, in pixels of the page, of the smallest text."""
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    sizes = re.findall(r"font(?:-size)?: ?([\d.]+)px", svg) + re.findall(r'font-size="([\d.]+)"', svg)
    assert sizes
    return min(map(float, sizes)) * inner_width() / width


points = [replace(one, flops=10.0 * one.n) for name in (LONG, "b") for one in curve(name, [0.1, 0.2, 0.4])]
losses = TrainingCurve("Codec", "mel distance", {"training": (torch.arange(3).numpy(), torch.ones(3).numpy())})
DRAWN = {
    "curve": lambda narrow: curve_figure(points, narrow=narrow),
    "cost": lambda narrow: cost_figure(points, "flops", narrow=narrow),
    "training": lambda narrow: training_figure(losses, narrow=narrow),
}


@pytest.mark.parametrize("name", DRAWN)
def test_text_of_figures_can_be_read_on_a_telephone(name):
    """Guards against a figure for a screen that is shrunk to a telephone's width: text of 5 px."""
    wide, narrow = both_widths(DRAWN[name], name).split('<div class="narrow">')
    assert smallest_text(narrow) >= SMALLEST_TEXT
    assert smallest_text(wide) < SMALLEST_TEXT  # which is why there are two
    clips = [set(re.findall(r'clipPath id="(\w+)"', svg)) for svg in (wide, inline_svg(DRAWN[name](False), "other"))]
    assert clips[0] and not clips[0] & clips[1]  # a reference into another figure, which may be hidden
    assert smallest_text(histogram(torch.arange(9.0).numpy(), (), "h")) >= SMALLEST_TEXT


MEASURE = """<body style="margin:0"><iframe id=page src="{page}" style="border:0;width:390px;height:800px"></iframe>
<script>
document.getElementById("page").onload = function () {{
  const page = this.contentDocument, root = page.documentElement
  page.querySelectorAll("details").forEach(one => {{ one.open = true }})
  const audio = page.querySelector("audio").getBoundingClientRect().top
  document.title = [root.scrollWidth - root.clientWidth, Math.round(audio)].join(" ")
}}</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to lay the pages out")
def test_a_browser_finds_no_sideways_scroll_and_the_players_near_the_top(tmp_path):
    """Guards against pages wider than a telephone, and against a first player several screens down."""
    scaling = tone_sweep(tmp_path)
    sound = Audio(torch.ones(RATE) / 2, RATE)
    columns = [SpeechColumn(f"{hours} h", "step", {"a": sound}) for hours in range(9)]
    pages = {
        "sweep": ScalingReport("Tones " * 9)._page(scaling, scaling.results, "What was trained. " * 8)[0],
        "training": training_page("A voice", {"a": "Said " * 20}, columns),
        "corpus": corpus_page(tables()),
    }
    flags = "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=3000 --dump-dom"
    for name, page in pages.items():
        (tmp_path / f"{name}.html").write_text(page)
        (tmp_path / "frame.html").write_text(MEASURE.format(page=f"{name}.html"))
        command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path}/{name}", f"file://{tmp_path}/frame.html"]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
        overflow, first_player = map(int, re.search(r"<title>(\S+) (\S+)</title>", dom).groups())
        assert overflow == 0, name
        assert name != "sweep" or first_player < 2 * 844
