"""modules/codec/streaming.py against the offline codec: equal with sufficient context, and bounded in memory."""

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.api import Audio
from modules.codec.generator import CodecGenerator
from modules.codec.parts.quantizers import FiniteScalarQuantizer
from modules.codec.parts.spectral_encoder import SpectralEncoder
from modules.codec.parts.vocos_decoder import VocosDecoder
from modules.codec.streaming import (
    DecodeWindow,
    EncodeWindow,
    StreamingDecoder,
    StreamingEncoder,
    decode_in_chunks,
    encode_in_windows,
    whole_samples,
)
from modules.evaluation.opus_and_codec2 import CodecResynthesiser
from modules.evaluation.streaming_system import StreamingResynthesiser
from modules.evaluation.systems import Resynthesiser
from tests.conftest import SAMPLE_RATE, speech_like
from tests.toys.codec_references import small_codec
from tests.toys.neighbour_codecs import HOP, NeighbourCodec, ToneCodec


def random_codes(num_codes: int) -> Tensor:
    return torch.randint(1000, (num_codes,), generator=torch.Generator().manual_seed(num_codes))


@pytest.mark.parametrize("num_codes", [0, 1, 5, 7, 8, 40, 53])
@pytest.mark.parametrize(("chunk", "back", "ahead"), [(5, 6, 2), (1, 6, 2), (7, 20, 9), (60, 6, 2)])
def test_a_stream_with_enough_context_is_the_offline_decode(num_codes: int, chunk: int, back: int, ahead: int) -> None:
    """Guards against a chunk that is off by one, a look-ahead missing in the last chunks, and codes lost at the end."""
    codec, codes_S = NeighbourCodec(), random_codes(num_codes)
    window = DecodeWindow(chunk, back, ahead)
    chunks = list(decode_in_chunks(codec, codes_S, window))
    whole = codec.decode(codes_S[None], torch.tensor([num_codes]))[0] if num_codes else torch.zeros(0)
    assert torch.equal(torch.cat([torch.zeros(0), *chunks]), whole)
    assert all(part.numel() == chunk * HOP for part in chunks[:-1])


@pytest.mark.parametrize(("back", "ahead"), [(5, 2), (6, 1), (0, 0)])
def test_too_little_context_is_another_decode(back: int, ahead: int) -> None:
    """Guards against a stream that secretly decodes everything: one frame too few must change the audio."""
    codec, codes_S = NeighbourCodec(), random_codes(53)
    whole = codec.decode(codes_S[None], torch.tensor([53]))[0]
    stream = torch.cat(list(decode_in_chunks(codec, codes_S, DecodeWindow(5, back, ahead))))
    assert stream.shape == whole.shape and not torch.equal(stream, whole)


