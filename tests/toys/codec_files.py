"""Codec files in foreign formats: the authors' naming, and checkpoints of the command line."""

import torch
import torch.nn.functional as F
from torch import nn

from modules.codec.parts.snake import kaiser_sinc_filter

LINEAR = {
    "fc_prior": "fc_encoder",
    "fc_post_a": "acoustic_decoder.fc",
    "generator.quantizer.project_in": "quantizer.project_in",
    "generator.quantizer.project_out": "quantizer.project_out",
    "generator.backbone.embed": "acoustic_decoder.embed",
    "generator.backbone.final_layer_norm": "acoustic_decoder.norm",
    "generator.head.out": "acoustic_decoder.head.linear",
}


def released_tensors(model, spelling: str) -> dict[str, torch.Tensor]:
    """transformers' tensors in the authors' naming: the inverse of the official conversion, written independently of
    ours."""
    heads, given, state = model.config.num_attention_heads, {}, model.state_dict()
    g, v, beta = ("weight_g", "weight_v", "beta")
    if spelling == "package":
        g, v, beta = ("parametrizations.weight.original0", "parametrizations.weight.original1", "bias")

    def put(key, name, normed=False):
        for leaf in ("weight", "bias"):
            if f"{name}.{leaf}" in state and not (normed and leaf == "weight"):
                given[f"{key}.{leaf}"] = state[f"{name}.{leaf}"]
        if normed:
            given[f"{key}.{v}"] = 3 * state[f"{name}.weight"]
            given[f"{key}.{g}"] = state[f"{name}.weight"].flatten(1).norm(dim=1)[:, None, None]

    def put_snake(key, name):
        given[f"{key}.act.alpha"], given[f"{key}.act.{beta}"] = state[f"{name}.act.alpha"], state[f"{name}.act.beta"]
        given[f"{key}.upsample.filter"] = given[f"{key}.downsample.lowpass.filter"] = kaiser_sinc_filter(
            0.25, 0.3, 12
        ).view(1, 1, 12)

    for number, key in enumerate(("initial_conv", "residual_blocks.1", "residual_blocks.3", "final_conv")):
        put(f"SemanticEncoder_module.{key}", f"semantic_adapter.conv{number + 1}")
    put("CodecEnc.conv_blocks.0", "acoustic_encoder.conv1", normed=True)
    for block in range(len(model.acoustic_encoder.block)):
        key, name = f"CodecEnc.conv_blocks.{block + 1}.block", f"acoustic_encoder.block.{block}"
        for unit in range(3):
            put_snake(f"{key}.{unit}.block.0", f"{name}.res_unit{unit + 1}.snake1")
            put(f"{key}.{unit}.block.1", f"{name}.res_unit{unit + 1}.conv1", normed=True)
            put_snake(f"{key}.{unit}.block.2", f"{name}.res_unit{unit + 1}.snake2")
            put(f"{key}.{unit}.block.3", f"{name}.res_unit{unit + 1}.conv2", normed=True)
        put_snake(f"{key}.3", f"{name}.snake1")
        put(f"{key}.4", f"{name}.conv1", normed=True)
    put_snake("CodecEnc.conv_final_block.0", "acoustic_encoder.snake1")
    put("CodecEnc.conv_final_block.1", "acoustic_encoder.conv2", normed=True)
    for key, name in LINEAR.items():
        put(key, name)
    given["generator.head.istft.window"] = torch.hann_window(model.config.n_fft)
    for net in ("prior_net", "post_net"):
        for number in range(2):
            for part in ("norm1", "conv1", "norm2", "conv2"):
                put(f"generator.backbone.{net}.{number}.{part}", f"acoustic_decoder.{net}.{number}.{part}")
    for layer in range(model.config.num_hidden_layers):
        key, name = f"generator.backbone.transformers.{layer}", f"acoustic_decoder.layers.{layer}"
        put(f"{key}.att_norm", f"{name}.input_layernorm")
        put(f"{key}.ffn_norm", f"{name}.post_attention_layernorm")
        put(f"{key}.att.c_proj", f"{name}.self_attn.o_proj")
        put(f"{key}.mlp.fc1", f"{name}.mlp.fc1")
        put(f"{key}.mlp.fc2", f"{name}.mlp.fc2")
        parts = [state[f"{name}.self_attn.{part}_proj.weight"] for part in "qkv"]
        width = parts[0].shape[1]
        parts[:2] = [part.view(heads, 2, -1, width).transpose(1, 2).reshape(-1, width) for part in parts[:2]]
        given[f"{key}.att.c_attn.weight"] = torch.cat(parts)
    for name, tensor in state.items():
        if name.startswith("semantic_encoder."):
            given[name.replace("semantic_encoder", "semantic_model", 1)] = tensor
    return {name: tensor.clone() for name, tensor in given.items()}


