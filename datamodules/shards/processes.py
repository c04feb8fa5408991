"""Worker processes of a preparation, and its progress bar."""

import contextlib
import math
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection, get_context
from types import TracebackType
from typing import Any, Protocol

from modules.audio import message_of

PRELOADED = ["datamodules.shards.audio_units"]
SHOWN_EVERY = 0.5  # seconds
MAX_ERROR = 16_384  # bytes that a pipe takes while nobody reads


class Control(Protocol):
    """Told of each recording by the process that works on it."""

    def add(self, seconds: float) -> None:
        """Count one recording: seconds of audio, 0 if it was skipped."""
        ...

    def stops(self) -> bool:
        """Whether the work must end now, between two recordings."""
        ...


class Work(Protocol):
    """Work that processes share by units. Is pickled."""

    def do_all(self, units: Sequence[str], waits: bool, control: Control) -> None: ...


class Progress:
    """A progress bar of recordings, with hours of audio and how much faster than real time they are done.

    Also the Control of a process that works alone.
    """

    def __init__(self, title: str, num_recordings: int) -> None:
        self.title, self.num_recordings = title, num_recordings
        self._seconds, self._last_shown = 0.0, 0.0

    def __enter__(self) -> "Progress":
        from tqdm import tqdm

        self._started = time.monotonic()
        self._bar = tqdm(total=self.num_recordings, desc=self.title, unit="recording", mininterval=SHOWN_EVERY)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show_hours()
        self._bar.close()

    def add(self, seconds: float) -> None:
        self.show(self._bar.n + 1, self._seconds + seconds)

    def stops(self) -> bool:
        return False

    def show(self, num_recordings: int, seconds: float) -> None:
        """Show a new state."""
        self._seconds = seconds
        if num_recordings > (self._bar.total or math.inf):  # containers hold more recordings than were known
            self._bar.total = None
        now = time.monotonic()
        if now - self._last_shown > SHOWN_EVERY:
            self._last_shown = now
            self._show_hours()
        self._bar.update(num_recordings - self._bar.n)

    def _show_hours(self) -> None:
        rate = self._seconds / max(time.monotonic() - self._started, 1e-9)
        self._bar.set_postfix_str(f"{self._seconds / 3600:.2f} h of audio, {rate:.0f}x real time", refresh=False)


class _SlotControl:
    """Control of one worker process: counts in its slot of an array that the parent reads."""

    def __init__(self, shared: Any, slot: int) -> None:
        self._shared, self._slot, self._parent = shared, 2 * slot, os.getppid()

    def add(self, seconds: float) -> None:
        self._shared[self._slot] += 1
        self._shared[self._slot + 1] += seconds

    def stops(self) -> bool:
        # The parent of a worker is a server that ends with the process that started it.
        return bool(self._shared[-1]) or os.getppid() != self._parent


def run_processes(work: Work, units: Sequence[str], waits: bool, num_processes: int, progress: Progress) -> None:
    """Do the work's units in several processes.

    Raises the first error of a worker, or RuntimeError if one was killed. After an error or Ctrl-C the workers stop at
    their next recording.
    """
    # Not forked from this process, which has threads; not spawned, which imports torch anew for each.
    try:
        pickled = pickle.dumps(work)
    except Exception as error:  # noqa: BLE001, of classes that users write
        print(f"one process works: a source cannot be sent to others ({message_of(error)})", flush=True)
        work.do_all(units, waits, progress)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    shared = context.RawArray("d", 2 * num_processes + 1)
    workers = []
    with _main_module(is_needed=b"__main__" in pickled):
        for slot in range(num_processes):
            receiver, sender = context.Pipe(duplex=False)
            # Each begins with units of its own: on a file system without locks all would do the same ones.
            mine = units[slot::num_processes]
            others = (unit for number, unit in enumerate(units) if number % num_processes != slot)
            arguments = (work, [*mine, *others], waits, shared, slot, sender)
            process = context.Process(target=_run, args=arguments, daemon=True)
            process.start()
            sender.close()
            workers.append((process, receiver))
    try:
        while connection.wait([process.sentinel for process, _ in workers if process.is_alive()], SHOWN_EVERY) or any(
            process.is_alive() for process, _ in workers
        ):
            progress.show(int(sum(shared[: 2 * num_processes : 2])), sum(shared[1 : 2 * num_processes : 2]))
            for process, receiver in workers:
                if not process.is_alive() and process.exitcode:
                    raise _error_of(receiver)
    finally:
        shared[-1] = 1.0
        for process, _ in workers:
            process.join()
    progress.show(int(sum(shared[: 2 * num_processes : 2])), sum(shared[1 : 2 * num_processes : 2]))
    for process, receiver in workers:
        if process.exitcode:
            raise _error_of(receiver)


@contextlib.contextmanager
def _main_module(is_needed: bool) -> Iterator[None]:
    """Keep new processes from importing the program that starts them, unless they need a class of it: run.py imports
    all of the suite, which takes seconds."""
    main = vars(sys.modules["__main__"])
    path = None if is_needed else main.pop("__file__", None)
    try:
        yield
    finally:
        if path is not None:
            main["__file__"] = path


def _error_of(receiver: connection.Connection) -> BaseException:
    try:
        if receiver.poll():
            return receiver.recv()
    except EOFError:
        pass
    return RuntimeError(
        "A process of the preparation was killed (by lack of memory?). Finished units are kept: run the command again, "
        "with fewer --num_processes if it happens again."
    )


def _run(work: Work, units: Sequence[str], waits: bool, shared: Any, slot: int, sender: connection.Connection) -> None:
    import torch

    torch.set_num_threads(1)  # the processes are the parallel part
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops the workers
    try:
        work.do_all(units, waits, _SlotControl(shared, slot))
    except Exception as error:  # noqa: BLE001, told by the parent
        try:
            is_short = len(pickle.dumps(error)) < MAX_ERROR
        except Exception:  # noqa: BLE001, an error that cannot be pickled
            is_short = False
        sender.send(error if is_short else RuntimeError(f"{type(error).__name__}: {str(error)[:1000]}"))
        os._exit(1)
