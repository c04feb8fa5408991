"""Codec training synchronises with the device only in steps that log."""

import traceback
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from modules.batches import AudioBatch
from modules.codec.generator import CodecGenerator
from modules.codec.parts import acoustic_encoder as acoustic
from modules.codec.parts import semantic_encoder as semantic
from modules.codec.parts import transformer_decoder as transformer
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.filter_bank import KaldiFilterBank
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.semantic_encoder import SemanticEncoder
from modules.codec.parts.semantic_fusion import SemanticAcousticEncoder, SemanticAdapter, SemanticDecoder
from modules.codec.parts.transformer_decoder import TransformerDecoder
from modules.codec.training import perceptual_loss as perceptual
from modules.codec_module import CodecModule
from modules.schedule import WarmupLinear
from tests.modules.test_codec_parallel import Crops, build, trainer_of
from tests.toys.codec_references import semantic_config

aten = torch.ops.aten
# Operations that need their result's value or size on the host.
WAITING = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.nonzero_numpy, aten.masked_select,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount,
}  # fmt: skip
# Samples the window's start on the host, from the step number.
ON_THE_HOST = "discriminator_windows"


class Waits(TorchDispatchMode):
    """Records which operations would synchronise on another device, and where they were called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, kwargs = function.overloadpacket, kwargs or {}
        result = function(*args, **kwargs)
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        # One value under a mask is filled in (canDispatchToMaskedFill of ATen's TensorAdvancedIndexing), not indexed.
        by_mask = by_mask and not (packet is not aten.index and args[2].numel() == 1)
        counts = packet is aten.repeat_interleave and kwargs.get("output_size") is None
        if packet in WAITING or by_mask or counts or self._copies(packet, args, result):
            places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack()[:-1]]
            if not any(place.endswith(ON_THE_HOST) for place in places):
                self.found.append(f"{packet} " + " < ".join(places[::-1][:12]))
        return result

    @staticmethod
    def _copies(packet: Any, args: Any, result: Any) -> bool:
        """Check for a copy between devices."""
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        return packet in (aten._to_copy, aten.copy_) and len({tensor.device for tensor in tensors}) > 1


class Watch(L.Callback):
    """Records synchronisations from a step's start to the next one's, including Lightning's; by number of updates
    before."""

    def __init__(self) -> None:
        self.waits: dict[int, list[str]] = {}
        self.mode: Waits | None = None

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.stop()
        self.mode = Waits()
        self.waits[trainer.global_step] = self.mode.found
        self.mode.__enter__()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.stop()

    def on_exception(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None


class OnMeta(CodecModule):
    """Trains on the meta device, whose tensors have no values: reading one raises an error."""

    def to(self, *args: Any, **kwargs: Any) -> "OnMeta":
        return self

    def cpu(self) -> "OnMeta":
        return self

    def transfer_batch_to_device(self, batch: AudioBatch, *_: Any) -> AudioBatch:
        audio_BT, num_samples_B = (
            torch.empty_like(given, device="meta") for given in (batch.audio_BT, batch.num_samples_B)
        )
        return AudioBatch(audio_BT, num_samples_B, batch.keys, batch.metadata)


def adam(weights: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, lr=1e-4, betas=(0.8, 0.9), fused=True)


def xcodec2(optimizer: OptimizerCallable = adam) -> CodecModule:
    """X-codec2's configuration, tiny, with all loss terms, and the optimizers and the schedule of its recipe."""
    torch.manual_seed(0)
    encoder = SemanticAcousticEncoder(
        AcousticEncoder(strides=[4, 8, 10], base_channels=4, channels=32),
        SemanticEncoder(KaldiFilterBank(), 1, 32, config=semantic_config()),
        SemanticAdapter(32),
        appends_frame=False,
    )
    decoder = TransformerDecoder(channels=32, num_layers=1, num_heads=2, hidden_channels=32, num_groups=4)

    def schedule(optimizer: torch.optim.Optimizer) -> WarmupLinear:
        return WarmupLinear(optimizer, 2, 20)

    return build(
        generator=CodecGenerator(encoder, Xcodec2Quantizer(64, [4] * 4), decoder),
        semantic_decoder=SemanticDecoder(64, 32),
        optimizer=optimizer,
        discriminator_optimizer=optimizer,
        scheduler=schedule,
        discriminator_scheduler=schedule,
        discriminator_start_step=0,
        perceptual_start_step=0,
    )


def fit(module: CodecModule, max_steps: int, callbacks: list[L.Callback]) -> None:
    """Fit in which the update with number 2, counted from 1, logs."""
    trainer = trainer_of("auto", 1, callbacks=callbacks, max_steps=max_steps, log_every_n_steps=2)
    trainer.fit(module, DataLoader(Crops(0, 1), batch_size=None))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat lengths as on any device but the CPU."""
    for module in (acoustic, perceptual, semantic, transformer):
        monkeypatch.setattr(module, "unequal_lengths", lambda lengths_B, length: lengths_B)


def test_only_logging_waits(elsewhere: None) -> None:
    """Guards against reading a value within a step, by us or by a library: a GPU would idle there, at every step. The
    step after the logged one counts too: logged values must not be read again."""
    watch = Watch()
    fit(xcodec2(), 3, [watch])
    assert list(watch.waits) == [0, 1, 2]
    found = [place for step in (0, 2) for place in watch.waits[step]]
    assert not found, "\n".join(found)
    assert watch.waits[1]  # the progress bar's number


def test_a_step_runs_on_a_device_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against operations missing in the list above, and against copies between host and device."""
    autocast = torch.autocast  # does not support the meta device
    monkeypatch.setattr(torch, "autocast", lambda device, **settings: autocast("cpu", **settings))
    # Fused Adam does not support this device, and the other one reads its step count, which is on the host.
    module = xcodec2(lambda weights: torch.optim.SGD(weights, lr=1e-4, momentum=0.9))
    networks = [module.generator, module.discriminator, module.reconstruction_loss, module.semantic_decoder]
    frozen = [module.generator.encoder.semantic.network, module.perceptual_loss.network]  # moved at first use
    for network in networks + frozen:
        network.to("meta")
    module.__class__ = OnMeta
    watch = Watch()
    with pytest.raises(RuntimeError, match="meta tensor") as raised:
        fit(module, 3, [watch])
    lines = "".join(traceback.format_exception(raised.value))  # including the cause: the teardown fails there, too
    assert 'progress_bar_metrics["train/mel"] = ' in lines  # the second update logs
    assert list(watch.waits) == [0, 1]
    constants = [place for place in watch.waits[0] if "filter_bank.py" not in place]  # moved there at their first use
    assert not constants, "\n".join(constants)
