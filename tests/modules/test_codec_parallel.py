"""The codec on two processes against one, DDP and FSDP2, without a GPU. Run as a script, this file is one training
run."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset

from modules.batches import AudioBatch
from modules.codec.generator import CodecGenerator
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.semantic_encoder import NormalisedWaveform, SemanticEncoder
from modules.codec.parts.semantic_fusion import SemanticAcousticEncoder, SemanticAdapter, SemanticDecoder
from modules.codec.parts.transformer_decoder import TransformerDecoder
from modules.codec.training.discriminators import (
    DiscriminatorEnsemble,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
)
from modules.codec.training.losses import LossWeights, MultiResolutionMelLoss
from modules.codec.training.perceptual_loss import PerceptualLoss
from modules.codec_module import CodecModule
from tests.toys.codec_batches import batch_of, recordings, validated

NUM_STEPS, SAVED_STEP, BATCH_SIZE, NUM_SAMPLES = 6, 4, 4, 3200
ROOT = Path(__file__).resolve().parents[2]
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
        # Not Adam: it turns gradients that are only rounding errors into full steps.
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
        assert module.perceptual_loss.network is not None  # initialised now, not with the noise of a later step
    module.hparams.clear()  # the command line stores descriptions; module objects cannot be stored in a checkpoint
    return module


class Crops(Dataset):
    """Batch s of rank r: its items of step s, counted from `first_step`."""

    def __init__(self, rank: int, num_ranks: int, first_step: int = 0) -> None:
        self.num_items = BATCH_SIZE // num_ranks
        self.first, self.first_step = rank * self.num_items, first_step

    def __len__(self) -> int:
        return NUM_STEPS

    def __getitem__(self, step: int) -> AudioBatch:
        noise = torch.Generator().manual_seed(self.first_step + step)
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


class SaveOnce(L.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == SAVED_STEP:
            trainer.save_checkpoint(self.path)


def train(strategy: object, num_ranks: int, folder: Path) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    module = build()
    is_sharded = isinstance(strategy, ModelParallelStrategy)
    callbacks = [SaveOnce(folder / "saved.ckpt")] if is_sharded else None
    trainer = trainer_of(strategy, num_ranks, callbacks=callbacks, log_every_n_steps=NUM_STEPS)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    trainer.fit(module, DataLoader(Crops(rank, num_ranks), batch_size=None))
    logged = {"all": float(trainer.callback_metrics["train/mel"]), "own": trainer.progress_bar_metrics["train/mel"]}
    torch.save(logged, folder / f"logged_{rank}.pt")
    weights = whole(module)
    assert any(isinstance(weight, DTensor) for weight in module.parameters()) == is_sharded
    if is_sharded:
        audio_BT, num_samples_B = (
            0.1 * torch.randn(3, 1600, generator=torch.Generator().manual_seed(0)),
            torch.tensor([1600, 900, 1300]),
        )
        more = {"resumed": resumed(folder / "saved.ckpt", rank, num_ranks), "trained": weights}
        for name, codec in (("sharded", module.eval()), ("plain", build().eval())):
            if name == "plain":
                for key, weight in codec.named_parameters():
                    weight.data.copy_(weights[key])
            with torch.no_grad():
                more[name] = codec.resynthesise(audio_BT, num_samples_B)
        torch.save(more, folder / f"more_{rank}.pt")
    return weights


def resumed(path: Path, rank: int, num_ranks: int) -> dict[str, torch.Tensor]:
    """Weights of a run resumed from `path`, in a codec whose speech encoder is given only by name."""
    module = build()
    front_end = module.generator.encoder.semantic.front_end
    module.generator.encoder.semantic = SemanticEncoder(front_end, 2, 16, model="someone/not-to-be-asked")
    trainer = trainer_of(sharding(num_ranks), num_ranks)
    trainer.fit(module, DataLoader(Crops(rank, num_ranks, SAVED_STEP), batch_size=None), ckpt_path=path)
    return whole(module)


def run_training(folder: Path, kind: str, command: list[str], file: str = __file__) -> list[dict]:
    """Weights of each rank. In separate processes: the state left by other tests changes the last digits."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, *command, file, kind, str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob(f"{kind}_*.pt"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run_training(tmp_path_factory.mktemp("alone"), "auto", [])[0]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[dict[str, torch.Tensor]]]]:
    """Results of two processes under a strategy: the folder, and the weights of each."""

    @functools.cache
    def run(strategy: str) -> tuple[Path, list[dict[str, torch.Tensor]]]:
        folder = tmp_path_factory.mktemp(strategy)
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        return folder, run_training(folder, strategy, command)

    return run


