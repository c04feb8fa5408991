"""The codec on two processes against one, DDP and FSDP2, without a GPU. Run as a script, this file is one training."""

import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset

from modules.batches import AudioBatch
from modules.codec.acoustic import AcousticEncoder
from modules.codec.discriminators import DiscriminatorEnsemble, MultiPeriodDiscriminator, MultiResolutionDiscriminator
from modules.codec.fusion import SemanticAcousticEncoder, SemanticAdapter, SemanticDecoder
from modules.codec.generator import CodecGenerator
from modules.codec.losses import LossWeights, MultiResolutionMelLoss
from modules.codec.perceptual import PerceptualLoss
from modules.codec.quantizer import Xcodec2Quantizer
from modules.codec.semantic import NormalisedWaveform, SemanticEncoder
from modules.codec.transformer import TransformerDecoder
from modules.codec_module import CodecModule

NUM_STEPS, BATCH_SIZE, NUM_SAMPLES = 6, 4, 3200
ROOT = Path(__file__).resolve().parent.parent
SPEECH_ENCODER = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def build(**changes) -> CodecModule:
    """Every part of X-codec2's training, tiny. Discriminators from the third update on, the perceptual loss later."""
    torch.manual_seed(0)
    acoustic = AcousticEncoder(strides=[4, 8, 10], base_channels=4, channels=32)
    semantic = SemanticEncoder(NormalisedWaveform(), 2, 16, config=SPEECH_ENCODER)
    encoder = SemanticAcousticEncoder(acoustic, semantic, SemanticAdapter(16), appends_frame=False)
    settings = {
        "generator": CodecGenerator(
            encoder,
            Xcodec2Quantizer(48, [4] * 4),
            TransformerDecoder(channels=32, num_layers=1, num_heads=2, hidden_channels=32, num_groups=4, dropout=0.0),
        ),
        "discriminator": DiscriminatorEnsemble(
            [MultiPeriodDiscriminator([2, 3], [4, 4]), MultiResolutionDiscriminator([78], [4, 4])]
        ),
        "reconstruction_loss": MultiResolutionMelLoss(16000, [256], [10]),
        # Not Adam: it makes whole steps of gradients that are nothing but rounding.
        "optimizer": lambda weights: torch.optim.SGD(weights, lr=0.02, momentum=0.9),
        "discriminator_optimizer": lambda weights: torch.optim.SGD(weights, lr=0.02, momentum=0.9),
        "discriminator_start_step": 2,
        "discriminator_samples": 1600,
        "gradient_clip": 0.5,
        "semantic_decoder": SemanticDecoder(48, 16),
        "perceptual_loss": PerceptualLoss(NormalisedWaveform(), [1, 2], config=SPEECH_ENCODER),
        "perceptual_start_step": 4,
        "loss_weights": LossWeights(perceptual=1.0),
    }
    module = CodecModule(**{**settings, **changes})
    if module.perceptual_loss is not None:
        assert module.perceptual_loss.network is not None  # drawn now, not from the noise of a later step
    module.hparams.clear()  # the command line stores descriptions; whole modules do not go into a checkpoint
    return module


class Crops(Dataset):
    """Batch s of rank r: its items of step s."""

    def __init__(self, rank: int, num_ranks: int) -> None:
        self.num_items = BATCH_SIZE // num_ranks
        self.first = rank * self.num_items

    def __len__(self) -> int:
        return NUM_STEPS

    def __getitem__(self, step: int) -> AudioBatch:
        noise = torch.Generator().manual_seed(step)
        crops_BT = 0.1 * torch.randn(BATCH_SIZE, NUM_SAMPLES, generator=noise)
        chosen = crops_BT[self.first : self.first + self.num_items]
        lengths_B = torch.full((self.num_items,), NUM_SAMPLES)
        return AudioBatch(chosen, lengths_B, [""] * self.num_items, [{}] * self.num_items)


