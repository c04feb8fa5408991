"""Ensembles: several verifiers combined into one score, with a measure of their disagreement. M members."""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from modules.api import Candidate, Prompt, ScoresMany, Verifier, VerifierFacts, disagreement_name, models_of

Method = Literal["mean", "rank", "worst"]


def z_scores(scores_MN: Tensor) -> Tensor:
    """Standardise each row by its mean and standard deviation; NaN is ignored and kept; a constant row gives 0."""
    known_MN = ~scores_MN.isnan()
    count_M1 = known_MN.sum(1, keepdim=True).clamp(min=1)
    mean_M1 = scores_MN.nan_to_num(0).sum(1, keepdim=True) / count_M1
    centred_MN = (scores_MN - mean_M1).nan_to_num(0)
    spread_M1 = (centred_MN.square().sum(1, keepdim=True) / count_M1).sqrt()
    floor_M1 = 1e-9 * (1 + mean_M1.abs())  # equal scores differ by rounding
    return torch.where(spread_M1 > floor_M1, (scores_MN - mean_M1) / spread_M1, scores_MN * 0)


def rank_scores(scores_MN: Tensor) -> Tensor:
    """Fraction of the other scores in a row that each score exceeds, ties count half, in [0, 1]; NaN stays; 0.5 if
    there are no others."""
    better_MNN = (scores_MN[:, :, None] > scores_MN[:, None, :]).double()
    tied_MNN = (scores_MN[:, :, None] == scores_MN[:, None, :]).double()
    num_others_M1 = (~scores_MN.isnan()).sum(1, keepdim=True) - 1
    beaten_MN = better_MNN.sum(2) + (tied_MNN.sum(2) - 1) / 2
    share_MN = torch.where(num_others_M1 > 0, beaten_MN / num_others_M1.clamp(min=1), torch.full_like(scores_MN, 0.5))
    return share_MN.masked_fill(scores_MN.isnan(), float("nan"))


def scores_by(verifier: Verifier, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
    """(N,) scores of each prompt's group, in one batch if the verifier supports it."""
    if isinstance(verifier, ScoresMany):
        return verifier.score_many(prompts, groups)
    return [verifier.score(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]


class Ensemble:
    """Combines several verifiers into a relative score (depends on the other candidates in the call, those of one
    prompt).

    A candidate that a member could not score gets NaN, because the remaining members would be a different ensemble. No
    member may judge the ensemble (CombinesVerifiers). The ensemble needs a text or a reference if any member does.

    Args:
        members: At least two.
        method: "mean": mean z-score among the candidates; "rank": mean fraction of the others that it exceeds; "worst":
            the lowest z-score.
        weights: One per member, learned elsewhere, for "mean" and "rank"; None weights them equally.
        name: Column name in tables.
    """

    def __init__(
        self,
        members: list[Verifier],
        method: Method = "mean",
        weights: list[float] | None = None,
        name: str = "ensemble",
    ) -> None:
        if len(members) < 2:
            raise ValueError(f"Expected `members` to be two or more, but got {len(members)}.")
        if method not in ("mean", "rank", "worst"):
            raise ValueError(f"Expected `method` to be mean, rank or worst, but got {method!r}.")
        if weights is not None and (len(weights) != len(members) or method == "worst" or not any(weights)):
            raise ValueError(
                f"Expected `weights` to hold {len(members)} numbers for mean or rank, not all 0, but got {weights}."
            )
        self.members, self.method, self.weights, self.name = members, method, weights, name
        self.disagreements: list[float] = []

    @cached_property
    def facts(self) -> VerifierFacts:
        """What any member needs; raises ValueError if two members have the same name.

        The settings hold model and settings of each member, in the order of the weights. `worst_score` is a bound below
        every possible score of up to 100 candidates: |z| is at most sqrt(N - 1).
        """
        members = [member.facts for member in self.members]
        names = [member.name for member in members]
        if len(set(names)) < len(names):
            raise ValueError(f"Expected `members` to have different names, but got {names}.")
        models = [[member.model_hash, member.settings] for member in members]
        is_rank = self.method == "rank"
        return VerifierFacts(
            name=self.name,
            model_hash=hashlib.sha256("\n".join(sorted(models_of(self))).encode()).hexdigest(),
            settings={"method": self.method, "weights": self.weights, "members": models},
            families=frozenset().union(*(member.families for member in members)),
            worst_score=-1.0 if is_rank else -10.0,
            best_score=1.0 if is_rank else math.inf,  # z-scores are unbounded
            needs_text=any(member.needs_text for member in members),
            needs_reference=any(member.needs_reference for member in members),
            judges_partial=all(member.judges_partial for member in members),
        )

    @property
    def mean_disagreement(self) -> float:
        """Standard deviation of the members' z-scores, mean over all candidates scored so far; NaN before the first."""
        known = [value for value in self.disagreements if value == value]
        return sum(known) / len(known) if known else float("nan")

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64. Stores the members' disagreement in the candidates' scores, under `disagreement_name`."""
        return self.score_many([prompt], [candidates])[0]

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts: each member scores those of all prompts in one batch."""
        heard = [scores_by(member, prompts, groups) for member in self.members]
        own = [torch.stack([one.double() for one in scores]) for scores in zip(*heard, strict=True)]
        return [self._combined(*one) for one in zip(groups, own, strict=True)]

    def _combined(self, candidates: Sequence[Candidate], scores_MN: Tensor) -> Tensor:
        if not scores_MN.numel():
            return torch.zeros(0, dtype=torch.float64)
        disagreements = self.disagreement(scores_MN).tolist()
        self.disagreements += disagreements
        for candidate, disagreement in zip(candidates, disagreements, strict=True):
            candidate.scores[disagreement_name(self.name)] = disagreement
        if self.method == "worst":
            return z_scores(scores_MN).amin(0).masked_fill(scores_MN.isnan().any(0), float("nan"))
        comparable_MN = rank_scores(scores_MN) if self.method == "rank" else z_scores(scores_MN)
        weights_M = torch.tensor(self.weights or [1.0] * len(self.members), dtype=torch.float64)
        return weights_M @ comparable_MN / weights_M.abs().sum()

    @staticmethod
    def disagreement(scores_MN: Tensor) -> Tensor:
        """(N,) standard deviation of the members' z-scores of each candidate: 0 is full agreement, 1 is chance."""
        return z_scores(scores_MN).std(0, unbiased=False)

    def flops(self, seconds: float) -> float:
        """FLOPs of all members."""
        return sum(member.flops(seconds) for member in self.members)
