"""A corpus of many units of work for kills.py and processes.py: prompts of the Asterisk core sounds in WebDataset tars,
and the commands that prepare and tokenise it.

A tar of others is one unit, whatever `samples_per_shard` is: `python run.py prepare` then has as many units as tars.
"""

import hashlib
import io
import json
import os
import sys
import tarfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import soundfile
import yaml

from datamodules.shards.tar_samples import packed_sample, tar_end
from datamodules.sources.asterisk import AsteriskSource
from datamodules.sources.source import Recording

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900  # seconds
CODEC = ROOT / "runs/demo/codec/checkpoints/last.ckpt"


def write_tars(
    folder: Path, num_tars: int, recordings_per_tar: int, languages: Sequence[str] = ("en", "es", "fr", "it", "ru")
) -> None:
    """Write the first prompts of each language in turn, as FLAC at 16 kHz beside a json with text and speaker. Raises
    ValueError if there are too few."""
    folder.mkdir(parents=True)
    source = AsteriskSource(ROOT / "cache/asterisk", languages)
    found = (one for one in source.recordings() if isinstance(one, Recording))
    for number in range(num_tars):
        content = b""
        for _ in range(recordings_per_tar):
            if (one := next(found, None)) is None:
                raise ValueError(f"Expected {num_tars * recordings_per_tar} prompts, but got fewer.")
            stream = io.BytesIO()
            soundfile.write(stream, one.audio.samples_T.numpy(), one.audio.sample_rate, format="FLAC")
            about = {"text": one.text, "speaker": one.speaker, "language": one.language, "license": one.license}
            content += packed_sample(one.key, {"flac": stream.getvalue(), "json": json.dumps(about).encode()})
        (folder / f"{number:04}.tar").write_bytes(content + tar_end(len(content)))
        with tarfile.open(folder / f"{number:04}.tar") as tar:
            assert len(tar.getnames()) == 2 * recordings_per_tar


def prepare_command(corpus: Path, folder: Path, *options: str, sample_rate: int = 24_000) -> list[str]:
    """Write the config beside the folder, and return the command."""
    names = {"text_field": "text", "speaker_field": "speaker", "language_field": "language"}
    source = {"folder": str(corpus), "in_place": False, "name": "prompts", "license_field": "license", **names}
    data = {
        "folder": str(folder),
        "sample_rate": sample_rate,
        "sources": [{"class_path": "datamodules.sources.webdataset_tars.WebDatasetSource", "init_args": source}],
    }
    config = {"data": {"class_path": "datamodules.audio.AudioDataModule", "init_args": data}}
    return ["prepare", "--config", _written(config, folder.with_name(f"{folder.name}_prepare.yaml")), *options]


def tokenise_command(shards: Path, tokens: Path, *options: str) -> list[str]:
    """Write the config beside the folder of the tokens, and return the command: the demo's codec."""
    data = {"folder": str(shards), "evaluation_batch_size": 8}
    config = {
        "ckpt_path": str(CODEC),
        "model": str(ROOT / "configs/demo/codec_model.yaml"),
        "data": {"class_path": "datamodules.audio.AudioDataModule", "init_args": data},
        "tokens": {
            "class_path": "callbacks.token_shards.TokenShardWriter",
            "init_args": {"folder": str(tokens)},
        },
        "trainer": {"accelerator": "cpu", "default_root_dir": str(tokens.parent)},
        "progress_bar": None,
    }
    return ["predict", "--config", _written(config, tokens.with_name(f"{tokens.name}_tokenise.yaml")), *options]


def _written(config: dict, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return str(path)


class Command:
    """`python run.py ...` as the leader of a process group of its own: forked from this process, which has imported
    `run`, so that it begins to work in a second."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.words, self.log, self.status = words, log, None
        self.pid = os.fork()
        if self.pid == 0:
            self._run()

    def _run(self) -> NoReturn:
        status = 1
        try:
            os.setsid()
            os.chdir(ROOT)
            stream = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            sys.argv = ["run.py", *self.words]
            sys.modules["run"].main(list(self.words))
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001, into its log
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def has_ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end, at most so long."""
        until = time.monotonic() + seconds
        while not self.has_ended() and time.monotonic() < until:
            time.sleep(0.01)
        return self.has_ended()

    def check(self) -> None:
        """Raise RuntimeError if it has failed."""
        if self.status:
            raise RuntimeError(
                f"Expected {' '.join(self.words)} to succeed, but got {self.status}. {self.log} says why."
            )


def run_command(words: Sequence[str], log: Path) -> None:
    """Run it to its end. Raises RuntimeError if it fails."""
    command = Command(words, log)
    command.ends_within(PATIENCE)
    command.check()


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digest_of_all(folder: Path) -> str:
    return hashlib.sha256(json.dumps(digests(folder)).encode()).hexdigest()