def trainer_of(strategy: object, num_ranks: int, **changes) -> L.Trainer:
    settings = {
        "accelerator": "cpu",
        "devices": num_ranks,
        "strategy": strategy,
        "max_steps": NUM_STEPS,
        "use_distributed_sampler": False,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return L.Trainer(**settings | changes)


def sharding(num_ranks: int) -> ModelParallelStrategy:
    return ModelParallelStrategy(num_ranks, 1, save_distributed_checkpoint=False)


def whole(module: CodecModule) -> dict[str, torch.Tensor]:
    """All trained weights, gathered."""
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()
        for name, weight in module.named_parameters()
    }


def train(strategy: object, num_ranks: int) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    module = build()
    trainer = trainer_of(strategy, num_ranks)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    trainer.fit(module, DataLoader(Crops(rank, num_ranks), batch_size=None))
    weights = whole(module)
    is_sharded = any(isinstance(weight, DTensor) for weight in module.parameters())
    assert is_sharded == isinstance(strategy, ModelParallelStrategy)
    return weights


def run_training(folder: Path, kind: str, command: list[str]) -> list[dict[str, torch.Tensor]]:
    """The weights of each rank. In processes of their own: what other tests leave behind changes the last digits."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        [sys.executable, *command, __file__, kind, str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob(f"{kind}_*.pt"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run_training(tmp_path_factory.mktemp("alone"), "auto", [])[0]


@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "fsdp2"])
def test_two_processes_train_as_one(strategy: str, alone: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Guards against gradients of one network that are not averaged over ranks, clipping by a rank's own norm, and
    ranks that look at different windows."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    first, second = run_training(tmp_path, strategy, command)
    start = whole(build())
    moved = {name.split(".")[0] for name in alone if not torch.equal(alone[name], start[name])}
    assert moved == {"generator", "discriminator", "semantic_decoder"}
    largest = max((weight - start[name]).abs().max().item() for name, weight in alone.items())
    assert largest > 1e-3  # a hundred times what may differ
    for name, weight in alone.items():
        torch.testing.assert_close(
            first[name], weight, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(first[name], second[name])


def test_an_average_of_sharded_weights_is_refused() -> None:
    """Guards against a crash in the middle of a run: the callback copies the module, which sharded weights forbid."""
    module = build()
    module._device_mesh = object()
    module._trainer = trainer_of("auto", 1, callbacks=[EMAWeightAveraging()])
    with pytest.raises(ValueError, match="no average of weights"):
        module.configure_model()


def test_an_average_of_weights_is_what_a_checkpoint_holds(tmp_path: Path) -> None:
    """Guards against an average that forgets a network, or holds the frozen speech encoder a second time."""
    module = build()
    average = EMAWeightAveraging(decay=0.5)
    trainer = trainer_of("auto", 1, callbacks=[average])
    seen = []
    average_step = type("Record", (L.Callback,), {
        "on_train_batch_end": lambda self, trainer, module, *_: seen.append(whole(module)),
    })  # fmt: skip
    trainer.callbacks.insert(0, average_step())
    trainer.fit(module, DataLoader(Crops(0, 1), batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", map_location="cpu", weights_only=False)
    name = "generator.bridge.weight"
    # `seen` holds what each update gave; the average begins with the first weights.
    expected = seen[0][name]
    for weights in seen[1:]:
        expected = 0.5 * expected + 0.5 * weights[name]
    torch.testing.assert_close(stored["state_dict"][name], expected, rtol=0, atol=1e-6)
    frozen = [key for key in stored["state_dict"] if "network" in key]
    assert frozen and len(frozen) == len({key.rpartition("network")[2] for key in frozen})


if __name__ == "__main__":
    kind, folder = sys.argv[1:]
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    weights = train(sharding(num_ranks) if kind == "fsdp2" else kind, num_ranks)
    torch.save(weights, Path(folder) / f"{kind}_{os.environ.get('LOCAL_RANK', '0')}.pt")
