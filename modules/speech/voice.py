"""Voice: a language model and its codec, loaded once, that speak texts.

from modules.speech import load_voice
voice = load_voice("runs/demo")
audio = voice.say("four two")
audio.save("x.wav")
"""

import re
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

import torch

from datamodules.shards.training_facts import words_of
from modules.api import Audio, Prompt, Sampler, SamplingSettings, WritesWords
from modules.frontend.script import Pause, Script, read_script
from modules.precision import inference_dtype
from modules.provenance import package_versions, plain
from modules.search.growth import candidate_seed
from modules.search.voices import with_voice_codes
from modules.speech.listeners import WITHOUT_SPACES, Listeners
from modules.speech.models import SpeakingModel, find_model
from modules.speech.narration import Narration
from modules.speech.reference import Reference, read_reference
from modules.speech.result import Speech, SpokenSentence, Timeline
from modules.speech.sentence_search import SentenceSearch
from modules.speech.settings import SpeakingSettings
from modules.speech.streaming import SpeechStream
from modules.tokens import Utterance

REPOSITORY = Path(__file__).resolve().parents[2]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Of a sentence, where training texts were not shorter; after a voice prompt of up to 12 s there is less room.
MAX_CHARACTERS, MAX_CHARACTERS_AFTER_VOICE = 300, 150
SPOKEN_SECONDS_PER_CHARACTER = 0.08  # of slow speech
MAX_LISTED = 20  # unknown words


class VoicePrompt:
    """A recording to imitate, with its codes."""

    def __init__(self, reference: Reference, codes: Sequence[int]) -> None:
        self.reference, self.codes = reference, tuple(codes)

    def before(self, prompt: Prompt) -> Prompt:
        """The prompt, continuing the recording."""
        return replace(prompt, reference=self.reference.audio, voice=Utterance(self.reference.text, self.codes))


