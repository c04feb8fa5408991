"""One training step of X-codec2: ours against its authors' implementation, in one process, alternating.

    python -m benchmarks.codec_training_step [--narrower 4] [--batch_size 2] [--seconds 1] [--rounds 5]

Ours is CodecModule.training_step under a Trainer, including overhead. The other side reproduces X-codec2's public code
(described in peers/xcodec2_step.py). Same weights, same input.

Losses and gradients are compared before timing. Prints medians and their ratio, the share of each part of the step's
FLOPs at this width and at full width (--narrower 1), versions and machine. Dropout and the perceptual loss are off, and
the learning rate is so small that the two sides do not diverge.

Shapes: B batch, T samples, S frames, C channels, F features.
"""

import statistics
import time
import warnings
from dataclasses import dataclass
from datetime import date
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.xcodec2_step import AuthorsStep, as_the_authors
from benchmarks.scaffold import machine, options, report
from modules.batches import AudioBatch
from modules.codec.generator import CodecGenerator
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.filter_bank import KaldiFilterBank
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.semantic_encoder import SemanticEncoder, random_network
from modules.codec.parts.semantic_fusion import SemanticAcousticEncoder, SemanticAdapter, SemanticDecoder
from modules.codec.parts.transformer_decoder import TransformerDecoder
from modules.codec.training.discriminators import (
    DiscriminatorEnsemble,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
)
from modules.codec.training.losses import MultiResolutionMelLoss
from modules.codec_module import CodecModule

NUM_LAYERS, NUM_LAYERS_USED = 24, 16
SAMPLE_RATE, HOP = 16_000, 320
LEARNING_RATE = 1e-7
# FLOPs of a step in forward passes; a backward pass counts two, one if only for the input.
PASSES = {
    "speech encoder": 1,
    "acoustic encoder": 3,
    "adapter": 3,
    "decoder": 3,
    "semantic decoder": 3,
    # Two forward and backward passes; then fake, back to its audio, and real.
    "discriminators": 2 * 3 + 2 + 1,
}


