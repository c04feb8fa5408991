"""Moonshine against the library tokenizers, its own decoder with a cache, and transformers' network of its sizes."""

import itertools
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch.utils.flop_counter import FlopCounterMode
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

from datamodules.sources.source import Recording
from modules.api import Audio
from modules.verifiers.recognisers.moonshine import END, FIRST_BYTE, START, Moonshine, Vocabulary, written
from modules.verifiers.recognisers.normalise import SpokenEnglish

TEXTS = (
    "Ever tried, ever failed. No matter, isn't it?",
    "GPUs cost $4.50 at 7:30 p.m. (naïve!)  twice",
    "東 and an unpronounceable xqzjw",
    "a",
)


@pytest.fixture(scope="module")
def moonshine() -> Moonshine:
    return Moonshine()


@pytest.fixture(scope="module")
def vocabulary(moonshine: Moonshine) -> Vocabulary:
    return moonshine._vocabulary


@pytest.fixture(scope="module")
def clips(english_prompts: list[Recording]) -> list[Recording]:
    return [one for one in english_prompts if one.text and one.audio.seconds < 4][:5]


def test_tokens_are_those_of_the_library(vocabulary: Vocabulary, clips: list[Recording]) -> None:
    """Guards against probabilities of tokens that the model never writes, such as bytes in place of letters."""
    numbers = {piece.decode(): number for number, piece in enumerate(vocabulary.pieces) if number >= FIRST_BYTE + 256}
    merges = [
        (piece[:place], piece[place:])
        for piece in numbers
        for place in range(1, len(piece))
        if piece[:place] in numbers and piece[place:] in numbers
    ]
    by_bytes = {f"<0x{byte:02X}>": FIRST_BYTE + byte for byte in range(256)}
    library = Tokenizer(BPE(numbers | by_bytes, merges, byte_fallback=True))
    for text in (*TEXTS, *(clip.text for clip in clips)):
        assert vocabulary.tokens(text) == library.encode(f" {text}".replace(" ", "\u2581")).ids
        assert vocabulary.text(vocabulary.tokens(text)) == text
    assert vocabulary.tokens("GPUs") == [22796, 29879], "those of Llama's vocabulary, which this one extends"


def test_probabilities_are_those_of_one_token_after_the_other(moonshine: Moonshine, clips: list[Recording]) -> None:
    """Guards against shifted targets, a cache that is not the pass without one, and a mask of the wrong length: the
    second clip has more than 384 frames."""
    long = torch.cat([clip.audio.samples_T for clip in clips] * 2)[: 16_000 * 12]
    network, text = moonshine._network, "Something else was said."
    tokens = [START, *moonshine._vocabulary.tokens(text), END]
    for samples_T in (clips[0].audio.samples_T.numpy(), long.numpy()):
        heard_T, cache, expected = moonshine._heard(samples_T), None, []
        frames_1FD = network._encoded(heard_T)
        for before, after in itertools.pairwise(tokens):
            logits_SV, cache = network._decoded(frames_1FD, len(heard_T), [before], cache)
            expected.append(float(torch.from_numpy(logits_SV[-1]).double().log_softmax(0)[after]))
        (found_S,) = moonshine.log_probabilities([Audio(torch.from_numpy(samples_T), 16_000)], [text], "en")
        # 8-bit activations are scaled by the largest of a product, which other tokens are part of.
        np.testing.assert_allclose(found_S, expected, atol=0.5, rtol=0.1)
        assert np.corrcoef(found_S, expected)[0, 1] > 0.99


def test_it_recognises_recordings(moonshine: Moonshine, clips: list[Recording]) -> None:
    """Guards against a broken feature or token order; the pieces of a long clip are put together."""
    normalise, audios = SpokenEnglish(), [clip.audio for clip in clips]
    texts = moonshine.transcribe(audios, "en")
    assert jiwer.wer([normalise(clip.text) for clip in clips], [normalise(text) for text in texts]) < 0.15
    assert moonshine.transcribe(audios[:1], "en") == texts[:1]
    samples_T = torch.cat([audio.samples_T for audio in audios]).repeat(4)[: 16_000 * 30 + 50]
    halves = [Audio(half_T, 16_000) for half_T in samples_T.tensor_split(2)]
    assert moonshine.transcribe([Audio(samples_T, 16_000)], "en") == [" ".join(moonshine.transcribe(halves, "en"))]
    assert moonshine.transcribe([Audio(torch.zeros(16_000), 16_000), Audio(torch.zeros(0), 16_000)], "en") == ["", ""]
    with pytest.raises(ValueError, match="'en' for Moonshine, but got 'fr'"):
        moonshine.transcribe(audios, "fr")


def test_flops_are_those_of_the_network(moonshine: Moonshine) -> None:
    """Guards against a cost of another size; the counter leaves out what is not a product of matrices."""
    network = MoonshineForConditionalGeneration(MoonshineConfig(attn_implementation="eager")).eval()
    seconds = 6.0
    samples_BT, tokens_BS = (
        torch.zeros(1, int(16_000 * (seconds + 2 * moonshine.silence_seconds))),
        torch.ones(1, int(4 * seconds) + 1, dtype=torch.long),
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(input_values=samples_BT, decoder_input_ids=tokens_BS)
    assert moonshine.flops(seconds) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_clips_are_heard_in_silence_and_faint_noise() -> None:
    """Guards against a recogniser that hears clips as they are: of 200 held-out sentences it then chooses worse."""
    tone_T = np.sin(np.arange(8_000) * 0.3).astype(np.float32) / 2
    padded_T, noisy_T = (
        Moonshine(noise_db=None)._heard(tone_T),
        Moonshine(silence_seconds=0.2, noise_db=-20)._heard(tone_T),
    )
    assert len(padded_T) == 8_000 + 2 * 4_800 and len(noisy_T) == 8_000 + 2 * 3_200
    assert (padded_T[4_800:-4_800] == tone_T).all() and not padded_T[:4_800].any() and not padded_T[-4_800:].any()
    assert noisy_T.dtype == np.float32
    noise_T = noisy_T - np.pad(tone_T, 3_200)
    assert noise_T.std() == pytest.approx(0.05, rel=0.05)
    assert (Moonshine(silence_seconds=0, noise_db=None)._heard(tone_T) == tone_T).all()
    with pytest.raises(ValueError, match=r"`silence_seconds` in \[0, 1\], but got -1"):
        Moonshine(silence_seconds=-1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("having a  form", "Having a form."),
        ("Really?", "Really?"),
        ('he said "no."', 'He said "no."'),
        ("first, ", "First."),
        ("éclair", "Éclair."),
    ],
)
def test_texts_are_read_as_the_model_writes(text: str, expected: str) -> None:
    """Guards against tokens that the model never writes, whose probabilities are noise."""
    assert written(text) == expected


def test_files_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an error that does not say what to install: later versions of the package lack the model."""
    with pytest.raises(FileNotFoundError, match=f"encoder_model.ort in {tmp_path}$"):
        Moonshine(str(tmp_path)).transcribe([], "en")
    monkeypatch.setattr("modules.verifiers.recognisers.moonshine.package_folder", lambda *_: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps moonshine-voice==0\.1\.0"):
        Moonshine().transcribe([], "en")