def lightning_checkpoint(codec, path):
    """A checkpoint as saved by CodecModule: the command line's tree of class paths, and the weights."""

    def described(name, **arguments):
        return {"class_path": f"modules.codec.{name}", "init_args": arguments}

    semantic = described(
        "semantic.SemanticEncoder",
        front_end=described("filter_bank.KaldiFilterBank"),
        num_layers=2,
        channels=32,
        model="someone/not-to-be-asked",
    )
    description = described(
        "generator.CodecGenerator",
        encoder=described(
            "fusion.SemanticAcousticEncoder",
            acoustic=described("acoustic.AcousticEncoder", base_channels=4, channels=64),
            semantic=semantic,
            adapter=described("fusion.SemanticAdapter", channels=32),
        ),
        quantizer=described("quantizer.Xcodec2Quantizer", channels=96),
        decoder=described("transformer.TransformerDecoder", channels=64, num_layers=2, num_heads=2, hidden_channels=96),
    )
    state = {f"generator.{name}": tensor for name, tensor in codec.state_dict().items()}
    state["discriminator.x"] = torch.zeros(1)
    torch.save({"hyper_parameters": {"generator": description}, "state_dict": state}, path)


class ReleasedDiscriminators(nn.Module):
    """The two discriminators of X-codec2's training under the names of its checkpoint, without weight norm, written
    independently of ours; forward(audio_BT) -> score maps."""

    def __init__(self, periods: list[int], period_channels: list[int], fft_sizes: list[int], channels: list[int]):
        super().__init__()
        self.periods, self.fft_sizes = periods, fft_sizes
        self.discriminator, self.spec_discriminator = nn.Module(), nn.Module()
        self.discriminator.discriminators = nn.ModuleList(self._period(period_channels) for _ in periods)
        discs = {f"disc_{number}": self._spectral(channels) for number in range(len(fft_sizes))}
        self.spec_discriminator.model = nn.ModuleDict(discs)

    @staticmethod
    def _period(channels: list[int]) -> nn.Module:
        one, widths = nn.Module(), [1, *channels]
        strides = [3] * (len(channels) - 1) + [1]
        one.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, (5, 1), (stride, 1), (2, 0)), nn.LeakyReLU(0.1))
            for before, after, stride in zip(widths, channels, strides, strict=False)
        )
        one.output_conv = nn.Conv2d(channels[-1], 1, (2, 1), 1, (1, 0))
        return one

    @staticmethod
    def _spectral(channels: list[int]) -> nn.Module:
        one, widths = nn.Module(), [1, *channels]
        layers = {}
        for number, (before, after) in enumerate(zip(widths, channels, strict=False)):
            strided = number < len(channels) - 1
            convolution = nn.Conv2d(before, after, 5, 2, 2) if strided else nn.Conv2d(before, after, 3, 1, 1)
            layers[f"layer_{number}"] = nn.Sequential(convolution, nn.LeakyReLU(0.2))
        layers[f"layer_{len(channels)}"] = nn.Conv2d(channels[-1], 1, 3, 1, 1)
        one.model = nn.ModuleDict(layers)
        return one

    def forward(self, audio_BT: torch.Tensor) -> list[torch.Tensor]:
        scores = []
        for period, one in zip(self.periods, self.discriminator.discriminators, strict=True):
            x = F.pad(audio_BT[:, None], (0, -audio_BT.shape[1] % period), mode="reflect")
            x = x.view(len(x), 1, -1, period)
            for layer in one.convs:
                x = layer(x)
            scores.append(one.output_conv(x))
        for size, one in zip(self.fft_sizes, self.spec_discriminator.model.values(), strict=True):
            spectrum = torch.stft(audio_BT, size, size // 2, window=torch.hann_window(size), return_complex=True)
            x = (spectrum.real.square() + spectrum.imag.square()).clamp(1e-7, 1e3).sqrt()[:, None]
            for layer in one.model.values():
                x = layer(x)
            scores.append(x)
        return scores

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state as in the checkpoint: norm and direction apart."""
        given = {}
        for name, tensor in self.state_dict().items():
            if name.endswith(".weight"):
                given[f"{name}_v"] = 3 * tensor
                given[f"{name}_g"] = tensor.flatten(1).norm(dim=1)[:, None, None, None]
            else:
                given[name] = tensor
        return given


def released_semantic_decoder(in_channels: int, channels: int) -> dict[str, torch.Tensor]:
    """fc_post_s and SemanticDecoder_module of a released checkpoint, random."""
    shapes = {"initial_conv.weight": 3, "final_conv.weight": 3}
    shapes |= {
        f"residual_blocks.{number}.{leaf}": size for number in (1, 3) for leaf, size in (("weight", 3), ("bias", 0))
    }
    given = {
        f"SemanticDecoder_module.{name}": 0.1 * torch.randn((channels, channels, size) if size else (channels,))
        for name, size in shapes.items()
    }
    return given | {"fc_post_s.weight": torch.randn(channels, in_channels), "fc_post_s.bias": torch.randn(channels)}
