"""Memory and time estimates for LM training: parameters, bytes per device, tokens per second, days. Nothing is
allocated.

    python -m modules.lm.resource_plan [--mfu 0.45] [--peak 989e12] [--tokens 50e9] [SIZE.yaml ...]

prints a table for each of configs/lm/size and configs/lm/hardware (docs/lm_plan.md is its output); with `--fine_tuning`
that of docs/llasa.md. The estimate counts
what this code keeps: float32 weights, gradients and two moments, sharded over all ranks under FSDP2; activations in
bfloat16 (float32 where norms compute); the head's chunk of logits and its float32 gradient.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modules.lm.adapters import LowRankAdapters
from modules.lm.flops import TransformerSize
from modules.lm.loss import chosen_chunk_size
from modules.lm.network import LlamaSize, build_llama
from modules.tokens import TokenSpace

LLASA_SPACE = TokenSpace(text_vocab_size=128_256, codebook_size=65_536)
DOCUMENT_TOKENS = 545  # per document: ten seconds of speech and its text; determines the cost of attention
GIGA = 1e9
LLASA_ADAPTERS = LowRankAdapters(rank=8, alpha=32, dropout=0.1, layers=["q_proj", "v_proj"])  # of its authors
FINE_TUNING_ROWS = 4  # of configs/llasa/finetune.yaml
PEAKS = {"H100": 989e12, "100 TFLOP/s": 100e12}  # of its table


@dataclass(frozen=True)
class Hardware:
    """Hardware of a training run. `is_sharded`: FSDP2 over all ranks. `is_half`: bfloat16 arithmetic."""

    name: str
    num_ranks: int
    rows_per_rank: int
    num_accumulated: int
    is_sharded: bool
    is_half: bool
    row_length: int = 2048

    @property
    def tokens_per_step(self) -> int:
        return self.num_ranks * self.rows_per_rank * self.num_accumulated * self.row_length


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device at the peak of a step, by purpose.

    The peak is at the end of the forward pass: Lightning frees the gradients of the previous step only then, and the
    head already has its gradient. `recomputed` is what the backward pass recomputes of one block, with the gathered
    head's gradient, when the rest of `head` is free: the larger of the two counts.
    """

    weights: float
    gradients: float
    moments: float
    gathered: float
    activations: float
    head: float
    recomputed: float = 0.0

    @property
    def total(self) -> float:
        kept = self.weights + self.gradients + self.moments + self.gathered + self.activations
        return kept + max(self.head, self.recomputed)


def num_parameters(size: LlamaSize, vocab_size: int) -> int:
    """Number of parameters of the whole network, a tied head once; counted on the meta device."""
    with torch.device("meta"):
        network = build_llama(size, vocab_size)
    return sum(weight.numel() for weight in network.parameters())


