"""The sbatch files, run by a bash whose `srun` and `scontrol` record their calls."""

import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

import run
from callbacks.termination import TerminateAtOnce
from datamodules.audio import AudioDataModule
from tests.test_configs import ParsingCLI

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "scripts/slurm"
BATCH_FILES = sorted(FOLDER.glob("*.sbatch"))
TEXTS = [*BATCH_FILES, REPOSITORY / "docs/slurm.md"]

SRUN = """#!/usr/bin/env bash
printf '%s\\0' "$@" >srun_arguments
for ((beat = 0; beat < ${BEATS:-0}; beat++)); do sleep 0.05; done
exit ${STATUS:-0}
"""
SCONTROL = """#!/usr/bin/env bash
case "$1 ${2:-}" in
"show hostnames") printf 'first\\nsecond\\n' ;;
"requeue "*) echo "$2" >>requeued; if [[ ${ENDS:-} ]]; then kill $PPID; fi ;;
*) echo "JobId=$SLURM_JOB_ID JobState=RUNNING StartTime=2026-11-23T12:00:00 PreemptTime=${PREEMPTED:-None} x" ;;
esac
"""


def options_of(path: Path) -> dict[str, str]:
    """The #SBATCH lines, as sbatch reads them: up to the first command."""
    head = re.split(r"^[^#\n]", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
    return dict(line[len("#SBATCH --") :].partition("=")[::2] for line in head.splitlines() if line[:7] == "#SBATCH")


class Job:
    """A job folder with the repository's files, where `run` does what SLURM does with a batch file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("run.py", "scripts", "configs"):
            (folder / name).symlink_to(REPOSITORY / name)
        (folder / "bin").mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def start(self, path: Path, *arguments: str, **environment: str) -> subprocess.Popen:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
        variables |= {"SLURM_SUBMIT_DIR": str(self.folder), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
        variables |= {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PYTHON": "python"} | environment
        spool = self.folder / "slurm_script"  # SLURM runs a copy
        spool.write_bytes(path.read_bytes())
        command = ["bash", str(spool), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=variables, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def run(self, path: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(path, *arguments, **environment)
        output = process.communicate(timeout=60)[0]
        return process.returncode, output

    @property
    def tasks_command(self) -> list[str]:
        """The command that srun was to run on each task."""
        words = (self.folder / "srun_arguments").read_text().split("\0")[:-1]
        return words[words.index("python") :]

    @property
    def requeued(self) -> list[str]:
        path = self.folder / "requeued"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(tmp_path)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.s*")), ids=lambda path: path.name)
def test_bash_can_parse_it(path):
    """Guards against a job that waits for hours in the queue and then fails at a missing quote."""
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("path", BATCH_FILES, ids=lambda path: path.name)
def test_the_options_of_sbatch(path):
    """Guards against a job that SLURM may not requeue, that it kills without a signal, that loses its log when
    requeued, and against tasks that see one GPU each, of which Lightning cannot select its own."""
    options = options_of(path)
    assert all(re.fullmatch(r"[a-z-]+", name) for name in options), options
    assert "requeue" in options and options["open-mode"] == "append"
    assert re.fullmatch(r"B:USR1@\d+", options["signal"])
    assert options["ntasks-per-node"] == options.get("gpus-per-node", "1") and "gpus-per-task" not in options
    assert ("%A_%a" if "array" in options else "%j") in options["output"]
    assert options["job-name"] not in ("bash", "interactive"), "Lightning takes these for no job"


def commands() -> list[str]:
    """Every `sbatch ... scripts/slurm/X.sbatch ... --config ...` of the files' heads and of the docs page, once."""
    text = "\n".join(path.read_text() for path in TEXTS)
    return list(
        dict.fromkeys(re.findall(r"\bsbatch((?: [^`)\n]*?)? scripts/slurm/\w+\.sbatch .*--config [^`)\n]*)", text))
    )


@pytest.mark.parametrize(
    "command", commands(), ids=lambda command: command.strip().replace("configs/", "").replace("/", ".")
)
def test_a_command_of_the_pages_fits_its_configs(command, job, monkeypatch):
    """Guards against a documented job that fails at once: a missing config or key, or other numbers of nodes and tasks
    than the Trainer's."""
    words = shlex.split(command.replace("$id", "1"), comments=True)
    place = next(place for place, word in enumerate(words) if word.endswith(".sbatch"))
    path = REPOSITORY / words[place]
    options = options_of(path) | dict(word[2:].partition("=")[::2] for word in words[:place])
    array = {}
    if "array" in options:
        first, _, last = options["array"].partition("-")
        array = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": first}
        array["SLURM_ARRAY_TASK_MAX"] = last
    status, output = job.run(path, *words[place + 1 :], **array)
    assert status == 0, output
    _, script, subcommand, *arguments = job.tasks_command
    assert script == "run.py"
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(REPOSITORY)
    if subcommand == "prepare":
        shares: list[tuple[int, int]] = []
        monkeypatch.setattr(AudioDataModule, "prepare", lambda self, num_processes, share: shares.append(share))
        with pytest.raises(SystemExit, match=r"^0$"):
            run.main([subcommand, *arguments])
        assert shares == [(2, 10)] and options["array"] == "1-10"
        return
    config = ParsingCLI([subcommand, *arguments]).config[subcommand]
    assert str(config.trainer.num_nodes) == options["nodes"]
    assert str(config.trainer.devices) == options["ntasks-per-node"]
    environment = config.trainer.plugins[-1]
    assert environment.class_path.endswith("SLURMEnvironment") and not environment.init_args.auto_requeue
    assert config.trainer.callbacks[-1].class_path == "callbacks.termination.TerminateAtOnce"
    if array:
        sweep = config.sweep.init_args
        assert (sweep.share, sweep.num_shares) == (3, 8)
        assert config.stage.folder == Path("runs/slurm_6/share_3") and config.stage.outputs == []
        assert sweep.folder not in config.stage.folder.parents, "all shares have one store"


def test_a_failure_is_passed_through_and_not_put_back(job):
    """Guards against a run with an error in its config that is requeued for ever, or that counts as finished."""
    status, output = job.run(FOLDER / "one_node.sbatch", "--config", "x.yaml", STATUS="3")
    assert (status, job.requeued) == (3, [])
    assert "ended with status 3" in output and job.tasks_command[1:4] == ["run.py", "fit", "--config"]
    words = (job.folder / "srun_arguments").read_text().split("\0")
    assert "--kill-on-bad-exit=1" in words, "the other ranks wait for the one that failed"


def test_the_signal_before_the_time_limit_puts_the_job_back(job):
    """Guards against a shell that dies of the signal, or handles it only when the training is over."""
    process = job.start(FOLDER / "many_nodes.sbatch", "test", "--config", "x.yaml", BEATS="40")
    while not (job.folder / "srun_arguments").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    while not job.requeued:
        assert process.poll() is None
        time.sleep(0.01)
    assert process.poll() is None, "SLURM ends the shell; until then the tasks go on"
    assert job.tasks_command[1:3] == ["run.py", "test"]
    assert process.wait(timeout=60) == 0
    assert job.requeued == ["7"]


def test_a_task_of_an_array_puts_itself_back(job):
    """Guards against requeueing the whole array: its last task has the array's number."""
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0"}
    array |= {"SLURM_ARRAY_TASK_MAX": "3", "PREEMPTED": "2026-11-23T12:00:30"}
    job.run(FOLDER / "sweep_array.sbatch", "--config", "x.yaml", STATUS="143", ENDS="yes", **array)
    assert job.requeued == ["7_3"]


def test_a_job_that_comes_back_too_often_ends(job):
    """Guards against a run that hangs, or that never reaches its first checkpoint, and occupies the nodes for ever."""
    process = job.start(FOLDER / "one_node.sbatch", BEATS="20", MAX_REQUEUES="4", SLURM_RESTART_COUNT="4")
    while not (job.folder / "srun_arguments").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=60)[0]
    assert job.requeued == [] and "4 times already" in output and process.returncode == 0


