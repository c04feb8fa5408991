"""No step of the codec's training waits for the device, but those that log."""

import traceback
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from modules.api import AudioBatch
from modules.codec import acoustic, semantic, transformer
from modules.codec.acoustic import AcousticEncoder
from modules.codec.filter_bank import KaldiFilterBank
from modules.codec.fusion import SemanticAcousticEncoder, SemanticAdapter, SemanticDecoder
from modules.codec.generator import CodecGenerator
from modules.codec.quantizer import Xcodec2Quantizer
from modules.codec.semantic import SemanticEncoder
from modules.codec.transformer import TransformerDecoder
from modules.codec_module import CodecModule
from modules.schedule import WarmupLinear
from tests.codec_references import semantic_config
from tests.test_codec_parallel import Crops, build, trainer_of

aten = torch.ops.aten
# The program goes on only when their result's value or size is known to the host.
WAITING = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.nonzero_numpy, aten.masked_select,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount,
}  # fmt: skip
# Draws the window's start on the host, from the number of the step.
ON_THE_HOST = "_discriminator_window"


class Waits(TorchDispatchMode):
    """Notes which operations would wait, were the tensors on another device, and where they were called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, kwargs = function.overloadpacket, kwargs or {}
        result = function(*args, **kwargs)
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        counts = packet is aten.repeat_interleave and kwargs.get("output_size") is None
        if packet in WAITING or by_mask or counts or self._copies(packet, args, result):
            places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack()[:-1]]
            if not any(place.endswith(ON_THE_HOST) for place in places):
                self.found.append(f"{packet} " + " < ".join(places[::-1][:12]))
        return result

    @staticmethod
    def _copies(packet: Any, args: Any, result: Any) -> bool:
        """From one device to another."""
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        return packet in (aten._to_copy, aten.copy_) and len({tensor.device for tensor in tensors}) > 1


class Watch(L.Callback):
    """What waits between a step's start and its end, by the number of updates before it."""

    def __init__(self) -> None:
        self.waits: dict[int, list[str]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.step, self.mode = trainer.global_step, Waits()
        self.mode.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.mode.__exit__(None, None, None)
        self.waits[self.step] = self.mode.found


class OnMeta(CodecModule):
    """Trains on the device whose tensors hold no values: whatever would look at one raises."""

    def to(self, *args: Any, **kwargs: Any) -> "OnMeta":
        return self

    def transfer_batch_to_device(self, batch: AudioBatch, *_: Any) -> AudioBatch:
        return AudioBatch(batch.audio_BT.to("meta"), batch.num_samples_B.to("meta"), batch.keys, batch.metadata)


def xcodec2(fused: bool = True) -> CodecModule:
    """X-codec2's arrangement, tiny, every term on, with the optimizers and the schedule of its recipe."""
    torch.manual_seed(0)
    encoder = SemanticAcousticEncoder(
        AcousticEncoder(strides=[4, 8, 10], base_channels=4, channels=32),
        SemanticEncoder(KaldiFilterBank(), 1, 32, config=semantic_config()),
        SemanticAdapter(32),
        appends_frame=False,
    )
    decoder = TransformerDecoder(channels=32, num_layers=1, num_heads=2, hidden_channels=32, num_groups=4)

    def adam(weights: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(weights, lr=1e-4, betas=(0.8, 0.9), fused=fused)

    def schedule(optimizer: torch.optim.Optimizer) -> WarmupLinear:
        return WarmupLinear(optimizer, 2, 20)

    return build(
        generator=CodecGenerator(encoder, Xcodec2Quantizer(64, [4] * 4), decoder),
        semantic_decoder=SemanticDecoder(64, 32),
        optimizer=adam,
        discriminator_optimizer=adam,
        scheduler=schedule,
        discriminator_scheduler=schedule,
        discriminator_start_step=0,
        perceptual_start_step=0,
    )


def fit(module: CodecModule, max_steps: int, callbacks: list[L.Callback], first_step: int = 0) -> None:
    trainer = trainer_of("auto", 1, callbacks=callbacks, max_steps=max_steps, log_every_n_steps=3)
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = first_step
    trainer.fit(module, DataLoader(Crops(0, 1), batch_size=None))
    assert trainer.global_step == max_steps


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths are taken as on any device but the CPU."""
    for module in (acoustic, semantic, transformer):
        monkeypatch.setattr(module, "unequal_lengths", lambda lengths_B, length: lengths_B)


def test_no_step_waits(elsewhere: None) -> None:
    """Guards against a value that is looked at between a step's start and its end, by us or by a library: a GPU would
    run dry there, every step."""
    watch = Watch()
    fit(xcodec2(), 3, [watch])
    assert list(watch.waits) == [0, 1, 2]
    found = [place for step in (1, 2) for place in watch.waits[step]]
    assert not found, "\n".join(found)


def test_a_step_runs_on_a_device_without_values() -> None:
    """Guards against what the list above does not know, and against copies between host and device."""
    module = xcodec2(fused=False)
    for network in (module.generator, module.discriminator, module.reconstruction_loss, module.semantic_decoder):
        network.to("meta")
    module.__class__ = OnMeta
    watch = Watch()
    fit(module, 3, [watch], first_step=1)
    assert not watch.waits[2], "\n".join(watch.waits[2])
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        fit(module, 4, [], first_step=3)  # that step logs
