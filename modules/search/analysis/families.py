"""Families of verifiers: whether a selector's gain also holds under judges of another kind.

A verifier of the judge's own family (two sizes of Whisper) shares its errors, and such a judge overestimates the gain.
A family is a name such as "whisper"; an ensemble has the families of all its members.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from modules.api import Verifier
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.statistics import Resamples, bootstrap_interval, difference_ends

NOT_KNOWN = "not known"


def families_of(verifier: Verifier | None) -> frozenset[str]:
    """The families of a verifier; empty if there is no verifier or its family is unknown."""
    return frozenset() if verifier is None else frozenset(verifier.facts.families)


def shared_families(selector: Verifier | None, judge: Verifier) -> str:
    """The families that both belong to, for tables; empty if there are none."""
    return ", ".join(sorted(families_of(selector) & families_of(judge)))


def with_verdicts(
    points: Sequence[CurvePoint], samples: Sequence[CurvePoint], seed: int, num_resamples: int = 2000
) -> list[CurvePoint]:
    """The points with `holds_under_every_family` set for selectors.

    "yes": the paired gain over one sample excludes 0 under a judge of each family other than the selector's; "no: ..."
    names the families under which it does not. "not known": there are no two such judges of different families, a
    family is unknown, or `samples` (points of best-of-n) have no single sample of the same prompts. Judges that share
    a family with the selector are ignored. Chance, oracles, self-judged lines and single samples have no verdict.
    """
    one_sample = {_drawn_by(one): one for one in samples if one.selector == "random" and one.n == 1}
    single = {id(one) for one in samples if one.n == 1}
    lines: dict[tuple, list[CurvePoint]] = {}
    for point in points:
        if id(point) not in single and point.selector != "random" and point.is_independent:
            lines.setdefault(_line(point), []).append(point)
    draw = functools.cache(functools.partial(Resamples.draw, seed=seed, num_resamples=num_resamples))

    def gains(point: CurvePoint) -> bool:
        difference_P = point.scores_P - one_sample[_drawn_by(point)].scores_P
        return bootstrap_interval(difference_P, draw(point.num_prompts), difference_ends(point.ends))[0] > 0

    verdicts = {}
    for line, own in lines.items():
        independent = [
            point
            for point in own
            if point.selector_families
            and point.judge_families
            and not point.selector_families & point.judge_families
            and _drawn_by(point) in one_sample
        ]
        verdicts[line] = _verdict([(point.judge_families, gains(point)) for point in independent])
    counted = {id(point) for own in lines.values() for point in own}
    return [
        replace(point, holds_under_every_family=verdicts[_line(point)]) if id(point) in counted else point
        for point in points
    ]


def _verdict(judged: Sequence[tuple[frozenset[str], bool]]) -> str:
    """Verdict from each judge's families and whether the gain excludes 0 under it."""
    if all(first & second for (first, _), (second, _) in itertools.combinations(judged, 2)):
        return NOT_KNOWN
    missing = frozenset().union(*(families for families, _ in judged))
    missing -= frozenset().union(*(families for families, gains in judged if gains))
    return f"no: {', '.join(sorted(missing))}" if missing else "yes"


def _drawn_by(point: CurvePoint) -> tuple[str, str, str, str]:
    temperature = "" if math.isnan(point.temperature) else f"{point.temperature:g}"  # NaN would not equal itself
    return point.prompt_set, point.judge, point.model, temperature


def _line(point: CurvePoint) -> tuple:
    prompt_set, _, *rest = _drawn_by(point)
    return prompt_set, *rest, point.algorithm, point.selector, point.n