def transformer_size(size: LlamaSize, vocab_size: int) -> TransformerSize:
    """Return the sizes that determine its FLOPs."""
    shape = (size.hidden_size, size.intermediate_size, size.num_layers, size.num_heads, size.num_key_value_heads)
    return TransformerSize(*shape, size.hidden_size // size.num_heads, vocab_size)


def training_flops(size: LlamaSize, vocab_size: int, document_tokens: int = DOCUMENT_TOKENS) -> float:
    """FLOPs per token, forward and backward, with attention within documents and the head for every token.

    Recomputed activations are not counted, as is usual for utilisation.
    """
    return transformer_size(size, vocab_size).training_flops(1, document_tokens)


def linear_layers(size: LlamaSize) -> dict[str, tuple[int, int]]:
    """Channels in and out of each linear layer of a block."""
    hidden, inner = size.hidden_size, size.intermediate_size
    key_value = hidden * size.num_key_value_heads // size.num_heads
    attention = {"q_proj": (hidden, hidden), "k_proj": (hidden, key_value), "v_proj": (hidden, key_value)}
    return {
        **attention,
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def num_adapter_parameters(size: LlamaSize, adapters: LowRankAdapters) -> int:
    """Number of parameters that adapters add: two matrices of `rank` to each adapted layer."""
    layers = linear_layers(size)
    return size.num_layers * sum(adapters.rank * sum(layers[name]) for name in adapters.layers)


def block_activation_bytes(size: LlamaSize, is_half: bool, adapters: LowRankAdapters | None = None) -> int:
    """Bytes of activations that one block keeps per token for its backward pass.

    Per norm: its input in float32, the normalised value and the output; attention: query, key, value, its output twice
    (by document, then joined); feed-forward: gate, its activation, up, and their product. Frozen layers do not need
    their inputs; an adapter keeps its own copy of them, what it makes of it, and its dropout's mask (a CPU: factors).
    """
    key_value = size.hidden_size * size.num_key_value_heads // size.num_heads
    width = 2 if is_half else 4
    if adapters is not None:
        layers = linear_layers(size)
        mask = (1 if is_half else 4) if adapters.dropout else 0
        own = sum((width + mask) * layers[name][0] + width * adapters.rank for name in adapters.layers)
        kept = width * (2 * size.hidden_size + 2 * key_value + 3 * size.intermediate_size)
        return 2 * size.hidden_size * 4 + kept + own
    norms = 2 * size.hidden_size * (4 + 2 * width)
    return norms + width * (3 * size.hidden_size + 2 * key_value + 4 * size.intermediate_size)


def memory_plan(
    size: LlamaSize,
    vocab_size: int,
    hardware: Hardware,
    recompute_activations: bool,
    adapters: LowRankAdapters | None = None,
) -> MemoryPlan:
    """Bytes on one device for `vocab_size` words and `hardware.rows_per_rank` rows at a time.

    With adapters only these (and the embeddings, where they are trained) have gradients and moments.
    """
    total = num_parameters(size, vocab_size)
    shards = hardware.num_ranks if hardware.is_sharded else 1
    width = 2 if hardware.is_half else 4
    tokens = hardware.rows_per_rank * hardware.row_length
    block = block_activation_bytes(size, hardware.is_half, adapters) * tokens
    table = vocab_size * size.hidden_size
    num_trained, trains_head = total, True
    if adapters is not None:
        trains_head = adapters.train_embeddings
        tables = table * (1 if size.tie_embeddings else 2)
        added = num_adapter_parameters(size, adapters)
        num_trained, total = added + (tables if trains_head else 0), total + added
    blocks, recomputed = size.num_layers * block, 0.0
    if recompute_activations:
        blocks = size.num_layers * tokens * size.hidden_size * width
        recomputed = block + (width * table if hardware.is_sharded else 0)
    gathered = 0.0
    if hardware.is_sharded:  # embedding and head stay gathered during a step; of the blocks, one and the next
        body = transformer_size(size, vocab_size).num_weights
        gathered = width * (table * (1 if size.tie_embeddings else 2) + 2 * body / size.num_layers)
    elif hardware.is_half:  # autocast's copies of the weights; those of frozen ones live as long as their activations
        gathered = width * total
        if adapters is not None and recompute_activations:
            gathered = width * (table + transformer_size(size, vocab_size).num_weights / size.num_layers)
    chunk = min(tokens, chosen_chunk_size(vocab_size, not hardware.is_half))
    logits = chunk * vocab_size * (4 if not hardware.is_half else 2 + 4 + 4)
    head = logits + (4 * table if trains_head else 0) + 2 * width * tokens * size.hidden_size
    trained = num_trained / shards
    return MemoryPlan(4 * total / shards, 4 * trained, 8 * trained, gathered, blocks, head, recomputed)


def read_size(path: Path) -> LlamaSize:
    return LlamaSize(**_read(path)["model"]["init_args"]["size"])


def read_hardware(path: Path) -> Hardware:
    about = _read(path)
    trainer = about["trainer"]
    return Hardware(
        name=path.stem,
        num_ranks=trainer["devices"] * trainer["num_nodes"],
        rows_per_rank=about["data"]["init_args"]["batch_size"],
        num_accumulated=trainer["accumulate_grad_batches"],
        is_sharded=isinstance(trainer["strategy"], dict),
        is_half="bf16" in trainer["precision"],
    )


def _read(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text())


def described(sizes: list[Path], hardware: list[Path], mfu: float, peak: float, num_tokens: float) -> str:
    """Return the plan as Markdown."""
    lines = []
    for path in sizes:
        size = read_size(path)
        vocab_size = LLASA_SPACE.vocab_size
        flops = training_flops(size, vocab_size)
        lines += [
            f"## {path.stem}",
            "",
            f"{num_parameters(size, vocab_size):,} parameters, {flops / GIGA:.2f} GFLOP per token "
            f"(head {6 * vocab_size * size.hidden_size / flops:.0%}).",
            "",
            "| hardware | tokens a step | weights | gradients | moments | gathered | head | activations | recomputed "
            f"| GB in all | GB recomputed | tokens/s at {mfu:.0%} | days for {num_tokens / GIGA:.0f}G tokens |",
            "|---" * 13 + "|",
        ]
        for place in map(read_hardware, hardware):
            kept, less = (memory_plan(size, vocab_size, place, again) for again in (False, True))
            speed = mfu * peak * place.num_ranks / flops if place.is_half else math.nan
            parts = [kept.weights, kept.gradients, kept.moments, kept.gathered, kept.head, kept.activations]
            parts += [less.activations, kept.total, less.total]
            cells = [place.name, f"{place.tokens_per_step:,}", *(f"{part / GIGA:.1f}" for part in parts)]
            timed = not math.isnan(speed)
            cells += [f"{speed:,.0f}", f"{num_tokens / speed / 86400:.1f}"] if timed else ["", ""]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def fine_tuned(sizes: list[Path], adapters: LowRankAdapters, mfu: float, peaks: dict[str, float]) -> str:
    """The table of docs/llasa.md: fine-tuning a Llasa with adapters, or whole, by configs/llasa/finetune.yaml.

    Its rows are those of one device, with recomputed activations: the backward pass of a frozen weight costs as much as
    the forward pass, of a trained one twice as much, and recomputation once more.
    """
    place = Hardware("gpu", 1, FINE_TUNING_ROWS, 1, is_sharded=False, is_half=True)
    vocab_size, tokens = LLASA_SPACE.vocab_size, 100 * place.tokens_per_step
    lines = [
        "| model | trained | parameters trained | GB of memory | GB of a checkpoint | "
        + " | ".join(f"minutes for 100 updates, {name}" for name in peaks)
        + " |",
        "|---" * (5 + len(peaks)) + "|",
    ]
    for path in sizes:
        size = read_size(path)
        total = num_parameters(size, vocab_size)
        for kind, used, passes in (("adapters", adapters, 3), ("all", None, 4)):
            added = num_adapter_parameters(size, used) if used else 0
            num_trained = added or total
            memory = memory_plan(size, vocab_size, place, True, used).total
            stored = 2 * (total + added - num_trained) + 12 * num_trained  # frozen ones as bfloat16; two moments
            flops = passes / 3 * training_flops(size, vocab_size) * tokens
            cells = [f"Llasa-{path.stem.removeprefix('llama_').upper()}", kind]
            cells += [f"{num_trained / 1e6:,.1f}M", f"{memory / GIGA:.0f}", f"{stored / GIGA:.1f}"]
            cells += [f"{flops / (mfu * peak) / 60:.1f}" for peak in peaks.values()]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    configs = Path("configs/lm")
    parser = argparse.ArgumentParser(prog="python -m modules.lm.resource_plan", description=__doc__)
    parser.add_argument("sizes", type=Path, nargs="*", default=sorted((configs / "size").glob("*.yaml")))
    parser.add_argument("--hardware", type=Path, nargs="+", default=sorted((configs / "hardware").glob("*.yaml")))
    parser.add_argument("--mfu", type=float, default=0.45, help="share of the peak that is reached")
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of one device (H100, H200: 989e12)")
    parser.add_argument("--tokens", type=float, default=50e9, help="tokens to train on (250,000 hours once: 50e9)")
    parser.add_argument("--fine_tuning", action="store_true", help="the table of fine-tuning in docs/llasa.md")
    given = parser.parse_args(arguments)
    if given.fine_tuning:
        print(fine_tuned(given.sizes, LLASA_ADAPTERS, given.mfu, PEAKS))
        return
    print(described(given.sizes, given.hardware, given.mfu, given.peak, given.tokens))


if __name__ == "__main__":
    main()
