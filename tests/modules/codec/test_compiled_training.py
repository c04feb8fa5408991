"""Training with torch.compile equals training without, and its checkpoints are the same files."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from modules.codec.generator import CodecGenerator
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.filter_bank import KaldiFilterBank
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.semantic_encoder import SemanticEncoder
from modules.codec.parts.semantic_fusion import SemanticAcousticEncoder, SemanticAdapter, SemanticDecoder
from modules.codec.parts.transformer_decoder import TransformerDecoder
from modules.codec.training.discriminators import (
    DiscriminatorEnsemble,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
)
from modules.codec_module import CodecModule
from tests.modules.test_codec_parallel import Crops, build, trainer_of
from tests.toys.codec_references import semantic_config


def tiny(compile_backend: str | None) -> CodecModule:
    """Every kind of part of X-codec2, with as few layers as possible."""
    torch.manual_seed(0)
    encoder = SemanticAcousticEncoder(
        AcousticEncoder(strides=[320], base_channels=2, channels=32),
        SemanticEncoder(KaldiFilterBank(), 1, 32, config=semantic_config()),
        SemanticAdapter(32),
        appends_frame=False,
    )
    decoder = TransformerDecoder(channels=32, num_layers=1, num_heads=2, hidden_channels=32, num_groups=4, dropout=0.0)
    return build(
        generator=CodecGenerator(encoder, Xcodec2Quantizer(64, [4] * 4), decoder),
        discriminator=DiscriminatorEnsemble(
            [MultiPeriodDiscriminator([3], [4, 4]), MultiResolutionDiscriminator([78], [4, 4])]
        ),
        semantic_decoder=SemanticDecoder(64, 32),
        perceptual_loss=None,
        discriminator_start_step=0,
        compile_backend=compile_backend,
    )


class Record(L.Callback):
    """Records losses and gradients of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: CodecModule, *_: Any) -> None:
        losses = {name: value.clone() for name, value in trainer.callback_metrics.items()}
        self.steps.append(losses | {name: weight.grad.clone() for name, weight in module.named_parameters()})


def train(module: CodecModule) -> tuple[Record, L.Trainer]:
    record = Record()
    trainer = trainer_of("auto", 1, callbacks=[record], max_steps=2, log_every_n_steps=1)
    trainer.fit(module, DataLoader(Crops(0, 1), batch_size=None))
    return record, trainer


def test_compiled_steps_are_the_eager_ones(tmp_path: Path) -> None:
    """Guards against a compiled network with other numbers, a backend that is not used, and other weight names."""
    torch._dynamo.utils.counters.clear()
    eager, compiled = tiny(None), tiny("aot_eager")
    expected, _ = train(eager)
    assert not torch._dynamo.utils.counters["stats"]
    actual, trainer = train(compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 5  # generator; discriminators thrice; semantic
    for want, got in zip(expected.steps, actual.steps, strict=True):
        assert want.keys() == got.keys()
        for name, value in want.items():
            torch.testing.assert_close(
                got[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
    trainer.save_checkpoint(tmp_path / "compiled.ckpt")
    stored = torch.load(tmp_path / "compiled.ckpt", weights_only=False)["state_dict"]
    assert list(stored) == list(eager.state_dict())
    eager.load_state_dict(stored)
    compiled.load_state_dict(eager.state_dict())


def test_inductor_takes_a_discriminator() -> None:
    """Guards against parts that the default backend cannot compile, like the older weight norm."""
    judge = MultiPeriodDiscriminator([2], [2])
    audio_BT = torch.randn(2, 64, requires_grad=True)
    results = []
    for _ in range(2):
        judgement = judge(audio_BT)
        weights = [audio_BT, *judge.parameters()]
        results.append([*judgement.scores, *torch.autograd.grad(judgement.scores[0].square().sum(), weights)])
        judge.compile(backend="inductor", dynamic=False)
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_compiled_networks_are_not_sharded() -> None:
    """Guards against a run that fails, or trains nothing, hours after it was queued."""
    module = tiny("inductor")
    module._device_mesh = object()
    module._trainer = trainer_of(ModelParallelStrategy(1, 1), 1)
    with pytest.raises(ValueError, match="no `compile_backend`"):
        module.configure_model()
