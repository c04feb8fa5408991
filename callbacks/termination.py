"""TerminateAtOnce: SIGTERM ends the process immediately, like SIGKILL."""

import signal
import threading

from lightning.pytorch import Callback, LightningModule, Trainer


class TerminateAtOnce(Callback):
    """Disables Lightning's handling of SIGTERM.

    Lightning broadcasts inside the signal handler, which collides with whatever collective the other ranks are in, and
    exits with status 0, which a scheduler takes for a finished job. Checkpoints (`DurableCheckpointIO`) and stages are
    complete at every moment, so no cleanup is needed. The exit status is that of the signal: 143 in a shell.
    """

    def _restore_default(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # in other threads Lightning sets no handler either
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # The first hooks of each command after Lightning has set its handlers.
    on_sanity_check_start = on_train_start = _restore_default
    on_validation_start = on_test_start = on_predict_start = _restore_default