def test_how_codes_arrive_does_not_matter_and_no_chunk_waits() -> None:
    """Guards against audio that depends on the sizes of the pieces, and against latency above chunk + look-ahead."""
    codes_S, window = random_codes(53), DecodeWindow(5, 6, 2)
    whole = torch.cat(list(decode_in_chunks(NeighbourCodec(), codes_S, window)))
    decoder, heard, arrived = StreamingDecoder(NeighbourCodec(), window), [], 0
    for size in (1, 0, 3, 2, 1, 11, 1, 30, 4):
        heard += decoder.push(codes_S[arrived : arrived + size])
        arrived += size
        num_frames = sum(part.numel() for part in heard) // HOP
        assert num_frames == max(0, (arrived - 2) // 5 * 5)
    heard += decoder.flush()
    assert torch.equal(torch.cat(heard), whole)
    again = [*decoder.push(codes_S), *decoder.flush()]
    assert torch.equal(torch.cat(again), whole), "the decoder kept something of the stream before"


@pytest.mark.parametrize("num_codes", [0, 1, 9, 10, 11, 53, 100])
@pytest.mark.parametrize("fade_frames", [0, 1, 2])
def test_chunks_that_grow_are_the_offline_decode(num_codes: int, fade_frames: int) -> None:
    """Guards against a chunk that is off by one, a first chunk that waits, and a fade with other frames than its own:
    where look-ahead suffices, both decodes of a border are equal."""
    codec, codes_S = NeighbourCodec(ahead=2), random_codes(num_codes)
    decoder = StreamingDecoder(codec, DecodeWindow(25, 6, 4), (5, 10), fade_frames)
    heard, sizes, arrived = [], [], 0
    while arrived < num_codes:
        needed = decoder.num_codes_needed
        assert not list(decoder.push(codes_S[arrived : arrived + needed - 1]))
        chunks = list(decoder.push(codes_S[arrived + needed - 1 : arrived + needed]))
        arrived += needed
        sizes += [chunk.numel() // HOP for chunk in chunks]
        heard += chunks
    assert sizes == [
        size for size, end in zip([5, 10, 25, 25, 25], [9, 19, 44, 69, 94], strict=True) if end <= num_codes
    ]
    heard += decoder.flush()
    whole = codec.decode(codes_S[None], torch.tensor([num_codes]))[0] if num_codes else torch.zeros(0)
    assert torch.equal(torch.cat([torch.zeros(0), *heard]), whole)
    again = [*decoder.push(codes_S), *decoder.flush()]
    assert [len(part) for part in again] == [len(part) for part in heard], "the second stream begins with other chunks"


@pytest.mark.parametrize("num_before", [1, 3, 6, 40])
def test_codes_before_the_stream_are_context_alone(num_before: int) -> None:
    """Guards against a voice prompt that is heard, or that the first chunk ignores."""
    codec, codes_S = NeighbourCodec(), random_codes(90)
    decoder = StreamingDecoder(codec, DecodeWindow(7, 6, 2), (3,), context_S=codes_S[:num_before])
    whole = NeighbourCodec().decode(codes_S[None], torch.tensor([90]), start_frame=num_before)[0]
    for _ in range(2):
        heard = torch.cat([*decoder.push(codes_S[num_before:]), *decoder.flush()])
        assert torch.equal(heard, whole)
    alone = torch.cat(list(decode_in_chunks(codec, codes_S[num_before:], DecodeWindow(7, 6, 2))))
    assert not torch.equal(alone, whole)
    assert codec.longest_decode <= 6 + 7 + 2


def test_faded_borders_click_no_more_than_the_offline_decode() -> None:
    """Guards against a fade that is missing, runs backwards or is late. The largest step within two samples of each
    border, over the largest step of the offline decode within half a frame; without the fade most borders click."""
    codec, codes_S = ToneCodec(), random_codes(400)
    offline_T = codec.decode(codes_S[None], torch.tensor([400]))[0]
    steps_T = offline_T.diff().abs()

    def ratios(fade_frames: int) -> list[float]:
        decoder = StreamingDecoder(codec, DecodeWindow(5, 50, 5), (5, 10), fade_frames)
        chunks = [*decoder.push(codes_S), *decoder.flush()]
        heard_T = torch.cat(chunks)
        assert heard_T.shape == offline_T.shape
        borders = np.cumsum([len(chunk_T) for chunk_T in chunks])[:-1].tolist()
        around = [float(heard_T[border - 3 : border + 3].diff().abs().max()) for border in borders]
        return [
            step / float(steps_T[border - 80 : border + 80].max()) for step, border in zip(around, borders, strict=True)
        ]

    assert len(ratios(1)) > 70
    assert max(ratios(1)) <= 1
    assert np.median(ratios(0)) > 1.5, "there is no click to be mended"


def test_first_chunks_and_fades_that_cannot_be_are_refused() -> None:
    """Guards against a stream that never ends, and a fade with frames that no decode had ahead."""
    with pytest.raises(ValueError, match=r"`first_chunks` to be at least 1 each, but got \(5, 0\)"):
        StreamingDecoder(NeighbourCodec(), DecodeWindow(), (5, 0))
    with pytest.raises(ValueError, match="`fade_frames` to be 0 to `look_ahead_frames`=5, but got 6"):
        StreamingDecoder(NeighbourCodec(), DecodeWindow(), fade_frames=6)


@pytest.mark.parametrize("extra_code", [False, True])
@pytest.mark.parametrize("num_samples", [1, 3, 39, 40, 41, 160, 203])
@pytest.mark.parametrize(("window", "context"), [(10, 3), (1, 3), (7, 20)])
def test_windows_with_enough_context_give_the_codes_of_the_whole(
    window: int, context: int, num_samples: int, extra_code: bool
) -> None:
    """Guards against lost or duplicate frames at the seams, and a missing last frame (or one more, as X-codec2
    returns)."""
    audio_T = torch.randint(-9, 10, (num_samples,), generator=torch.Generator().manual_seed(num_samples)).float()
    codec = NeighbourCodec(extra_code=extra_code)
    whole, _ = codec.encode(audio_T[None], torch.tensor([num_samples]))
    for pieces in (audio_T, audio_T.split(7)):
        codes = torch.cat(list(encode_in_windows(codec, pieces, EncodeWindow(window, context))))
        assert torch.equal(codes, whole[0])


def test_too_little_context_gives_other_codes() -> None:
    """Guards against windows that are never cut."""
    audio_T = torch.randint(-9, 10, (203,), generator=torch.Generator().manual_seed(0)).float()
    codec = NeighbourCodec()
    whole, _ = codec.encode(audio_T[None], torch.tensor([203]))
    codes = torch.cat(list(encode_in_windows(codec, audio_T, EncodeWindow(10, 2))))
    assert codes.shape == whole[0].shape and not torch.equal(codes, whole[0])


def test_a_long_recording_takes_no_more_than_a_window() -> None:
    """Guards against buffers that grow: an hour of pieces, and the largest input of the codec."""
    codec = NeighbourCodec()
    encoder, decoder = StreamingEncoder(codec, EncodeWindow(50, 10)), StreamingDecoder(codec, DecodeWindow(25, 50, 5))
    num_samples = 0
    for _ in range(3600):
        for codes_S in encoder.push(torch.ones(40)):
            num_samples += sum(part.numel() for part in decoder.push(codes_S))
        assert encoder._audio_T.numel() <= (10 + 50 + 10) * HOP + 40
        assert encoder._audio_T.untyped_storage().nbytes() <= 4 * ((10 + 50 + 10) * HOP + 40)
        assert decoder._codes_S.numel() <= 50 + 25 + 5
    assert num_samples > 3500 * 40
    assert codec.longest_encode == (10 + 50 + 10) * HOP
    assert codec.longest_decode == 50 + 25 + 5


def vocos_codec(frames_per_code: int = 1) -> CodecGenerator:
    """The demo's parts, smaller: the decoder's receptive field is 17 frames on each side, the encoder's 10 and its mel
    window. `frames_per_code`: of the decoder, at 50 Hz."""
    hop_length, sizes = 320 * frames_per_code, {"channels": 16, "hidden_channels": 24}
    encoder = SpectralEncoder(SAMPLE_RATE, hop_length, num_mels=20, num_layers=2, **sizes)
    decoder = VocosDecoder(SAMPLE_RATE, hop_length, num_layers=4, frames_per_code=frames_per_code, **sizes)
    codec = CodecGenerator(encoder, FiniteScalarQuantizer(16, [8, 8, 8]), decoder).eval()
    for weight in codec.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    return codec.requires_grad_(False)


@pytest.fixture(scope="module")
def speech() -> Audio:
    words = ["seven", "one", "nine", "four", "two", "eight", "three", "zero", "five", "six"]
    samples_T = speech_like(words, 120.0, torch.Generator().manual_seed(3)).float()
    return Audio(samples_T[:-37], SAMPLE_RATE)


@pytest.mark.parametrize("frames_per_code", [1, 2])
def test_a_vocos_codec_as_a_stream(speech: Audio, frames_per_code: int) -> None:
    """Guards against a `start_frame` that is not that of the window, a receptive field in frames instead of codes, and
    against seams in a real decoder: overlap-add and normalisation at a window's edge."""
    codec = vocos_codec(frames_per_code)
    audio_BT, num_samples_B = speech.samples_T[None], torch.tensor([speech.samples_T.numel()])
    codes_BS, num_codes_B = codec.encode(audio_BT, num_samples_B)
    windowed = torch.cat(list(encode_in_windows(codec, audio_BT[0], EncodeWindow(30, 12))))
    assert torch.equal(windowed, codes_BS[0])
    assert codes_BS.unique().numel() > 20
    whole = codec.decode(codes_BS, num_codes_B)[0]
    receptive = codec.decoder.receptive_frames
    enough = torch.cat(list(decode_in_chunks(codec, codes_BS[0], DecodeWindow(25, receptive, receptive))))
    torch.testing.assert_close(enough, whole, atol=1e-5, rtol=0)
    first = torch.cat(list(decode_in_chunks(codec, codes_BS[0], DecodeWindow())))
    assert first.shape == whole.shape
    assert (first - whole).abs().max() > 1e-3, "5 frames ahead are fewer than the decoder sees"


def test_a_stream_is_a_system_of_the_table(speech: Audio) -> None:
    """Guards against a row whose bits, latency or audio does not match its setting. The reference is the same codec
    offline, at the rate of the input."""
    codec = vocos_codec()
    receptive = codec.decoder.receptive_frames
    stream = StreamingResynthesiser(codec, DecodeWindow(25, receptive, receptive))
    assert isinstance(stream, Resynthesiser) and stream.facts.name == f"stream 25/{receptive}/{receptive}"
    assert stream.facts.latency_seconds == pytest.approx((25 + receptive) / 50)
    assert StreamingResynthesiser(codec).facts.latency_seconds == 0.6
    offline, offline_bits = CodecResynthesiser(codec, "offline").resynthesise(speech)
    heard, num_bits = stream.resynthesise(speech)
    assert num_bits == offline_bits == -(-speech.samples_T.numel() // 320) * 9
    np.testing.assert_allclose(heard.samples_T, offline.samples_T, atol=1e-4)
    windowed = StreamingResynthesiser(codec, encode_window=EncodeWindow(30, 12))
    assert torch.equal(windowed.compress(speech).codes_QS, stream.compress(speech).codes_QS)
    assert windowed.facts.settings["encode"] == {"window_frames": 30, "context_frames": 12}
    unbound = StreamingResynthesiser(decode_window=DecodeWindow(10, 5, 0))
    with pytest.raises(ValueError, match="Expected `codec` to be given"):
        unbound.resynthesise(speech)
    bound = unbound.with_codec(codec)
    assert bound.facts.name == unbound.facts.name == "stream 10/5/0" and bound.codec is codec and unbound.codec is None
    assert stream.with_codec(None) is stream


def test_windows_that_cannot_be_are_refused() -> None:
    """Guards against a stream that never ends or is cut between samples."""
    with pytest.raises(ValueError, match="`chunk_frames` to be at least 1, but got 0"):
        DecodeWindow(chunk_frames=0)
    with pytest.raises(ValueError, match="`look_ahead_frames` to be at least 0, but got -1"):
        DecodeWindow(look_ahead_frames=-1)
    with pytest.raises(ValueError, match="`context_frames` to be at least 1"):
        EncodeWindow(context_frames=0)
    with pytest.raises(ValueError, match="`frame_rate` to divide `sample_rate`=24000, but got 51"):
        whole_samples(24000, 51.0)
    assert whole_samples(24000, 12.5) == 1920


def test_a_decoder_that_attends_to_everything_is_decoded_window_by_window(speech: Audio) -> None:
    """Guards against a stream that decodes X-codec2's or NeuCodec's transformer from the start each time, and against
    seams at the wrong sample where the output has another rate (16 kHz in, 24 kHz out). The reference is a loop."""
    codec = small_codec(output_sample_rate=24000, edge_padding=0).eval()
    stream = StreamingResynthesiser(codec, DecodeWindow(10, 20, 3))
    compressed = stream.compress(speech)
    codes_S, hop = compressed.payload, 480
    expected = []
    for start in range(0, codes_S.numel(), 10):
        first, stop = max(0, start - 20), min(start + 10, codes_S.numel())
        window_BS = codes_S[None, first : stop + 3]
        with torch.no_grad():
            audio_T = codec.decode(window_BS, torch.tensor([window_BS.shape[1]]))[0]
        expected.append(audio_T[(start - first) * hop : (stop - first) * hop])
    heard_T = torch.cat(list(decode_in_chunks(codec, codes_S, stream.decode_window)))
    torch.testing.assert_close(heard_T, torch.cat(expected), atol=1e-6, rtol=0)
    assert heard_T.numel() == codes_S.numel() * hop
    heard = stream.decompress(compressed)
    assert (heard.sample_rate, heard.samples_T.shape) == (SAMPLE_RATE, speech.samples_T.shape)
    whole_T = codec.decode(codes_S[None], torch.tensor([codes_S.numel()]))[0]
    assert (heard_T - whole_T).abs().max() > 1e-4 * whole_T.abs().max(), "the context makes no difference here"
