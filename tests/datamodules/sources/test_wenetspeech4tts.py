"""WenetSpeech4TTSSource on a miniature of the published layout."""

from pathlib import Path

import pytest

from datamodules.sources.wenetspeech4tts import WenetSpeech4TTSSource
from tests.toys.miniatures import found_in, write_text, write_tone

IDS = {
    "Premium": "X0000015306_83500032_S00110-S00112",
    "Standard": "Y0000000001_123_S00001",
    "Basic": "Y0000000002_456_S00002-S00003",
}
TEXTS = {"Premium": "今天天气很好。", "Standard": "我们走吧，好吗？", "Basic": "谢谢大家！"}


def write_corpus(tmp_path: Path) -> Path:
    """Each list holds those of the better tiers; Basic's also a line twice, one of no file and one without a path."""
    lines, scores = [], []
    for number, (tier, name) in enumerate(IDS.items()):
        folder = tmp_path / f"{tier}/WenetSpeech4TTS_{tier}_{number}"
        write_tone(folder / f"wavs/{name}.wav", 16_000)
        write_text(folder / f"txts/{name}.txt", f"{name}\t{TEXTS[tier]}\n[[0.0, 0.04], [0.04, 0.1]]\n")
        lines.append(f"{name} ../{tier}/{folder.name}/wavs/{name}.wav\n")
        scores.append(f"{name} {4.1 - 0.2 * number:.3f}\n")
        more = [lines[0], "gone ../Basic/WenetSpeech4TTS_Basic_2/wavs/gone.wav\n", "alone\n"] if tier == "Basic" else []
        write_text(tmp_path / f"filelists/{tier}_filelist.lst", "".join(lines + more))
        write_text(tmp_path / f"DNSMOS_P808Scores/{tier}_DNSMOS.lst", "".join(scores))
    write_text(tmp_path / "Basic/WenetSpeech4TTS_Basic_2/txts/gone.txt", "gone\t没有\n")
    return tmp_path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path)


def test_wenetspeech4tts_as_published(corpus: Path):
    """Guards against a recording that three lists name thrice, the line of times as text, and scores that are lost."""
    found = found_in(WenetSpeech4TTSSource(corpus))
    assert {name: one.text for name, one in found.kept.items()} == {IDS[tier]: TEXTS[tier] for tier in IDS}
    assert found.speakers == {""} and set(found.splits.values()) == {""} and found.hours == pytest.approx(0.3 / 3600)
    assert found.skips == {"unreadable": 1, "a line of Basic_filelist.lst that is not `id ../path`": 1}
    one = found.kept[IDS["Premium"]]
    assert one.scores == {"dnsmos_p808": 4.1} and one.language == "zh" and one.license == "CC BY 4.0"
    assert one.more == {"id": IDS["Premium"], "tier": "Premium"} and one.key == f"wenetspeech4tts_{IDS['Premium']}"


def test_a_tier_of_wenetspeech4tts(corpus: Path):
    """Guards against keys that depend on the list that was read, and a list that is absent."""
    found = found_in(WenetSpeech4TTSSource(corpus, tier="Standard"))
    assert set(found.kept) == {IDS["Premium"], IDS["Standard"]}
    assert found.kept[IDS["Premium"]].key == f"wenetspeech4tts_{IDS['Premium']}"
    (corpus / "filelists/Premium_filelist.lst").unlink()
    with pytest.raises(FileNotFoundError, match=r"Premium_filelist\.lst"):
        list(WenetSpeech4TTSSource(corpus, tier="Premium").items())
