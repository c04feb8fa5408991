"""configs/voice: a folder of recordings with texts becomes a model that speaks, by five commands with small settings,
each as the one before names it, in an empty folder."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import run
from datamodules.shards.shards import ShardIndex
from modules.command import speaking
from modules.command.line import enter_root
from modules.command.speaking import is_speaking
from tests.conftest import REPOSITORY, SAMPLE_RATE, speech_like

PREPARE = REPOSITORY / "configs/voice/prepare.yaml"
# Random weights rarely end their speech.
QUICK = {"sentence_search.MAX_REDRAWS": 0, "voice.SPOKEN_SECONDS_PER_CHARACTER": 0.02}
QUICK |= {"narration.SECONDS_PER_CHARACTER": 0.1, "narration.SLACK_SECONDS": 0.5, "narration.LIMIT_STEP": 1}
TEXTS = [f"{one} {two}, {three}!" for one in ("Größe", "two") for two in ("one", "42") for three in ("four", "five")]
TEXTS += ["Nine nine.", "It's six."]
SMALL = {
    "codec": """
data: {init_args: {batch_size: 2, segment_seconds: 0.5, num_validation_samples: 2}}
model:
  init_args:
    discriminator_start_step: 2
    scheduler: {init_args: {num_warmup_steps: 1}}
    generator:
      init_args:
        encoder: {init_args: {channels: 32, num_layers: 1, hidden_channels: 32}}
        quantizer: {init_args: {channels: 32}}
        decoder: {init_args: {channels: 32, num_layers: 1, hidden_channels: 32}}
    discriminator:
      init_args:
        discriminators:
          - class_path: modules.codec.training.discriminators.MultiPeriodDiscriminator
            init_args: {periods: [2], channels: [4, 4]}
trainer: {max_steps: 3, val_check_interval: 3, log_every_n_steps: 1, accelerator: cpu}
""",
    "tokenise": "trainer: {accelerator: cpu}",
    "lm": """
model:
  init_args:
    size: {hidden_size: 32, intermediate_size: 32, num_layers: 1, num_heads: 2, num_key_value_heads: 1}
    scheduler: {init_args: {num_warmup_steps: 1}}
trainer: {max_steps: 3, val_check_interval: 3, log_every_n_steps: 1, accelerator: cpu}
""",
}


def write_pairs(folder: Path, samples: list[np.ndarray]) -> None:
    """x.wav and x.txt."""
    for number, (text, samples_T) in enumerate(zip(TEXTS, samples, strict=True)):
        (folder / f"take {number}.txt").write_text(text + "\n")
        soundfile.write(folder / f"take {number}.wav", samples_T, SAMPLE_RATE)


def write_ljspeech(folder: Path, samples: list[np.ndarray]) -> None:
    """metadata.csv and wavs/."""
    (folder / "wavs").mkdir()
    lines = [f"LJ001-{number:04d}|{text}|{text}\n" for number, text in enumerate(TEXTS)]
    (folder / "metadata.csv").write_text("".join(lines))
    for number, samples_T in enumerate(samples):
        soundfile.write(folder / f"wavs/LJ001-{number:04d}.wav", samples_T, SAMPLE_RATE)


@dataclass(frozen=True)
class Followed:
    """What the commands printed that were run in `place`, each named by the last line of the one before: by config."""

    place: Path
    printed: dict[str, list[str]]

    @property
    def say(self) -> str:
        return self.printed["lm"][-1].strip()


def followed(command: str) -> tuple[str, list[str]]:
    """Run a command line of the repository's folder, with the overlay of its config if there is one, and return the
    config's name and the printed lines."""
    python, script, *words = shlex.split(command)
    assert (python, script) == ("python", "run.py")
    name = Path(words[words.index("--config") + 1]).stem
    overlay = ["--config", f"{name}.yaml"] if name in SMALL else []
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["run.py", *words, *overlay])
        if is_speaking(words):
            assert speaking.run(words) == 0
        else:
            enter_root()
            with pytest.raises(SystemExit, match=r"^0$") if name == "prepare" else contextlib.nullcontext():
                run.main()
    return name, output.getvalue().splitlines()