@dataclass
class Parts:
    """Networks of X-codec2 with widths divided by `narrower`; depths, kernels, strides and head size are unchanged."""

    narrower: int

    @property
    def channels(self) -> int:
        return 1024 // self.narrower

    def speech_encoder_config(self) -> dict[str, Any]:
        """Configuration of facebook/w2v-bert-2.0."""
        return {
            "model_type": "wav2vec2-bert",
            "hidden_size": self.channels,
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": 16 // self.narrower,
            "intermediate_size": 4096 // self.narrower,
        }

    def acoustic(self) -> AcousticEncoder:
        return AcousticEncoder(base_channels=48 // self.narrower, channels=self.channels)

    def decoder(self) -> TransformerDecoder:
        return TransformerDecoder(
            channels=self.channels,
            num_heads=16 // self.narrower,
            hidden_channels=4096 // self.narrower,
            num_groups=32 // self.narrower,
            dropout=0.0,
        )

    def discriminator(self) -> DiscriminatorEnsemble:
        periods = [max(1, width // self.narrower) for width in (16, 64, 256, 512, 512)]
        spectra = [max(1, width // self.narrower) for width in (32, 64, 128, 256, 512)]
        return DiscriminatorEnsemble(
            [
                MultiPeriodDiscriminator(channels=periods, output_kernel_size=2),
                MultiResolutionDiscriminator(channels=spectra, centred=True),
            ]
        )

    def semantic_decoder(self) -> SemanticDecoder:
        return SemanticDecoder(2 * self.channels, self.channels)

    def module(self, compile_backend: str | None) -> CodecModule:
        """Build a module; its weights are the same at every call."""
        torch.manual_seed(0)
        semantic = SemanticEncoder(
            KaldiFilterBank(), NUM_LAYERS_USED, self.channels, config=self.speech_encoder_config()
        )
        encoder = SemanticAcousticEncoder(
            self.acoustic(), semantic, SemanticAdapter(self.channels), appends_frame=False
        )
        generator = CodecGenerator(encoder, Xcodec2Quantizer(2 * self.channels), self.decoder())

        def adam(weights: Any) -> torch.optim.Optimizer:
            return torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.8, 0.9), fused=True)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute .* is an instance of `nn.Module`")
            return CodecModule(
                generator, self.discriminator(), MultiResolutionMelLoss(SAMPLE_RATE, reduction="sum"), adam, adam,
                semantic_decoder=self.semantic_decoder(), compile_backend=compile_backend,
            )  # fmt: skip

    def flop_shares(self) -> dict[str, float]:
        """Shares of a step of the authors' implementation: convolutions and matrix products, for one second of
        audio."""
        with torch.device("meta"):
            num_frames_1 = torch.full((1,), SAMPLE_RATE // HOP)
            audio_BT, states_BSC = torch.zeros(1, SAMPLE_RATE), torch.zeros(1, SAMPLE_RATE // HOP, self.channels)
            acoustic, discriminator = as_the_authors(self.acoustic()), self.discriminator()
            joint_BSC = torch.cat([states_BSC, states_BSC], -1)
            speech_encoder = random_network(self.speech_encoder_config(), NUM_LAYERS).eval()
            calls = {
                "speech encoder": lambda: speech_encoder(torch.zeros(1, SAMPLE_RATE // HOP, 160)),
                "acoustic encoder": lambda: acoustic(audio_BT, num_frames_1 * HOP),
                "adapter": lambda: SemanticAdapter(self.channels)(states_BSC, num_frames_1),
                "decoder": lambda: self.decoder()(states_BSC, num_frames_1),
                "semantic decoder": lambda: self.semantic_decoder()(joint_BSC, num_frames_1),
                "discriminators": lambda: discriminator(audio_BT),
            }
            flops = {name: PASSES[name] * _flops(call) for name, call in calls.items()}
        return {name: round(value / sum(flops.values()), 3) for name, value in flops.items()}


def _flops(call: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


class Turns(L.Callback):
    """Times each of our steps followed by one of the authors'. The first of each is not timed but, with a `tolerance`,
    compared."""

    def __init__(self, authors: AuthorsStep, tolerance: float | None) -> None:
        self.authors, self.tolerance = authors, tolerance
        self.seconds: dict[str, list[float]] = {"authors": [], "ours": []}

    def on_train_batch_start(self, *_: Any) -> None:
        self.start = now()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: CodecModule, outputs: Any, batch: AudioBatch, batch_index: int
    ) -> None:
        between = now()
        with trainer.precision_plugin.forward_context():
            losses = self.authors(batch.audio_BT, batch.num_samples_B)
        if batch_index:
            self.seconds["ours"].append(between - self.start)
            self.seconds["authors"].append(now() - between)
            return
        trainer.log_every_n_steps = 10**9  # only the first step's losses were needed
        if self.tolerance is not None:
            self._compare(losses, trainer.callback_metrics, module)

    def _compare(self, losses: dict[str, Tensor], logged: dict[str, Tensor], module: CodecModule) -> None:
        for name, expected in losses.items():
            difference = float(logged[f"train/{name}"] / expected.detach() - 1)
            assert abs(difference) < self.tolerance, f"the loss {name} differs by {difference:g} of itself"
            print(f"loss {name}: equal to {abs(difference):.1g} of itself")
        for name in ("generator", "semantic_decoder", "discriminator"):
            difference = gradient_difference(getattr(module, name), getattr(self.authors, name))
            assert difference < 10 * self.tolerance, f"gradients of {name} differ by {difference:g} of their norm"
            print(f"gradients of {name}: equal to {difference:.1g} of their norm")


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def gradient_difference(ours: nn.Module, authors: nn.Module) -> float:
    """Norm of the difference divided by the norm."""
    theirs = {name: weight.grad for name, weight in authors.named_parameters()}
    old_names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    squares = differences = 0.0
    for name, weight in ours.named_parameters():
        for new, old in old_names.items():
            name = name.replace(new, old)
        squares += float(theirs[name].double().square().sum())
        differences += float((weight.grad - theirs[name]).double().square().sum())
    return (differences / squares) ** 0.5


def noise(batch_size: int, seconds: float) -> AudioBatch:
    num_samples = round(seconds * SAMPLE_RATE / HOP) * HOP
    audio_BT = 0.1 * torch.randn(batch_size, num_samples, generator=torch.Generator().manual_seed(0))
    return AudioBatch(audio_BT, torch.full((batch_size,), num_samples), [""] * batch_size, [{}] * batch_size)


def fit(module: CodecModule, batch: AudioBatch, num_steps: int, **trainer: Any) -> None:
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "devices": 1}
    settings |= {"enable_model_summary": False, "max_steps": num_steps, "log_every_n_steps": 1}
    L.Trainer(**settings | trainer).fit(module, DataLoader([batch] * num_steps, batch_size=None))


def measure(
    parts: Parts, batch: AudioBatch, rounds: int, compile_backend: str | None, tolerance: float | None, **trainer: Any
) -> dict[str, Any]:
    """Seconds of a step on either side, and their ratio. `trainer`: accelerator and precision."""
    with batch.audio_BT.device:  # random weights are drawn faster by a GPU
        module, authors = parts.module(compile_backend), AuthorsStep(parts.module(None), LEARNING_RATE)
    turns = Turns(authors, tolerance)
    fit(module, batch, rounds + 1, callbacks=[turns], **trainer)
    medians = {name: statistics.median(values) for name, values in turns.seconds.items()}
    seconds_of_audio = batch.audio_BT.shape[-1] / SAMPLE_RATE
    return {
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "speedup": round(medians["authors"] / medians["ours"], 3),
        "audio_seconds_per_second": round(len(batch.audio_BT) * seconds_of_audio / medians["ours"], 2),
        "narrower": parts.narrower,
        "flop_shares": parts.flop_shares(),
        "flop_shares_at_full_width": Parts(1).flop_shares(),
        "batch_size": len(batch.audio_BT),
        "seconds_of_audio": seconds_of_audio,
        "rounds": rounds,
        "compile": compile_backend,
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--narrower", type=int, default=4, choices=(1, 2, 4, 8, 16))
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--compile", metavar="BACKEND")
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    parts, batch = Parts(given.narrower), noise(given.batch_size, given.seconds)
    result = measure(parts, batch, given.rounds, given.compile, 1e-5, accelerator="cpu")
    report(result | {"num_threads": given.num_threads} | machine(), given.json)


if __name__ == "__main__":
    main()
