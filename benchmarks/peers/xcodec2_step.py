"""X-codec2's training step as in its authors' public code, on the weights of one of our modules.

All layers of the speech encoder run and one's output is used; its input is computed by the loader; each discriminator
judges real and fake audio separately, for its own update and again for the generator's; its windows are created at
every call; weight norm is torch's old implementation; SnakeBeta resamples with grouped convolutions; Adam and clipping
have torch's defaults. The losses and their weights are its own, written from the paper and the released configuration;
it shares with ours the networks' convolutions and transformers.

Shapes: B batch, T samples, S frames, C channels, F features, M mel bands.
"""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.audio_utils import mel_filter_bank

from modules.codec.parts.alias_free_snake import AliasFreeSnake
from modules.codec.parts.semantic_encoder import SemanticEncoder, random_network
from modules.codec.parts.snake import NUM_TAPS, kaiser_sinc_filter
from modules.codec.parts.spectral import CentredMagnitude, Magnitude
from modules.codec.parts.spectral_encoder import Encoded
from modules.codec_module import CodecModule

MEL_WINDOWS, MEL_BANDS = (32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320)
LOSS_WEIGHTS = {"mel": 15.0, "adversarial": 1.0, "feature_matching": 1.0, "semantic": 5.0}


class ConvolvedSnake(nn.Module):
    """SnakeBeta between two resamplers implemented as grouped convolutions, as in BigVGAN's PyTorch code."""

    def __init__(self, snake: AliasFreeSnake) -> None:
        super().__init__()
        self.alpha, self.beta = snake.alpha, snake.beta
        taps = kaiser_sinc_filter(0.25, 0.3, NUM_TAPS)
        self.register_buffer("taps", taps.expand(len(snake.alpha), 1, -1).contiguous(), persistent=False)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Forward pass; every item fills the batch."""
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
    """Runs all layers and uses one. The input is cached, as if made by the loader."""

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
    """Use old weight norm, SnakeBeta by convolutions, and windows created per call; in place."""
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


class SummedMelLoss(nn.Module):
    """Sum over seven resolutions of the mean L1 distance of log10 mel spectrograms, each with floor 1e-5.

    The authors' frames are centred on multiples of the hop. Here they are half a hop later, with zeros at the ends,
    like ours: otherwise the two sides' losses could not be compared.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.windows, self.filters = MEL_WINDOWS, nn.ParameterList()
        for window, num_bands in zip(MEL_WINDOWS, MEL_BANDS, strict=True):
            with warnings.catch_warnings(action="ignore"):  # the smallest resolutions have bands without a bin
                filters_FM = mel_filter_bank(
                    window // 2 + 1, num_bands, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
                )
            self.filters.append(nn.Parameter(torch.from_numpy(filters_FM).float(), requires_grad=False))

    def forward(self, generated_BT: Tensor, target_BT: Tensor) -> Tensor:
        total = generated_BT.new_zeros(())
        with torch.autocast(generated_BT.device.type, enabled=False):
            for window, filters_FM in zip(self.windows, self.filters, strict=True):
                made, real = (self._log_mel(x.float(), window, filters_FM) for x in (generated_BT, target_BT))
                total = total + F.l1_loss(made, real)
        return total

    @staticmethod
    def _log_mel(audio_BT: Tensor, window: int, filters_FM: Tensor) -> Tensor:
        hop = window // 4
        edge = (window - hop) // 2
        padded = F.pad(audio_BT, (edge, edge + -audio_BT.shape[-1] % hop))
        hann = torch.hann_window(window, device=audio_BT.device)
        spectrum = torch.stft(padded, window, hop, window=hann, center=False, return_complex=True)
        return (filters_FM.T @ spectrum.abs()).clamp(min=1e-5).log10()


def score_loss(scores: Sequence[Tensor], wanted: float) -> Tensor:
    """Mean squared distance of every score map to a number, summed over sub-discriminators."""
    return sum(F.mse_loss(score, torch.full_like(score, wanted)) for score in scores)


def feature_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """L1 distance of every hidden map, summed over layers and sub-discriminators."""
    return sum(
        F.l1_loss(fake_map, real_map.detach())
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for real_map, fake_map in zip(real_maps, fake_maps, strict=True)
    )


class AuthorsStep:
    """The step of X-codec2's public training code, on the networks of `module`, which it modifies."""

    def __init__(self, module: CodecModule, learning_rate: float) -> None:
        device = next(module.parameters()).device
        self.generator = as_the_authors(module.generator).to(device)
        self.discriminator = as_the_authors(module.discriminator).to(device)
        self.semantic_decoder = module.semantic_decoder
        self.mel_loss = SummedMelLoss(module.generator.facts.sample_rate).to(device)
        self.made_by = nn.ModuleList([self.generator, self.semantic_decoder])
        settings = {"lr": learning_rate, "betas": (0.8, 0.9)}
        self.optimizer = torch.optim.AdamW(self.made_by.parameters(), **settings)
        self.discriminator_optimizer = torch.optim.AdamW(self.discriminator.parameters(), **settings)

    def __call__(self, audio_BT: Tensor, num_samples_B: Tensor) -> dict[str, Tensor]:
        made = self.generator(audio_BT, num_samples_B)
        read_BSC = self.semantic_decoder(made.latent_BSC, made.num_codes_B)
        real, fake = self.discriminator(audio_BT), self.discriminator(made.audio_BT.detach())
        losses = {"discriminator": score_loss(real.scores, 1.0) + score_loss(fake.scores, 0.0)}
        self._update(self.discriminator, self.discriminator_optimizer, losses["discriminator"])
        self.discriminator.requires_grad_(False)
        losses["mel"] = self.mel_loss(made.audio_BT, audio_BT)
        fake = self.discriminator(made.audio_BT)
        losses["adversarial"] = score_loss(fake.scores, 1.0)
        with torch.no_grad():
            real = self.discriminator(audio_BT)
        losses["feature_matching"] = feature_loss(real.features, fake.features)
        losses["semantic"] = F.mse_loss(read_BSC, made.semantic_BSC)
        self.discriminator.requires_grad_(True)
        losses["loss"] = sum(weight * losses[name] for name, weight in LOSS_WEIGHTS.items())
        self._update(self.made_by, self.optimizer, losses["loss"])
        return losses

    @staticmethod
    def _update(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
