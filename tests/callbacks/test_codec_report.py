"""Output of a codec evaluation: scores, codes, speed, the evaluation card, the page, and the same over ranks."""

import base64
import csv
import hashlib
import io
import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from callbacks.codec_evaluation import CodecEvaluation, CodecReport
from datamodules.audio import AudioDataModule
from modules.api import Audio, Candidate, Codec, Prompt
from modules.evaluation.judge import EvaluatedRecording
from modules.evaluation.systems import SystemFacts
from modules.verifiers.audio import audio_hash
from modules.verifiers.recognisers.normalise import EnglishWords
from tests.callbacks.test_codec_evaluation import MuLawCodec, Silencer, recorded, run_test
from tests.conftest import REPOSITORY, SAMPLE_RATE
from tests.modules.evaluation.test_judge import TEXTS, ScriptedRecogniser, spoken
from tests.toys.facts import VerifierToy
from tests.toys.report_toys import Page


@pytest.fixture
def data(tmp_path: Path) -> AudioDataModule:
    return recorded(tmp_path)


class Loudness(VerifierToy):
    """A verifier: the peak of a clip; NaN for silence."""

    name, model_hash, families = "loudness", "peak", frozenset({"loudness"})
    settings: ClassVar = {"unit": "full scale"}

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        peaks = [float(one.audio.samples_T.abs().max()) for one in candidates]
        return torch.tensor([peak or math.nan for peak in peaks])


class Halves(Silencer):
    """A comparison of three codebooks, slower than the codec under test."""

    facts = SystemFacts(name="halves", codebook_size=8, num_codebooks=3, frame_rate=5.0, latency_seconds=0.25)

    def __init__(self, codec: Codec | None = None) -> None:
        self.codec = codec

    def with_codec(self, codec: Codec) -> "Halves":
        return Halves(codec)

    def compress(self, audio: Audio) -> SimpleNamespace:
        assert isinstance(self.codec, MuLawCodec)
        time.sleep(0.02)
        return SimpleNamespace(audio=audio, num_bits=90.0, codes_QS=torch.tensor([[0, 1], [2, 2], [3, 3]]))

    def decompress(self, compressed: SimpleNamespace) -> Audio:
        time.sleep(0.06)
        return compressed.audio


def evaluation(folder: Path) -> CodecEvaluation:
    texts = {spoken(number).numel(): text for number, text in enumerate(TEXTS.values())}
    return CodecEvaluation(
        folder,
        ScriptedRecogniser(texts),
        EnglishWords(),
        [Silencer(), Halves()],
        [Loudness()],
        quoted=REPOSITORY / "configs/codec/llasa_table1.csv",
        name="mu-law",
        num_logged=2,
    )


