"""Speech recognition on LibriSpeech: its published layout, the word error rate of all words, quoted rows."""

import json
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch
import yaml
from lightning.pytorch import Trainer

from callbacks.recognition_evaluation import RecognitionEvaluation
from datamodules.prompt_sets.librispeech import LibriSpeechRecognition
from datamodules.prompt_sets.published_prompts import PublishedPromptDataModule
from datamodules.prompt_sets.published_set import PromptRow, read_prompt
from datamodules.sources.source import Skipped
from modules.report.quoted_rows import QuotedRows
from modules.verifiers.recognisers.normalise import BasicWords
from tests.modules.lm.text.test_answers import Listener
from tests.toys.search_toys import ToyCodec

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = REPOSITORY / "configs/lm/librispeech_asr.yaml"
TEXTS = {
    "test-clean": {
        "61-70968-0000": "HE BEGAN A CONFUSED COMPLAINT",
        "61-70968-0001": "GIVE",
        "121-1-0000": "ALSO A BOY",
    },
    "test-other": {"367-130732-0000": "LOBSTERS AND LOBSTERS"},
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Recordings of 0.5 s and longer at 16 kHz, their texts by chapter, and one file that is no audio."""
    generator = np.random.default_rng(0)
    for split, texts in TEXTS.items():
        for number, (key, text) in enumerate(texts.items()):
            speaker, chapter, _ = key.split("-")
            folder = tmp_path / "LibriSpeech" / split / speaker / chapter
            folder.mkdir(parents=True, exist_ok=True)
            samples_T = 0.2 * generator.random(8000 + 800 * number)
            soundfile.write(folder / f"{key}.flac", samples_T, 16000)
            with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as stream:
                stream.write(f"{key} {text}\n")
    with (folder / "367-130732.trans.txt").open("a") as stream:
        stream.write("367-130732-0001 DAMAGED\n")
    (folder / "367-130732-0001.flac").write_bytes(b"no audio")
    return tmp_path / "LibriSpeech"


def test_whole_utterances_of_any_length_are_read(corpus):
    """Guards against the crop and the length limits of the continuation set, and a damaged file that stops the run."""
    rows = LibriSpeechRecognition(corpus, "test-clean").rows()
    assert [(row.key, row.text, row.speaker) for row in rows] == [
        (key, TEXTS["test-clean"][key].lower(), key.split("-")[0]) for key in sorted(TEXTS["test-clean"])
    ]
    prompt = read_prompt(rows[0], 16000)
    whole_T = torch.from_numpy(soundfile.read(rows[0].recording, dtype="float32")[0])
    assert torch.equal(prompt.reference.samples_T, whole_T) and whole_T.numel() == 8000 + 800 * 2
    first, second = LibriSpeechRecognition(corpus, "test-other", lower_case=False).rows()
    assert isinstance(first, PromptRow) and first.text == "LOBSTERS AND LOBSTERS"
    assert isinstance(second, Skipped) and "unreadable" in second.reason
    with pytest.raises(FileNotFoundError, match=r"Get it from https://www.openslr.org/12 .*test-other.*CC BY 4.0"):
        LibriSpeechRecognition(corpus, "dev-other").rows()


def recognised(corpus: Path, folder: Path, columns: dict[str, str]) -> RecognitionEvaluation:
    heard = {"61-70968-0000": "he began confused complaint", "61-70968-0001": "Give!", "121-1-0000": "also a big boy",
             "367-130732-0000": "lobsters lobsters"}  # fmt: skip
    listener = Listener(heard)
    sets = {split: LibriSpeechRecognition(corpus, split) for split in TEXTS}
    data = PublishedPromptDataModule(listener.prompt_format, sets, sample_rate=ToyCodec.sample_rate, batch_size=2)
    quoted = QuotedRows(REPOSITORY / "configs/lm/llasa_table3.csv", columns)
    callback = RecognitionEvaluation(ToyCodec(), BasicWords(), folder, max_new_tokens=60, quoted=quoted)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
    trainer.test(listener, datamodule=data, verbose=False)
    return callback


def test_the_word_error_is_shown_with_the_papers(corpus, tmp_path, capsys):
    """Guards against a mean of rates, sets that mix, a rate in another set's column, and rows that look measured."""
    columns = {"test-clean WER %": "test-clean/word error", "test-other WER %": "test-other/word error"}
    callback = recognised(corpus, tmp_path / "run", columns)
    clean = jiwer.wer(
        ["he began a confused complaint", "give", "also a boy"],
        ["he began confused complaint", "give", "also a big boy"],
    )
    other = jiwer.wer("lobsters and lobsters", "lobsters lobsters")
    assert {name: rate.value for name, rate in callback.rates.items()} == pytest.approx(
        {"test-clean": clean, "test-other": other}
    )
    said = capsys.readouterr().out
    ours = next(line for line in said.splitlines() if line.startswith("measured"))
    assert ours.split()[-2:] == [f"{100 * clean:.2f}", f"{100 * other:.2f}"] and "basic words" in ours
    assert said.index(ours) < said.index("Quoted, not measured here") < said.index("Whisper-large-v3")
    written = json.loads((tmp_path / "run" / "understanding.json").read_text())["beside_quoted"]
    assert written["measured"][1:] == ours.split()[-2:]
    assert ["Llasa ASR 1B", "2.3", "7.2"] in written["quoted"]["rows"]


def test_columns_of_another_measure_are_refused(corpus, tmp_path):
    """Guards against a character error in a column of word errors."""
    with pytest.raises(ValueError, match="Expected `columns` to name PROMPT SET/JUDGE"):
        recognised(corpus, tmp_path / "run", {"test-clean WER %": "test-clean/character error"})
    assert not (tmp_path / "run").exists()


def test_the_config_measures_what_it_quotes():
    """Guards against a quoted table that fails when the test begins, and a table without its source."""
    config = yaml.safe_load(CONFIG.read_text())
    settings = config["understanding"]["init_args"]
    quoted = QuotedRows(REPOSITORY / settings["quoted"]["path"], settings["quoted"]["columns"])
    quoted.check(list(config["data"]["init_args"]["prompt_sets"]), [f"{settings['unit']} error"])
    assert len(quoted.columns) == 2 and "arXiv 2502.04128" in quoted.read().caption
