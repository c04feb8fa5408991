"""A sampler, a codec and verifiers simple enough to check by hand, which record their calls."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from modules.api import Branch, Candidate, Prompt
from modules.tokens import TokenSpace, Utterance
from tests.toys.facts import CodecToy, VerifierToy

CODEBOOK_SIZE = 16
HOP_LENGTH = 16


def toy_prompts(num_prompts: int) -> list[Prompt]:
    return [Prompt(key=f"prompt{index}", text="word " * (index + 1)) for index in range(num_prompts)]


class ToySampler:
    """Codes and length are a pure function of the seed. Fails at the call `fail_at_call` (from 1) of `extend`."""

    def __init__(self, fail_at_call: int | None = None) -> None:
        self.fail_at_call = fail_at_call
        self.extended: list[tuple[int, int]] = []
        self.num_drawn = 0
        self.alive: set[int] = set()

    def start(self, prompts: Sequence[Prompt]) -> list[Branch]:
        return [self._born(Branch(prompt, torch.zeros(0, dtype=torch.int64))) for prompt in prompts]

    def _born(self, branch: Branch) -> Branch:
        self.alive.add(id(branch))
        return branch

    def extend(
        self, branches: Sequence[Branch], num_children: int, max_new_tokens: int, seeds: Sequence[int]
    ) -> list[Branch]:
        self.extended.append((len(branches), num_children))
        if len(self.extended) == self.fail_at_call:
            raise KeyboardInterrupt("killed")
        children = []
        for place, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            num_wanted = int(torch.randint(0, max_new_tokens + 2, (), generator=generator))
            codes_S = torch.randint(CODEBOOK_SIZE, (min(num_wanted, max_new_tokens),), generator=generator)
            branch = Branch(
                branches[place // num_children].prompt, codes_S, -float(num_wanted), num_wanted < max_new_tokens
            )
            children.append(self._born(branch))
        self.num_drawn += len(children)
        return children

    def drop(self, branches: Sequence[Branch]) -> None:
        for branch in branches:
            self.alive.remove(id(branch))

    def flops(self, num_prompt_tokens: int, num_codes: int) -> float:
        return 1000.0 * (num_prompt_tokens + num_codes)

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text)


class ToyFormat:
    """A prompt's tokens: the code points of speaker, language and text, and a spoken prompt's text and codes."""

    num_extra_tokens = 0

    def __init__(self, codebook_size: int = CODEBOOK_SIZE) -> None:
        self.token_space = TokenSpace(text_vocab_size=1 << 20, codebook_size=codebook_size)

    def prompt_tokens(
        self, text: str, speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> list[int]:
        said = text if voice is None else f"{voice.text} {text}"
        return [*map(ord, f"{speaker} {language} {said}"), *([] if voice is None else voice.codes)]

    def example_tokens(self, text: str, codes: Sequence[int], **told: Any) -> tuple[list[int], int]:
        prompt = self.prompt_tokens(text, **told)
        return [*prompt, *codes], len(prompt)


class TreeSampler(ToySampler):
    """The code at each position is a pure function of seed, position and previous code, so that branches can fork.

    With `num_codes` every candidate has that many; otherwise each code is the last with a chance of 4 %.
    """

    def __init__(self, num_codes: int | None = None) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.num_tokens = 0  # sampled codes, over all branches
        self.max_alive = 0

    def next_code(self, codes: list[int], seed: int) -> int | None:
        """Return the next code; None: the end."""
        bits = hash((seed, len(codes), codes[-1] if codes else -1))
        is_end = bits // 16 % 100 < 4 if self.num_codes is None else len(codes) == self.num_codes
        return None if is_end else bits % 16

    def extend(
        self, branches: Sequence[Branch], num_children: int, max_new_tokens: int, seeds: Sequence[int]
    ) -> list[Branch]:
        self.extended.append((len(branches), num_children))
        children = []
        for place, seed in enumerate(seeds):
            parent = branches[place // num_children]
            assert id(parent) in self.alive, "a branch that was dropped"
            codes, stopped = parent.codes_S.tolist(), parent.stopped
            for _ in range(0 if stopped else max_new_tokens):
                code = self.next_code(codes, seed)
                if code is None:
                    stopped = True
                    break
                codes.append(code)
            self.num_tokens += len(codes) - parent.codes_S.numel()
            log_probability = -float(len(codes))
            codes_S = torch.tensor(codes, dtype=torch.int64)
            children.append(self._born(Branch(parent.prompt, codes_S, log_probability, stopped)))
        self.max_alive = max(self.max_alive, len(self.alive))
        return children


class ToyCodec(CodecToy):
    """Code c becomes HOP_LENGTH samples of c / 16 * gain. Records the shapes of the batches it decoded."""

    sample_rate = 800
    frame_rate = 50.0
    codebook_size = CODEBOOK_SIZE
    fingerprint = "toy codec"

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain
        self.starts: list[int] = []
        self.batches: list[tuple[int, ...]] = []

    @property
    def decoder_fingerprint(self) -> str:
        return f"toy decoder with gain {self.gain}"

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        return (audio_BT[:, ::HOP_LENGTH] * CODEBOOK_SIZE / self.gain).long(), num_samples_B // HOP_LENGTH

    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        self.batches.append(tuple(codes_BS.shape))
        self.starts.append(start_frame)
        return (codes_BS[:, start_frame:].float() / CODEBOOK_SIZE * self.gain).repeat_interleave(HOP_LENGTH, dim=1)

    def decode_flops(self, num_codes: int) -> float:
        return 10.0 * num_codes


class ToyVerifier(VerifierToy):
    """Scores audio with `function(samples_T)`. `asked` lists the (prompt key, candidate index) that it has scored."""

    worst_score = -1.0

    def __init__(self, name: str, function: Callable[[Tensor], float], model_hash: str | None = None) -> None:
        self.name = name
        self.function = function
        self.model_hash = model_hash or f"hash of {name}"
        self.families, self.settings = frozenset({name}), {}
        self.asked: list[tuple[str, int]] = []

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        self.asked += [(prompt.key, candidate.index) for candidate in candidates]
        scores = [self.function(candidate.audio.samples_T) for candidate in candidates]
        return torch.tensor(scores, dtype=torch.float64)

    def flops(self, seconds: float) -> float:
        return 100.0 * seconds


class WritingVerifier(ToyVerifier):
    """A ToyVerifier that also returns transcripts."""

    def reference_length(self, prompt: Prompt) -> int:
        return len(prompt.text.split())

    def hypotheses(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[str]:
        return [f"{prompt.key} {candidate.index}: {candidate.num_codes}" for candidate in candidates]


def mean_level(samples_T: Tensor) -> float:
    return round(float(samples_T.mean()), 6)


def first_level(samples_T: Tensor) -> float:
    """Few distinct values, so that candidates tie."""
    return float(samples_T[0] > 0.5)


def last_level_or_nan(samples_T: Tensor) -> float:
    """NaN (cannot be scored) for short audio."""
    return float(samples_T[-1]) if samples_T.numel() > 3 * HOP_LENGTH else float("nan")


STATISTICS: dict[str, Callable[[Tensor], float]] = {
    "mean": lambda samples_T: float(samples_T.mean()),
    "peak": lambda samples_T: float(samples_T.abs().max()),
    "power": lambda samples_T: float(samples_T.square().mean()),
    "crossings": lambda samples_T: float((samples_T[1:] * samples_T[:-1] < 0).float().mean()),
}


class StatisticVerifier(ToyVerifier):
    """Scores a statistic of the audio, partial or whole; a yaml can name it."""

    judges_partial = True

    def __init__(self, name: str, statistic: str) -> None:
        super().__init__(name, STATISTICS[statistic])


class StatisticWriter(StatisticVerifier, WritingVerifier):
    """A StatisticVerifier that also returns transcripts."""
