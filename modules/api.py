"""Shared protocols and records. Imports nothing of ours but modules.tokens.
Shapes: B batch, T audio samples, S code frames, N candidates. Audio is float32 in [-1, 1], mono.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from modules.tokens import TokenSpace, Utterance


@dataclass(frozen=True)
class Audio:
    """A mono waveform: `samples_T` float32 on the CPU, `sample_rate` in Hz."""

    samples_T: Tensor
    sample_rate: int

    @property
    def seconds(self) -> float:
        return self.samples_T.numel() / self.sample_rate


@dataclass(frozen=True)
class Prompt:
    """What is to be spoken. `speaker` is whose voice is wanted; `told_speaker` whom a model is asked for, where that is
    another or nobody (""). `reference` is a recording of the wanted voice, where one is known. With `voice` it is a
    spoken prompt: its text, and its codes once the codec has read it, precede the generation, which continues in its
    voice; one without text is continued itself: `text` begins with its words."""

    key: str
    text: str
    language: str = "en"
    speaker: str = ""
    reference: Audio | None = None
    voice: Utterance | None = None
    emotion: str = ""
    told_speaker: str | None = None

    @property
    def told(self) -> tuple[str, str, str, Utterance | None]:
        """What a model is told: the arguments of PromptFormat.prompt_tokens."""
        speaker = self.speaker if self.told_speaker is None else self.told_speaker
        return self.text, speaker, self.language, self.voice


@dataclass(frozen=True)
class SamplingSettings:
    """How the next code is drawn. The defaults leave the distribution whole.

    In this order: `repetition_penalty` on the codes that the candidate already holds (Keskar et al., arXiv 1909.05858:
    a logit above 0 is divided by it, one below multiplied), `temperature`, the `top_k` likeliest, the nucleus of mass
    `top_p`, and what has at least `min_p` times the probability of the likeliest (Nguyen et al., arXiv 2407.01082).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"Expected `temperature` to be above 0, but got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Expected `top_p` in (0, 1], but got {self.top_p}.")
        if self.top_k < 0:
            raise ValueError(f"Expected `top_k` to be at least 0, but got {self.top_k}.")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"Expected `min_p` in [0, 1], but got {self.min_p}.")
        if self.repetition_penalty <= 0:
            raise ValueError(f"Expected `repetition_penalty` to be above 0, but got {self.repetition_penalty}.")


@dataclass
class Branch:
    """A prompt and the codes drawn for it so far.

    `log_probability` is the sum over the drawn tokens (nats, under the model itself: temperature 1, all codes and the
    end token). `stopped` says that the end token was drawn. `state` belongs to the Sampler that made the branch.
    """

    prompt: Prompt
    codes_S: Tensor
    log_probability: float = 0.0
    stopped: bool = False
    state: Any = None


@dataclass(frozen=True)
class Cost:
    """Compute spent: floating-point operations by part, and wall seconds. `prompt_flops` is the part of `lm_flops` that
    read the prompt: candidates of one prompt share it, so that `Trace.cost` counts it once."""

    lm_flops: float = 0.0
    codec_flops: float = 0.0
    verifier_flops: float = 0.0
    seconds: float = 0.0
    prompt_flops: float = 0.0

    @property
    def flops(self) -> float:
        return self.lm_flops + self.codec_flops + self.verifier_flops

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))


@dataclass
class Candidate:
    """One sample: its codes, what verifiers said of it (by verifier name; NaN = could not judge), its cost.

    `is_partial`: a search is still growing it. Its `audio` may then be that of the first codes only, which is where the
    decoder goes on. `voice_codes_S`: a spoken prompt, which the decoder looks back on; `audio` holds nothing of it.
    `cost`: what its search spent to draw and decode it, and on verifiers that steered. `verifier_costs`: what it cost,
    beside that, to have the whole candidate heard by each verifier (by name).
    """

    prompt_key: str
    index: int
    seed: int
    codes_S: Tensor
    log_probability: float
    stopped: bool
    audio: Audio | None = None
    scores: dict[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    is_partial: bool = False
    voice_codes_S: Tensor | None = None
    verifier_costs: dict[str, Cost] = field(default_factory=dict)

    @property
    def num_voice_codes(self) -> int:
        return 0 if self.voice_codes_S is None else int(self.voice_codes_S.numel())

    @property
    def num_codes(self) -> int:
        return int(self.codes_S.numel())


@runtime_checkable
class TextTokenizer(Protocol):
    """Text to ids in [0, vocab_size) and back. `encode` raises ValueError on text that it cannot express."""

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, tokens: Sequence[int]) -> str: ...


