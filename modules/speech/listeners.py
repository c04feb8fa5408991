"""The verifiers that choose and check what is spoken: a recogniser, a speaker encoder, an aligner. Each is loaded once,
on first use."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from modules.frontend.alignment import PhonemeAligner
from modules.frontend.phonemes import is_known, pronunciations
from modules.recognition import Recogniser
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.recognisers.normalise import BasicWords, SpokenEnglish
from modules.verifiers.recognisers.pocketsphinx import Pocketsphinx
from modules.verifiers.recognisers.whisper import FasterWhisper
from modules.verifiers.speaker import Speaker
from modules.verifiers.transcript import Transcript

PACKAGED_LANGUAGE = "en"  # of the packaged Whisper tiny.en, of pocketsphinx, and of its pronunciations
WITHOUT_SPACES = {"zh", "ja", "th", "yue"}
WHISPER_SECONDS = 15.0  # a third of the cost of its window of 30 s, with the same errors


class Listeners:
    """Verifiers for the speech of one voice.

    Args:
        words: All words that the voice knows, if they are few: where pocketsphinx knows them too, it recognises with a
            grammar of them; else Whisper tiny.en.
        recogniser: A Whisper model as of FasterWhisper in place of these, for other languages.
        counters: Counts the models that are loaded, by name.
    """

    def __init__(self, words: Sequence[str] | None, recogniser: str | None, counters: Counter[str]) -> None:
        self.words, self.named, self.counters = words, recogniser, counters
        self._transcripts: dict[str, Transcript] = {}

    def reader(self, language: str) -> Recogniser | None:
        """The recogniser of that language; None if there is none."""
        transcript = self.transcript(language)
        return None if transcript is None else transcript.recogniser

    def transcript(self, language: str) -> Transcript | None:
        """The verifier that compares with the text; None for a language without a recogniser."""
        if not self.recognises(language):
            return None
        if language not in self._transcripts:
            unit = "character" if language in WITHOUT_SPACES else "word"
            if self.words and not self.named and all(map(is_known, self.words)):
                self._transcripts[language] = Transcript(self._grammar, BasicWords(), name="pocketsphinx")
            else:
                normaliser = SpokenEnglish() if language == "en" else BasicWords()
                self._transcripts[language] = Transcript(self._whisper, normaliser, unit, "whisper")
        return self._transcripts[language]

    def aligner(self, language: str) -> PhonemeAligner | None:
        """The aligner of words; None for a language without pronunciations."""
        return self._aligner if language == PACKAGED_LANGUAGE else None

    def recognises(self, language: str) -> bool:
        """Whether there is a recogniser of that language."""
        return self.named is not None or language == PACKAGED_LANGUAGE

    @cached_property
    def speaker(self) -> Speaker:
        return Speaker(self.encoder)

    @cached_property
    def encoder(self) -> Resemblyzer:
        self.counters["speaker encoder"] += 1
        return Resemblyzer()

    @cached_property
    def _whisper(self) -> FasterWhisper:
        self.counters["whisper"] += 1
        return FasterWhisper(self.named) if self.named else FasterWhisper(window_seconds=WHISPER_SECONDS)

    @cached_property
    def _grammar(self) -> Pocketsphinx:
        self.counters["pocketsphinx"] += 1
        words = " | ".join(self.words or ())
        return Pocketsphinx(f"#JSGF V1.0;\ngrammar words;\npublic <words> = ( {words} )+ ;\n")

    @cached_property
    def _aligner(self) -> PhonemeAligner:
        self.counters["aligner"] += 1
        return PhonemeAligner(pronunciations)
