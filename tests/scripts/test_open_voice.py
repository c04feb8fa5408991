"""scripts/open_voice.sh with a stub in place of Python: its steps by HOURS, its checks, and which script `make voice`
runs."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

STUB = """#!/usr/bin/env bash
printf '%s|' "${SUITE_ROOT:-}" "$@" >>calls; echo >>calls
[[ $* != *"$FAILS"* ]]
"""
TOOLS = ("bash", "dirname", "mkdir", "cat", "grep", "mv")
STEPS = ["prepare", "codec", "codec_table", "tokens", "lm", "evaluation", "say"]


class Script:
    """The script in a folder of its own, with nothing on the PATH but what it needs and `programs`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        for name in ("open_voice.sh", "steps.sh"):
            shutil.copy(REPOSITORY / "scripts" / name, folder / "scripts")
        (folder / "bin").mkdir()
        for name in TOOLS:
            (folder / "bin" / name).symlink_to(shutil.which(name))
        self.write_program(folder / "stub")

    def write_program(self, path: Path) -> None:
        path.write_text(STUB)
        path.chmod(0o755)

    def call(
        self,
        programs: tuple[str, ...] = ("flite", "apt-get"),
        fails: str = "nothing",
        num_cores: int | None = 1,
        **environment: str,
    ) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        for name in ("flite", "apt-get", "nvidia-smi", "rocm-smi"):
            (self.folder / "bin" / name).unlink(missing_ok=True)
            if name in programs:
                self.write_program(self.folder / "bin" / name)
        nproc = self.folder / "bin/nproc"
        nproc.unlink(missing_ok=True)
        if num_cores is not None:
            nproc.write_text(f"#!/usr/bin/env bash\necho {num_cores}\n")
            nproc.chmod(0o755)
        (self.folder / "calls").unlink(missing_ok=True)
        variables = {
            "PATH": str(self.folder / "bin"),
            "HOME": "/mine",
            "FAILS": fails,
            "PYTHON": str(self.folder / "stub"),
        }
        done = subprocess.run(
            [shutil.which("bash"), "scripts/open_voice.sh"], cwd=self.folder, env=variables | environment,
            capture_output=True, text=True,
        )  # fmt: skip
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done, [line.split("|")[:-1] for line in lines]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def value_of(words: list[str], option: str) -> int:
    return int(words[words.index(option) + 1])


def test_hours_choose_the_sizes_of_all_steps(script: Script) -> None:
    """Guards against a row of the table whose numbers are read in another order, steps in another order, and hours that
    the steps do not add up to."""
    sizes = []
    for hours in ("0.5", "1.5", "3", "12"):
        done, calls = script.call(HOURS=hours, SUITE_ROOT=f"voice {hours}")
        assert done.returncode == 0, done.stderr
        assert {root for root, *_ in calls} == {str(script.folder / f"voice {hours}")}
        assert [words[2] for words in calls] == ["prepare", "fit", "test", "predict", "fit", "test", "say"]
        configs = [Path(words[words.index("--config") + 1]).stem for words in calls]
        assert configs == ["prepare", "codec", "evaluate_codec", "tokenise", "lm", "evaluate", "say"]
        sentences = value_of(calls[0], "--data.init_args.sources.init_args.num_sentences")
        steps = [value_of(calls[place], "--trainer.max_steps") for place in (1, 4)]
        sizes.append((sentences, *steps))
        before = done.stdout.partition("== prepare")[0]
        minutes = dict(re.findall(r"^    (\w+) +(\d+) min", before, re.M))
        assert list(minutes) == STEPS[:-1]
        total = re.search(r"about (\d+) h (\d+) min", before)
        assert int(total[1]) * 60 + int(total[2]) == sum(map(int, minutes.values()))
        assert sum(map(int, minutes.values())) == pytest.approx(float(hours) * 60, rel=0.5)
        assert all(f"{number}" in before for number in (sentences, *steps)) and "GB on disk" in before
        assert re.findall(r"^== (\w+): python", done.stdout, re.M) == STEPS
    assert sizes == sorted(sizes) and all(len(set(column)) == 4 for column in zip(*sizes, strict=True))
    assert [words[-1] for words in script.call()[1]][1:] == [words[-1] for words in script.call(HOURS="3")[1]][1:]


def test_other_hours_are_refused(script: Script) -> None:
    """Guards against hours that silently mean the default, and against a longer training that moves a finished voice
    aside."""
    for hours in ("6", "30", "three", "0.5 3"):
        done, calls = script.call(HOURS=hours)
        assert done.returncode == 2 and not calls
        assert done.stderr == f"error: Expected `HOURS` to be 0.5, 1.5, 3 or 12, but got {hours}.\n"
    assert script.call(HOURS="0.5")[0].returncode == 0
    done, calls = script.call()
    assert done.returncode == 2 and not calls
    assert "Expected HOURS=0.5, as" in done.stderr and "SUITE_ROOT=FOLDER make voice HOURS=3" in done.stderr
    assert script.call(SUITE_ROOT="other")[0].returncode == 0


