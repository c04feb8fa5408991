"""X-codec2 inference: ours against transformers' Xcodec2Model with the same weights, in one process, alternating.

    python -m benchmarks.codec_inference [--scale 1.0] [--longest_seconds 4.0] [--rounds 2]

Weights are random, in the published architecture; ours are loaded from the folder that transformers saved. Codes and
waveforms of every item are compared before timing with those of transformers for the single item: it does not mask
padding, so its codes and audio in a padded batch differ (the number is printed). Timed are a batch of unequal lengths,
distributed like LJSpeech's, and a single file: useful seconds of audio per second, without padding.

transformers' features are computed before its timing starts; ours are included. Nothing is compiled. First calls are
reported separately. --scale shrinks widths and numbers of layers.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from benchmarks.scaffold import machine, median_seconds, options, report, seconds_of
from modules.batches import pad_rows
from modules.codec.formats.checkpoints import load_codec
from modules.codec.generator import CodecGenerator
from tests.toys.codec_references import HOP, calibrated, noise_items, perturbed, reference_audio, reference_inputs

# Octiles of LJSpeech's lengths, relative to the longest.
SPREAD = (0.21, 0.38, 0.5, 0.61, 0.7, 0.8, 0.89, 0.97)
SAMPLE_RATE = 16000
LEAST_EQUAL = 0.9995  # of the codes: rounding can move a few across a threshold


@dataclass
class Work:
    """Audio of a batch, its items' inputs for transformers, and their codes."""

    items: list[Tensor]
    inputs: list[dict[str, Tensor]]
    codes: list[Tensor]

    @property
    def num_seconds(self) -> float:
        return sum(len(item_T) for item_T in self.items) / SAMPLE_RATE


def published_config(scale: float) -> transformers.Xcodec2Config:
    """X-codec2's sizes times `scale`; heads stay 64 wide."""
    num_heads = max(1, round(16 * scale))
    width = 64 * num_heads
    semantic = transformers.Wav2Vec2BertConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=max(1, round(16 * scale)),
        num_attention_heads=num_heads,
    )
    return transformers.Xcodec2Config(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=max(1, round(12 * scale)),
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        encoder_hidden_size=max(2, round(48 * scale)),
        quantization_dim=2 * width,
        semantic_model_config=semantic.to_dict(),
    )


def same_weights(scale: float) -> tuple[nn.Module, CodecGenerator]:
    """Return transformers' model with random weights, and ours loaded from its folder."""
    torch.manual_seed(0)
    model = calibrated(perturbed(transformers.Xcodec2Model(published_config(scale)), 0))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return model, load_codec(Path(folder))


def noise(lengths: list[int]) -> list[Tensor]:
    audio_BT, _ = noise_items(*lengths)
    return [audio_T[:length] for audio_T, length in zip(audio_BT, lengths, strict=True)]


def work_of(model: nn.Module, items: list[Tensor]) -> Work:
    inputs = [reference_inputs(item_T, HOP // 2) for item_T in items]
    return Work(items, inputs, [model.encode(**given).audio_codes[0, 0].long() for given in inputs])


def pad_inputs(inputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Pad a batch like transformers' feature extractor: audio with zeros, features with ones, and their mask."""
    features = [given["input_features"][0] for given in inputs]
    audio_BT, _ = pad_rows([given["input_values"][0, 0] for given in inputs])
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(rows), dtype=torch.long) for rows in features], batch_first=True)
    return {
        "input_values": audio_BT[:, None],
        "input_features": nn.utils.rnn.pad_sequence(features, batch_first=True, padding_value=1.0),
        "input_features_mask": mask,
    }


def encodings(model: nn.Module, codec: CodecGenerator, work: Work) -> dict[str, Callable[[], list[Tensor]]]:
    """Return the ways to encode a batch; each returns the codes of every item."""
    audio_BT, num_samples_B = pad_rows(work.items)
    padded = pad_inputs(work.inputs)

    def ours() -> list[Tensor]:
        codes_BS, num_codes_B = codec.encode(audio_BT, num_samples_B)
        return [codes_S[:count] for codes_S, count in zip(codes_BS, num_codes_B.tolist(), strict=True)]

    def one_by_one() -> list[Tensor]:
        return [model.encode(**given).audio_codes[0, 0].long() for given in work.inputs]

    def padded_batch() -> list[Tensor]:
        codes_BS = model.encode(**padded).audio_codes[:, 0].long()
        return [codes_S[: len(alone_S)] for codes_S, alone_S in zip(codes_BS, work.codes, strict=True)]

    return {"ours": ours, "padded_batch": padded_batch, "one_by_one": one_by_one}


