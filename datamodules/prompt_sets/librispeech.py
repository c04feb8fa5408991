"""LibriSpeech (Panayotov et al., 2015): speech continuation after 3 s, and recognition (ASR)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datamodules.prompt_sets.published_set import PromptRow, absent
from datamodules.sources.source import Skipped

WHERE = "https://www.openslr.org/12 (test-clean.tar.gz, test-other.tar.gz, CC BY 4.0)"


class LibriSpeechContinuation:
    """`SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`, with texts in `SPEAKER-CHAPTER.trans.txt`.

    Protocol of VALL-E (Wang et al., arXiv 2301.02111) and later work: utterances of 4 to 10 s, their first 3 s as
    spoken prompt, the text of the whole. The word error rate of a continuation is computed for prompt and continuation
    together, speaker similarity for the continuation alone.

    Args:
        folder: The unpacked archive `LibriSpeech`, which contains `split`.
        split: Such as test-clean.
        min_seconds, max_seconds: Range of utterance lengths, inclusive.
        prompt_seconds: Length of the prompt.
        lower_case: Lower the corpus's capitals, which text models tokenise letter by letter.

    Raises ValueError if `prompt_seconds` would leave nothing to continue.
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
        """Return rows ordered by key. Raises FileNotFoundError, and ValueError if no utterance has such a length."""
        rows = [row for row in utterances(self.folder, self.split, self.lower_case) if self._is_of_use(row)]
        if not any(isinstance(row, PromptRow) for row in rows):
            raise ValueError(
                f"Expected utterances of {self.min_seconds:g} to {self.max_seconds:g} s below "
                f"{self.folder / self.split}, but got none."
            )
        return [replace(row, seconds=self.prompt_seconds) if isinstance(row, PromptRow) else row for row in rows]

    def _is_of_use(self, row: PromptRow | Skipped) -> bool:
        return isinstance(row, Skipped) or self.min_seconds <= recorded_seconds(row.recording) <= self.max_seconds


class LibriSpeechRecognition:
    """Whole utterances for ASR: prompts of RecognitionEvaluation with their reference texts.

    Args:
        folder: The unpacked archive `LibriSpeech`, which contains `split`.
        split: Such as test-clean or test-other.
        lower_case: Lower the corpus's capitals; the report shows the texts.
    """

    def __init__(self, folder: Path, split: str = "test-clean", lower_case: bool = True) -> None:
        self.folder, self.split, self.lower_case = Path(folder), split, lower_case

    def rows(self) -> list[PromptRow | Skipped]:
        """Return rows ordered by key. Raises FileNotFoundError, and ValueError if no utterance can be read."""
        rows = utterances(self.folder, self.split, self.lower_case)
        if not any(isinstance(row, PromptRow) for row in rows):
            raise ValueError(f"Expected utterances below {self.folder / self.split}, but got none.")
        return rows


def utterances(folder: Path, split: str, lower_case: bool) -> list[PromptRow | Skipped]:
    """Return every utterance of a split with its whole recording, ordered by key; Skipped for damaged ones.

    Raises FileNotFoundError if the split is absent.
    """
    root = folder / split
    if not root.is_dir():
        raise absent("LibriSpeech", f"{split}/SPEAKER/CHAPTER/ with .flac and .trans.txt", root, WHERE)
    rows = [row for transcript in sorted(root.glob("*/*/*.trans.txt")) for row in _chapter(transcript, lower_case)]
    return sorted(rows, key=lambda row: row.key)


def recorded_seconds(recording: Path) -> float:
    """Duration according to the file's header."""
    import soundfile

    about = soundfile.info(recording)
    return about.frames / about.samplerate


def _chapter(transcript: Path, lower_case: bool) -> Iterator[PromptRow | Skipped]:
    for line in transcript.read_text("utf-8").splitlines():
        key, _, text = line.strip().partition(" ")
        if not text:
            continue
        path = transcript.parent / f"{key}.flac"
        try:
            recorded_seconds(path)
        except (OSError, RuntimeError) as error:  # soundfile raises RuntimeErrors
            yield Skipped(key, " ".join(f"unreadable {path.name}: {error}".split()))
            continue
        yield PromptRow(key, text.lower() if lower_case else text, path, speaker=key.partition("-")[0])
