"""SemanticEncoder: the lower layers of a frozen Hugging Face speech encoder.

Shapes: B batch, T samples, S frames, C channels.
"""

import copy
import json
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.parts.acoustic_encoder import unequal_lengths
from modules.codec.parts.relative_attention import with_quick_positions
from modules.codec.parts.spectral import frame_mask
from modules.codec.parts.spectral_encoder import Encoded
from modules.codec.settings import unusual

ATTENTION_NAME = "sdpa_with_mask_unread"  # name registered in transformers


class SemanticEncoder(nn.Module):
    """Hidden states of layer `num_layers` of a speech encoder, one per frame; higher layers are neither built nor run.

    The network is frozen: no gradient, always in evaluation mode, and not among the parameters, so that no optimizer,
    weight average or sharding touches it. A checkpoint contains its weights once, even if it also contains an average
    of the codec, because copies of this module share them. The checkpoint also contains its configuration, so that
    loading needs no model hub; `model` is read on first use, and not at all if a checkpoint was loaded before.

    Args:
        front_end: forward(audio_BT, num_samples_B) -> (input, num_frames_B), the network's input.
        num_layers: Number of layers to run, as transformers counts `hidden_states`: 16 of w2v-BERT 2.0's 24 in
            X-codec2.
        channels: Width of its layers.
        model: Hub id or folder of the weights.
        config: The network's configuration as transformers writes it, with model_type: random weights, for tests and
            for weights that are loaded later. Replaces `model`.
        hop_length: Samples per frame.
    """

    samples_per_call = math.inf

    def __init__(
        self,
        front_end: nn.Module,
        num_layers: int = 16,
        channels: int = 1024,
        model: str = "facebook/w2v-bert-2.0",
        config: dict[str, Any] | None = None,
        hop_length: int = 320,
    ) -> None:
        super().__init__()
        self.front_end, self.num_layers, self.channels = front_end, num_layers, channels
        self.model, self.hop_length, self.sample_rate = model, hop_length, front_end.sample_rate
        self._frozen = Frozen()
        if config is not None:
            self._freeze(random_network(config, num_layers), config)

    @property
    def network(self) -> nn.Module:
        """The frozen layers. Reads `model` on first use; raises ValueError if it does not fit."""
        if self._frozen.network is None:
            self._freeze(*pretrained_network(self.model, self.num_layers))
        return self._frozen.network

    @property
    def network_config(self) -> dict[str, Any]:
        """Configuration of the whole speech encoder, including the layers that are not run."""
        assert self.network is not None
        return copy.deepcopy(self._frozen.config)

    @property
    def encode_settings(self) -> str:
        """Settings other than the weights that affect the states."""
        return self.front_end.encode_settings + unusual(self, hop_length=320)

    @property
    def config(self) -> Tensor:
        """Configuration as stored in a checkpoint: (num_bytes,) uint8, JSON."""
        return config_tensor(self.network_config)

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor) -> Encoded:
        """Return (B, S, C) without gradient, and the number of frames of each item."""
        with torch.no_grad():
            audible = audio_BT * frame_mask(num_samples_B, audio_BT.shape[-1])
            audible = F.pad(audible, (0, (-audible.shape[-1]) % self.hop_length))
            num_samples_B = -(-num_samples_B // self.hop_length) * self.hop_length
            inputs, num_frames_B = self.front_end(audible, num_samples_B)
            network = self.network.to(audio_BT.device)
            inputs = inputs.to(network.dtype)
            if self.front_end.masks_padding:
                states_BSC = _masked(network, inputs, num_frames_B)
            else:
                edges = inputs.shape[1] - audible.shape[1]
                states_BSC = _by_length(network, inputs, num_samples_B + edges, num_frames_B)
            return Encoded(states_BSC, num_frames_B, states_BSC)

    def _freeze(self, network: nn.Module, config: dict[str, Any]) -> None:
        if network.config.hidden_size != self.channels:
            raise ValueError(
                f"Expected `channels` to be the width of the speech encoder, {network.config.hidden_size}, "
                f"but got {self.channels}."
            )
        leave_mask_unread(network)
        self._frozen.network = network.eval().requires_grad_(False)
        self._frozen.config = {key: value for key, value in config.items() if key != "transformers_version"}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}config"] = self.config
        self.network.state_dict(destination=destination, prefix=f"{prefix}network.", keep_vars=keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if f"{prefix}config" not in state_dict:
            missing_keys.append(f"{prefix}config")
            return
        config = json.loads(bytes(state_dict[f"{prefix}config"].tolist()))
        if config != self._frozen.config:
            self._freeze(random_network(config, self.num_layers), config)
        start = f"{prefix}network."
        weights = {name.removeprefix(start): value for name, value in state_dict.items() if name.startswith(start)}
        error_msgs += _shape_errors(self.network, weights, start)
        if not error_msgs:
            missing, surplus = self.network.load_state_dict(weights, strict=False)
            missing_keys += [start + name for name in missing]
            unexpected_keys += [start + name for name in surplus]


def config_tensor(config: dict[str, Any]) -> Tensor:
    """Encode a configuration as (num_bytes,) uint8: JSON with sorted keys, without transformers' version."""
    kept = {key: value for key, value in config.items() if key != "transformers_version"}
    return torch.tensor(list(json.dumps(kept, sort_keys=True).encode()), dtype=torch.uint8)


class NormalisedWaveform(nn.Module):
    """Input of wav2vec 2.0, HuBERT and WavLM: zeros around each item, so that n samples give n / 320 frames.

    These networks normalise over time and are affected by padding, so only items of equal length are batched.

    Args:
        normalise: Normalise each item to mean 0 and variance 1 (`do_normalize` of the model's feature extractor).
    """

    sample_rate = 16000
    masks_padding = False

    def __init__(self, normalise: bool = True, edge_padding: int = 40, hop_length: int = 320) -> None:
        super().__init__()
        self.normalise, self.edge_padding, self.hop_length = normalise, edge_padding, hop_length

    @property
    def encode_settings(self) -> str:
        """Settings that affect the network's input."""
        return f"edge_padding={self.edge_padding}{unusual(self, normalise=True, hop_length=320)}"

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T + 2 * edge_padding) and the number of frames of each item."""
        mask_BT = frame_mask(num_samples_B, audio_BT.shape[-1])
        audible = audio_BT * mask_BT
        if self.normalise:
            mean_B1 = audible.sum(-1, keepdim=True) / num_samples_B[:, None]
            centred = (audible - mean_B1) * mask_BT
            audible = centred / (centred.square().sum(-1, keepdim=True) / num_samples_B[:, None] + 1e-7).sqrt()
        return F.pad(audible, (self.edge_padding, self.edge_padding)), num_samples_B // self.hop_length


class Frozen:
    """Holds a network hidden from parameters(), train() and copies."""

    def __init__(self) -> None:
        self.network: nn.Module | None = None
        self.config: dict[str, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        return self


def _masked(network: nn.Module, inputs: Tensor, num_frames_B: Tensor) -> Tensor:
    """Run the network on a padded batch with an attention mask."""
    lengths_B = unequal_lengths(num_frames_B, inputs.shape[1])
    mask_BS = None if lengths_B is None else frame_mask(lengths_B, inputs.shape[1])
    return network(inputs, attention_mask=mask_BS).last_hidden_state


def leave_mask_unread(network: nn.Module) -> None:
    """Use the same attention, without checking on the host whether the mask is all true.

    transformers drops a mask that masks nothing; to decide, it synchronises with the device at every call. On the CPU
    `unequal_lengths` has already checked.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def unread_mask(*args: Any, attention_mask: Tensor | None = None, **settings: Any) -> Tensor | None:
        if attention_mask is None:
            return None
        return sdpa_mask(*args, attention_mask=attention_mask, **settings | {"allow_is_bidirectional_skip": False})

    if network.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION_NAME, sdpa_attention_forward)
        AttentionMaskInterface.register(ATTENTION_NAME, unread_mask)
        network.config._attn_implementation = ATTENTION_NAME


