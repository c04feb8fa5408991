"""Shared protocols and records. Imports nothing of ours but modules.tokens.
Shapes: B batch, T audio samples, S code frames, N candidates. Audio is float32 in [-1, 1], mono.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

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
    """One utterance to synthesise. `speaker` names the target voice; `told_speaker`, if set, is the name given to the
    model instead ("" gives none). `reference` is a recording of the target voice, if available. `voice` is a spoken
    prompt for voice cloning: its text and its codes (once the codec has encoded it) precede the generated codes. A
    `voice` without text is continued: `text` then begins with the words it contains."""

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
        """Arguments of PromptFormat.prompt_tokens: text, speaker, language, voice."""
        speaker = self.speaker if self.told_speaker is None else self.told_speaker
        return self.text, speaker, self.language, self.voice


@dataclass(frozen=True)
class SamplingSettings:
    """Sampling parameters. The defaults sample from the model's unmodified distribution.

    Applied in this order: `repetition_penalty` on codes already in the candidate (Keskar et al., arXiv 1909.05858:
    positive logits are divided by it, negative ones multiplied), `temperature`, `top_k`, `top_p` (nucleus), and
    `min_p`, which keeps tokens with at least `min_p` times the highest probability (Nguyen et al., arXiv 2407.01082).
    `force_words`: a format that writes words (WritesWords) writes those of the text alone, in order; not under vLLM.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    force_words: bool = False

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

    def stored(self) -> dict[str, Any]:
        """The settings as they are stored beside samples; `force_words` only if set, since older samples lack it."""
        return {name: value for name, value in asdict(self).items() if name != "force_words" or value}


@dataclass
class Branch:
    """A prompt and the codes sampled for it so far.

    `log_probability` is summed over the sampled tokens, in nats, under the unmodified model (temperature 1, all codes
    and the end token). `stopped`: the end token was sampled. `state` is private to the Sampler that made the branch.
    `tokens_S`: ids of all sampled tokens but the end, where the format writes words among the codes; None elsewhere.
    """

    prompt: Prompt
    codes_S: Tensor
    log_probability: float = 0.0
    stopped: bool = False
    state: Any = None
    tokens_S: Tensor | None = None

    @property
    def num_tokens(self) -> int:  # sampled so far, without the end
        return int((self.codes_S if self.tokens_S is None else self.tokens_S).numel())


@dataclass(frozen=True)
class Cost:
    """Compute spent: FLOPs by component, and wall-clock seconds. `prompt_flops` is the part of `lm_flops` spent on the
    prompt; candidates of one prompt share it, so `Trace.cost` counts it once."""

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
    """One sample: its codes, its scores by verifier name (NaN = could not be scored), and its cost.

    `is_partial`: the search is still extending it; `audio` may then cover only the first codes, and decoding continues
    from there. `voice_codes_S`: the codes of a spoken prompt, used as left context by the decoder and not part of
    `audio`. `num_written_tokens`: text tokens sampled among the codes. `cost`: the search's compute for
    sampling, decoding and guiding verifiers. `verifier_costs`: the additional cost of scoring the whole candidate, by
    verifier name. `failed`: names of verifiers whose score is NaN because they raised, to be retried.
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
    num_written_tokens: int = 0
    verifier_costs: dict[str, Cost] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    @property
    def num_voice_codes(self) -> int:
        return 0 if self.voice_codes_S is None else int(self.voice_codes_S.numel())

    @property
    def num_codes(self) -> int:
        return int(self.codes_S.numel())


@runtime_checkable
class TextTokenizer(Protocol):
    """Maps text to ids in [0, vocab_size) and back. `encode` raises ValueError for text it cannot represent."""

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, tokens: Sequence[int]) -> str: ...


@runtime_checkable
class PromptFormat(Protocol):
    """Layout of text and speech tokens in a sequence. The data and the model use the same one.

    `prompt_tokens` ends with the start-of-speech token. `example_tokens` returns the whole sequence and the number of
    leading tokens excluded from the loss. `speaker` and `language` are "" if unknown. Samplers call
    modules.lm.text.prompt_format.encoded_prompt.
    """

    @property
    def token_space(self) -> TokenSpace: ...
    @property
    def num_extra_tokens(self) -> int: ...  # tokens per example in addition to those of text and codes
    def prompt_tokens(
        self, text: str, speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> list[int]: ...
    def example_tokens(
        self, text: str, codes: Sequence[int], speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> tuple[list[int], int]: ...


@runtime_checkable
class ReadsSpeech(Protocol):
    """Optional for a PromptFormat: examples of speech recognition, from codes to text."""

    def understanding_tokens(self, text: str, codes: Sequence[int]) -> tuple[list[int], int]: ...


@runtime_checkable
class Chats(Protocol):
    """Optional for a PromptFormat: examples of text alone, by a chat template."""

    def chat_tokens(self, messages: Sequence[dict[str, str]]) -> tuple[list[int], int]: ...


@runtime_checkable
class WritesWords(Protocol):
    """Optional for a PromptFormat: each word of the text precedes its codes, so that answers contain text tokens.
    `aligned_example` requires `said.words`."""

    def aligned_example(self, said: Utterance) -> tuple[list[int], int]: ...
    def written_tokens(self, text: str) -> list[int]: ...  # the words in an answer, each with the same token after it


@runtime_checkable
class VariesExamples(Protocol):
    """Optional for a TextTokenizer: another encoding of training texts, a function of the text alone."""

    def encode_example(self, text: str) -> list[int]: ...


@runtime_checkable
class TokenizesText(Protocol):
    """Optional for a PromptFormat: the tokenizer of its texts, to count their tokens."""

    @property
    def tokenizer(self) -> TextTokenizer: ...


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
    """Encodes audio to codes_BS (int64, one codebook) with num_codes_B, and decodes them. Results do not depend on
    batching.

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
        """Return audio_BT from `start_frame` on; item b is valid for (num_codes_B[b] - start_frame) * hop samples."""
        ...

    def decode_flops(self, num_codes: int) -> float: ...


