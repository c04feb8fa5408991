"""EmotionalSpeech: the Emotional Speech Dataset (Zhou et al., arXiv 2010.14794), five emotions by 20 speakers."""

from collections import defaultdict
from pathlib import Path
from typing import Literal

from datamodules.prompt_sets.published_set import PromptRow, absent
from datamodules.sources.source import Skipped

WHERE = "https://github.com/HLTSingapore/Emotional-Speech-Data (for research alone, after its licence form)"
EMOTIONS = ("Angry", "Happy", "Neutral", "Sad", "Surprise")
NUM_CHINESE_SPEAKERS = 10  # 0001 to 0010; 0011 to 0020 speak English


class EmotionalSpeech:
    """`SPEAKER/EMOTION/SPLIT/SPEAKER_NUMBER.wav`, with texts in `SPEAKER/SPEAKER.txt`: tab-separated lines of key, text
    and emotion.

    Every recording of the split gives a text; the next one of the same speaker and emotion is the spoken prompt, whose
    emotion the speech should have. The Llasa paper does not state how it paired them: numbers are comparable between
    systems evaluated with these pairs.

    Args:
        folder: Contains the folders 0001 to 0020.
        language: en or zh.
        split: test (30 recordings of each speaker and emotion), evaluation (20) or train (300).
        emotions: Subset of the five emotions.
    """

    def __init__(
        self,
        folder: Path,
        language: Literal["en", "zh"],
        split: Literal["train", "evaluation", "test"] = "test",
        emotions: tuple[str, ...] = EMOTIONS,
    ) -> None:
        if unknown := set(emotions) - set(EMOTIONS):
            raise ValueError(f"Expected `emotions` among {EMOTIONS}, but got {sorted(unknown)}.")
        self.folder, self.language, self.split, self.emotions = Path(folder), language, split, tuple(emotions)

    def rows(self) -> list[PromptRow | Skipped]:
        """Return rows ordered by speaker, emotion and number. Raises FileNotFoundError; ValueError if none is
        usable."""
        speakers = [path for path in sorted(self.folder.glob("00[0-2][0-9]")) if self._speaks(path.name)]
        if not speakers:
            layout = f"00NN/{{{','.join(EMOTIONS)}}}/{self.split}/ and 00NN/00NN.txt"
            raise absent("the Emotional Speech Dataset", layout, self.folder / "00NN", WHERE)
        rows = [row for speaker in speakers for row in self._speaker(speaker)]
        if not any(isinstance(row, PromptRow) for row in rows):
            raise ValueError(
                f"Expected two recordings of one speaker and emotion in a `{self.split}` below {self.folder}, "
                "with their texts in 00NN/00NN.txt, but got none."
            )
        return rows

    def _speaks(self, speaker: str) -> bool:
        return (int(speaker) <= NUM_CHINESE_SPEAKERS) == (self.language == "zh") and int(speaker) > 0

    def _speaker(self, folder: Path) -> list[PromptRow | Skipped]:
        transcript = folder / f"{folder.name}.txt"
        if not transcript.is_file():
            return [Skipped(folder.name, f"no {transcript.name}")]
        texts = read_texts(transcript)
        rows: list[PromptRow | Skipped] = []
        paths: dict[str, list[Path]] = defaultdict(list)
        for emotion in self.emotions:
            for path in sorted((folder / emotion / self.split).glob("*.wav")):
                if path.stem in texts:
                    paths[emotion].append(path)
                else:
                    rows.append(Skipped(path.stem, f"no text in {transcript.name}"))
        for emotion, own in paths.items():
            others = [*own[1:], own[0]] if len(own) > 1 else []
            for path, other in zip(own, others, strict=False):
                said, heard = texts[path.stem], texts[other.stem]
                key = f"esd_{path.stem}"
                rows.append(PromptRow(key, said, other, heard, self.language, folder.name, emotion.lower()))
        return rows


def read_texts(path: Path) -> dict[str, str]:
    """Return texts by key. The files are in UTF-8, UTF-16 or GB 18030. Raises ValueError for any other encoding."""
    content = path.read_bytes()
    is_wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    for encoding in ("utf-16",) if is_wide else ("utf-8-sig", "gb18030"):
        try:
            lines = content.decode(encoding).splitlines()
        except UnicodeDecodeError:
            continue
        fields = [line.split("\t") for line in lines if line.strip()]
        return {key.strip(): text.strip() for key, text, *_ in (row for row in fields if len(row) > 1) if text.strip()}
    raise ValueError(f"Expected {path} in UTF-8, UTF-16 or GB 18030, but it is in none of them.")
