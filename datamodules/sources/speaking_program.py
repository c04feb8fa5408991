"""SpeakingProgram: a synthesiser that runs as a separate program, one for each process that asks it."""

import contextlib
import json
import os
import subprocess
import weakref
from collections.abc import Sequence
from typing import Any


class DeadProgram(RuntimeError):
    """The program has ended in the middle of a sentence."""


class SpeakingProgram:
    """The client of flite_program.py and piper_program.py. The program starts on first use, once per process; a copy in
    another process starts its own.

    The program prints {"ready": ...} as one line of json, or {"missing": REASON}. It answers each line, a request in
    json, by a line with a json object and, after it, `num_samples` samples as int16.

    Args:
        command: The program with its arguments.
        needs: What it needs, for the error.
        install: The command that installs that.
    """

    def __init__(self, command: Sequence[str], needs: str, install: str) -> None:
        self.command, self.needs, self.install = tuple(command), needs, install
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started the program

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "process": None}

    def ask(self, request: Any) -> tuple[dict[str, Any], bytes]:
        """The answer's object and its samples.

        Raises:
            ValueError: The program refuses the request, with its reason, or the request ends the program.
            ImportError: The program cannot start.
        """
        for attempt in range(2):  # a program that another process has killed says nothing of this request
            try:
                return self._ask_once(request)
            except DeadProgram as error:
                self.process = None
                if attempt:
                    raise ValueError(f"the synthesiser has ended in this sentence: {error}") from error
        raise AssertionError("the loop returns or raises")

    def _ask_once(self, request: Any) -> tuple[dict[str, Any], bytes]:
        process = self._running()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            about = json.loads(process.stdout.readline())
            samples = process.stdout.read(2 * about["num_samples"])
            if len(samples) < 2 * about["num_samples"]:
                raise EOFError
        except (OSError, EOFError, json.JSONDecodeError) as error:
            process.kill()
            raise DeadProgram(f"exit status {process.wait()}") from error
        if "error" in about:
            raise ValueError(about["error"])
        return about, samples

    def _running(self) -> "subprocess.Popen[bytes]":
        if self.process is None or self._owner != os.getpid():
            self.process, self._owner = self._start(), os.getpid()
            weakref.finalize(self, close, self.process, self._owner)
        return self.process

    def _start(self) -> "subprocess.Popen[bytes]":
        try:
            process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise self._missing(str(error)) from error
        assert process.stdout
        answer = json.loads(process.stdout.readline() or "{}")
        if "ready" not in answer:
            process.kill()
            process.wait()
            raise self._missing(answer.get("missing", f"a program that ended with status {process.returncode}"))
        return process

    def _missing(self, reason: str) -> ImportError:
        return ImportError(f"Expected {self.needs}, but got {reason}. Install it: {self.install}")


def close(process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End a program, unless this process is a fork of the one that owns it."""
    if owner == os.getpid():
        assert process.stdin and process.stdout
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):  # a sentence that was not read
            process.stdin.close()
        process.stdout.close()
