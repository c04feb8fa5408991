"""X-codec2's training step as its authors' public code arranges it, on the weights of one of our modules.

All layers of the speech encoder run and one's output is used, its input comes ready from the loader; each discriminator
judges real and fake audio apart, for its own update and again for the generator's; its windows are built at every call;
weight norm is the old one; SnakeBeta resamples with grouped convolutions; Adam and clipping are as torch has them by
default. What it shares with ours: convolutions, transformers and the formulas of the losses.

Shapes: B batch, T samples, S frames, C channels, F features.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modules.codec.activations import NUM_TAPS, AliasFreeSnake, kaiser_sinc_filter
from modules.codec.encoder import Encoded
from modules.codec.losses import (
    LossWeights,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    semantic_loss,
)
from modules.codec.semantic import SemanticEncoder, random_network
from modules.codec.spectral import CentredMagnitude, Magnitude
from modules.codec_module import CodecModule


class ConvolvedSnake(nn.Module):
    """SnakeBeta between two resamplers that are grouped convolutions, as BigVGAN's PyTorch code has it."""

    def __init__(self, snake: AliasFreeSnake) -> None:
        super().__init__()
        self.alpha, self.beta = snake.alpha, snake.beta
        taps = kaiser_sinc_filter(0.25, 0.3, NUM_TAPS)
        self.register_buffer("taps", taps.expand(len(snake.alpha), 1, -1).contiguous(), persistent=False)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Every item fills the batch."""
        channels = len(self.alpha)
        padded = F.pad(x_BCT, (5, 5), mode="replicate")
        doubled = 2 * F.conv_transpose1d(padded, self.taps, stride=2, groups=channels)[..., 15:-15]
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        active = doubled + torch.sin(doubled * alpha).pow(2) / (beta + 1e-9)
        return F.conv1d(F.pad(active, (5, 6), mode="replicate"), self.taps, stride=2, groups=channels)


class WindowPerCall(nn.Module):
    def __init__(self, magnitude: Magnitude | CentredMagnitude) -> None:
        super().__init__()
        self.magnitude = magnitude

    def forward(self, audio_BT: Tensor) -> Tensor:
        self.magnitude.window = torch.hann_window(self.magnitude.fft_size, device="cpu").to(audio_BT.device)
        return self.magnitude(audio_BT)


class WholeSpeechEncoder(nn.Module):
    """All layers, of which one is used. The input is kept: the loader would have made it."""

    def __init__(self, semantic: SemanticEncoder) -> None:
        super().__init__()
        self.front_end, self.num_layers_used, self.features_BSF = semantic.front_end, semantic.num_layers, None
        config = semantic.network_config
        self.network = random_network(config, config["num_hidden_layers"]).eval().requires_grad_(False)
        self.network.load_state_dict(semantic.network.state_dict(), strict=False)

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor) -> Encoded:
        if self.features_BSF is None:
            self.features_BSF, self.num_frames_B = self.front_end(audio_BT, num_samples_B)
        with torch.no_grad():
            states = self.network(self.features_BSF, output_hidden_states=True).hidden_states
        used_BSC = states[self.num_layers_used]
        return Encoded(used_BSC, self.num_frames_B, used_BSC)


def as_the_authors(network: nn.Module) -> nn.Module:
    """Old weight norm, SnakeBeta by convolutions, windows built per call; in place."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
            with warnings.catch_warnings(action="ignore"):
                nn.utils.weight_norm(module)
        for name, child in list(module.named_children()):
            if isinstance(child, AliasFreeSnake):
                setattr(module, name, ConvolvedSnake(child))
            elif isinstance(child, Magnitude | CentredMagnitude):
                setattr(module, name, WindowPerCall(child))
            elif isinstance(child, SemanticEncoder):
                setattr(module, name, WholeSpeechEncoder(child))
    return network


class AuthorsStep:
    """The step of X-codec2's public training code, on the networks of `module`, which it takes and changes."""

    def __init__(self, module: CodecModule, learning_rate: float) -> None:
        device = next(module.parameters()).device
        self.generator = as_the_authors(module.generator).to(device)
        self.discriminator = as_the_authors(module.discriminator).to(device)
        self.semantic_decoder = module.semantic_decoder
        self.mel_loss = module.reconstruction_loss
        self.made_by = nn.ModuleList([self.generator, self.semantic_decoder])
        settings = {"lr": learning_rate, "betas": (0.8, 0.9)}
        self.optimizer = torch.optim.AdamW(self.made_by.parameters(), **settings)
        self.discriminator_optimizer = torch.optim.AdamW(self.discriminator.parameters(), **settings)

    def __call__(self, audio_BT: Tensor, num_samples_B: Tensor) -> dict[str, Tensor]:
        made = self.generator(audio_BT, num_samples_B)
        read_BSC = self.semantic_decoder(made.latent_BSC, made.num_codes_B)
        real, fake = self.discriminator(audio_BT), self.discriminator(made.audio_BT.detach())
        losses = {"discriminator": discriminator_loss(real.scores, fake.scores)}
        self._update(self.discriminator, self.discriminator_optimizer, losses["discriminator"])
        self.discriminator.requires_grad_(False)
        losses["mel"] = self.mel_loss(made.audio_BT, audio_BT)
        fake = self.discriminator(made.audio_BT)
        losses["adversarial"] = adversarial_loss(fake.scores)
        with torch.no_grad():
            real = self.discriminator(audio_BT)
        losses["feature_matching"] = feature_matching_loss(real.features, fake.features)
        losses["semantic"] = semantic_loss(read_BSC, made.semantic_BSC, made.num_codes_B)
        self.discriminator.requires_grad_(True)
        names = ("mel", "adversarial", "feature_matching", "semantic")
        losses["loss"] = sum(getattr(LossWeights(), name) * losses[name] for name in names)
        self._update(self.made_by, self.optimizer, losses["loss"])
        return losses

    @staticmethod
    def _update(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
