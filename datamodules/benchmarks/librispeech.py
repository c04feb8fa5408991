"""LibriSpeechContinuation: the utterances of LibriSpeech (Panayotov et al., 2015), continued after their first 3 s."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.benchmarks.benchmark import PromptRow, absent
from datamodules.sources.source import Skipped

WHERE = "https://www.openslr.org/12 (test-clean.tar.gz, CC BY 4.0)"


class LibriSpeechContinuation:
    """`SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`, the texts in `SPEAKER-CHAPTER.trans.txt`.

    The protocol of VALL-E (Wang et al., arXiv 2301.02111) and those after it: utterances of 4 to 10 s, their first 3 s
    as spoken prompt, the text of the whole. What is continued is judged by its words after the prompt, as a whole, and
    by its voice alone.

    Args:
        folder: The unpacked archive `LibriSpeech`, which holds `split`.
        split: Such as test-clean.
        min_seconds, max_seconds: Of an utterance, both included.
        prompt_seconds: How much of it is given.
        lower_case: The corpus writes capitals only, which text models read letter by letter.

    Raises ValueError where `prompt_seconds` would leave nothing to continue.
    """

    def __init__(
        self,
        folder: Path,
        split: str = "test-clean",
        min_seconds: float = 4.0,
        max_seconds: float = 10.0,
        prompt_seconds: float = 3.0,
        lower_case: bool = True,
    ) -> None:
        if not 0 < prompt_seconds < min_seconds <= max_seconds:
            raise ValueError(
                f"Expected 0 < `prompt_seconds` < `min_seconds` <= `max_seconds`, but got {prompt_seconds}, "
                f"{min_seconds}, {max_seconds}."
            )
        self.folder, self.split = Path(folder), split
        self.min_seconds, self.max_seconds, self.prompt_seconds = min_seconds, max_seconds, prompt_seconds
        self.lower_case = lower_case

    def rows(self) -> list[PromptRow | Skipped]:
        """In the order of the keys. Raises FileNotFoundError, and ValueError where no utterance has such a length."""
        root = self.folder / self.split
        if not root.is_dir():
            layout = f"{self.split}/SPEAKER/CHAPTER/ with .flac and .trans.txt"
            raise absent("LibriSpeech", layout, root, WHERE)
        rows = [row for transcript in sorted(root.glob("*/*/*.trans.txt")) for row in self._chapter(transcript)]
        if not any(isinstance(row, PromptRow) for row in rows):
            raise ValueError(
                f"Expected utterances of {self.min_seconds:g} to {self.max_seconds:g} s below {root}, but got none."
            )
        return sorted(rows, key=lambda row: row.key)

    def _chapter(self, transcript: Path) -> Iterator[PromptRow | Skipped]:
        import soundfile

        for line in transcript.read_text("utf-8").splitlines():
            key, _, text = line.strip().partition(" ")
            if not text:
                continue
            path = transcript.parent / f"{key}.flac"
            try:
                about = soundfile.info(path)
            except (OSError, RuntimeError) as error:  # soundfile's errors are RuntimeErrors
                yield Skipped(key, " ".join(f"unreadable {path.name}: {error}".split()))
                continue
            if self.min_seconds <= about.frames / about.samplerate <= self.max_seconds:
                said = text.lower() if self.lower_case else text
                yield PromptRow(key, said, path, speaker=key.partition("-")[0], seconds=self.prompt_seconds)
