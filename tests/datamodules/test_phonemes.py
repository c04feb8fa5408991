"""Labels of phonemes in audio batches: those of the whole recording, cropped like the audio."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.audio import AudioDataModule, AudioRows
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.samples import phoneme_times
from datamodules.shards.shards import ShardIndex
from datamodules.sources.source import Recording
from modules.api import Audio
from modules.batches import UNKNOWN

HOP = 320


class Seconds:
    """A toy: the label of a frame is its number, from the end of the first word on."""

    hop_length = HOP

    def label(self, audio_T, sample_rate, phonemes, words):
        labels_F = np.arange(-(-len(audio_T) // HOP))
        assert phonemes == ((("SIL", 0.05), ("AH", 0.1)) if words else ())
        first = round(words[0][1] * sample_rate / HOP) if words else len(labels_F)
        return np.where(labels_F < first, UNKNOWN, labels_F)


class Tones:
    """Recordings of unequal lengths; `words` with their times, or none."""

    num_recordings = 5

    def __init__(self, has_words: bool = True) -> None:
        self.has_words = has_words

    def recordings(self):
        for number in range(5):
            samples_T = 0.1 * torch.sin(torch.arange(7000 + 2311 * number) * (0.1 + 0.01 * number))
            seconds = len(samples_T) / 16000
            words = [["one", 0.1], ["two", seconds]] if self.has_words else []
            phonemes = [["SIL", 0.05], ["AH", 0.1]] if self.has_words else []
            yield Recording(
                f"tone_{number}",
                Audio(samples_T, 16000),
                "one two",
                "s",
                "en",
                "x",
                "CC0",
                "train",
                more={"words": words, "phonemes": phonemes},
            )

    def credits(self):
        return "none"


def test_crops_have_the_labels_of_their_place(tmp_path):
    """Guards against labels of another crop, crops between two frames, and labels beyond the audio."""
    index = prepare_audio_shards([Tones()], tmp_path, 16000, "wav")["train"]
    rows, whole = AudioRows(index, 10 * HOP, seed=3, phonemes=Seconds()), AudioRows(index, 0, seed=3)
    planned = rows.rows(0, 0)
    assert len({start for _, start in planned}) > 5 and all(start % HOP == 0 for _, start in planned)
    batch = rows.load(planned)
    assert batch.phonemes_BF.shape == (len(planned), 10) and batch.phonemes_BF.dtype == torch.int64
    for row, (sample, start) in enumerate(planned):
        num_frames = -(-int(batch.num_samples_B[row]) // HOP)
        frames = [start // HOP + frame for frame in range(num_frames)]
        expected = [frame if frame >= 5 else UNKNOWN for frame in frames] + [UNKNOWN] * (10 - num_frames)
        assert batch.phonemes_BF[row].tolist() == expected
        recording_T = whole.load([(sample, 0)]).audio_BT[0]
        assert torch.equal(batch.audio_BT[row, : batch.num_samples_B[row]], recording_T[start : start + 10 * HOP])
    assert whole.load(planned[:2]).phonemes_BF is None


def test_phonemes_that_go_back_in_time_are_skipped_and_counted(tmp_path):
    """Guards against wrong labels without a word, by durations in place of ends or times in another order."""

    class Disordered(Tones):
        def recordings(self):
            for number, one in enumerate(super().recordings()):
                if number == 2:
                    one.more["phonemes"] = [["AH", 0.1], ["SIL", 0.05]]
                yield one

    index = prepare_audio_shards([Disordered()], tmp_path, 16000, "wav")["train"]
    rows = AudioRows(index, 10 * HOP, seed=3, phonemes=Seconds())
    batch = rows.load(rows.rows(0, 0))
    assert set(batch.keys) == {f"tone_{number}" for number in (0, 1, 3, 4)}
    assert {skip.key for skip in rows.skipped.take()} == {"tone_2"}
    with pytest.raises(ValueError, match=r"no descending ends in `phonemes`.* but got 'SIL' at 0.05 after 0.1"):
        phoneme_times({"phonemes": [["AH", 0.1], ["SIL", 0.05]]})
    assert phoneme_times({"phonemes": [["AH", 0.1], ["SIL", 0.1]]}) == (("AH", 0.1), ("SIL", 0.1))


def test_shards_without_times_of_words_are_refused(tmp_path):
    """Guards against a training whose classifier has no label at all."""
    prepare_audio_shards([Tones(has_words=False)], tmp_path, 16000, "wav")
    data = AudioDataModule(tmp_path, segment_seconds=0.2, phonemes=Seconds())
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)
    with pytest.raises(ValueError, match=r"Expected times of phonemes or words .* the first 5 samples have none"):
        data.train_dataloader()
    index = ShardIndex.load(tmp_path / "train", "audio")
    with pytest.raises(ValueError, match="whole frames of 320 samples, as `phonemes`"):
        AudioRows(index, 10 * HOP + 1, seed=3, phonemes=Seconds())