@pytest.mark.parametrize(
    ("preempted", "goes_back"),
    [("2026-11-23T12:00:30", True), ("2026-11-23T11:00:30", False), ("None", False)],
    ids=["this_attempt", "an_earlier_attempt", "never"],
)
def test_tasks_that_end_in_the_grace_period_of_preemption(job, preempted, goes_back):
    """Guards against losing a preempted job because it ended before SLURM ended it, and against taking a failure for a
    preemption because an earlier attempt was preempted."""
    status, _ = job.run(FOLDER / "one_node.sbatch", STATUS="143", PREEMPTED=preempted, ENDS="yes")
    assert job.requeued == (["7"] if goes_back else [])
    assert status == (-signal.SIGTERM if goes_back else 143)


@pytest.mark.parametrize(("name", "first"), [("sweep_array", "1"), ("prepare", "0")])
def test_an_array_with_another_start_is_refused(name, first, job):
    """Guards against `--array=1-8`, whose first share would not be sampled, and shares 0 to 7 of 7 of a preparation."""
    array = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": first, "SLURM_ARRAY_TASK_MIN": first}
    array["SLURM_ARRAY_TASK_MAX"] = "8"
    status, output = job.run(FOLDER / f"{name}.sbatch", "--config", "x.yaml", **array)
    assert status == 2 and f"array from {first}" in output and not (job.folder / "srun_arguments").exists()


def test_another_folder_than_the_repository_is_refused(job):
    """Guards against a Python path error on every task instead of one line with the reason."""
    (job.folder / "run.py").unlink()
    status, output = job.run(FOLDER / "one_node.sbatch")
    assert status == 2 and "in the folder of run.py" in output


# ---------------------------------------------------------------------------------------------------- ends by SIGTERM


class Preempted(Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        Path(trainer.default_root_dir, "went_on").touch()


def fit(folder: Path) -> None:
    """In a separate process. The last line is reached if the signal did not end it."""
    callbacks = [TerminateAtOnce(), Preempted()]
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_steps=3, default_root_dir=folder, callbacks=callbacks, **options)
    trainer.fit(BoringModel())


def test_sigterm_ends_a_rank_as_the_signal_does(tmp_path):
    """Guards against an exit with status 0, Lightning's own after SIGTERM, which SLURM takes for a finished job."""
    process = multiprocessing.get_context("fork").Process(target=fit, args=(tmp_path,))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGTERM
    assert not (tmp_path / "went_on").exists()