@runtime_checkable
class PromptFormat(Protocol):
    """Where text and codes stand in a sequence. The data and the model hold the same one.

    `prompt_tokens` end with the start of speech; `example_tokens` are the whole sequence, and how many carry no loss.
    `speaker` and `language` are "" where they are not known. Samplers call `encoded_prompt` of modules.lm.text.
    """

    @property
    def token_space(self) -> TokenSpace: ...
    @property
    def num_extra_tokens(self) -> int: ...  # of an example, beside those of its text and codes
    def prompt_tokens(
        self, text: str, speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> list[int]: ...
    def example_tokens(
        self, text: str, codes: Sequence[int], speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> tuple[list[int], int]: ...


@runtime_checkable
class Codec(Protocol):
    """Audio to codes_BS (int64, one codebook) with num_codes_B, and back. A batch gives what single items give.

    `fingerprint` is a hash of the encode path only: a retrained decoder keeps token shards valid. A codec may say in
    `look_back_frames` how many frames before `start_frame` it decodes to give a tail; the ledger counts them.
    """

    @property
    def sample_rate(self) -> int: ...
    @property
    def frame_rate(self) -> float: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        """audio_BT from `start_frame` on; item b is valid up to (num_codes_B[b] - start_frame) * hop samples."""
        ...

    def decode_flops(self, num_codes: int) -> float: ...


@runtime_checkable
class SpeechStates(Protocol):
    """A frozen speech encoder: `latent_BSC`, one per started frame; `encode_settings` tells its states from others."""

    sample_rate: int
    hop_length: int

    @property
    def encode_settings(self) -> str: ...
    def __call__(self, audio_BT: Tensor, num_samples_B: Tensor) -> Any: ...


@runtime_checkable
class Resynthesiser(Protocol):
    """Anything that turns audio into audio through a bit stream: ours, Opus, Codec2, other neural codecs."""

    @property
    def name(self) -> str: ...
    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        """The audio after the codec, and the bits that its stream took."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Draws speech codes for prompts. Noise is a pure function of (seed, position): batches do not matter.

    `extend` gives len(branches) * num_children branches, the children of one branch side by side; `drop` frees them.
    """

    def start(self, prompts: Sequence[Prompt]) -> list[Branch]: ...
    def extend(
        self, branches: Sequence[Branch], num_children: int, max_new_tokens: int, seeds: Sequence[int]
    ) -> list[Branch]: ...
    def drop(self, branches: Sequence[Branch]) -> None: ...
    def flops(self, num_prompt_tokens: int, num_codes: int) -> float: ...
    def num_prompt_tokens(self, prompt: Prompt) -> int: ...


@runtime_checkable
class SamplerEngine(Protocol):
    """Another program that draws a model's codes; a config names it in place of the model's own sampler.

    `identity`: its name, version and numeric settings. It stands in stored candidates, so that those of two engines, or
    of two versions of one, are never taken for each other. A sampler serves until the next one of another model.
    """

    def identity(self) -> dict[str, Any]: ...
    def sampler(
        self, network: Any, prompt_format: PromptFormat, settings: SamplingSettings, model_hash: str
    ) -> Sampler: ...


@runtime_checkable
class Verifier(Protocol):
    """Scores speech. Higher is better; NaN: the candidate has no score, and will have none. Any other exception than
    ValueError leaves `score`, so that the sweep retries.

    `name` is the column of tables. `worst_score` stands for a candidate that a judge cannot score or that never ended;
    `best_score` is the other end of the scale, inf where there is none. `families` are the kinds of model that it
    scores with ("whisper", "wavlm"): a judge of the selector's family shares its errors. `settings` (JSON) are all
    that decides a score beside the model.
    Two verifiers with one `model_hash` are the same verifier, whatever their settings: one may not judge the other.
    One that is made of others lists their hashes as `member_hashes`, and may not be judged by any of them; it leaves
    their disagreement in the candidates' `scores`, as `disagreement_name`.
    """

    @property
    def name(self) -> str: ...
    @property
    def model_hash(self) -> str: ...
    @property
    def worst_score(self) -> float: ...
    @property
    def best_score(self) -> float: ...
    @property
    def families(self) -> frozenset[str]: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def needs_text(self) -> bool: ...
    @property
    def needs_reference(self) -> bool: ...
    @property
    def judges_partial(self) -> bool: ...
    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor: ...  # (N,) float64

    def flops(self, seconds: float) -> float:
        """FLOPs to judge one candidate of so many seconds of audio."""
        ...


@runtime_checkable
class ScoresMany(Protocol):
    """What a Verifier may have beside `score`: it scores the candidates of many prompts in one pass of its model.

    One tensor (N,) for each group of candidates: what `score` gives of that prompt and group alone.
    """

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]: ...


def disagreement_name(verifier_name: str) -> str:
    """Under which a verifier that is made of others leaves, in a candidate's `scores`, how much they disagree."""
    return f"{verifier_name} disagreement"


# What a Verifier raises that no second try will mend: it stops whoever asked.
BROKEN_INSTALLATION = (ImportError, FileNotFoundError, MemoryError)


def pad_rows(rows: Sequence[Tensor], value: float = 0) -> tuple[Tensor, Tensor]:
    """Stack 1-D tensors into (len(rows), longest), padded with `value`; and their lengths (int64)."""
    lengths_B = torch.tensor([row.numel() for row in rows], dtype=torch.int64)
    padded = rows[0].new_full((len(rows), int(lengths_B.max())), value)
    for target, row in zip(padded, rows, strict=True):
        target[: row.numel()] = row
    return padded, lengths_B