def test_verifiers_codes_speed_and_the_card(
    data: AudioDataModule, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Guards against speed, codes or scores in another system's row, an evaluation card without recordings and models,
    and data that may change unnoticed."""
    data.prepare_data()
    folder = tmp_path / "out"
    callback = evaluation(folder)
    run_test(data, callback, folder)
    card = json.loads((folder / "codec_evaluation.json").read_text(), parse_constant=pytest.fail)
    systems, num = card["systems"], card["num_prompts"]
    assert systems["recording"]["loudness"]["value"] == systems["halves"]["loudness"]["value"]
    assert systems["nothing"]["loudness"]["num_unjudged"] == num
    assert "encode_rtf" not in systems["recording"] and "code_usage" not in systems["nothing"]
    assert 0.02 / 2.1 < systems["halves"]["encode_rtf"]["value"] < systems["halves"]["decode_rtf"]["value"]
    assert 0.06 / 2.1 < systems["halves"]["decode_rtf"]["value"] < 1
    assert systems["halves"]["code_usage"]["value"] == pytest.approx((2 / 8 + 1 / 8 + 1 / 8) / 3)
    assert systems["halves"]["code_perplexity"]["value"] == pytest.approx((2 + 1 + 1) / 3)
    codes = MuLawCodec().encode(torch.cat([one.audio.samples_T for one in callback._utterances])[None], None)[0]
    assert systems["mu-law"]["code_usage"]["value"] == pytest.approx(codes.unique().numel() / 256)
    assert card["facts"]["halves"] == {
        "codebook_size": 8, "num_codebooks": 3, "frame_rate": 5.0, "latency_seconds": 0.25
    }  # fmt: skip
    assert card["facts"]["recording"]["frame_rate"] is None
    assert card["verifiers"]["loudness"]["model_hash"] == "peak"
    assert card["verifiers"]["loudness"]["settings"] == {"unit": "full scale"}
    assert card["normaliser"] == EnglishWords().name and card["recogniser"]["model_hash"] == "script"
    assert {"python", "torch", "pesq", "pystoi"} <= set(card["versions"])
    assert card["machine"]["num_threads"] == torch.get_num_threads()
    content = {
        one.key: hashlib.sha256(f"{audio_hash(one.audio)} {one.text}".encode()).hexdigest()
        for one in callback._utterances
    }
    lines = "".join(f"{key} {content[key]}\n" for key in sorted(content))
    assert card["data"]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert (card["data"]["split"], card["data"]["num_prompts"]) == ("train", num)
    rows = list(csv.DictReader((folder / "codec_utterances.csv").open()))
    peaks = {one.key: float(one.audio.samples_T.abs().max()) for one in callback._utterances}
    own = {row["key"]: float(row["loudness"]) for row in rows if row["system"] == "halves"}
    assert own == pytest.approx(peaks)
    printed, page = capsys.readouterr().out, (folder / "codec_table.md").read_text()
    assert "X-codec2" in printed and "X-codec2" in page and "Nothing of it was measured here" in printed


def test_the_page_plays_what_was_judged(data: AudioDataModule, tmp_path: Path) -> None:
    """Guards against players with another system's audio, quoted rows among the measured ones, and a page that uses the
    network."""
    data.prepare_data()
    folder = tmp_path / "out"
    (folder / "terms").mkdir(parents=True)
    credits = folder / "terms/CREDITS.txt"
    credits.write_text("CC0 <nobody>")
    callback = evaluation(folder)
    run_test(data, callback, folder, CodecReport("Codecs & more", [credits]))
    text = (folder / "report/index.html").read_text()
    page = Page(text)
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import|<script|<link", text)
    assert "CC0 <nobody>" in page.text and "Codecs & more" in page.text
    expected = [audio for _, audios in callback.results.examples for audio in audios.values()]
    names = ["recording", "mu-law", "nothing", "halves"]
    assert [list(audios) for _, audios in callback.results.examples] == [names] * 2
    assert len(page.audio) == len(expected) == 8
    for source, audio in zip(page.audio, expected, strict=True):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert rate == audio.sample_rate
        np.testing.assert_allclose(samples, audio.samples_T.clamp(-1, 1).numpy(), atol=2**-15)
    badges = re.findall(r'class="badge">([^<]+)<', text)
    assert badges == names * 2
    measured, _, apart = text.partition('id="quoted"')
    assert "X-codec2" not in measured and "X-codec2" in apart
    (first, _), *_ = callback.results.examples
    assert first.text in page.text
    headings = [row[0] for row in (page.tables["measured"], page.tables["measured-more"])]
    assert headings[0][-1] == "UTMOS" and headings[1][0] == "system" and {"bit/s", "loudness"} <= set(headings[1])
    value = callback.table["mu-law"]["pesq_wb"]
    assert f"<td>{value.value:.2f}<small>{value.low:.2f} to {value.high:.2f}</small></td>" in measured


def test_a_page_without_an_evaluation_or_with_missing_credits_is_refused(data: AudioDataModule, tmp_path: Path) -> None:
    """Guards against an error only after an hour of work."""
    with pytest.raises(ValueError, match=r"Expected `credits` to name text files, but got nowhere\.txt"):
        run_test(data, evaluation(tmp_path), tmp_path, CodecReport(credits=[Path("nowhere.txt")]))
    callback = evaluation(tmp_path)
    callback.quoted = tmp_path / "missing.csv"
    with pytest.raises(FileNotFoundError):
        run_test(data, callback, tmp_path)
    with pytest.raises(ValueError, match="one CodecEvaluation among the trainer's `callbacks`, but got 0"):
        run_test(data, CodecReport(), tmp_path)


def test_two_ranks_give_the_table_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a table of rank 0's utterances only, and against an evaluation card that depends on the ranks."""
    utterances = [
        EvaluatedRecording(key, text, Audio(spoken(number), SAMPLE_RATE))
        for number, (key, text) in enumerate(TEXTS.items())
    ]
    model = SimpleNamespace(generator=MuLawCodec(), device=torch.device("cpu"))

    def judged(own: list[EvaluatedRecording], rank: int, num_ranks: int) -> CodecEvaluation:
        trainer = SimpleNamespace(
            world_size=num_ranks, is_global_zero=rank == 0, loggers=[], global_step=0,
            datamodule=SimpleNamespace(sample_rate=SAMPLE_RATE), strategy=SimpleNamespace(root_device="cpu"),
        )  # fmt: skip
        callback = evaluation(tmp_path)
        callback._utterances = own
        callback.on_test_epoch_end(trainer, model)
        return callback

    sent: list[object] = []

    def gather(all_ranks: list[object], own: object) -> None:
        sent.append(own)
        all_ranks[:] = [own, sent[0]]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    judged(utterances[1:3], 1, 2)
    two = judged([utterances[0], utterances[3]], 0, 2)
    one = judged(utterances, 0, 1)
    assert two.results.description["data"] == one.results.description["data"]
    assert two.results.description["num_prompts"] == 4
    for system, estimates in one.table.items():
        for name, estimate in estimates.items():
            if not name.endswith("_rtf"):
                expected = pytest.approx([estimate.value, estimate.low, estimate.high], nan_ok=True)
                got = two.table[system][name]
                assert [got.value, got.low, got.high] == expected, (system, name)
