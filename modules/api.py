"""Shared protocols and records. Imports nothing of ours but modules.tokens.
Shapes: B batch, T audio samples, S code frames, N candidates. Audio is float32 in [-1, 1], mono.
"""

import inspect
import math
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
    `speaker` and `language` are "" where they are not known. Samplers call modules.lm.text.prompt_format.prompt_tokens.
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


@dataclass(frozen=True, kw_only=True)
class CodecFacts:
    """Properties of a codec that are cheap to read.

    `encode` takes audio at `input_sample_rate` Hz, `decode` returns audio at `sample_rate` Hz; codes are in
    [0, `codebook_size`), `frame_rate` per second. `look_back_frames`: how many frames before `start_frame` `decode`
    computes too, for the compute ledger; inf: all of them.
    """

    sample_rate: int
    input_sample_rate: int
    frame_rate: float
    codebook_size: int
    look_back_frames: float


@runtime_checkable
class Codec(Protocol):
    """Audio to codes_BS (int64, one codebook) with num_codes_B, and back. A batch gives what single items give.

    `fingerprint` is a hash of the encode path only: a retrained decoder keeps token shards valid. `decoder_fingerprint`
    is a hash of all that decides how codes sound: stored scores of another are computed again.
    """

    @property
    def facts(self) -> CodecFacts: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def decoder_fingerprint(self) -> str: ...
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


@dataclass(frozen=True, kw_only=True)
class VerifierFacts:
    """Properties of a verifier, which do not change while it scores.

    `name` is the column of tables. Two verifiers with one `model_hash` are the same model, whatever their `settings`:
    one may not judge the other. `settings` (JSON) is everything besides the model that a score depends on, {} if there
    is nothing: stored scores are reused as long as model_hash and settings are equal. `families` are the kinds of model
    that it scores with ("whisper", "wavlm"): a judge of the selector's family shares its errors. `worst_score` stands
    for a candidate that a judge cannot score or that never ended; `best_score` is the other end of the scale, inf if
    there is none. Candidates of a prompt that lacks the needed text or reference are not scored. Only with
    `judges_partial` may it score candidates that are still being sampled.
    """

    name: str
    model_hash: str
    settings: dict[str, Any]
    families: frozenset[str]
    worst_score: float
    best_score: float = math.inf
    needs_text: bool
    needs_reference: bool
    judges_partial: bool = False


@runtime_checkable
class Verifier(Protocol):
    """Scores speech. Higher is better; NaN: the candidate has no score, and will have none. Any other exception than
    ValueError leaves `score`, so that the sweep retries.

    `facts` may read the model's files to compute its hash, and is then cached.
    """

    @property
    def facts(self) -> VerifierFacts: ...
    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor: ...  # (N,) float64

    def flops(self, seconds: float) -> float:
        """FLOPs to score one candidate of so many seconds of audio."""
        ...


@runtime_checkable
class ScoresMany(Protocol):
    """Optional for a Verifier: it scores the candidates of many prompts in one pass of its model.

    One tensor (N,) for each group of candidates: what `score` gives of that prompt and group alone.
    """

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]: ...


@runtime_checkable
class Transcribes(Protocol):
    """Optional for a Verifier that compares transcripts with the text: its score is 1 - error rate.

    `hypotheses` are the transcripts without normalisation, "" without audio. `reference_length` is the number of words
    or characters that errors are counted over; 0 if nothing of the prompt's text can be compared.
    """

    def hypotheses(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[str]: ...
    def reference_length(self, prompt: Prompt) -> int: ...


@runtime_checkable
class CombinesVerifiers(Protocol):
    """Optional for a Verifier that is made of others: none of its `members` may judge it, and its scores are relative
    (depend on the other candidates of the call). It stores the members' disagreement in the candidates' `scores`, as
    `disagreement_name`."""

    @property
    def members(self) -> Sequence[Verifier]: ...


def models_of(verifier: Verifier) -> frozenset[str]:
    """Hashes of the models that a verifier uses: its own, or those of its members."""
    if isinstance(verifier, CombinesVerifiers):
        return frozenset().union(*(models_of(member) for member in verifier.members))
    return frozenset({verifier.facts.model_hash})


def check_members(value: object, protocol: type, what: str) -> None:
    """Check that an object has every member of a protocol, and that its `facts` are complete.

    Raises:
        ValueError: Names `what`, the object's class and the member that is missing.
    """
    kind = f"{what} {type(value).__name__}"
    members = [name for name in vars(protocol) if not name.startswith("_")]
    for name in members:
        if inspect.getattr_static(value, name, None) is None:
            raise ValueError(
                f"Expected {kind} to have `{name}` (see {protocol.__name__} in modules/api.py), but got none."
            )
    if "facts" in members:
        try:
            _ = value.facts  # type: ignore[attr-defined]
        except TypeError as error:
            raise ValueError(f"Expected {kind} to have complete `facts`, but got: {error}.") from error


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