def decodings(model: nn.Module, codec: CodecGenerator, work: Work) -> dict[str, Callable[[], list[Tensor]]]:
    """Return the ways to decode a batch; each returns the waveform of every item."""
    codes_BS = nn.utils.rnn.pad_sequence(work.codes, batch_first=True)
    num_codes_B = torch.tensor([len(codes_S) for codes_S in work.codes])

    def cut(audio_BT: Tensor) -> list[Tensor]:
        return [audio_T[: HOP * len(codes_S)] for audio_T, codes_S in zip(audio_BT, work.codes, strict=True)]

    return {
        "ours": lambda: cut(codec.decode(codes_BS, num_codes_B)),
        "padded_batch": lambda: cut(model.decode(audio_codes=codes_BS[:, None]).audio_values[:, 0]),
        "one_by_one": lambda: [reference_audio(model, codes_S) for codes_S in work.codes],
    }


def share_equal(expected: list[Tensor], given: list[Tensor]) -> float:
    return float((torch.cat(expected) == torch.cat(given)).double().mean())


def largest_difference(expected: list[Tensor], given: list[Tensor]) -> float:
    """Largest difference of waveforms, relative to the loudest sample."""
    difference = (torch.cat(expected) - torch.cat(given)).abs().max()
    return float(difference / torch.cat(expected).abs().max())


def measure(
    ways: dict[str, Callable[[], list[Tensor]]],
    compare: Callable[[list[Tensor], list[Tensor]], float],
    accept: Callable[[float], bool],
    num_seconds: float,
    rounds: int,
) -> dict[str, object]:
    """Time first calls, which are compared, then `rounds` alternating ones. The last of `ways` is the reference."""
    first, given = {}, {}
    for name, call in ways.items():
        first[name], given[name] = seconds_of(call)
    right = given["one_by_one"]
    against = {name: compare(right, made) for name, made in given.items() if name != "one_by_one"}
    if not accept(against["ours"]):
        raise AssertionError(f"Expected what transformers gives item by item, but got {against['ours']}.")
    medians = median_seconds(ways, rounds)
    return {
        "compared_with_one_by_one": {name: round(value, 7) for name, value in against.items()},
        "first_call_seconds": {name: round(value, 3) for name, value in first.items()},
        "audio_seconds_per_second": {name: round(num_seconds / value, 3) for name, value in medians.items()},
        "ours_over": {name: round(value / medians["ours"], 3) for name, value in medians.items() if name != "ours"},
    }


@torch.inference_mode()
def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--longest_seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--num_threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, codec = same_weights(given.scale)
    lengths = [round(part * given.longest_seconds * SAMPLE_RATE) for part in SPREAD]
    result: dict[str, object] = {}
    for name, items in (("batch", noise(lengths[3:] + lengths[:3])), ("one_file", noise([lengths[4]]))):
        work = work_of(model, items)
        result[name] = {"item_seconds": [round(len(item_T) / SAMPLE_RATE, 2) for item_T in items]}
        for task, ways, compare, accept in (
            ("encode", encodings, share_equal, lambda share: share >= LEAST_EQUAL),
            ("decode", decodings, largest_difference, lambda difference: difference <= 1e-5),
        ):
            calls = ways(model, codec, work)
            if len(items) == 1:
                del calls["padded_batch"]
            result[name][task] = measure(calls, compare, accept, work.num_seconds, given.rounds)
    report(result | about(given, codec), given.json)


def about(given: argparse.Namespace, codec: CodecGenerator) -> dict[str, object]:
    return {
        "scale": given.scale,
        "num_parameters": sum(weight.numel() for weight in codec.state_dict().values()),
        "rounds": given.rounds,
        "num_threads": given.num_threads,
        "num_cores": os.cpu_count(),
        "compiled": False,
        **machine("transformers"),
    }


if __name__ == "__main__":
    main()
