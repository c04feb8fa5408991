"""docs/llasa.md: its commands in a tiny form, one after the other, from folders in the shape of the released files."""

import contextlib
import io
import json
import os
import re
import shlex
import wave
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

import run
from modules.command import speaking
from modules.command.line import enter_root
from modules.command.speaking import is_speaking
from modules.speech.export import main as export_main
from tests.conftest import REPOSITORY, SAMPLE_RATE, speech_like
from tests.modules.codec.test_formats import RELEASED_CONFIG
from tests.test_voice_recipe import QUICK, TEXTS, write_ljspeech
from tests.toys.codec_files import released_tensors
from tests.toys.codec_references import reference_model
from tests.toys.llasa_folder import save_network, true_tokenizer

PAGE = REPOSITORY / "docs/llasa.md"
SMALL = """
data: {init_args: {batch_size: 2, num_validation_rows: 2}}
model: {init_args: {optimizer: {init_args: {lr: 0.05}}, scheduler: {init_args: {num_warmup_steps: 1}}}}
trainer: {max_steps: 6, val_check_interval: 2, log_every_n_steps: 1, accelerator: cpu}
"""
OVERLAYS = {"finetune.yaml": SMALL, "tokenise.yaml": "trainer: {accelerator: cpu}\n"}


def commands_of_page() -> list[str]:
    """The indented lines of the page that are commands."""
    return re.findall(r"^    (?!\|)((?:[A-Z]+=\S+ )*python .*)$", PAGE.read_text(), re.M)


@dataclass
class Followed:
    """A folder in which the page's commands have run: what each printed."""

    place: Path
    printed: dict[str, list[str]] = field(default_factory=dict)
    made: dict[str, Path] = field(default_factory=dict)  # the sound of a command


def follow(command: str, place: Path) -> list[str]:
    """Run a command line in this process, with the overlay of its config; return the printed lines."""
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z]+=.*", words[0]):
        words.pop(0)  # the fixture has set them
    python, *words = words
    assert python == "python"
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.MonkeyPatch.context() as patch:
        if words[:2] == ["-m", "modules.speech.export"]:
            export_main(words[2:])
        elif is_speaking(words[1:]):
            assert speaking.run([*words[1:], "--seed", "1", "--device", "cpu"]) == 0
        else:
            assert words[0] == "run.py"
            last = Path([one for one in words if one.endswith(".yaml")][-1]).name
            name = "finetune.yaml" if "finetune" in last else last
            patch.setattr("sys.argv", ["run.py", *words[1:], "--config", str(place / f"small_{name}")])
            enter_root()
            run.main()
    return output.getvalue().splitlines()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llasa-1B and xcodec2 as they are released, with small random bodies."""
    place = tmp_path_factory.mktemp("released")
    true_tokenizer().save_pretrained(place / "Llasa-1B")
    save_network(place / "Llasa-1B", tied=True)
    (place / "xcodec2").mkdir()
    (place / "xcodec2/config.json").write_text(RELEASED_CONFIG)
    save_file(released_tensors(reference_model("xcodec2"), "code"), place / "xcodec2/model.safetensors")
    return place


@pytest.fixture(scope="module")
def followed(released: Path, tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("llasa")
    generator = torch.Generator().manual_seed(5)
    samples = [speech_like(re.findall(r"\w+", text), 150.0, generator).numpy() for text in TEXTS]
    (place / "desk/recordings").mkdir(parents=True)
    write_ljspeech(place / "desk/recordings", samples)
    soundfile.write(place / "desk/me.wav", np.concatenate(samples[:6]), SAMPLE_RATE)
    for name, overlay in OVERLAYS.items():
        (place / f"small_{name}").write_text(overlay)
    found = Followed(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place / "desk")
        for name, value in QUICK.items():
            patch.setattr(f"modules.speech.{name}", value)
        variables = {"FOLDER": "recordings", "SUITE_ROOT": str(place), "LLASA": str(released / "Llasa-1B")}
        for name, value in {**variables, "XCODEC2": str(released / "xcodec2")}.items():
            patch.setenv(name, value)
        for command in commands_of_page():
            import time
            t = time.process_time()
            found.printed[command] = follow(command, place)
            print(command, time.process_time() - t)
        yield found


def test_the_pages_commands_lead_from_released_folders_to_sound(followed: Followed) -> None:
    for command, lines in followed.printed.items():
        print(command, *lines, sep="\n   ")
    print(*[(p, p.stat().st_size) for p in (followed.place / "runs").rglob("*") if p.is_file()], sep="\n")
