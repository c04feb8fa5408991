"""The codec's table against jiwer, pystoi, pesq, scipy and naive loops, and as a callback over real shards."""

import csv
import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jiwer
import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.loggers import CSVLogger
from pesq import pesq
from pystoi import stoi
from scipy import stats
from torch import Tensor, nn

from callbacks.codec_evaluation import CodecEvaluation, PromptSelection, resynthesise
from callbacks.codec_table import Judgement, Utterance, formatted_table, judge, mean_estimate, ratio_estimate, summarise
from datamodules.audio import AudioDataModule
from datamodules.sources.folder import FolderSource
from datamodules.sources.source import Recording
from modules.api import Audio, AudioBatch, Codec
from modules.codec.external import Codec2, Opus
from modules.verifiers.normalise import EnglishWords
from modules.verifiers.whisper import FasterWhisper
from tests.conftest import SAMPLE_RATE, speech_like

TEXTS = {
    "a1": "Please hold the line",
    "a2": "You have twenty-two new messages, and that's all",
    "a3": "The colour isn't right today",
    "a4": "press one to go on now please",
}


class ScriptedRecogniser:
    """Hears what the script says for a clip of that many samples (at 16 kHz)."""

    model_hash = "script"

    def __init__(self, script: dict[int, str]) -> None:
        self.script = script
        self.heard: list[Audio] = []

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        assert language == "en"
        self.heard += audios
        return [self.script[audio.samples_T.numel()] for audio in audios]

    def flops(self, seconds: float) -> float:
        return 0.0


class MuLawCodec(nn.Module):
    """8 bits a sample: its resynthesis and its bits can be worked out by hand."""

    sample_rate, frame_rate, codebook_size, fingerprint = SAMPLE_RATE, float(SAMPLE_RATE), 256, "mu-law"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(255.0))

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        compressed_BT = audio_BT.sign() * (1 + self.scale * audio_BT.abs()).log() / math.log(256)
        return ((compressed_BT + 1) * 127.5).round().long(), num_samples_B

    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        compressed_BS = codes_BS / 127.5 - 1
        return compressed_BS.sign() * (256 ** compressed_BS.abs() - 1) / self.scale

    def decode_flops(self, num_codes: int) -> float:
        return 0.0