@runtime_checkable
class SpeechStates(Protocol):
    """A frozen speech encoder. Returns an object with `latent_BSC`, one state per started frame. `encode_settings`
    identifies the encoder that computed stored states."""

    sample_rate: int
    hop_length: int

    @property
    def encode_settings(self) -> str: ...
    def __call__(self, audio_BT: Tensor, num_samples_B: Tensor) -> Any: ...


@runtime_checkable
class Sampler(Protocol):
    """Samples speech codes for prompts. Noise is a pure function of (seed, position), independent of batching.

    `extend` returns len(branches) * num_children branches, the children of one branch adjacent; `drop` frees branches.
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
    """An external inference engine that samples the model's codes, named in a config instead of the built-in sampler.

    `identity`: name, version and numeric settings, stored with candidates to keep engines and versions apart. A
    sampler stays valid until a sampler for another model is requested.
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
    there is none. `reaches_ends`: whether speech gets these scores, as a perfect transcript gets 1; a cosine similarity
    does not, so that they are no bounds of its intervals. Candidates of a prompt that lacks the needed text or
    reference are not scored. Only with `judges_partial` may it score candidates that are still being sampled.
    """

    name: str
    model_hash: str
    settings: dict[str, Any]
    families: frozenset[str]
    worst_score: float
    best_score: float = math.inf
    reaches_ends: bool = True
    needs_text: bool
    needs_reference: bool
    judges_partial: bool = False


@runtime_checkable
class Verifier(Protocol):
    """Scores speech; higher is better. NaN: the candidate cannot be scored (permanent). Exceptions other than
    ValueError propagate and are retried.

    `facts` may read the model's files to compute its hash, and is then cached.
    """

    @property
    def facts(self) -> VerifierFacts: ...
    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor: ...  # (N,) float64

    def flops(self, seconds: float) -> float:
        """FLOPs of scoring one candidate with `seconds` of audio."""
        ...


@runtime_checkable
class ScoresMany(Protocol):
    """Optional for a Verifier: scores the candidates of many prompts in one batch.

    Returns one tensor (N,) per group of candidates, equal to what `score` returns for that prompt and group.
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


def disagreement_name(verifier_name: str) -> str:
    """Key in a candidate's `scores` for the disagreement of an ensemble's members."""
    return f"{verifier_name} disagreement"


# Errors of a Verifier that are not retried.
BROKEN_INSTALLATION = (ImportError, FileNotFoundError, MemoryError)
