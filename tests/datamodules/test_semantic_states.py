"""A speech encoder's states in the shards: computed once per recording, cropped like the audio, used instead of the
encoder."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.audio import AudioDataModule, AudioRows
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.sources.source import Recording
from modules.api import Audio
from modules.codec.generator import CodecGenerator
from modules.codec.parts.quantizers import FiniteScalarQuantizer
from modules.codec.parts.semantic_fusion import SemanticAcousticEncoder, SemanticAdapter
from modules.codec.parts.spectral_encoder import Encoded, SpectralEncoder
from modules.codec.parts.whisper_encoder import WhisperEncoder

HOP = 320


class FrameMeans(torch.nn.Module):
    """A toy speech encoder whose states can be derived from the audio: mean and last sample of each frame."""

    sample_rate, hop_length, channels = 16000, HOP, 2
    encode_settings = "means"
    num_runs = 0

    def forward(self, audio_BT, num_samples_B):
        type(self).num_runs += 1
        padded = torch.nn.functional.pad(audio_BT, (0, -audio_BT.shape[-1] % HOP))
        frames = padded.view(len(padded), -1, HOP)
        states_BSC = torch.stack([frames.mean(-1), frames[..., -1]], -1)
        return Encoded(states_BSC, -(-num_samples_B // HOP), states_BSC)


class Walks:
    """Recordings of unequal lengths whose frames all differ."""

    num_recordings = 6

    def recordings(self):
        for number in range(self.num_recordings):
            generator = torch.Generator().manual_seed(number)
            samples_T = torch.randn(7000 + 2311 * number, generator=generator).cumsum(0) * 2e-3
            yield Recording(
                f"walk_{number}", Audio(samples_T.clamp(-1, 1), 16000), "one two", "s", "en", "x", "CC0", "train"
            )

    def credits(self):
        return "none"


class Decoder(torch.nn.Identity):
    channels, decode_settings = 18, ""


@pytest.fixture
def shards(tmp_path):
    return prepare_audio_shards([Walks()], tmp_path / "shards", 16000, "wav", semantic=FrameMeans())["train"]


def test_the_states_of_a_crop_are_those_of_its_audio(shards):
    """Guards against states cropped at other places than the audio, or padded into the next item."""
    rows = AudioRows(shards, 10 * HOP, seed=3, states_hop=HOP)
    for plan in (rows, AudioRows(shards, 0, seed=3, states_hop=HOP)):
        chosen = plan.rows(0, 0)[:8] if plan is rows else [(sample, 0) for sample in range(6)]
        batch = plan.load(chosen)
        expected = FrameMeans()(batch.audio_BT, batch.num_samples_B)
        assert len({start for _, start in chosen}) > 1 or plan is not rows
        for item, num_frames in enumerate(expected.num_frames_B.tolist()):
            made_SC, expected_SC = batch.semantic_BSC[item], expected.latent_BSC[item]
            # The last frame of a whole recording is partly padding in both.
            torch.testing.assert_close(made_SC[:num_frames], expected_SC[:num_frames], atol=2e-3, rtol=2e-3)
            assert not made_SC[num_frames:].any()


def test_shards_without_these_states_are_refused(shards, tmp_path):
    """Guards against training on the states of another encoder, or on none."""
    for folder, found in ((shards.folder.parent, "means"), (tmp_path / "plain", "no states")):
        if found == "no states":
            prepare_audio_shards([Walks()], folder, 16000, "wav")
        data = AudioDataModule(folder, semantic=SimpleNamespace(hop_length=HOP, encode_settings="others"))
        with pytest.raises(ValueError, match=f"others, but got {found}"):
            data._index("train")
    with pytest.raises(ValueError, match="whole frames"):
        AudioRows(shards, 1000, seed=0, states_hop=HOP)


def test_a_generator_takes_the_states_instead_of_running_the_encoder(shards):
    """Guards against states that are read and ignored, and against running the encoder anyway."""
    torch.manual_seed(0)
    acoustic = SpectralEncoder(16000, HOP, channels=16, num_layers=1, hidden_channels=16)
    encoder = SemanticAcousticEncoder(acoustic, FrameMeans(), SemanticAdapter(2), appends_frame=False)
    generator = CodecGenerator(encoder, FiniteScalarQuantizer(18, [5, 5]), Decoder())
    batch = AudioRows(shards, 0, seed=3, states_hop=HOP).load([(sample, 0) for sample in range(6)])
    live = encoder(batch.audio_BT, batch.num_samples_B)
    runs = FrameMeans.num_runs
    read = encoder(batch.audio_BT, batch.num_samples_B, batch.semantic_BSC)
    assert FrameMeans.num_runs == runs
    assert torch.equal(live.num_frames_B, read.num_frames_B)
    torch.testing.assert_close(read.latent_BSC, live.latent_BSC, atol=5e-3, rtol=5e-3)
    assert not torch.allclose(
        encoder(batch.audio_BT, batch.num_samples_B, batch.semantic_BSC + 1).latent_BSC, live.latent_BSC
    )
    assert (
        generator.fingerprint
        != CodecGenerator(
            SemanticAcousticEncoder(acoustic, FrameMeans(), encoder.adapter, appends_frame=True),
            generator.quantizer,
            Decoder(),
        ).fingerprint
    )


def test_whisper_states_are_independent_of_batching():
    """Guards against padding that changes an item's states, and against frames out of step with the audio."""
    encoder = WhisperEncoder(window_seconds=5)
    syllables_T = torch.sin(torch.arange(24000) * 0.06).sign() * (torch.arange(24000) // 1700 % 3 > 0) * 0.1
    short_T = syllables_T[:14001]
    batch_BT = torch.stack([syllables_T, torch.nn.functional.pad(short_T, (0, 9999), value=0.3)])
    both = encoder(batch_BT, torch.tensor([24000, 14001]))
    alone = encoder(short_T[None], torch.tensor([14001]))
    assert both.num_frames_B.tolist() == [75, 44] and both.latent_BSC.shape == (2, 75, 384)
    assert torch.equal(both.latent_BSC[1, :44], alone.latent_BSC[0])
    late_T = torch.nn.functional.pad(syllables_T, (12 * HOP, 0))
    late_SC = encoder(late_T[None], torch.tensor([len(late_T)])).latent_BSC[0]
    likeness = [torch.cosine_similarity(late_SC[lag : lag + 60], both.latent_BSC[0, :60]).mean() for lag in range(26)]
    assert int(torch.stack(likeness).argmax()) == 12  # the delay
    with pytest.raises(ValueError, match="`channels` to be the width"):
        WhisperEncoder(channels=512, window_seconds=5)(short_T[None], torch.tensor([14001]))