@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "fsdp2"])
def test_two_processes_train_as_one(strategy: str, alone: dict[str, torch.Tensor], together: Callable) -> None:
    """Guards against gradients of one network that are not averaged over ranks, clipping by a rank's own norm, and
    ranks that use different windows."""
    _, (first, second) = together(strategy)
    start = whole(build())
    moved = {name.split(".")[0] for name in alone if not torch.equal(alone[name], start[name])}
    assert moved == {"generator", "discriminator", "semantic_decoder"}
    largest = max((weight - start[name]).abs().max().item() for name, weight in alone.items())
    assert largest > 1e-3  # a hundred times the tolerance
    for name, weight in alone.items():
        torch.testing.assert_close(
            first[name], weight, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(first[name], second[name])


def test_val_mel_does_not_depend_on_the_number_of_ranks(together: Callable) -> None:
    """Guards against weighting ranks equally, independent of their data: one has 11 recordings, the other 5."""
    folder, _ = together("ddp_find_unused_parameters_true")
    expected = validated(trainer_of("auto", 1), build(), [batch_of([row_T]) for row_T in recordings()])
    for rank in range(2):
        got = torch.load(folder / f"validated_{rank}.pt", weights_only=True)
        assert got == pytest.approx(expected, rel=1e-5)


def test_a_logged_loss_is_the_mean_over_ranks(together: Callable) -> None:
    """Guards against logging only the first rank's loss: each had other crops."""
    folder, _ = together("ddp_find_unused_parameters_true")
    logged = [torch.load(folder / f"logged_{rank}.pt", weights_only=True) for rank in range(2)]
    assert logged[0]["own"] != logged[1]["own"]
    for one in logged:
        assert one["all"] == pytest.approx((logged[0]["own"] + logged[1]["own"]) / 2, rel=1e-6)


def test_a_sharded_run_resumes_from_its_checkpoint_alone(together: Callable) -> None:
    """Guards against a speech encoder that a resumed run downloads again, because Lightning fills sharded modules by
    the names of parameters and buffers; and against lost moments of one of the two optimizers."""
    folder, _ = together("fsdp2")
    for rank in range(2):
        made = torch.load(folder / f"more_{rank}.pt", weights_only=True)
        assert made["resumed"].keys() == made["trained"].keys()
        for name, weight in made["trained"].items():
            torch.testing.assert_close(
                made["resumed"][name], weight, rtol=0, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_sharded_codec_encodes_and_decodes_as_a_whole_one(together: Callable) -> None:
    """Guards against weights that are not gathered: FSDP2 does so for `forward` only, unless configured."""
    folder, _ = together("fsdp2")
    for rank in range(2):
        made = torch.load(folder / f"more_{rank}.pt", weights_only=True)
        assert made["plain"].abs().max() > 1e-3
        torch.testing.assert_close(made["sharded"], made["plain"], rtol=0, atol=1e-6)


def test_an_average_of_sharded_weights_is_refused() -> None:
    """Guards against a crash in the middle of a run: the callback copies the module, which sharded weights do not
    support."""
    module = build()
    module._device_mesh = object()
    module._trainer = trainer_of("auto", 1, callbacks=[EMAWeightAveraging()])
    with pytest.raises(ValueError, match="no average of weights"):
        module.configure_model()


def test_a_checkpoint_contains_the_average_of_weights(tmp_path: Path) -> None:
    """Guards against an average without one of the networks, or with a second copy of the frozen speech encoder."""
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
    # `seen` has the result of each update; the average begins with the initial weights.
    expected = seen[0][name]
    for weights in seen[1:]:
        expected = 0.5 * expected + 0.5 * weights[name]
    torch.testing.assert_close(stored["state_dict"][name], expected, rtol=0, atol=1e-6)
    frozen = [key for key in stored["state_dict"] if "network" in key]
    assert frozen and len(frozen) == len({key.rpartition("network")[2] for key in frozen})


if __name__ == "__main__":
    kind, folder = sys.argv[1:]
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    weights = train(sharding(num_ranks) if kind == "fsdp2" else kind, num_ranks, Path(folder))
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.save(weights, Path(folder) / f"{kind}_{rank}.pt")
    if kind.startswith("ddp"):
        shares = recordings()[:11], recordings()[11:]
        score = validated(trainer_of(kind, num_ranks), build(), [batch_of(shares[rank])])
        torch.save(score, Path(folder) / f"validated_{rank}.pt")