class ModuleUnderTest(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.generator = MuLawCodec()

    def test_step(self, batch: AudioBatch, batch_index: int) -> None:
        pass


class Silencer:
    """A comparison that loses everything: no STOI and PESQ can be had of it."""

    name = "nothing"

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        return Audio(torch.zeros_like(audio.samples_T), audio.sample_rate), 0.0


class Missing(Silencer):
    name = "missing"
    available = False
    requirement = "a tool: apt install tool"


@cache
def spoken(number: int, seconds: float = 2.0) -> Tensor:
    """Synthetic speech of at least `seconds`, a little longer for each number."""
    words = [f"word{number}{index}" for index in range(math.ceil(seconds / 0.31))]
    samples_T = speech_like(words, 100.0 + 10 * number, torch.Generator().manual_seed(number)).float()
    return samples_T[: int(seconds * SAMPLE_RATE) + 10 * number]


@pytest.fixture
def utterances() -> list[Utterance]:
    return [
        Utterance(key, text, Audio(spoken(number), SAMPLE_RATE)) for number, (key, text) in enumerate(TEXTS.items())
    ]


@pytest.fixture
def hypotheses() -> list[str]:
    """Perfect but for form; a substitution; an insertion and two deletions; nothing heard."""
    return ["please HOLD, the line.", "You have 22 new massages and that is all", "the very colour isn't", ""]


def noisy(audio: Audio, level: float) -> Audio:
    noise_T = level * torch.randn(audio.samples_T.numel(), generator=torch.Generator().manual_seed(1))
    return Audio((audio.samples_T + noise_T).clamp(-1, 1), audio.sample_rate)


def test_the_table_is_that_of_the_reference_packages(utterances: list[Utterance], hypotheses: list[str]) -> None:
    """Guards against a mean of utterances' error rates in place of the corpus's, swapped arguments, another rate."""
    script = {one.audio.samples_T.numel(): text for one, text in zip(utterances, hypotheses, strict=True)}
    heard = [noisy(one.audio, 0.02) for one in utterances]
    normaliser = EnglishWords()
    num_bits = [1000.0, 1500.0, 700.0, 800.0]
    rows = judge("noise", utterances, heard, num_bits, ScriptedRecogniser(script), normaliser, "en")
    result = summarise(rows, seed=0)["noise"]

    references = [normaliser(one.text) for one in utterances]
    assert result["wer"].value == pytest.approx(jiwer.wer(references, [normaliser(text) for text in hypotheses]))
    assert [row.num_errors for row in rows] == [0, 1, 3, 7]
    pairs = [(a.audio.samples_T.numpy(), b.samples_T.numpy()) for a, b in zip(utterances, heard, strict=True)]
    assert result["stoi"].value == pytest.approx(np.mean([stoi(a, b, 16000) for a, b in pairs]), abs=1e-6)
    for mode in ("nb", "wb"):
        expected = np.mean([pesq(16000, a, b, mode) for a, b in pairs])
        assert result[f"pesq_{mode}"].value == pytest.approx(expected, abs=1e-4)
    assert result["pesq_wb"].value != pytest.approx(result["pesq_nb"].value, abs=0.05)
    seconds = sum(len(a) for a, _ in pairs) / 16000
    assert result["bit_rate"].value == pytest.approx(4000 / seconds)
    assert all(estimate.num == 4 and estimate.num_unjudged == 0 for estimate in result.values())


def test_a_resynthesis_at_another_rate_is_judged_at_16_khz(utterances: list[Utterance], hypotheses: list[str]) -> None:
    """Guards against PESQ and the recogniser being handed a codec's own 24 kHz, or audio of another length."""
    import soxr

    script = {one.audio.samples_T.numel(): text for one, text in zip(utterances, hypotheses, strict=True)}
    heard = [
        Audio(torch.from_numpy(soxr.resample(one.audio.samples_T.numpy(), 16000, 24000)[:-30]), 24000)
        for one in utterances
    ]
    recogniser = ScriptedRecogniser(script)
    rows = judge("24k", utterances, heard, [0.0] * 4, recogniser, EnglishWords(), "en")
    assert all(audio.sample_rate == 16000 for audio in recogniser.heard)
    assert min(row.stoi for row in rows) > 0.999
    assert min(row.pesq_wb for row in rows) > 4.1


def test_what_cannot_be_judged_is_counted(utterances: list[Utterance], hypotheses: list[str]) -> None:
    """Guards against items that vanish from a mean: silence, NaN from a broken codec, a text without words."""
    script = {one.audio.samples_T.numel(): text for one, text in zip(utterances, hypotheses, strict=True)}
    utterances = [*utterances[:3], Utterance("a4", "[beep]", utterances[3].audio)]
    heard = [noisy(one.audio, 0.01) for one in utterances]
    heard[0] = Audio(torch.zeros_like(heard[0].samples_T), SAMPLE_RATE)
    heard[1].samples_T[5] = math.nan
    recogniser = ScriptedRecogniser(script)
    result = summarise(judge("x", utterances, heard, [0.0] * 4, recogniser, EnglishWords(), "en"), seed=0)["x"]
    assert all(audio.samples_T.isfinite().all() for audio in recogniser.heard)
    assert (result["stoi"].num, result["stoi"].num_unjudged) == (2, 2)
    assert (result["pesq_wb"].num, result["pesq_wb"].num_unjudged) == (2, 2)
    assert (result["wer"].num, result["wer"].num_unjudged) == (3, 1)
    text = formatted_table({"x": result})
    assert "x: stoi of 2 utterances could not be judged" in text
    assert "x: wer of 1 utterances could not be judged" in text
    nothing = mean_estimate([math.nan], seed=0)
    assert math.isnan(nothing.value) and (nothing.num, nothing.num_unjudged) == (0, 1)
    assert math.isnan(ratio_estimate([math.nan], [3], seed=0).value)


def test_intervals_are_those_of_scipy() -> None:
    """Guards against errors and words that are drawn apart, and against an interval of the mean of ratios."""
    generator = np.random.default_rng(3)
    num_words = generator.integers(3, 30, 80)
    num_errors = np.minimum(
        generator.poisson(0.02 * num_words**1.5), num_words
    )  # long ones are worse: no mean of ratios
    estimate = ratio_estimate(num_errors, num_words, seed=0, num_resamples=9000)
    reference = stats.bootstrap(
        (num_errors, num_words),
        lambda errors, words, axis=-1: errors.sum(axis) / words.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=9000,
        rng=np.random.default_rng(9),
    ).confidence_interval
    width = reference.high - reference.low
    assert estimate.value == pytest.approx(num_errors.sum() / num_words.sum())
    assert estimate.low == pytest.approx(reference.low, abs=0.05 * width)
    assert estimate.high == pytest.approx(reference.high, abs=0.05 * width)


def test_the_table_does_not_depend_on_the_order_of_rows() -> None:
    """Guards against intervals that change with the number of ranks."""
    generator = np.random.default_rng(0)
    rows = [
        Judgement("s", f"k{n}", 1.0 + n, 600.0 * n, 5, float(generator.integers(5)), *generator.random(3), "", "")
        for n in range(20)
    ]
    assert summarise(rows, seed=1) == summarise([rows[n] for n in generator.permutation(20)], seed=1)
    assert summarise(rows, seed=1) != summarise(rows, seed=2)


@pytest.mark.parametrize(
    ("key", "metadata", "seconds", "reason"),
    [
        ("en_vm_intro", {"language": "en", "text": "a b c"}, 1.5, ""),
        ("fr_vm_intro", {"language": "fr", "text": "a b c"}, 1.5, "language is not en"),
        ("en_vm_intro", {"language": "en", "text": "a b c"}, 1.49, "shorter than 1.5 s"),
        ("en_vm_intro", {"language": "en", "text": "a  b"}, 9.0, "fewer than 3 words"),
        ("en_digits_7", {"language": "en", "text": "a b c"}, 1.5, r"key matches en_digits_\d"),
        ("en_digits_70", {"language": "en", "text": "a b c"}, 1.5, ""),
    ],
)
def test_the_selection(key: str, metadata: dict, seconds: float, reason: str) -> None:
    """Guards against digits, fragments and other languages among the judged prompts."""
    assert PromptSelection().reason_against(key, metadata, seconds) == reason


def test_a_batch_of_resyntheses_is_each_of_them_alone(utterances: list[Utterance]) -> None:
    """Guards against padding in the output or in the bits. The reference is numpy, sample by sample."""
    codec = MuLawCodec()
    assert isinstance(codec, Codec)
    audios = [one.audio for one in utterances]
    with torch.no_grad():
        pairs = resynthesise(codec, audios, torch.device("cpu"))
    for audio, (heard, num_bits) in zip(audios, pairs, strict=True):
        assert num_bits == 8 * audio.samples_T.numel()
        assert heard.samples_T.shape == audio.samples_T.shape
        x = audio.samples_T.numpy().astype(np.float64)
        level = np.round((np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256) + 1) * 127.5) / 127.5 - 1
        expected = np.sign(level) * (256 ** np.abs(level) - 1) / 255
        assert np.abs(expected - heard.samples_T.numpy()).max() < 0.05  # one level, where rounding falls otherwise
        assert np.abs(expected - heard.samples_T.numpy()).mean() < 1e-4


