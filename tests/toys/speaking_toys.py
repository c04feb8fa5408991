"""A voice whose speech can be read back: each word is a tone of its own level, so that a recogniser of levels hears
exactly what was sampled. What it says for a prompt is a function of the test's own.

Shapes: T audio samples, S codes.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from modules.api import Audio, Branch, Prompt, SamplingSettings
from modules.frontend.script import Pause
from modules.search.growth import candidate_seed
from modules.speech import narration
from modules.speech.listeners import Listeners
from modules.speech.narration import Narration
from modules.speech.result import SpokenSentence
from modules.speech.settings import SpeakingSettings
from modules.speech.voice import Voice
from modules.speech.voice_facts import VoiceFacts
from modules.verifiers.recognisers.normalise import BasicWords
from modules.verifiers.speaker import Speaker
from modules.verifiers.transcript import Transcript
from tests.toys.facts import CodecToy
from tests.toys.search_toys import ToyFormat

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "red")
RATE, HOP_LENGTH, FRAMES_PER_WORD = 8000, 160, 6
CODEBOOK_SIZE = len(WORDS) + 1  # code 0 is silence
END = "END"

# What is said for a prompt with a seed: words, "" for a word of silence; END where speech ends, else it runs away.
Said = Callable[[Prompt, int], list[str]]


def codes_of(words: Sequence[str]) -> list[int]:
    """Six codes a word, the last of them silent."""
    codes = []
    for word in words:
        code = 0 if word == "" else WORDS.index(word) + 1
        codes += [code] * (FRAMES_PER_WORD - 1) + [0]
    return codes


class LevelCodec(CodecToy):
    """Code c becomes a square wave of level c / 16."""

    sample_rate, frame_rate, codebook_size = RATE, RATE / HOP_LENGTH, CODEBOOK_SIZE
    fingerprint = "levels"

    def __init__(self) -> None:
        self.num_encoded = 0

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        self.num_encoded += len(audio_BT)
        levels_BS = audio_BT[:, : audio_BT.shape[1] // HOP_LENGTH * HOP_LENGTH]
        levels_BS = levels_BS.unflatten(1, (-1, HOP_LENGTH)).abs().amax(2)
        return (levels_BS * 16).round().long().clamp(max=CODEBOOK_SIZE - 1), num_samples_B // HOP_LENGTH

    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        sign_T = torch.tensor([1.0, -1.0]).repeat_interleave(8).repeat(HOP_LENGTH // 16)
        return (codes_BS[:, start_frame:, None] / 16 * sign_T).flatten(1)

    def decode_flops(self, num_codes: int) -> float:
        return 0.0


class LevelRecogniser:
    """Reads the words back from the levels."""

    model_hash, families = "levels", frozenset({"levels"})

    def __init__(self) -> None:
        self.num_clips = 0

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        self.num_clips += len(audios)
        return [" ".join(words_in(audio)) for audio in audios]

    def flops(self, seconds: float) -> float:
        return 0.0


def words_in(audio: Audio) -> list[str]:
    """The words of some audio, by the level of every millisecond; a word is at least 40 ms of one level."""
    levels = (audio.samples_T.abs().numpy() * 16).round().astype(int)
    breaks = np.flatnonzero(np.diff(levels)) + 1
    runs = np.split(levels, breaks)
    return [WORDS[run[0] - 1] for run in runs if run.size and run[0] > 0 and len(run) >= 0.04 * RATE]


class LevelEncoder:
    """A speaker embedding that is the mean level: voices differ by the words they say."""

    model_hash, families = "mean level", frozenset({"mean level"})

    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        angles = [float(audio.samples_T.abs().mean()) for audio in audios if audio is not None]
        return [np.array([np.cos(angle), np.sin(angle)], dtype=np.float32) for angle in angles]

    def flops(self, seconds: float) -> float:
        return 0.0


class ScriptedSampler:
    """Samples what `said` says. `batches` lists the prompts of every call of `start`, `seeds` those of `extend`."""

    def __init__(self, said: Said, kill_at: int | None = None) -> None:
        self.said, self.kill_at = said, kill_at
        self.batches: list[list[Prompt]] = []
        self.seeds: list[list[int]] = []
        self.alive: set[int] = set()

    def start(self, prompts: Sequence[Prompt]) -> list[Branch]:
        if len(self.batches) + 1 == self.kill_at:
            raise KeyboardInterrupt
        self.batches.append(list(prompts))
        return [self._born(Branch(prompt, torch.zeros(0, dtype=torch.int64))) for prompt in prompts]

    def extend(
        self, branches: Sequence[Branch], num_children: int, max_new_tokens: int, seeds: Sequence[int]
    ) -> list[Branch]:
        self.seeds.append(list(seeds))
        children = []
        for place, seed in enumerate(seeds):
            parent = branches[place // num_children]
            words = self.said(parent.prompt, seed)
            ends = words[-1:] == [END]
            codes = codes_of(words[:-1] if ends else words)
            first = parent.codes_S.numel()
            if not ends:
                codes += [1, 0] * (first + max_new_tokens)
            codes = codes[: first + max_new_tokens]
            stopped = ends and len(codes) - first < max_new_tokens
            children.append(self._born(Branch(parent.prompt, torch.tensor(codes, dtype=torch.int64), -1.0, stopped)))
        return children

    def drop(self, branches: Sequence[Branch]) -> None:
        for branch in branches:
            self.alive.discard(id(branch))

    def flops(self, num_prompt_tokens: int, num_codes: int) -> float:
        return 0.0

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        voice = prompt.voice
        return len(prompt.text) + (0 if voice is None else len(voice.text) + 1 + len(voice.codes))

    def _born(self, branch: Branch) -> Branch:
        self.alive.add(id(branch))
        return branch


class ScriptedModel:
    """What Voice takes for a language model."""

    codec_fingerprint, model_hash = "levels", "scripted"

    def __init__(self, sampler: ScriptedSampler, **facts: object) -> None:
        self.facts = VoiceFacts("toy", "run", codec="toy codec", num_codes=CODEBOOK_SIZE, **facts)
        self.prompt_format, self.codec, self.own = ToyFormat(CODEBOOK_SIZE), LevelCodec(), sampler
        self.prompt_format.tokenizer = None
        self.num_loads, self.num_codec_loads = 0, 1

    def load(self, *_: object) -> None:
        self.num_loads += 1

    def sampler(self, settings: SamplingSettings) -> ScriptedSampler:
        return self.own


class LevelListeners(Listeners):
    """Listeners that read levels."""

    def transcript(self, language: str) -> Transcript | None:
        return self._transcript if self.recognises(language) else None

    @cached_property
    def _levels(self) -> LevelRecogniser:
        self.counters["levels"] += 1
        return LevelRecogniser()

    @cached_property
    def _transcript(self) -> Transcript:
        return Transcript(self._levels, BasicWords(), name="levels")

    @cached_property
    def speaker(self) -> Speaker:
        return Speaker(self.encoder)

    @cached_property
    def encoder(self) -> LevelEncoder:
        self.counters["speaker encoder"] += 1
        return LevelEncoder()

    def aligner(self, language: str) -> None:
        return None


def says_its_text(prompt: Prompt, seed: int) -> list[str]:
    return [*prompt.text.replace(",", "").rstrip(".").lower().split(), END]


def toy_voice(said: Said = says_its_text, kill_at: int | None = None, **facts: object) -> Voice:
    """A voice that says what `said` says; `facts` are those of VoiceFacts."""
    voice = Voice(ScriptedModel(ScriptedSampler(said, kill_at), **facts), torch.device("cpu"), "fp32")
    voice.listeners = LevelListeners(None, None, voice.counters)
    return voice


LONG = "one two three four. five six seven. eight nine ten one."


def seeds_of(text: str, number: int, seed: int = 0, occurrence: int = 1) -> list[int]:
    """The candidates' seeds of a text."""
    key = Prompt(narration.key_of(text, occurrence), text).key
    return [candidate_seed(seed, key, index) for index in range(number)]


def parts_of(voice: Voice, text: str, folder: Path | None = None, **options: object) -> list[SpokenSentence | Pause]:
    settings = SpeakingSettings(**options)
    return list(Narration(voice, voice.script(text, settings), settings, folder).sentences())


def recording(path: Path, words: list[str]) -> Path:
    audio_BT = LevelCodec().decode(torch.tensor([codes_of(words)]), torch.tensor([1]))
    soundfile.write(path, audio_BT[0].numpy(), RATE)
    return path


BOOK = "one two three four five six seven eight nine ten one two three four five six seven eight. four five six. ten."


def prompts_of(voice: Voice) -> list[Prompt]:
    return [prompt for batch in voice.model.own.batches for prompt in batch]
