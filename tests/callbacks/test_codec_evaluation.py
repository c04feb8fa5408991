"""The codec evaluation callback: over real shards, with a codec and a comparison whose results are computed by hand."""

import csv
import json
import math
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from callbacks.codec_evaluation import CodecEvaluation, PromptSelection
from datamodules.audio import AudioDataModule
from datamodules.sources.folder import FolderSource
from modules.api import Audio, Codec
from modules.batches import AudioBatch
from modules.evaluation.systems import CodecUnderTest, SystemFacts, hear
from modules.provenance import weights_hash
from modules.verifiers.audio import resampled
from modules.verifiers.naturalness import Dnsmos
from modules.verifiers.recognisers.normalise import EnglishWords
from tests.conftest import SAMPLE_RATE
from tests.modules.evaluation.test_judge import TEXTS, ScriptedRecogniser, spoken
from tests.toys.codec_references import small_codec
from tests.toys.facts import CodecToy


class MuLawCodec(CodecToy, nn.Module):
    """8 bits per sample: its resynthesis and its bits can be computed by hand."""

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
    """A comparison whose output is silence: STOI and PESQ are undefined."""

    facts, model_hash = SystemFacts(name="nothing"), ""

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        return Audio(torch.zeros_like(audio.samples_T), audio.sample_rate), 0.0


class Missing(Silencer):
    facts = SystemFacts(name="missing", requirement="a tool: apt install tool")


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
    """Guards against digits, fragments and other languages among the evaluated prompts."""
    assert PromptSelection().reason_against(key, metadata, seconds) == reason


def test_the_codec_under_test() -> None:
    """Guards against padding in the output or in the bits. The reference is numpy, sample by sample."""
    codec = MuLawCodec()
    assert isinstance(codec, Codec)
    audios = [Audio(spoken(number), SAMPLE_RATE) for number in range(len(TEXTS))]
    with torch.no_grad():
        under_test = CodecUnderTest(codec, "mu-law", SAMPLE_RATE, torch.device("cpu"))
        pairs = [under_test.resynthesise(audio) for audio in audios]
    for audio, (heard, num_bits) in zip(audios, pairs, strict=True):
        assert num_bits == 8 * audio.samples_T.numel()
        assert heard.samples_T.shape == audio.samples_T.shape
        x = audio.samples_T.numpy().astype(np.float64)
        level = np.round((np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256) + 1) * 127.5) / 127.5 - 1
        expected = np.sign(level) * (256 ** np.abs(level) - 1) / 255
        assert np.abs(expected - heard.samples_T.numpy()).max() < 0.05  # one level, where rounding differs
        assert np.abs(expected - heard.samples_T.numpy()).mean() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_codec_in_half_precision_is_evaluated(dtype: torch.dtype) -> None:
    """Guards against an error of numpy or a convolution, and against spectra computed in bfloat16: the reference is a
    codec of float32 with the same rounded weights."""
    audio = Audio(spoken(0), SAMPLE_RATE)
    codec, reference = (small_codec().eval().requires_grad_(False) for _ in range(2))
    codec.to(dtype)  # the frozen speech encoder's weights stay as they are
    reference.load_state_dict(codec.state_dict())
    assert weights_hash(codec.state_dict()) != weights_hash(reference.state_dict())
    heard, expected = (
        hear(CodecUnderTest(one, "codec", SAMPLE_RATE, torch.device("cpu")), audio) for one in (codec, reference)
    )
    assert np.array_equal(heard.codes_QS, expected.codes_QS)
    torch.testing.assert_close(heard.audio.samples_T, expected.audio.samples_T, rtol=0, atol=1e-2)
    half = Audio(audio.samples_T.to(dtype), SAMPLE_RATE)
    assert resampled(half, SAMPLE_RATE).dtype == np.float32


def recorded(tmp_path: Path) -> AudioDataModule:
    """Four recordings to evaluate and one that is too short."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number, (key, text) in enumerate([*TEXTS.items(), ("a5", "much too short")]):
        seconds = 1.0 if key == "a5" else 2.0
        soundfile.write(folder / f"{key}.wav", spoken(number, seconds).numpy(), SAMPLE_RATE)
        (folder / f"{key}.txt").write_text(text)
    return AudioDataModule(tmp_path / "shards", [FolderSource(folder, split="train")], validation_split="train")


@pytest.fixture
def data(tmp_path: Path) -> AudioDataModule:
    return recorded(tmp_path)


def run_test(data: AudioDataModule, callback: Callback, folder: Path, *more: Callback) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[callback, *more],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.test(ModuleUnderTest(), datamodule=data, verbose=False)
    return trainer


def test_the_callback_writes_the_table(data: AudioDataModule, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against inconsistent files, systems that are mixed up, and a missing tool that stops the run."""
    data.prepare_data()
    keys = sorted(map(str, data._index("train").keys))
    assert {"a5"} < set(keys), "the hash put too few recordings into the split"
    texts = {spoken(number).numel(): text for number, text in enumerate(TEXTS.values())}
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


def test_without_a_recogniser_the_signals_are_judged(data: AudioDataModule, tmp_path: Path) -> None:
    """Guards against words counted as errors without a transcript, and against a run that needs a recogniser."""
    data.prepare_data()
    callback = CodecEvaluation(tmp_path / "out", None, EnglishWords(), name="mu-law")
    run_test(data, callback, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "codec_evaluation.json").read_text(), parse_constant=pytest.fail)
    assert summary["recogniser"] is None
    assert summary["systems"]["mu-law"]["wer"]["value"] is None
    assert summary["systems"]["mu-law"]["wer"]["num_unjudged"] == summary["num_prompts"]
    assert 0.9 < summary["systems"]["mu-law"]["stoi"]["value"] < 1


def test_nothing_to_judge_and_two_of_one_name_are_refused(data: AudioDataModule, tmp_path: Path) -> None:
    """Guards against an empty table, and a row that silently combines two systems."""
    arguments = tmp_path, ScriptedRecogniser({}), EnglishWords()
    with pytest.raises(ValueError, match="`comparisons` and `name` to have distinct names, but got"):
        run_test(data, CodecEvaluation(*arguments, [Silencer(), Silencer()]), tmp_path)
    with pytest.raises(ValueError, match="`verifiers` to have distinct names, but got"):
        run_test(data, CodecEvaluation(*arguments, verifiers=[Dnsmos(), Dnsmos()]), tmp_path)
    strict = CodecEvaluation(*arguments, selection=PromptSelection(min_seconds=60))
    with pytest.raises(ValueError, match=r"that PromptSelection\(.*accepts, but got none: {'shorter than 60 s'"):
        run_test(data, strict, tmp_path)
