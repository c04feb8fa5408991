"""The commands of the paper's tables, on files in the released shape with random weights and toy judges: Llasa-1B's
tokenizer, template and vocabulary, X-codec2's 65,536 codes, the test sets in their published layouts.

Shapes: T audio samples.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import AutoTokenizer

import run
from modules.codec.formats.checkpoints import save_transformers
from modules.report import figures
from modules.search.analysis.results import read_rows
from tests.test_configs import REPOSITORY
from tests.toys.codec_references import small_codec
from tests.toys.llasa_folder import released_tokenizer, save_network

LABEL = "(self-judged, as in the paper)"
DOCS = (REPOSITORY / "docs/llasa.md").read_text()
TINY = """
model: {{init_args: {{pretrained: {{source: {folder}/llasa}}}}}}
trainer: {{accelerator: cpu}}
sweep:
  init_args:
    codec: {{init_args: {{path: {folder}/codec, semantic_model: null}}}}
    num_resamples: 50
    selectors:
      - {{class_path: tests.toys.search_toys.StatisticVerifier, init_args: {{name: hubert, statistic: peak}}}}
      - {{class_path: tests.toys.search_toys.StatisticVerifier, init_args: {{name: resemblyzer, statistic: mean}}}}
    judges:
      - {{class_path: tests.toys.search_toys.StatisticWriter, init_args: {{name: {words}, statistic: power}}}}
      - {{class_path: tests.toys.search_toys.StatisticVerifier, init_args: {{name: {voice}, statistic: crossings}}}}
"""
BEAMS = """
sweep:
  init_args:
    algorithm: {init_args: {num_beams: 2, num_children: 2, max_new_tokens: 12, process_tokens: 4, block_tokens: 2}}
    more_algorithms:
      - class_path: modules.search.algorithms.partial_beam.PartialBeam
        init_args:
          {reward: SIM, num_beams: 2, num_children: 2, samples_per_beam: 1, process_tokens: 4,
           block_tokens: 2, max_new_tokens: 12}
"""
LISTENING = """
model: {{init_args: {{pretrained: {{source: {folder}/llasa}}}}}}
trainer: {{accelerator: cpu}}
data: {{init_args: {{batch_size: 2}}}}
understanding:
  init_args:
    codec: {{init_args: {{path: {folder}/codec, semantic_model: null}}}}
    normaliser: {{class_path: modules.verifiers.recognisers.normalise.BasicWords, init_args: {{}}}}
    max_new_tokens: 4