@pytest.fixture
def data(tmp_path: Path) -> AudioDataModule:
    """Four recordings to be judged and one that is too short, all in the split `train` or `held_out` by their hash."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number, (key, text) in enumerate([*TEXTS.items(), ("a5", "much too short")]):
        seconds = 1.0 if key == "a5" else 2.0
        soundfile.write(folder / f"{key}.wav", spoken(number, seconds).numpy(), SAMPLE_RATE)
        (folder / f"{key}.txt").write_text(text)
    return AudioDataModule(tmp_path / "shards", [FolderSource(folder)], validation_split="train")


def run_test(data: AudioDataModule, callback: CodecEvaluation, folder: Path) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.test(ModuleUnderTest(), datamodule=data, verbose=False)
    return trainer


def test_the_callback_writes_the_table(
    data: AudioDataModule, tmp_path: Path, capsys: pytest.CaptureFixture, utterances: list[Utterance]
) -> None:
    """Guards against files that disagree, systems that are mixed up, and a missing tool that stops the run."""
    data.prepare_data()
    keys = sorted(map(str, data._index("train").keys))
    assert {"a5"} < set(keys), "the hash put too few recordings into the split"
    texts = {one.audio.samples_T.numel(): one.text for one in utterances}
    folder = tmp_path / "out"
    callback = CodecEvaluation(
        folder, ScriptedRecogniser(texts), EnglishWords(), [Silencer(), Missing()], batch_size=3, name="mu-law"
    )
    run_test(data, callback, folder)

    summary = json.loads((folder / "codec_evaluation.json").read_text(), parse_constant=pytest.fail)
    judged = [key for key in keys if key != "a5"]
    assert summary["num_prompts"] == len(judged)
    assert summary["num_left_out"] == {"shorter than 1.5 s": 1}
    assert summary["missing_comparisons"] == {"missing": "a tool: apt install tool"}
    assert summary["recogniser"]["model_hash"] == "script"
    assert summary["codec"]["fingerprint"] == "mu-law"
    assert list(summary["systems"]) == ["recording", "mu-law", "nothing"]
    assert summary["systems"]["recording"]["stoi"]["value"] == pytest.approx(1, abs=1e-6)
    assert summary["systems"]["mu-law"]["bit_rate"]["value"] == 8 * SAMPLE_RATE
    assert 0.9 < summary["systems"]["mu-law"]["stoi"]["value"] < 1
    assert summary["systems"]["nothing"]["stoi"] == {
        "value": None, "low": None, "high": None, "num": 0, "num_unjudged": len(judged)
    }  # fmt: skip
    assert summary["systems"]["mu-law"]["wer"]["value"] == 0

    rows = list(csv.DictReader((folder / "codec_utterances.csv").open()))
    assert sorted(row["key"] for row in rows if row["system"] == "mu-law") == judged
    expected = np.mean([float(row["pesq_wb"]) for row in rows if row["system"] == "mu-law"])
    assert summary["systems"]["mu-law"]["pesq_wb"]["value"] == pytest.approx(expected)
    table = {(row["system"], row["metric"]): row for row in csv.DictReader((folder / "codec_table.csv").open())}
    assert float(table["mu-law", "pesq_wb"]["value"]) == summary["systems"]["mu-law"]["pesq_wb"]["value"]
    logged = next(csv.DictReader((folder / "metrics.csv").open()))
    assert float(logged["codec/pesq_wb/mu-law"]) == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert f"{len(judged)} prompts" in printed
    assert "missing: left out, needs a tool: apt install tool" in printed
    assert (
        len({len(line) for line in printed.splitlines() if line.startswith(("system ", "recording", "mu-law "))}) == 1
    )


def test_nothing_to_judge_and_two_of_one_name_are_refused(data: AudioDataModule, tmp_path: Path) -> None:
    """Guards against an empty table, and a row that silently holds two systems."""
    arguments = tmp_path, ScriptedRecogniser({}), EnglishWords()
    with pytest.raises(ValueError, match="names of their own, but got"):
        CodecEvaluation(*arguments, [Silencer(), Silencer()])
    strict = CodecEvaluation(*arguments, selection=PromptSelection(min_seconds=60))
    with pytest.raises(ValueError, match=r"that PromptSelection\(.*accepts, but got none: {'shorter than 60 s'"):
        run_test(data, strict, tmp_path)


@pytest.mark.skipif(not Codec2("700C").available or not Opus(6).available, reason="needs codec2 and libopus")
def test_real_codecs_on_recorded_prompts(english_prompts: list[Recording]) -> None:
    """Guards against a table that ranks by accident: more bits must be judged better by every column."""
    recordings = sorted(english_prompts, key=lambda one: one.audio.seconds)[:5]
    utterances = [Utterance(one.key, one.text, one.audio) for one in recordings]
    recogniser, normaliser = FasterWhisper(num_workers=1), EnglishWords()
    rows = []
    for system in (Opus(32), Codec2("700C")):
        heard, num_bits = zip(*(system.resynthesise(one.audio) for one in utterances), strict=True)
        rows += judge(system.name, utterances, heard, num_bits, recogniser, normaliser, "en")
    table = summarise(rows, seed=0)
    good, bad = table["Opus 32k"], table["Codec2 700C"]
    assert good["wer"].value <= 0.2 and good["wer"].value < bad["wer"].value
    assert good["stoi"].value > 0.95 and good["stoi"].value > bad["stoi"].value + 0.1
    assert good["pesq_wb"].value > bad["pesq_wb"].value + 1
    assert good["pesq_nb"].value > bad["pesq_nb"].value + 1
