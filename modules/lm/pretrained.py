"""Initialisation from Hugging Face language models: their weights, with the vocabulary extended to a TokenSpace.

Shapes: V words, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modules.lm.adapters import LowRankAdapters
from modules.lm.attention import register_packed_attention
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.tokens import TokenSpace

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ROWS_SEED = 0  # seed of new rows: the same on every rank


@dataclass(frozen=True)
class PretrainedNetwork:
    """A causal language model to initialise from: Llama, Qwen, or a released Llasa.

    Args:
        source: A folder, or the name of a repository on the hub.
        revision: Revision of the repository; a commit makes runs reproducible.
    """

    source: str
    revision: str | None = None


def load_pretrained(
    pretrained: PretrainedNetwork, space: TokenSpace, tokenizer: HuggingFaceTokenizer | None = None
) -> PreTrainedModel:
    """Load the network in float32 with `space.vocab_size` words and packed attention.

    A model whose tokenizer already has the markers is used unchanged; any other gets new rows. `tokenizer` is that of
    the source, if the caller has read it: reading a released Llasa's takes seconds.

    Raises:
        OSError: There is no model at the source.
        ValueError: Its text vocabulary or its codebook differs from the space's, it has fewer words than its tokenizer,
            or it needs an attention or a head that packed rows do not support.
    """
    from transformers import AutoModelForCausalLM

    attention = register_packed_attention()
    try:
        network = AutoModelForCausalLM.from_pretrained(
            pretrained.source, revision=pretrained.revision, dtype=torch.float32, attn_implementation=attention
        )
    except OSError as error:
        raise OSError(
            f"Expected a language model in the folder or hub repository `{pretrained.source}`, but got: "
            f"{str(error).splitlines()[0]}"
        ) from error
    config = network.config
    refuse_other_mathematics(config)
    config.use_cache = False  # otherwise every training step would fill a cache
    config.tie_word_embeddings = network.lm_head.weight is network.model.embed_tokens.weight
    tokenizer = tokenizer or HuggingFaceTokenizer(pretrained.source, pretrained.revision)
    if tokenizer.vocab_size != space.text_vocab_size:
        raise ValueError(
            f"Expected a network of {space.text_vocab_size} text tokens, those of the prompt format, "
            f"but got {tokenizer.vocab_size} from `{pretrained.source}`."
        )
    if tokenizer.num_codes not in (0, space.codebook_size):
        raise ValueError(
            f"Expected a network of `codebook_size`={space.codebook_size} or of text alone, but got one of "
            f"{tokenizer.num_codes} codes from `{pretrained.source}`."
        )
    num_known = space.vocab_size if tokenizer.num_codes else space.text_vocab_size
    if config.vocab_size < num_known:
        raise ValueError(
            f"Expected `{pretrained.source}` to hold {num_known} words, those of its tokenizer, but got "
            f"{config.vocab_size}."
        )
    resize_vocabulary(network, num_known, space.vocab_size)
    return network.train()


def check_adapters(adapters: LowRankAdapters | None, pretrained: PretrainedNetwork | None) -> None:
    """Raise ValueError if new tokens of the network would keep their random rows during training."""
    if adapters is None or adapters.train_embeddings:
        return
    if pretrained is None:
        new = "a network of `size`, all of whose rows are drawn at random"
    elif HuggingFaceTokenizer(pretrained.source, pretrained.revision).num_codes == 0:
        new = f"`{pretrained.source}`, a text model: the rows of its new words (markers, codes) are drawn at random"
    else:
        return
    raise ValueError(
        f"Expected `adapters` with `train_embeddings: true` beside {new}, but got false, which would leave them so. "
        "Set it, or start from a folder that knows the codes: a released Llasa, or an export of yours."
    )


def refuse_other_mathematics(config: PretrainedConfig) -> None:
    """Raise ValueError for model features that packed rows would silently ignore."""
    windows = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    found = {
        "sliding_window": windows,
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
    }
    if wrong := {name: value for name, value in found.items() if value}:
        raise ValueError(f"Expected a network with plain causal attention and a plain head, but got {wrong}.")


def grown_rows(weight_VC: Tensor, vocab_size: int) -> Tensor:
    """Return (vocab_size, C): the rows of `weight_VC`, then rows sampled with each channel's mean and standard
    deviation.

    New tokens thus have the statistics of old ones, and no two are equal. The numbers depend on the old rows alone.
    """
    num_new = vocab_size - weight_VC.shape[0]
    if num_new <= 0:
        return weight_VC[:vocab_size].clone()
    generator = torch.Generator().manual_seed(ROWS_SEED)
    noise = torch.randn(num_new, weight_VC.shape[1], generator=generator).to(weight_VC)
    deviation_C, mean_C = torch.std_mean(weight_VC, dim=0)
    return torch.cat([weight_VC, mean_C + deviation_C * noise])


@torch.no_grad()
def resize_vocabulary(network: PreTrainedModel, num_known: int, vocab_size: int) -> None:
    """Keep the first `num_known` rows of embedding and head, and extend them to `vocab_size`; tied ones stay tied.

    Rows after the tokenizer's last id (Qwen pads its embedding) were never used: they are replaced.
    """
    embedding, head = network.model.embed_tokens, network.lm_head
    is_tied = embedding.weight is head.weight
    if head.bias is not None:
        raise ValueError("Expected a head without bias, but got one with.")
    embedding.weight = nn.Parameter(grown_rows(embedding.weight[:num_known], vocab_size))
    head.weight = embedding.weight if is_tied else nn.Parameter(grown_rows(head.weight[:num_known], vocab_size))
    embedding.num_embeddings = head.out_features = vocab_size
    if embedding.padding_idx is not None and embedding.padding_idx >= vocab_size:
        embedding.padding_idx = None
    network.config.vocab_size = network.vocab_size = vocab_size