@pytest.fixture(scope="module", params=[write_pairs, write_ljspeech], ids=["pairs", "ljspeech"])
def voice(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """All but the last command of the recipe, followed in an empty folder."""
    place = tmp_path_factory.mktemp("voice")
    generator = torch.Generator().manual_seed(5)
    samples = [speech_like(re.findall(r"\w+", text), 150.0, generator).numpy() for text in TEXTS]
    (place / "desk/recordings").mkdir(parents=True)
    request.param(place / "desk/recordings", samples)
    for name, overlay in SMALL.items():
        (place / f"{name}.yaml").write_text(overlay)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place / "desk")
        patch.setenv("FOLDER", "recordings")
        patch.setenv("SUITE_ROOT", str(place))
        printed = {}
        command = re.search(r"^# +(.* prepare .*)$", PREPARE.read_text(), re.M)[1].partition(" ")[2]
        while " say " not in command:
            name, printed[name] = followed(command)
            assert len(printed) < 5, "a command that names itself"
            command = printed[name][-1].strip()
        yield Followed(place, printed)


def test_recordings_become_a_voice(voice: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a recipe whose commands do not fit each other, one that needs other texts than those of the
    recordings (capitals, digits, letters beyond ASCII), and one whose last line speaks nothing."""
    assert list(voice.printed) == ["prepare", "codec", "tokenise", "lm"]
    shards, tokens = (
        {split: ShardIndex.load(voice.place / folder / split, kind) for split in ("train", "held_out")}
        for folder, kind in (("cache/shards/my_voice", "audio"), ("runs/my_voice/tokens", "tokens"))
    )
    for split, index in shards.items():
        assert sorted(index.keys) == sorted(tokens[split].keys)
        assert tokens[split].header["codebook_size"] == 4096
    assert sum(map(len, shards.values())) == len(TEXTS)
    text = shlex.split(voice.say)[-1]
    assert text in TEXTS and not re.search(r"\d", text), "the words of digits are none of the training"
    for name, value in QUICK.items():
        monkeypatch.setattr(f"modules.speech.{name}", value)
    _, lines = followed(voice.say)
    (path,) = (voice.place / "runs/speech").glob("*.wav")
    assert any(str(path.relative_to(voice.place)) in line for line in lines), lines
    with wave.open(str(path)) as sound:
        assert sound.getframerate() == 16000
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)
    assert np.abs(samples).max() > 0
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["text"] == text and len(record["sentences"][0]["candidates"]) == 4, "`best-of: 4` of say.yaml"
    if (voice.place / "desk/recordings/wavs").is_dir():
        return  # the rest once
    _, again = followed("python run.py fit --config configs/voice/lm.yaml")
    assert "skipping" in again[-2] and again[-1].strip() == voice.say


STUB = r"""#!/usr/bin/env bash
printf '%s|' "$FOLDER" "$@" >>calls; echo >>calls
[[ $* != *lm.yaml ]] || printf 'lm: finished\n    python run.py say --config say.yaml %s\n' "'it'\"'\"'s \$5'"
[[ $* != *"$FAILS"* ]]
"""


def test_the_script_runs_all_and_ends_with_the_command_that_speaks(tmp_path: Path) -> None:
    """Guards against steps that go on after a failure, a folder that is lost on the way, and a text that the shell
    changes."""
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts/voice.sh"
    shutil.copy(REPOSITORY / "scripts/voice.sh", script)
    shutil.copy(REPOSITORY / "scripts/steps.sh", script.parent)
    (tmp_path / "stub").write_text(STUB)
    (tmp_path / "stub").chmod(0o755)

    def call(fails: str, **environment: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        (tmp_path / "calls").unlink(missing_ok=True)
        variables = {"PATH": os.environ["PATH"], "HOME": "/mine", "PYTHON": str(tmp_path / "stub"), "FAILS": fails}
        command = ["bash", str(script), "--hours", "2"]
        done = subprocess.run(
            command, cwd=tmp_path / "scripts", env=variables | environment, capture_output=True, text=True
        )
        calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        return done, [call.split("|")[:-1] for call in calls]

    done, calls = call("nothing", FOLDER="~/me")
    assert done.returncode == 0, done.stderr
    assert {folder for folder, *_ in calls} == {"/mine/me"}
    assert [words[2] for words in calls] == ["prepare", "fit", "predict", "fit", "fit", "say"]
    assert calls[0][-2:] == ["--hours", "2"] and calls[-1][-1] == "it's $5"
    assert shlex.split(done.stdout.splitlines()[-1])[-1] == "it's $5"
    done, calls = call("codec.yaml", FOLDER="me")
    assert done.returncode != 0 and len(calls) == 2 and calls[0][0] == str(tmp_path / "scripts/me")
    assert "Start again to continue" in done.stderr
    done, calls = call("nothing")
    assert done.returncode != 0 and not calls and "FOLDER" in done.stderr
