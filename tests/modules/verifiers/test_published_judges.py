"""Metrics as published: Seed-TTS-eval's normalisers against its rule, and the judges that funasr runs."""

import string
import sys
from pathlib import Path
from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
import torch

from modules.api import Audio
from modules.recognition import error_rate
from modules.verifiers.embeddings.funasr_models import Emotion2Vec, Paraformer
from modules.verifiers.recognisers.normalise import LetterWords, SeedTTSChinese, SeedTTSEnglish

# Punctuation of Chinese texts as listed in Seed-TTS-eval's dependency (zhon 2.1).
CHINESE_PUNCTUATION = (
    "＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､\u3000、〃"
    "〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏﹑﹔·．！？｡。"
)


def published_rates(reference: str, heard: str, language: str) -> float:
    """Seed-TTS-eval's rule, as a loop over marks and jiwer's words."""
    for mark in CHINESE_PUNCTUATION + string.punctuation:
        if mark != "'":
            reference, heard = reference.replace(mark, ""), heard.replace(mark, "")
    if language == "zh":
        return jiwer.wer(" ".join(reference), " ".join(heard))
    return jiwer.wer(reference.lower().replace("  ", " "), heard.lower().replace("  ", " "))


@pytest.mark.parametrize(
    ("reference", "heard", "language"),
    [
        ("It's a well-known fact, isn't it?", "Its a well known fact isn't it", "en"),
        ("“Don’t!” she said — twice…", "don't she said twice", "en"),
        ("Mr. O'Neill paid $5.00 (5%).", "mr oneill paid 500 5", "en"),
        ("四是四，十是十；「十四」是十四。", "四是四 十是十 四十是十四", "zh"),
        ("我有３个 iPhone·Pro，真的！", "我有3个iPhone Pro真的吗", "zh"),
    ],
)
def test_rates_are_those_of_the_published_rule(reference, heard, language):
    """Guards against marks that split words where the published rule joins them, and spaces counted as characters."""
    normaliser = SeedTTSEnglish() if language == "en" else SeedTTSChinese()
    unit = "word" if language == "en" else "character"
    own = error_rate(normaliser(reference), normaliser(heard), unit)
    assert own == pytest.approx(published_rates(reference, heard, language))
    assert own > 0


def test_every_published_mark_goes_and_nothing_else():
    """Guards against a range that removes letters, and against the apostrophe."""
    for normaliser in (SeedTTSEnglish(), SeedTTSChinese()):
        assert normaliser(CHINESE_PUNCTUATION + string.punctuation) == "'"
        assert normaliser("aé1中々ー한½") == "aé1中々ー한½"
    assert LetterWords()("HE SAID: IT'S well-known, 3 times") == "he said it's well known times"


def test_funasr_is_called_clip_by_clip_at_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a text that is not converted to simplified characters, a wrong sample rate for funasr, and a hash
    of nothing."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    heard = []

    class AutoModel:
        def __init__(self, model, **options):
            assert model == str(tmp_path)
            self.model = torch.nn.Linear(10, 10, bias=False)

        def generate(self, input, **options):
            heard.append(len(input))
            return [{"text": f"漢{len(input)}", "feats": np.array([3.0, 4.0]) * len(input)}]

    monkeypatch.setitem(sys.modules, "funasr", SimpleNamespace(AutoModel=AutoModel))
    convert = SimpleNamespace(convert=lambda text, to: text.replace("漢", "汉") if to == "zh-cn" else "")
    monkeypatch.setitem(sys.modules, "zhconv", convert)
    clips = [Audio(torch.ones(12000) / 2, 24000), Audio(torch.ones(1600) / 2, 16000)]
    recogniser, encoder = Paraformer(str(tmp_path)), Emotion2Vec(str(tmp_path))
    assert recogniser.transcribe(clips, "zh") == ["汉8000", "汉1600"] and heard == [8000, 1600]
    with pytest.raises(ValueError, match="Expected `language` to be zh"):
        recogniser.transcribe(clips, "en")
    first, silent = encoder.embed([clips[0], None])
    np.testing.assert_allclose(first, [0.6, 0.8], rtol=1e-6)
    assert isinstance(silent, ValueError)
    assert encoder.flops(2.0) == 2 * 100 * 50 * 2.0
    assert len(recogniser.model_hash) == 64 and recogniser.model_hash == encoder.model_hash
