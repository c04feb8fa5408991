"""The published test sets from generated miniature corpora in their layouts, and their sweep.

Shapes: T audio samples.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.inference_scaling import InferenceScaling
from callbacks.scaling_report import ScalingReport
from datamodules.prompt_sets.esd import EmotionalSpeech
from datamodules.prompt_sets.librispeech import LibriSpeechContinuation
from datamodules.prompt_sets.published_prompts import PublishedPromptDataModule
from datamodules.prompt_sets.published_set import PromptRow, PublishedSet, drawn, read_prompt
from datamodules.prompt_sets.seed_tts_eval import SeedTTSEval
from datamodules.sources.source import Skipped
from modules.api import SamplingSettings
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.report.quoted_rows import QuotedRows
from modules.search.algorithms.best_of_n import BestOfN
from tests.test_configs import read
from tests.toys.report_toys import Page
from tests.toys.search_toys import (
    CODEBOOK_SIZE,
    ToyCodec,
    ToyFormat,
    ToySampler,
    ToyVerifier,
    WritingVerifier,
    mean_level,
)


def write(path: Path, seconds: float, rate: int, level: float = 0.25) -> None:
    """Write a tone with rising pitch, so that a crop at the wrong place shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_T = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, level * np.sin(2 * np.pi * (200 + 40 * time_T) * time_T), rate)


@pytest.fixture
def seed_tts(tmp_path: Path) -> Path:
    root = tmp_path / "seedtts_testset"
    for name in ("one", "two", "three"):
        write(root / "en/prompt-wavs" / f"{name}.wav", 0.5, 24000)
    write(root / "zh/prompt-wavs/yi.wav", 0.5, 16000)
    (root / "en/prompt-wavs/broken.wav").write_bytes(b"RIFF no audio")
    (root / "en/meta.lst").write_text(
        "u1|Prompt one.|prompt-wavs/one.wav|It's the first text.\n"
        "u2|Prompt two.|prompt-wavs/two.wav|The second, at last.|wavs/u2.wav\n"
        "u3|Prompt three.|prompt-wavs/broken.wav|Not read.\n"
        "u4|Prompt four.|prompt-wavs/missing.wav|Not there.\n"
        "u5|too|short\n"
        "\n"
        "u6|Prompt six.|prompt-wavs/three.wav|The third.\n"
    )
    (root / "zh/meta.lst").write_text("z1|你好。|prompt-wavs/yi.wav|今天天气不错。\n", encoding="utf-8")
    (root / "zh/hardcase.lst").write_text("h1|你好。|prompt-wavs/yi.wav|四是四，十是十。\n", encoding="utf-8")
    return root


def test_seed_tts_eval_is_read_in_its_layout(seed_tts):
    """Guards against swapped prompt and target texts, and against a bad line that loses the others."""
    english = SeedTTSEval(seed_tts, "en")
    assert isinstance(english, PublishedSet)
    rows = english.rows()
    assert [row.key for row in rows] == [f"seed_tts_eval_en_u{number}" for number in range(1, 7)]
    assert isinstance(rows[4], Skipped) and "line 5" in rows[4].reason
    first, second = rows[:2]
    assert (first.voice_text, first.text, first.language) == ("Prompt one.", "It's the first text.", "en")
    assert second.text == "The second, at last." and second.recording == seed_tts / "en/prompt-wavs/two.wav"
    (chinese,), (hard,) = SeedTTSEval(seed_tts, "zh").rows(), SeedTTSEval(seed_tts, "hard").rows()
    assert (chinese.voice_text, chinese.text, chinese.language) == ("你好。", "今天天气不错。", "zh")
    assert (hard.text, hard.language) == ("四是四，十是十。", "zh") and hard.key != chinese.key


