"""Exact expected best-of-n from N samples: `selection_weights`, then `expected_scores`. Pure functions on numpy arrays.

Shapes: P prompts, N candidates.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from modules.api import Verifier
from modules.statistics import UNBOUNDED, Ends

SELF_JUDGED = "(self-judged, as in the paper)"  # ends the name of such a line, so that no table can leave it out


@dataclass(frozen=True)
class CurvePoint:
    """One row of curve.csv: the judge's expected score of the best of `n`, selected by `selector`.

    `score` and its 95 % interval [low, high] count a candidate that the judge could not score, or that never ended, as
    the judge's worst score; `score_judged_only` excludes such selections (NaN if none is left). `num_unjudged`
    (ended, but NaN from the judge) and `num_runaways` (never ended) count candidates among all that the judge scored.
    `flops` is the mean compute per prompt: n samples, decoded, and scored by the selector if n > 1, or the total cost
    of a search of another kind; NaN for the oracle, which cannot be used in practice.

    `gain` with its paired interval is the difference from the line "random" at the same n (NaN if there is none).
    For judges that count errors against a text: `score_corpus` weights every prompt by the length of its text (1 -
    corpus error rate, at most 100 % for one prompt), and `chosen_runaways` is the expected number of prompts whose
    selected candidate has an error above 50 % or never ended. `scores_P` is the expected score of every prompt, for
    comparisons between lines.

    `seconds` are the measured wall seconds of `flops`, in batches with others. [speaker_low, speaker_high] is the
    interval over speakers (`cluster_interval`), wider where prompts of a speaker are alike; `num_speakers` is 0 and the
    interval NaN if prompts name none. The mean over several seeds has `num_seeds` and the standard deviation of the
    seeds' scores, `seed_deviation`; counts of candidates are then those of all seeds. `model` is empty if there is only
    one. `ends` are the bounds of intervals (`ends_of` the judge), `worst_score` is the judge's; `judged_mass` is the
    expected number of prompts whose selected candidate was scored, the weight of `score_judged_only` in a mean.

    `shared_families`: the verifier families that selector and judge share, empty if there are none; such a judge is
    biased towards the selections. `holds_under_every_family` is explained in families.py. `self_judged`: how the
    judge's own model took part, "steered", "selected" or both, in a line whose name ends in SELF_JUDGED; else empty.
    """

    algorithm: str
    selector: str
    judge: str
    n: int
    score: float
    low: float
    high: float
    num_prompts: int
    num_unjudged: int
    num_runaways: int
    score_judged_only: float
    prompt_set: str = ""
    flops: float = math.nan
    temperature: float = math.nan
    gain: float = math.nan
    gain_low: float = math.nan
    gain_high: float = math.nan
    score_corpus: float = math.nan
    chosen_runaways: float = math.nan
    seconds: float = math.nan
    num_speakers: int = 0
    speaker_low: float = math.nan
    speaker_high: float = math.nan
    num_seeds: int = 1
    seed_deviation: float = math.nan
    model: str = ""
    speakers_P: tuple[str, ...] = field(default=(), repr=False, compare=False)
    scores_P: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    ends: Ends = field(default=UNBOUNDED, repr=False, compare=False)
    worst_score: float = field(default=math.nan, repr=False, compare=False)
    judged_mass: float = field(default=math.nan, repr=False, compare=False)
    shared_families: str = ""
    holds_under_every_family: str = ""
    self_judged: str = ""
    selector_families: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    judge_families: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @property
    def is_independent(self) -> bool:
        """Whether the judge took no part in the selection: neither the oracle nor a self-judged line."""
        return not self.self_judged and not self.selector.startswith("oracle (")


def ends_of(verifier: Verifier) -> Ends:
    """The ends of a verifier's scale, for intervals; UNBOUNDED if speech does not reach them."""
    facts = verifier.facts
    return (float(facts.worst_score), float(facts.best_score)) if facts.reaches_ends else UNBOUNDED


def candidate_counts(num_candidates: int) -> list[int]:
    """1, 2, 4, ... up to `num_candidates`, which is always the last."""
    if num_candidates < 1:
        raise ValueError(f"Expected `num_candidates` to be at least 1, but got {num_candidates}.")
    powers = [2**exponent for exponent in range(num_candidates.bit_length()) if 2**exponent < num_candidates]
    return [*powers, num_candidates]


