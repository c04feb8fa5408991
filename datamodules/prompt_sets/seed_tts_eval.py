"""SeedTTSEval: the test sets of Seed-TTS (Anastassiou et al., arXiv 2406.02430), for zero-shot synthesis."""

from pathlib import Path
from typing import Literal

from datamodules.prompt_sets.published_set import PromptRow, absent
from datamodules.sources.source import Skipped

WHERE = (
    "https://github.com/BytedanceSpeech/seed-tts-eval, whose README links the archive (English from Common Voice, CC0; "
    "Chinese from DiDiSpeech-2, under its own terms)"
)
LISTS = {"en": "en/meta.lst", "zh": "zh/meta.lst", "hard": "zh/hardcase.lst"}


class SeedTTSEval:
    """Lines `utterance|prompt text|prompt wav|text`, the wav's path relative to the list; a fifth field, a recording of
    the text, is ignored. The prompt wav is the spoken prompt and the reference for speaker similarity.

    Args:
        folder: The unpacked archive, which contains `en` and `zh`.
        split: en (1,088 lines), zh (2,020), or hard: 400 Chinese texts with repetitions and tongue twisters.
    """

    def __init__(self, folder: Path, split: Literal["en", "zh", "hard"]) -> None:
        if split not in LISTS:
            raise ValueError(f"Expected `split` to be one of {list(LISTS)}, but got {split!r}.")
        self.folder, self.split = Path(folder), split

    def rows(self) -> list[PromptRow | Skipped]:
        """Return rows in the order of the list. Raises FileNotFoundError if it is absent, ValueError if no line is
        usable."""
        path = self.folder / LISTS[self.split]
        if not path.is_file():
            raise absent("Seed-TTS-eval", f"{LISTS[self.split]} beside its prompt wavs", path, WHERE)
        lines = path.read_text("utf-8-sig").splitlines()
        rows = [self._row(number, line, path.parent) for number, line in enumerate(lines, 1) if line.strip()]
        if not any(isinstance(row, PromptRow) for row in rows):
            raise ValueError(f"Expected lines `utterance|prompt text|prompt wav|text` in {path}, but got none.")
        return rows

    def _row(self, number: int, line: str, folder: Path) -> PromptRow | Skipped:
        fields = [field.strip() for field in line.split("|")]
        key = f"seed_tts_eval_{self.split}_{fields[0]}"
        if len(fields) not in (4, 5) or not all(fields[:4]):
            return Skipped(key, f"line {number} is not `utterance|prompt text|prompt wav|text`")
        language = "en" if self.split == "en" else "zh"
        return PromptRow(key, fields[3], folder / fields[2], voice_text=fields[1], language=language)