def test_recordings_come_at_the_wanted_rate(seed_tts):
    """Guards against a codec whose input has another sample rate."""
    prompt = read_prompt(SeedTTSEval(seed_tts, "en").rows()[0], 16000)
    assert prompt.reference.sample_rate == 16000 and prompt.reference.samples_T.numel() == 8000
    time_T = torch.arange(8000) / 16000
    expected_T = 0.25 * torch.sin(2 * torch.pi * (200 + 40 * time_T) * time_T)
    assert (prompt.reference.samples_T - expected_T)[200:-200].abs().max() < 1e-3
    assert (prompt.voice.text, tuple(prompt.voice.codes)) == ("Prompt one.", ())


def test_librispeech_is_cut_after_three_seconds(tmp_path):
    """Guards against another crop, other lengths than 4 to 10 s, and a prompt text that repeats the words."""
    chapter = tmp_path / "LibriSpeech/test-clean/61/70968"
    lengths = {"61-70968-0000": 3.9, "61-70968-0001": 4.0, "61-70968-0002": 10.0, "61-70968-0003": 10.2}
    for key, seconds in lengths.items():
        write(chapter / f"{key}.flac", seconds, 16000)
    write(tmp_path / "LibriSpeech/test-clean/121/1/121-1-0000.flac", 5.0, 16000)
    (chapter / "61-70968-0004.flac").write_bytes(b"no audio")
    lines = [f"{key} HE SAID IT'S {key[-1]}" for key in [*lengths, "61-70968-0004", "61-70968-0005"]]
    (chapter / "61-70968.trans.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "LibriSpeech/test-clean/121/1/121-1.trans.txt").write_text("121-1-0000 ONE\n")
    rows = LibriSpeechContinuation(tmp_path / "LibriSpeech").rows()
    used = [row for row in rows if isinstance(row, PromptRow)]
    assert [row.key for row in used] == ["121-1-0000", "61-70968-0001", "61-70968-0002"]
    assert [row.key for row in rows if isinstance(row, Skipped)] == ["61-70968-0004", "61-70968-0005"]
    prompt = read_prompt(used[1], 16000)
    whole_T = torch.from_numpy(soundfile.read(chapter / "61-70968-0001.flac", dtype="float32")[0])
    assert torch.equal(prompt.reference.samples_T, whole_T[:48000])
    assert (prompt.text, prompt.voice.text, prompt.speaker) == ("he said it's 1", "", "61")
    assert LibriSpeechContinuation(tmp_path / "LibriSpeech", lower_case=False).rows()[1].text == "HE SAID IT'S 1"
    with pytest.raises(ValueError, match="Expected 0 < `prompt_seconds` < `min_seconds`"):
        LibriSpeechContinuation(tmp_path, prompt_seconds=4.0)


def test_esd_pairs_a_text_with_another_recording_of_the_same_emotion(tmp_path):
    """Guards against a prompt of another emotion or speaker, one with the same text, and other languages."""
    texts = {"0002": [], "0011": [], "0012": []}
    for speaker, emotion, first, number in (
        ("0002", "Happy", 721, 2), ("0011", "Angry", 371, 3), ("0011", "Sad", 1071, 2), ("0012", "Angry", 371, 1)
    ):  # fmt: skip
        for index in range(first, first + number):
            write(tmp_path / speaker / emotion / "test" / f"{speaker}_{index:06d}.wav", 0.2, 16000)
            texts[speaker].append(f"{speaker}_{index:06d}\ttext {index} 快\t{emotion}\n")
        write(tmp_path / speaker / emotion / "train" / f"{speaker}_{first - 20:06d}.wav", 0.2, 16000)
    encodings = {"0002": "gb18030", "0011": "utf-16", "0012": "utf-8"}
    for speaker, lines in texts.items():
        (tmp_path / speaker / f"{speaker}.txt").write_text("".join(lines), encoding=encodings[speaker])
    write(tmp_path / "0011/Sad/test/0011_001099.wav", 0.2, 16000)
    rows = EmotionalSpeech(tmp_path, "en").rows()
    used = [row for row in rows if isinstance(row, PromptRow)]
    pairs = {(row.key, row.recording.stem, row.emotion) for row in used}
    assert pairs == {
        ("esd_0011_000371", "0011_000372", "angry"), ("esd_0011_000372", "0011_000373", "angry"),
        ("esd_0011_000373", "0011_000371", "angry"), ("esd_0011_001071", "0011_001072", "sad"),
        ("esd_0011_001072", "0011_001071", "sad"),
    }  # fmt: skip
    assert [row.key for row in rows if isinstance(row, Skipped)] == ["0011_001099"]
    assert all(row.text == f"text {int(row.key[-6:])} 快" for row in used)
    assert all(row.voice_text == f"text {int(row.recording.stem[-6:])} 快" for row in used)
    chinese = EmotionalSpeech(tmp_path, "zh", emotions=("Happy",)).rows()
    assert [row.text for row in chinese] == ["text 721 快", "text 722 快"] and chinese[0].language == "zh"
    assert read_prompt(chinese[0], 16000).emotion == "happy"


@pytest.mark.parametrize(
    ("published_set", "address"),
    [
        (lambda folder: SeedTTSEval(folder, "hard"), "https://github.com/BytedanceSpeech/seed-tts-eval"),
        (lambda folder: LibriSpeechContinuation(folder), r"https://www.openslr.org/12 .*CC BY 4.0"),
        (lambda folder: EmotionalSpeech(folder, "en"), "https://github.com/HLTSingapore/Emotional-Speech-Data"),
    ],
)
def test_missing_data_is_an_error_with_its_address(tmp_path, published_set, address):
    """Guards against a traceback without help for a new user."""
    with pytest.raises(
        FileNotFoundError, match=rf"(?s)Expected `folder` to hold .* but got no .*Get it from {address}"
    ):
        published_set(tmp_path).rows()


def test_a_smaller_draw_is_part_of_a_larger_and_not_the_first_ones():
    """Guards against a choice that only has the first speakers."""
    rows = [PromptRow(f"key{number:03d}", "x", Path("x")) for number in range(50)]
    five, twenty = drawn(rows, 5), drawn(rows, 20)
    assert set(five) < set(twenty) and twenty == sorted(twenty, key=lambda row: row.key)
    assert twenty != rows[:20] and drawn(rows, 0) == rows
    with pytest.raises(ValueError, match="Expected `num_prompts` of at most 50, but got 51"):
        drawn(rows, 51)


class ToyModule(LightningModule):
    """Its sampler requires the codes of the voices."""

    model_hash, codec_fingerprint = "toy model", ""

    def __init__(self) -> None:
        super().__init__()
        self.prompt_format = ToyFormat(CODEBOOK_SIZE)
        self.started = []

    def sampler(self, settings, engine=None):
        sampler, started = ToySampler(), self.started

        class Listening(ToySampler):
            def start(self, prompts):
                started.extend(prompts)
                return ToySampler.start(self, prompts)

        sampler.__class__ = Listening
        return sampler

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return None

    def transfer_batch_to_device(self, batch, device, dataloader_index):
        return batch


QUOTED = "# Quoted from a paper.\nmodel,WER %,SIM,other\nTheirs,2.50,0.600,7\n"


def report_with(columns: dict[str, str], path: Path) -> ScalingReport:
    path.write_text(QUOTED)
    return ScalingReport(num_examples=1, quoted=QuotedRows(path, columns))


def swept(seed_tts: Path, folder: Path, report: ScalingReport, module: ToyModule | None = None) -> ToyModule:
    prompt_format = TextToSpeech(ByteTokenizer(), CODEBOOK_SIZE)
    data = PublishedPromptDataModule(prompt_format, {"en": SeedTTSEval(seed_tts, "en")}, sample_rate=800, batch_size=2)
    judges = [WritingVerifier("WER", mean_level), ToyVerifier("SIM", lambda samples_T: float(samples_T[0]))]
    selectors = [ToyVerifier("chooser", lambda samples_T: -mean_level(samples_T))]
    scaling = InferenceScaling(
        ToyCodec(), BestOfN(4, 12), SamplingSettings(), selectors, judges, folder, num_resamples=100
    )
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[report, scaling], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    module = module or ToyModule()
    trainer.test(module, datamodule=data, verbose=False)
    return module


def test_a_published_set_is_swept_with_quoted_rows(seed_tts, tmp_path, capsys, caplog):
    """Guards against voices without codes, damaged files that are silently dropped, and rows in another's column."""
    report = report_with({"WER %": "en/WER", "SIM": "en/SIM"}, tmp_path / "quoted.csv")
    module = swept(seed_tts, tmp_path / "run", report)
    assert [prompt.key[-2:] for prompt in module.started] == ["u1", "u2", "u6"]
    for prompt in module.started:
        samples_T = prompt.reference.samples_T
        assert prompt.reference.sample_rate == 800 and samples_T.numel() == 400
        assert list(prompt.voice.codes) == (samples_T[::16] * CODEBOOK_SIZE).long().tolist()
    assert "en: 3 of 6 prompts were skipped" in caplog.text and "seed_tts_eval_en_u4: unreadable" in caplog.text
    with (tmp_path / "run/report/curve.csv").open() as stream:
        curve = {(row["judge"], row["selector"], row["n"]): float(row["score"]) for row in csv.DictReader(stream)}
    expected = [
        ["model", "WER %", "SIM", "other"],
        *(
            [
                f"measured: best_of_n T=1: {selector}, n={n}",
                f"{100 * (1 - curve['WER', selector, n]):.2f}",
                f"{curve['SIM', selector, n]:.3f}",
                "–",
            ]
            for selector, n in (("random", "1"), ("chooser", "4"))
        ),
    ]
    page = Page((tmp_path / "run/report/index.html").read_text())
    assert page.tables["measured-rows"] == expected
    assert page.tables["quoted-rows"][1] == ["Theirs", "2.50", "0.600", "7"]
    printed = capsys.readouterr().out
    assert "Quoted, not measured here: Quoted from a paper." in printed
    assert any(line.split() == ["Theirs", "2.50", "0.600", "7"] for line in printed.splitlines())
    assert any(line.split()[-3:] == expected[2][1:] for line in printed.splitlines())


def test_quoted_columns_that_the_sweep_lacks_stop_it_before_it_samples(seed_tts, tmp_path):
    """Guards against a column that stays empty after hours because of a misspelt judge."""
    with pytest.raises(ValueError, match=r"Expected `columns` to name PROMPT SET/JUDGE among .*'en/wer'"):
        swept(seed_tts, tmp_path / "run", report_with({"WER %": "en/wer"}, tmp_path / "quoted.csv"))
    with pytest.raises(ValueError, match=r"Expected `columns` among the headings .*'CER'"):
        swept(seed_tts, tmp_path / "run", report_with({"CER": "en/WER"}, tmp_path / "quoted.csv"))


SWEEPS = sorted((Path(__file__).resolve().parents[3] / "configs/sweep").glob("*.yaml"))


def test_absent_data_is_an_error_before_the_model_is_built(tmp_path):
    """Guards against a download of gigabytes that ends with a missing folder."""

    class DearModule(ToyModule):
        def configure_model(self):
            raise AssertionError("the model was built first")

    with pytest.raises(FileNotFoundError, match="Get it from"):
        swept(tmp_path, tmp_path / "run", ScalingReport(), DearModule())


@pytest.mark.parametrize("path", [path for path in SWEEPS if "data" in read(path)], ids=lambda path: path.stem)
def test_quoted_columns_are_those_that_the_config_measures(path):
    """Guards against a config whose quoted table fails when the test begins, and a table without its source."""
    config = read(path)
    report, sweep = (config[key]["init_args"] for key in ("report", "sweep"))
    judges = [read(path.parent / one) if isinstance(one, str) else one for one in sweep["judges"]]
    names = [one["init_args"]["name"] for one in judges]
    quoted = QuotedRows(path.parent.parent.parent / report["quoted"]["path"], report["quoted"]["columns"])
    quoted.check(list(config["data"]["init_args"]["prompt_sets"]), names)
    assert quoted.columns and len(set(quoted.columns.values())) == len(quoted.columns)
    assert "arXiv 2502.04128" in quoted.read().caption and "uoted" in quoted.read().caption