def test_a_begun_voice_keeps_its_sizes(script: Script) -> None:
    """Guards against a new table of sizes that trains a voice anew, which a former version has begun or finished."""
    begun = script.folder / "runs/open_voice/.hours"
    begun.parent.mkdir(parents=True)
    contents = {
        "3\n": ("3", [44000, 18000, 20000]),  # of a version that noted the hours alone
        "0.5\n": ("0.5", [6000, 2800, 2400]),
        "1.5 70 80 90\n": ("1.5", [70, 80, 90]),
    }
    for content, (hours, sizes) in contents.items():
        begun.write_text(content)
        for _ in range(2):
            done, calls = script.call(HOURS=hours)
            assert done.returncode == 0, done.stderr
            sentences = value_of(calls[0], "--data.init_args.sources.init_args.num_sentences")
            assert [sentences, *(value_of(calls[place], "--trainer.max_steps") for place in (1, 4))] == sizes
            assert begun.read_text() == " ".join(map(str, (hours, *sizes))) + "\n"
            assert f"from {sizes[0]} sentences" in done.stdout
            plan = re.search(r"^    lm +(\d+) min +(\d+) updates", done.stdout, re.M)
            assert int(plan[2]) == sizes[2] and (int(plan[1]) > 60) == (sizes[2] == 20000)


def test_two_processes_train_a_new_language_model(script: Script) -> None:
    """Guards against two processes on one core or beside a GPU, and against a training that changes on its way."""
    overlay = "configs/voice/open/two_processes.yaml"

    def uses_two(**arguments: Any) -> bool:
        done, calls = script.call(**arguments)
        assert done.returncode == 0 and not done.stderr
        assert [overlay in words for words in calls[:4] + calls[5:]] == [False] * 6
        return overlay in calls[4]

    assert uses_two(num_cores=2)
    assert not any(uses_two(num_cores=number) for number in (None, 1, 16))  # None: no nproc, as on a Mac
    for tool in ("nvidia-smi", "rocm-smi"):
        assert not uses_two(num_cores=2, programs=("flite", "apt-get", tool))
    begun = script.folder / "runs/open_voice/lm/stage_fit.json"
    begun.parent.mkdir(parents=True)
    for devices, expected in ((1, False), (2, True), (24, False)):
        begun.write_text(json.dumps({"config": {"trainer": {"devices": devices, "strategy": "ddp"}}}))
        assert uses_two(num_cores=2) == uses_two(num_cores=1) == expected


def test_missing_programs_are_named_before_anything_runs(script: Script) -> None:
    """Guards against a run that fails where the sentences are spoken, and one that needs flite after all is spoken."""
    done, calls = script.call(programs=())
    names = "flite" if Path("/usr/share/wordnet/data.noun").is_file() else "flite wordnet-base"
    assert done.returncode == 1 and not calls and f"Install: sudo apt-get install {names}\n" in done.stderr
    done, calls = script.call(programs=("apt-get",))
    assert done.returncode == 1 and not calls and "Install: sudo apt-get install flite\n" in done.stderr
    (script.folder / "cache/wordnet").mkdir(parents=True)
    (script.folder / "cache/wordnet/wordnet-base_3.0_all.deb").touch()
    assert script.call(programs=("flite",))[0].returncode == 0
    (script.folder / "cache/shards/open_voice").mkdir(parents=True)
    (script.folder / "cache/shards/open_voice/prepared.json").touch()
    assert script.call(programs=())[0].returncode == 0


def test_a_voice_that_was_begun_without_the_classifier_goes_on_without(script: Script) -> None:
    """Guards against hours of training that an update of the repository sets aside."""
    marker = script.folder / "runs/open_voice/codec/stage_fit.json"
    marker.parent.mkdir(parents=True)
    plain = "configs/voice/open/codec_plain.yaml"
    contents = {
        '{"semantic_decoder": null}': True,
        '{"phoneme_classifier": null}': True,  # of a codec that a later version has resumed
        '{\n  "phoneme_classifier": {\n  }\n}': False,
    }
    for content, is_plain in contents.items():
        marker.write_text(content)
        done, calls = script.call()
        assert done.returncode == 0, done.stderr
        assert [plain in words for words in calls] == [False, *[is_plain] * 3, *[False] * 3]


def test_a_failed_step_stops_the_script(script: Script) -> None:
    """Guards against steps that go on after a failure."""
    done, calls = script.call(fails="codec.yaml")
    assert done.returncode != 0 and len(calls) == 2 and "Start again to continue" in done.stderr
    assert script.call()[0].returncode == 0


def test_make_voice_runs_the_script_of_its_arguments() -> None:
    """Guards against recordings of a folder that are ignored, and hours that are lost."""
    if not shutil.which("make"):
        pytest.skip("needs make")

    def commands(*words: str) -> str:
        inherited = ("FOLDER", "HOURS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # the last three: of `make test`
        environment = {name: value for name, value in os.environ.items() if name not in inherited}
        done = subprocess.run(
            ["make", "--dry-run", "voice", *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    assert commands().endswith('HOURS="" scripts/open_voice.sh')
    assert commands("HOURS=12").endswith('HOURS="12" scripts/open_voice.sh')
    assert commands("FOLDER=my recordings").endswith('FOLDER="my recordings" HOURS="" scripts/voice.sh')