def _by_length(network: nn.Module, inputs: Tensor, lengths_B: Tensor, num_frames_B: Tensor) -> Tensor:
    """Run items of equal length together, without padding. Returns as many frames as the longest item has."""
    states: list[Tensor] = [inputs.new_zeros(0)] * len(inputs)
    for length in lengths_B.unique().tolist():
        rows = (lengths_B == length).nonzero()[:, 0].tolist()
        given = network(inputs[rows, :length]).last_hidden_state
        for row, state_SC in zip(rows, given, strict=True):
            states[row] = state_SC[: int(num_frames_B[row])]
    return nn.utils.rnn.pad_sequence(states, batch_first=True)


def random_network(config: dict[str, Any], num_layers: int) -> nn.Module:
    """Build the first layers of a speech encoder with random weights. `config` is as transformers writes it."""
    from transformers import AutoConfig, AutoModel

    settings = AutoConfig.for_model(**config)
    settings.num_hidden_layers = _cut(settings, num_layers)
    return with_quick_positions(_without_final_norm(AutoModel.from_config(settings)))


def pretrained_network(model: str, num_layers: int) -> tuple[nn.Module, dict[str, Any]]:
    """Load the first layers from a folder or hub id, in float32. Also returns the configuration of the whole
    encoder."""
    from transformers import AutoConfig, AutoModel

    try:
        settings = AutoConfig.from_pretrained(model)
        config = settings.to_diff_dict()
        settings.num_hidden_layers = _cut(settings, num_layers)
        network = AutoModel.from_pretrained(model, config=settings, dtype=torch.float32)
    except OSError as error:
        raise ValueError(
            f"Expected `model` to be a folder or a hub id of a speech encoder that can be fetched, but got {model!r}: "
            f"{error}"
        ) from error
    return with_quick_positions(_without_final_norm(network)), config


def _cut(settings: Any, num_layers: int) -> int:
    """Number of layers to keep. Raises ValueError if the model has fewer, or is not a supported speech encoder."""
    kinds = ("wav2vec2-bert", "wav2vec2", "hubert", "wavlm")
    if settings.model_type not in kinds:
        raise ValueError(f"Expected a speech encoder of type {', '.join(kinds)}, but got {settings.model_type}.")
    if getattr(settings, "add_adapter", False):
        raise ValueError("Expected a speech encoder with `add_adapter` false, for frames must keep their rate.")
    if not 1 <= num_layers <= settings.num_hidden_layers:
        raise ValueError(f"Expected `num_layers` in [1, {settings.num_hidden_layers}], but got {num_layers}.")
    return num_layers


def _without_final_norm(network: nn.Module) -> nn.Module:
    """Remove the norm that pre-norm encoders apply after the last layer: it is not part of a layer's hidden states."""
    if getattr(network.config, "do_stable_layer_norm", False):
        network.encoder.layer_norm = nn.Identity()
    return network


def _shape_errors(network: nn.Module, weights: dict[str, Tensor], prefix: str) -> list[str]:
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    return [
        f"Expected `{prefix}{name}` of shape {shapes[name]}, but got {tuple(value.shape)}."
        for name, value in weights.items()
        if name in shapes and tuple(value.shape) != shapes[name]
    ]