class Voice:
    """A model that speaks. Its parts are loaded once; `loaded` says how often each was.

    Args:
        model: The language model with its codec (modules/speech/models.py), loaded here.
        device: Where it runs.
        precision: "auto", "fp32" or "bf16", of the language model.
        recogniser: A Whisper model (folder, size or hub name) in place of the packaged ones.
    """

    def __init__(
        self,
        model: SpeakingModel,
        device: torch.device,
        precision: str = "auto",
        recogniser: str | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.model, self.device = model, device
        if precision == "auto":
            self.dtype, self.precision_reason = inference_dtype(device)
        elif precision in DTYPES:
            self.dtype, self.precision_reason = DTYPES[precision], "as asked for"
        else:
            raise ValueError(f"Expected `precision` to be auto, fp32 or bf16, but got {precision!r}.")
        self.codec = model.codec
        model.load(device, self.dtype)
        self.listeners = Listeners(model.facts.words, recogniser, self.counters)
        if recogniser is not None:
            self.listeners.transcript("en")  # its files are found before anything is sampled
        self._samplers: dict[SamplingSettings, Sampler] = {}
        self._references: dict[tuple[Path, str | None, str], VoicePrompt] = {}

    @property
    def sample_rate(self) -> int:
        return self.codec.facts.sample_rate

    @property
    def loaded(self) -> dict[str, int]:
        """How often each model was loaded, and the recording encoded."""
        return {"language model": self.model.num_loads, "codec": self.model.num_codec_loads, **self.counters}

    # ------------------------------------------------------------------------------------------------------ speaking

    @overload
    def say(self, text: str, **options: Any) -> Speech: ...
    @overload
    def say(self, text: Sequence[str], **options: Any) -> list[Speech]: ...
    def say(self, text: str | Sequence[str], **options: Any) -> Speech | list[Speech]:
        """Speak a text, or several in one batch. `options` are those of SpeakingSettings.

        Raises ValueError, before anything is sampled, for text that cannot be spoken: see docs/text.md.
        """
        settings = SpeakingSettings(**options)
        texts = [text] if isinstance(text, str) else list(text)
        started = time.perf_counter()
        narrations = [Narration(self, self.script(one, settings), settings) for one in texts]
        opened = [list(narration.openings()) for narration in narrations]
        rest = [narration.tasks[len(first) :] for narration, first in zip(narrations, opened, strict=True)]
        spoken = SentenceSearch(self, settings).speak([task for tasks in rest for task in tasks])
        speeches = []
        for one, narration, first, tasks in zip(texts, narrations, opened, rest, strict=True):
            timeline = Timeline(self.sample_rate)
            own = chain(first, islice(spoken, len(tasks)))
            pieces = [piece for segment in narration.placed(own) for piece in timeline.place(placeable(segment))]
            record = self.record(one, narration, timeline, time.perf_counter() - started)
            speeches.append(Speech(Audio(torch.cat(pieces), self.sample_rate), record))
        return speeches[0] if isinstance(text, str) else speeches

    def stream(self, text: str, **options: Any) -> Generator[Audio, None, None]:
        """Speak a text, yielding audio while it is being sampled; with a search, sentence by sentence.

        Without a search nothing is checked before it is heard, and silence is not trimmed. Raises as `say`.
        """
        settings = SpeakingSettings(**options)
        yield from self.streamed(Narration(self, self.script(text, settings), settings))

    def streamed(self, narration: Narration) -> Generator[Audio, None, None]:
        """`stream` for a text that is prepared."""
        timeline = Timeline(self.sample_rate)
        if narration.settings.searches:
            for segment in narration.sentences(most_together=1):
                yield from (Audio(piece_T, self.sample_rate) for piece_T in timeline.place(placeable(segment)))
            return
        openings: list[SpokenSentence] = []
        number, is_open = 0, narration.num_openings > 0
        for segment in narration.script.segments:
            if isinstance(segment, Pause):
                yield from (Audio(piece_T, self.sample_rate) for piece_T in timeline.place(segment.seconds))
                continue
            task, heard = narration.tasks[number], []
            seed = candidate_seed(narration.settings.seed, task.prompt.key, 0)
            stream = SpeechStream(self.sampler(narration.settings), self.codec, task.prompt, seed, task.limit)
            yield from (Audio(piece_T, self.sample_rate) for piece_T in timeline.gap())
            for piece_T in stream:
                if is_open:
                    heard.append(piece_T)
                yield Audio(piece_T, self.sample_rate)
            number += 1
            if is_open:
                audio = Audio(torch.cat([torch.zeros(0), *heard]), self.sample_rate)
                openings.append(narration.search.opening(task, stream.branch, seed, audio))
                is_open = not narration.consider(openings)

    # -------------------------------------------------------------------------------------------------------- texts

    def script(self, text: str, settings: SpeakingSettings) -> Script:
        """The sentences of a text. Raises ValueError for text without anything to speak, and an unknown speaker."""
        facts = self.model.facts
        if settings.speaker and facts.speakers and settings.speaker not in facts.speakers:
            raise ValueError(
                f"Expected `--speaker` to be one of {facts.name}'s, {', '.join(facts.speakers)}, "
                f"but got {settings.speaker!r}."
            )
        longest = MAX_CHARACTERS_AFTER_VOICE if facts.spoken_prompts else MAX_CHARACTERS
        longest //= 3 if settings.language in WITHOUT_SPACES else 1  # a character is a syllable
        num_copies = 2 if isinstance(self.model.prompt_format, WritesWords) else 1  # of the text in a sequence
        tokens_per_character = num_copies + SPOKEN_SECONDS_PER_CHARACTER * self.codec.facts.frame_rate
        longest = min(longest, int(0.8 * facts.max_tokens / tokens_per_character), facts.longest_text or longest)
        has_figures = any(word.isdecimal() for word in facts.words or ())
        return read_script(text, settings.language, longest, verbalises=not has_figures)

    def adapted(self, text: str) -> str:
        """A sentence in the characters that the model knows: lower case and without punctuation where it has learned
        no others. Raises ValueError for other characters.
        """
        characters = getattr(self.model.prompt_format.tokenizer, "characters", None)
        if characters is not None:
            if text.lower() != text and not set(text) <= set(characters):
                text = text.lower()
            if "'" not in characters:
                text = re.sub(r"(?<=\w)['\u2019](?=\w)", "", text)
            known = "".join(one if one in characters or one.isalnum() else " " for one in text)
            text = " ".join(known.split())
            if unknown := sorted(set(text) - set(characters)):
                raise ValueError(
                    f"Expected text in the characters that {self.model.facts.name} has learned ({characters!r}), but "
                    f"got {', '.join(map(repr, unknown))} in {text!r}."
                )
        return text

    def check_words(self, texts: Iterable[str]) -> None:
        """Raise ValueError with all words of the texts that are none of the few that the model knows."""
        words = self.model.facts.words or ()
        unknown = dict.fromkeys(one for text in texts for one in words_of(text) if words and one not in words)
        if unknown:
            listed = ", ".join(map(repr, list(unknown)[:MAX_LISTED])) + (
                " and more" if len(unknown) > MAX_LISTED else ""
            )
            raise ValueError(
                f"Expected words that {self.model.facts.name} has learned ({', '.join(words)}), but got {listed}."
            )

    # ------------------------------------------------------------------------------------------------------- sampling

    def sampling(self, settings: SpeakingSettings) -> SamplingSettings:
        writes_words = isinstance(self.model.prompt_format, WritesWords)
        return replace(settings.sampling(self.model.facts.sampling), force_words=writes_words)

    def sampler(self, settings: SpeakingSettings) -> Sampler:
        sampling = self.sampling(settings)
        if sampling not in self._samplers:
            self._samplers[sampling] = self.model.sampler(sampling)
        return self._samplers[sampling]

    def reference(self, settings: SpeakingSettings) -> VoicePrompt | None:
        """The recording to imitate, read and encoded once. Raises ValueError as read_reference."""
        if settings.reference is None:
            return None
        if isinstance(self.model.prompt_format, WritesWords):
            raise ValueError(f"Expected no `--voice` for {self.model.facts.name}, which cannot continue a recording.")
        key = (Path(settings.reference).resolve(), settings.reference_text, settings.language)
        if key not in self._references:
            given = (Path(settings.reference), settings.reference_text, settings.language)
            reference = read_reference(*given, self.listeners.reader(settings.language), self.listeners.encoder)
            sentences = self.script(reference.text, settings).sentences
            self.check_words(one.text for one in sentences)
            read = [self.adapted(one.text) for one in sentences]
            reference = replace(reference, text=" ".join(read))  # as the model has learned texts
            prompt = Prompt("reference", reference.text, reference=reference.audio, voice=Utterance(reference.text))
            (coded,) = with_voice_codes([prompt], self.codec)
            self.counters["reference"] += 1
            self._references[key] = VoicePrompt(reference, coded.voice.codes)
        return self._references[key]

    # --------------------------------------------------------------------------------------------------------- record

    @cached_property
    def about(self) -> dict[str, Any]:
        """The models and versions, as JSON values."""
        return {
            "model": plain(asdict(self.model.facts)) | {"sampling": plain(self.model.facts.sampling.stored())},
            "model_hash": self.model.model_hash,
            "codec_fingerprint": self.codec.fingerprint,
            "decoder_fingerprint": self.codec.decoder_fingerprint,
            "device": str(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "versions": package_versions(),
        }

    def record(self, text: str, narration: Narration, timeline: Timeline, seconds: float) -> dict[str, Any]:
        """How a text was spoken, as JSON values."""
        settings, reference = narration.settings, self.reference(narration.settings)
        return {
            "synthetic": True,
            "text": text,
            "seconds": round(timeline.num_samples / self.sample_rate, 3),
            "sample_rate": self.sample_rate,
            "compute_seconds": round(seconds, 3),
            "rewritings": [[one.written, one.spoken] for one in narration.script.rewritings],
            "settings": plain(asdict(settings)) | {"sampling": plain(self.sampling(settings).stored())},
            "reference": reference and {"text": reference.reference.text, "notes": list(reference.reference.notes)},
            "notes": list(narration.notes),
            "sentences": timeline.records,
            "without_word_times": list(timeline.unaligned),
            "num_resumed": narration.num_resumed,
            "trimmed_seconds": round(sum(sum(one["trimmed_seconds"]) for one in timeline.records), 3),
            "loaded": self.loaded,
            **self.about,
        }


def placeable(one: SpokenSentence | Pause) -> SpokenSentence | float:
    """What a Timeline places."""
    return one.seconds if isinstance(one, Pause) else one


def load_voice(
    name: str | None = None,
    codec: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    recogniser: str | None = None,
    root: Path = REPOSITORY,
) -> Voice:
    """Load a voice: a run folder, an exported folder, or a name on the hub. None: the newest trained one.

    Args:
        codec: Checkpoint, folder or hub name of the codec. None: the one that the model names.
        device: "auto" is CUDA where there is one.
        precision: "auto", "fp32" or "bf16".
        recogniser: A Whisper model (folder, size or hub name) in place of the packaged ones, which know English.
        root: Folder that `runs/` lies in.

    Raises FileNotFoundError, ValueError, OSError for a name that leads to no voice.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Voice(find_model(name, root, codec, device), torch.device(device), precision, recogniser)
