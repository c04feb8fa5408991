"""ConvNeXt blocks over frames, the trunk of the demo's encoder and decoder (as in Vocos, arXiv 2306.00814).

Shapes: B batch, S frames, C channels.
"""

import torch
from torch import Tensor, nn


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, LayerNorm, two pointwise layers, scaled residual."""

    def __init__(self, channels: int, hidden_channels: int, kernel_size: int, layer_scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, hidden_channels)
        self.activation = nn.GELU(approximate="tanh")
        self.project = nn.Linear(hidden_channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x_BSC: Tensor, mask_BS1: Tensor) -> Tensor:
        mixed = self.depthwise((x_BSC * mask_BS1).transpose(1, 2)).transpose(1, 2)
        return x_BSC + self.scale * self.project(self.activation(self.expand(self.norm(mixed))))


class ConvNeXtStack(nn.Module):
    """Input convolution and `num_layers` ConvNeXt blocks, (B, S, in_channels) to (B, S, channels).

    Frames outside `mask_BS` are zeroed before every convolution, equal to the zero padding of a single item.
    """

    def __init__(
        self, in_channels: int, channels: int, num_layers: int, hidden_channels: int, kernel_size: int = 7
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"Expected `kernel_size` to be odd, but got {kernel_size}.")
        self.embed = nn.Conv1d(in_channels, channels, kernel_size, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(channels, hidden_channels, kernel_size, layer_scale=1 / num_layers) for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(channels, eps=1e-6)
        self.receptive_frames = (num_layers + 1) * (kernel_size // 2)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_BSC: Tensor, mask_BS: Tensor) -> Tensor:
        mask_BS1 = mask_BS[..., None].to(x_BSC.dtype)
        x_BSC = self.norm(self.embed((x_BSC * mask_BS1).transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            x_BSC = block(x_BSC, mask_BS1)
        return self.final_norm(x_BSC)