"""
# Config, its judges of words and of the voice, its prompt sets, and a row of the paper that stands beside ours.
TABLES = {
    "seed_tts_eval_zh": ("CER", "SIM", ["zh"], "1B 250k h"),
    "seed_tts_eval_hard": ("CER", "SIM", ["hard"], "1B 250k h"),
    "esd": ("WER", "emotion2vec", ["en", "zh"], "1B 250k"),
    "librispeech_continuation": ("WER-H", "SIM", ["test-clean"], "1B 250k"),
}


def write_noise(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds)), 16000)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, and two lines of each test set below `data`."""
    folder = tmp_path_factory.mktemp("released")
    released_tokenizer().save_pretrained(folder / "llasa")
    save_network(folder / "llasa", tied=True)
    save_transformers(small_codec(), folder / "codec")
    seed_tts, libri, esd = (folder / "data" / name for name in ("seedtts_testset", "LibriSpeech", "esd"))
    for language, file, texts in (
        ("en", "meta", ("The text one.", "The text two.")),
        ("zh", "meta", ("今天天气不错。", "你好。")),
        ("zh", "hardcase", ("四是四，十是十。", "你好。")),
    ):
        lines = [f"u{number}|Prompt.|prompt-wavs/{number}.wav|{text}" for number, text in enumerate(texts)]
        for number in range(len(texts)):
            write_noise(seed_tts / language / f"prompt-wavs/{number}.wav", 0.5)
        (seed_tts / language / f"{file}.lst").write_text("\n".join(lines), encoding="utf-8")
    for split, speaker in (("test-clean", 61), ("test-other", 367)):
        chapter = libri / split / str(speaker) / "7"
        for number in range(2):
            write_noise(chapter / f"{speaker}-7-000{number}.flac", 4.1)
        lines = [f"{speaker}-7-000{number} HE SAID IT\n" for number in range(2)]
        (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    for speaker, text in (("0011", "a text"), ("0002", "快")):
        for number in range(2):
            write_noise(esd / speaker / "Happy/test" / f"{speaker}_00000{number}.wav", 0.5)
        lines = [f"{speaker}_00000{number}\t{text} {number}\tHappy\n" for number in range(2)]
        (esd / speaker / f"{speaker}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def place(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a command. What takes seconds is left out: a tokenizer is read once, figures are empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    Path("configs").symlink_to(REPOSITORY / "configs")
    Path("data").symlink_to(released / "data")
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", functools.cache(AutoTokenizer.from_pretrained))
    monkeypatch.setattr(figures, "inline_svg", lambda figure, description: "")
    return tmp_path


def command(*configs: str) -> None:
    run.main(["test", *[word for name in configs for word in ("--config", name)], "--trainer.logger", "false"])


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_command_runs_on_released_files(name: str, released: Path, place: Path, capsys) -> None:
    """Guards against a table whose command only parses: layouts of the sets, chat template, codes, rows beside ours."""
    words, voice, prompt_sets, row = TABLES[name]
    path = f"configs/sweep/{name}.yaml"
    assert f"python run.py test --config {path}" in DOCS or f"`{name}`" in DOCS
    Path("tiny.yaml").write_text(
        TINY.format(folder=released, words=words, voice=voice)
        + "    algorithm: {init_args: {num_candidates: 2, max_new_tokens: 6}}\n"
    )
    command(path, "tiny.yaml")
    rows = read_rows(Path(f"runs/sweep/{name}/report/curve.csv"))
    assert {one["prompt_set"] for one in rows} == set(prompt_sets)
    assert {one["judge"] for one in rows} == {words, voice}
    printed = capsys.readouterr().out
    assert printed.index("measured: best_of_n") < printed.index(row)


def test_the_command_of_recognition_runs_on_released_files(released: Path, place: Path, capsys) -> None:
    """Guards against a Table 3 whose command only parses."""
    assert "python run.py test --config configs/lm/librispeech_asr.yaml" in DOCS
    Path("tiny.yaml").write_text(LISTENING.format(folder=released))
    command("configs/lm/librispeech_asr.yaml", "tiny.yaml")
    written = json.loads(Path("runs/librispeech_asr/understanding.json").read_text())["beside_quoted"]
    assert [float(value) > 0 for value in written["measured"][1:]] == [True, True]
    assert "Llasa ASR 1B" in capsys.readouterr().out


def test_the_papers_winning_search_runs_on_released_files(released: Path, place: Path, capsys) -> None:
    """Guards against the paper's winning search that runs on toys alone, and a protocol whose rows cannot be found next
    to the paper's: Seed-TTS-eval's layout, the chat template, the codec's 65,536 codes, through the command."""
    names = ["configs/sweep/seed_tts_eval_en.yaml", "configs/sweep/search/partial_prm_orm.yaml"]
    line = f"python run.py test --config {names[0]} --config {names[1]}\n"
    assert line in (REPOSITORY / "docs/sweeps.md").read_text()
    Path("tiny.yaml").write_text(TINY.format(folder=released, words="WER", voice="SIM"))
    Path("beams.yaml").write_text(BEAMS)
    command(*names, "configs/sweep/paper_protocol.yaml", "tiny.yaml", "beams.yaml")
    rows = read_rows(Path("runs/sweep/seed_tts_eval_en/report/curve.csv"))
    printed = capsys.readouterr().out.splitlines()
    found = {(row["algorithm"].rpartition("=")[2], row["selector"], row["judge"]) for row in rows}
    ours = {("resemblyzer", selector, judge) for selector in ("hubert", "resemblyzer") for judge in ("WER", "SIM")}
    assert found >= ours | {("SIM", f"WER {LABEL}", "WER"), ("SIM", f"WER {LABEL}", "SIM"), ("SIM", "SIM", "WER")}
    for row, num_labels in (("resemblyzer T=0.8: hubert", 0), ("SIM T=0.8: SIM", 1), ("SIM T=0.8: WER", 2)):
        (line,) = [one for one in printed if f"measured: partial_beam reward={row}, n=2" in one]
        assert line.count(LABEL) == num_labels
    assert any(line.startswith("+ partial PRM (SIM) + ORM (WER): 1B 250k h") for line in printed)
