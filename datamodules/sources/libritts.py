"""LibriTTS (Zen et al., 2019) and LibriTTS-R (Koizumi et al., 2023): LibriSpeech's books at 24 kHz, in sentences with
capitals and punctuation."""

from pathlib import Path
from typing import ClassVar

from datamodules.sources.librispeech import LibriSpeechSource
from datamodules.sources.listed import Item, read_lines
from datamodules.sources.published_scores import score


class LibriTTSSource(LibriSpeechSource):
    """`SUBSET/SPEAKER/BOOK/SPEAKER_BOOK_000000_000000.wav`, with lines `id<TAB>original<TAB>normalised` in
    `SPEAKER_BOOK.trans.tsv`: the text is the normalised one, the original is stored as `original_text`.

    The signal-to-noise ratio in `SPEAKER_BOOK.book.tsv` becomes the score `snr` (dB). Subsets, splits and arguments are
    those of LibriSpeechSource; `folder` is the unpacked archive `LibriTTS`.
    """

    corpus: ClassVar[str] = "libritts"
    audio_suffix: ClassVar[str] = ".wav"
    list_suffix: ClassVar[str] = ".tsv"

    def lines(self, chapter: Path) -> dict[str, Item]:
        snr_of = {}
        for path in sorted(chapter.glob("[!.]*.book.tsv")):
            for _, line in read_lines(path):
                name, *columns = line.split("\t")
                snr_of[name] = score("snr", columns[-1] if columns else "")
        found = {}
        for path in sorted(chapter.glob("[!.]*.trans.tsv")):
            for _, line in read_lines(path):
                name, original, normalised = (*line.split("\t"), "", "")[:3]
                more = {"original_text": original}
                found[name] = Item(name, text=normalised, more=more, scores=snr_of.get(name, {}))
        return found


class LibriTTSRSource(LibriTTSSource):
    """LibriTTS-R: LibriTTS' ids and texts, with audio restored by a model. `folder` is `LibriTTS_R`."""

    corpus: ClassVar[str] = "libritts_r"