def selection_weights(selector_scores_N: np.ndarray, n: int) -> np.ndarray:
    """(N,) probability that a candidate is selected among n drawn without replacement from the N.

    The candidate of rank i (ascending, from 1) is best in C(i - 1, n - 1) of the C(N, n) subsets. Ties are broken by
    chance, so tied candidates share the mean weight of their group; NaN ranks below every score (all NaN are tied).
    """
    num_candidates = len(selector_scores_N)
    if not 1 <= n <= num_candidates:
        raise ValueError(f"Expected `n` in [1, {num_candidates}], but got {n}.")
    num_subsets = math.comb(num_candidates, n)
    weight_by_rank_N = np.array([math.comb(rank, n - 1) / num_subsets for rank in range(num_candidates)])
    missing_N = np.isnan(selector_scores_N)
    order_N = np.lexsort((np.where(missing_N, 0.0, selector_scores_N), ~missing_N))
    weights_N = np.empty(num_candidates)
    start = 0
    for stop in range(1, num_candidates + 1):
        if stop == num_candidates or not _tied(selector_scores_N[order_N[start]], selector_scores_N[order_N[stop]]):
            weights_N[order_N[start:stop]] = weight_by_rank_N[start:stop].mean()
            start = stop
    return weights_N


def _tied(first: float, second: float) -> bool:
    return bool(first == second or (np.isnan(first) and np.isnan(second)))


@dataclass(frozen=True)
class JudgedPrompt:
    """One prompt's candidates under one judge: `metric_N` has no NaN; `judged_N` marks those the judge scored.

    `length` is the length of the text in the judge's units (words, characters); NaN for a judge that counts no errors.
    """

    metric_N: np.ndarray
    judged_N: np.ndarray
    length: float = math.nan

    @classmethod
    def from_scores(
        cls, judge_scores_N: np.ndarray, stopped_N: np.ndarray, worst_score: float, length: float = math.nan
    ) -> "JudgedPrompt":
        """Build from scores; NaN, and candidates that never ended, count as `worst_score`."""
        judged_N = ~np.isnan(judge_scores_N) & stopped_N.astype(bool)
        return cls(np.where(judged_N, judge_scores_N, worst_score), judged_N, length)


def expected_scores(prompts: list[JudgedPrompt], weights_PN: list[np.ndarray]) -> np.ndarray:
    """(P,) expected metric of the selected candidate of each prompt."""
    return np.array([weights @ prompt.metric_N for prompt, weights in zip(prompts, weights_PN, strict=True)])


def judged_only_score(prompts: list[JudgedPrompt], weights_PN: list[np.ndarray]) -> tuple[float, float]:
    """Mean metric over the scored candidates, weighted by their selection probability (NaN if there are none), and the
    sum of these probabilities: the expected number of prompts whose selected candidate was scored."""
    total, mass = 0.0, 0.0
    for prompt, weights_N in zip(prompts, weights_PN, strict=True):
        chance_N = weights_N * prompt.judged_N
        total += float(chance_N @ prompt.metric_N)
        mass += float(chance_N.sum())
    return (total / mass if mass > 0 else math.nan), mass


def corpus_score(prompts: list[JudgedPrompt], scores_P: np.ndarray) -> float:
    """Mean of the scores weighted by the lengths of the texts; NaN if the judge provides no lengths."""
    lengths_P = np.array([prompt.length for prompt in prompts])
    return float(scores_P @ lengths_P / lengths_P.sum()) if lengths_P.sum() > 0 else math.nan


def expected_runaways(prompts: list[JudgedPrompt], weights_PN: list[np.ndarray]) -> float:
    """Expected number of prompts whose selected candidate scores below 0.5 (an error above 50 %) or was not scored."""
    if any(math.isnan(prompt.length) for prompt in prompts):
        return math.nan
    chances = [
        float(weights_N @ ((prompt.metric_N < 0.5) | ~prompt.judged_N))
        for prompt, weights_N in zip(prompts, weights_PN, strict=True)
    ]
    return sum(chances)
