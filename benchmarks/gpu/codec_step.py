"""One training step of X-codec2 at full width on a GPU, against its authors' implementation.

    python -m benchmarks.gpu.codec_step [--batch_size 8] [--seconds 6] [--rounds 10] [--compile inductor]

Three runs: equal losses and gradients in float32 on a short crop; steps between two logged ones, in which every
synchronisation with the device is an error; and the benchmark of benchmarks/codec_training_step.py in bfloat16.
`--checks none` omits the first two; with them it takes more than two minutes. Weights are random: nothing is
downloaded. Results: studies/codec_speed/gpu.json.
"""

from dataclasses import replace
from typing import Any

import lightning as L
import torch

from benchmarks.codec_training_step import Parts, fit, measure, noise
from benchmarks.scaffold import machine, options, report
from modules.batches import AudioBatch

GPU = {"accelerator": "gpu", "precision": "bf16-mixed"}
NUM_WARMUP_STEPS = 3  # constants are moved, kernels selected, graphs compiled


class WaitsRaise(L.Callback):
    """After the warm-up, makes torch raise if the host synchronises with the device within a step."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= NUM_WARMUP_STEPS:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    on_exception = on_train_batch_end


def on_gpu(batch: AudioBatch) -> AudioBatch:
    return replace(batch, audio_BT=batch.audio_BT.cuda(), num_samples_B=batch.num_samples_B.cuda())


def check(parts: Parts, batch: AudioBatch, compile_backend: str | None) -> None:
    """Check equal losses and gradients, and steps without synchronisation. Raises AssertionError, RuntimeError."""
    torch.backends.cudnn.allow_tf32 = False
    # Summation order differs: tolerance 1e-3, compared with 1e-5 on the CPU.
    measure(parts, on_gpu(noise(1, 1.0)), 1, None, 1e-3, accelerator="gpu")
    with batch.audio_BT.device:
        module = parts.module(compile_backend)
    num_steps = NUM_WARMUP_STEPS + 3
    callbacks, log_every = [WaitsRaise()], num_steps + 1
    fit(module, batch, num_steps, callbacks=callbacks, log_every_n_steps=log_every, **GPU)
    print(f"{num_steps - NUM_WARMUP_STEPS} steps without a wait for the device", flush=True)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--narrower", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", metavar="BACKEND")
    parser.add_argument("--checks", choices=("all", "none"), default="all")
    given = parser.parse_args()
    parts, batch = Parts(given.narrower), on_gpu(noise(given.batch_size, given.seconds))
    if given.checks == "all":
        check(parts, batch, given.compile)
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    result = measure(parts, batch, given.rounds, given.compile, None, **GPU)
    report(result | {"precision": GPU["precision"]} | machine(on_gpu=True), given.json)


if __name__ == "__main__":
    main()
