"""A training step of the language model: ours against Llasa's recipe, same utterances and weights, alternating.

    python -m benchmarks.lm_training_step [--hidden_size 128] [--rounds 3] [--num_threads 2] [--json FILE]

Ours packs the utterances into rows of 2,048 tokens and keeps all activations; the recipe pads each to such a row and
recomputes them (peers/llasa_recipe.py). A step is forward, backward and AdamW over all utterances. Loss and gradients
are compared before timing; the learning rate is so small that the two do not diverge.

Lengths are distributed like LJSpeech's, with its mean of 6.6 s, and stretched to a mean of 10 s. `fill` is the fraction
of the padded rows filled by utterances: packing saves a factor of 1 / fill, and not recomputing about a quarter more.
`goal` is nine tenths of that.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import default_data_collator

from benchmarks.codec_inference import SPREAD
from benchmarks.peers.llasa_recipe import PaddedUtterances, reference_gradients, reference_network, stored_rows
from benchmarks.scaffold import machine, median_seconds, options, report
from datamodules.packing import pack, token_batch
from modules.batches import TokenBatch
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import Document, TextToSpeech

FRAME_RATE, TEXT_RATE = 50, 4  # tokens per second of speech: codes, and text tokens of Llama's tokenizer
MEAN_SECONDS = {"LJSpeech": 6.6, "10 seconds": 10.0}
LEARNING_RATE = 1e-9
TOLERANCE = 1e-5


def utterances(prompt_format: TextToSpeech, mean_seconds: float, number: int) -> list[Document]:
    """Random letters and codes; lengths in the order of a shuffled corpus."""
    generator = np.random.default_rng(0)
    places = np.linspace(0, len(SPREAD) - 1, number)
    parts = generator.permutation(np.interp(places, range(len(SPREAD)), SPREAD))
    documents = []
    for seconds in parts / parts.mean() * mean_seconds:
        text = bytes(generator.integers(97, 123, max(1, round(TEXT_RATE * seconds))).tolist()).decode()
        codes = generator.integers(0, prompt_format.codebook_size, max(1, round(FRAME_RATE * seconds)))
        documents.append(prompt_format.example_tokens(text, codes))
    return documents


def packed_batch(documents: Sequence[Document], row_length: int) -> TokenBatch:
    packed = pack([len(tokens) for tokens, _ in documents], row_length)
    return token_batch([[documents[number] for number in row] for row in packed], row_length)


def our_gradients(model: SpeechLanguageModel, batch: TokenBatch) -> float:
    """Add the gradients of the mean loss over all targets, and return that mean."""
    loss = model(batch)
    mean = loss.total / loss.num_targets
    mean.backward()
    return float(mean.detach())


def padded_batch(documents: Sequence[Document], row_length: int, prompt_format: TextToSpeech) -> dict[str, Tensor]:
    pad = 0  # a byte that occurs in no text here
    rows_NL = stored_rows([tokens for tokens, _ in documents], row_length, pad)
    data = PaddedUtterances(rows_NL, prompt_format.token_space, pad)
    return default_data_collator([data[number] for number in range(len(data))])


def compare(ours: nn.Module, recipe: nn.Module) -> float:
    """Norm of the difference of all gradients divided by their norm."""
    theirs = {name: weight.grad.double() for name, weight in recipe.named_parameters()}
    squares = sum(float(gradient.square().sum()) for gradient in theirs.values())
    difference = sum(
        float((weight.grad.double() - theirs[name]).square().sum()) for name, weight in ours.named_parameters()
    )
    return (difference / squares) ** 0.5


def measure(
    size: LlamaSize,
    prompt_format: TextToSpeech,
    documents: Sequence[Document],
    rounds: int,
    row_length: int,
    device: str = "cpu",
    is_half: bool = False,
    tolerance: float = TOLERANCE,
    rows_at_once: int = 1,
) -> dict[str, object]:
    """`is_half`: both sides under autocast to bfloat16. `rows_at_once`: of the recipe's padded rows."""
    torch.manual_seed(0)
    with torch.device(device):
        network = build_llama(size, prompt_format.token_space.vocab_size).train()
        recipe, model = reference_network(network), SpeechLanguageModel(network)
    padded, packed = padded_batch(documents, row_length, prompt_format), packed_batch(documents, row_length).to(device)
    padded = {name: field.to(device) for name, field in padded.items()}

    def mixed(gradients: Callable[[], float]) -> float:
        with torch.autocast(device, torch.bfloat16, enabled=is_half):
            return gradients()

    ways = {
        "recipe": (recipe, lambda: mixed(lambda: reference_gradients(recipe, padded, rows_at_once))),
        "ours": (network, lambda: mixed(lambda: our_gradients(model, packed))),
    }
    losses = {name: gradients() for name, (_, gradients) in ways.items()}
    difference, loss_difference = compare(network, recipe), abs(losses["ours"] / losses["recipe"] - 1)
    if not (difference <= tolerance and loss_difference <= tolerance):
        raise AssertionError(f"Expected equal loss and gradients, but they differ by {loss_difference}, {difference}.")
    optimizers = {
        name: torch.optim.AdamW(way[0].parameters(), lr=LEARNING_RATE, fused=True) for name, way in ways.items()
    }

    def step(name: str) -> None:
        optimizers[name].zero_grad()
        ways[name][1]()
        optimizers[name].step()

    medians = median_seconds({name: partial(step, name) for name in ways}, rounds)
    num_tokens = sum(len(tokens) for tokens, _ in documents)
    fill = num_tokens / (row_length * len(documents))
    return {
        "speedup": round(medians["recipe"] / medians["ours"], 2),
        "goal": round(0.9 * 1.25 / fill, 2),
        "fill": round(fill, 3),
        "packed_fill": round(float((packed.documents_RL >= 0).float().mean()), 3),
        "useful_tokens_per_second": {name: round(num_tokens / value) for name, value in medians.items()},
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "gradient_difference": float(f"{difference:.1e}"),
        "loss_difference": float(f"{loss_difference:.1e}"),
        "num_utterances": len(documents),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--num_layers", type=int, default=8)
    parser.add_argument("--codebook_size", type=int, default=65536)
    parser.add_argument("--row_length", type=int, default=2048)
    parser.add_argument(
        "--num_utterances", type=int, default=11, help="of the mean of LJSpeech; of 10 s, as much audio"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    prompt_format = TextToSpeech(ByteTokenizer(), given.codebook_size)
    size = LlamaSize(given.hidden_size, 3 * given.hidden_size, given.num_layers, max_positions=given.row_length)
    cases = {}
    for name, mean_seconds in MEAN_SECONDS.items():
        number = round(given.num_utterances * MEAN_SECONDS["LJSpeech"] / mean_seconds)
        documents = utterances(prompt_format, mean_seconds, number)
        cases[name] = measure(size, prompt_format, documents, given.rounds, given.row_length)
    num_weights = sum(weight.numel() for weight in build_llama(size, 1).parameters())
    result = cases | {
        "about": {
            "vocab_size": prompt_format.token_space.vocab_size,
            "hidden_size": size.hidden_size,
            "num_layers": size.num_layers,
            "num_parameters_of_blocks": num_weights - size.hidden_size,
            "row_length": given.row_length,
            "rounds": given.rounds,
            "num_threads": given.num_threads,
            **machine("transformers"),
        }
    }
    report(result, given.json)


if __name__ == "__main__":
    main()
