"""All stages through the commands of the README and scripts/demo.sh, with small settings on synthetic audio.

The configs are the demo's own; overlays make them small. Every command runs as a user would type it, in an empty
folder.
"""

import csv
import json
import re
import wave
from pathlib import Path

import numpy as np
import pytest

import run

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo"


def few_samples(callback: str) -> list[str]:
    """Options of a callback that samples candidates."""
    return [f"--{callback}.algorithm.num_candidates", "4", f"--{callback}.algorithm.max_new_tokens", "20"]


AUDIO = """
data:
  init_args:
    sources: [{class_path: tests.toys.tiny_corpus.TinyCorpus}]
"""
DIGITS = "{class_path: datamodules.sources.digits.DigitsSource, init_args: {recordings: %s, num_strings: %d, %s}}"
CORPUS = "{class_path: tests.toys.tiny_corpus.TinyCorpus}"
OVERLAYS = {
    "codec": AUDIO
    + """
    batch_size: 2
    segment_seconds: 0.5
    num_validation_samples: 2
model:
  init_args: {scheduler: {init_args: {num_warmup_steps: 1}}}
trainer: {max_steps: 4, val_check_interval: 2, log_every_n_steps: 1, accelerator: cpu}
""",
    "evaluate_codec": AUDIO
    + """
trainer: {accelerator: cpu}
""",
    "tokenise": f"""
data:
  init_args:
    sources:
      - {DIGITS % (CORPUS, 12, "min_digits: 1, max_digits: 3, split: train")}
      - {DIGITS % (CORPUS, 2, "min_digits: 4, max_digits: 4, split: test")}
      - {DIGITS % (CORPUS, 2, "min_digits: 6, max_digits: 6, split: hard")}
trainer: {{accelerator: cpu}}
""",
    "lm": """
model:
  init_args:
    size: {hidden_size: 32, intermediate_size: 32, num_layers: 1, num_heads: 2, num_key_value_heads: 1}
    scheduler: {init_args: {num_warmup_steps: 1}}
trainer: {max_steps: 3, val_check_interval: 3, log_every_n_steps: 1, accelerator: cpu}
""",
    "sweep": """
data: {init_args: {num_prompts: [2, 1]}}
trainer: {accelerator: cpu}
""",
    "synthesise": """
trainer: {accelerator: cpu}
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with the overlays, after running all commands there in order."""
    place = tmp_path_factory.mktemp("chain")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    patch.syspath_prepend(str(ROOT))
    for name, overlay in OVERLAYS.items():
        Path(f"{name}.yaml").write_text(overlay)
    command("fit", "codec")
    command("predict", "tokenise")
    command("fit", "lm")
    command("test", "sweep", *few_samples("sweep"))
    yield place
    patch.undo()


def command(subcommand: str, name: str, *options: str) -> None:
    run.main([subcommand, "--config", str(DEMO / f"{name}.yaml"), "--config", f"{name}.yaml", *options])


def test_every_stage_leaves_what_the_next_needs(folder):
    for product in (
        "cache/shards/asterisk_en/CREDITS.txt",
        "runs/demo/codec/checkpoints/last.ckpt",
        "runs/demo/tokens/hard/index.json",
        "runs/demo/lm/checkpoints/last.ckpt",
        "runs/demo/report/index.html",
        "runs/demo/report/curve.csv",
    ):
        assert (folder / product).is_file(), product
    report = json.loads((folder / "cache/shards/asterisk_en/train/index.json").read_text())["report"]
    assert report["skipped"] == [{"key": "en_broken", "reason": "unreadable"}]


def test_the_page_and_the_curve_agree(folder):
    """Guards against a page of another run, or of none."""
    page = (folder / "runs/demo/report/index.html").read_text()
    with (folder / "runs/demo/report/curve.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["prompt_set"] for row in rows} == {"4 digits", "6 to 8 digits"}
    assert {int(row["n"]) for row in rows if row["judge"] == "whisper"} == {1, 2, 4}
    assert "Synthetic tones" in page
    assert not re.search(r"(src|href)=.https?:", page)
    for row in rows:  # the table prints every score, errors as percentages
        score = float(row["score"])
        shown = f"{100 * (1 - score):.1f}" if row["judge"] in ("whisper", "pocketsphinx") else f"{score:.3f}"
        assert shown in page, f"{row} is not on the page"
    about = json.loads((folder / "runs/demo/report/summary.json").read_text())
    hashes = {verifier["name"]: verifier["model_hash"] for verifier in about["description"]["verifiers"]}
    chosen = [(row["selector"], row["judge"]) for row in rows if row["selector"] in hashes]
    assert chosen
    assert all(hashes[selector] != hashes[judge] for selector, judge in chosen), "a selector never judges"


def test_a_second_run_skips_and_a_changed_value_reruns_what_depends_on_it(folder, capsys):
    """Guards against stale products: the LM's learning rate affects the LM and the sweep, not codec and tokens."""
    for subcommand, name in (("fit", "codec"), ("predict", "tokenise"), ("fit", "lm")):
        command(subcommand, name)
        assert "skipping" in capsys.readouterr().out
    before = (folder / "runs/demo/lm/checkpoints/last.ckpt").read_bytes()
    command("fit", "lm", "--model.init_args.optimizer.init_args.lr", "0.003")
    assert "skipping" not in capsys.readouterr().out
    assert (folder / "runs/demo/lm/checkpoints/last.ckpt").read_bytes() != before
    assert list((folder / "runs/demo").glob("lm.superseded*")), "the earlier run is kept"
    command("predict", "tokenise")
    assert "skipping" in capsys.readouterr().out
    command("test", "sweep", *few_samples("sweep"))
    out = capsys.readouterr().out
    assert "skipping" not in out
    assert "report: " in out, "the sweep depends on the language model"
    command("fit", "lm")  # back to the demo's value: trained again, because the folder has another


def test_a_text_becomes_a_wav(folder):
    command("predict", "synthesise", "--data.init_args.text", "four two", *few_samples("speech"))
    (path,) = (folder / "runs/demo/speech").glob("*.wav")
    with wave.open(str(path)) as sound:
        assert sound.getframerate() == 16000
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)
    assert np.abs(samples).max() > 0
    assert json.loads(path.with_suffix(".json").read_text())["text"] == "four two"


def test_the_codec_table_is_written(folder):
    command("test", "evaluate_codec")
    table = json.loads((folder / "runs/demo/codec_evaluation/codec_evaluation.json").read_text())["systems"]
    assert table["recording"]["stoi"]["value"] == pytest.approx(1, abs=1e-6)
    assert 0 < table["codec"]["stoi"]["value"] < 1


def test_a_language_model_of_another_codec_is_refused(folder, capsys):
    """Guards against decoding codes with a codec that did not make them."""
    import torch

    checkpoint = torch.load(folder / "runs/demo/codec/checkpoints/last.ckpt", weights_only=True)
    checkpoint["state_dict"]["generator.encoder.trunk.embed.bias"] += 1
    torch.save(checkpoint, "other.ckpt")
    with pytest.raises(SystemExit):
        command("predict", "synthesise", "--data.init_args.text", "two", "--speech.codec.path", "other.ckpt")
    assert "another codec" in capsys.readouterr().err


def test_a_typing_error_is_one_line(folder, capsys):
    """Guards against silently ignoring a misspelt key, on the command line and in a file."""
    Path("typo.yaml").write_text("trainer: {maximal_steps: 3}")
    for mistake in (["--trainer.maximal_steps", "3"], ["--config", "typo.yaml"]):
        with pytest.raises(SystemExit):
            command("fit", "lm", *mistake)
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "maximal_steps" in errors[0]
