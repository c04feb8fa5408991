"""Pure functions for the codec's table: score resyntheses and summarise the judgements. codec_columns.py prints them.

Shapes: B utterances, T audio samples, Q codebooks, S code frames.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from modules.api import BROKEN_INSTALLATION, Audio, Candidate, Prompt, Verifier
from modules.audio import resampled
from modules.batches import pad_rows
from modules.evaluation.code_usage import code_estimates
from modules.metrics import pesq_scores, stoi_scores
from modules.recognition import Normaliser, Recogniser
from modules.search.scorer import score_tasks
from modules.statistics import UNBOUNDED, Ends, Estimate, mean_estimate, ratio_estimate

logger = logging.getLogger(__name__)

METRIC_RATE = 16000  # Hz, at which all systems are scored: PESQ-WB supports no other
# Ends that utterances reach, for intervals: no error, an error of all words. STOI and PESQ stay away from theirs.
METRIC_ENDS: dict[str, Ends] = {"wer": (0.0, 1.0)}


@dataclass(frozen=True)
class EvaluatedRecording:
    """A recording to evaluate, with its transcript."""

    key: str
    text: str
    audio: Audio


@dataclass(frozen=True)
class Judgement:
    """Scores of one system on one utterance: a row of codec_utterances.csv.

    `reference` and `hypothesis` are normalised; `num_errors` are substituted, deleted and inserted words. NaN = cannot
    be scored (no words in the reference; silence or too little speech for STOI and PESQ; a verifier or the recogniser
    failed), or not measured (seconds of a system whose halves cannot be timed separately).

    `scores` by verifier; `pitch`, the median of the recording in Hz, NaN if not measured; `codes_QS`, the transmitted
    codes, are kept in memory only.
    """

    system: str
    key: str
    seconds: float
    num_bits: float
    num_words: int
    num_errors: float
    stoi: float
    pesq_nb: float
    pesq_wb: float
    reference: str
    hypothesis: str
    encode_seconds: float = math.nan
    decode_seconds: float = math.nan
    pitch: float = math.nan
    scores: dict[str, float] = field(default_factory=dict)
    codes_QS: np.ndarray | None = field(default=None, repr=False, compare=False)


def at_rate(audio: Audio, sample_rate: int, num_samples: int | None = None) -> Audio:
    """Resample the audio, then cut or pad its end to `num_samples`; the result is on the CPU and within [-1, 1]."""
    samples_T = torch.from_numpy(resampled(audio, sample_rate))
    if num_samples is not None:
        samples_T = torch.nn.functional.pad(samples_T, (0, num_samples - samples_T.numel()))
    return Audio(samples_T.clamp(-1, 1), sample_rate)


def word_errors(reference: str, hypothesis: str) -> float:
    """Number of substituted, deleted and inserted words of normalised texts; NaN if the reference has no words."""
    import jiwer

    if not reference:
        return float("nan")
    words = jiwer.process_words(reference, hypothesis)
    return float(words.substitutions + words.deletions + words.insertions)


def judge(
    system: str,
    utterances: Sequence[EvaluatedRecording],
    heard: Sequence[Audio],
    num_bits: Sequence[float],
    recogniser: Recogniser | None,
    normaliser: Normaliser,
    language: str,
) -> list[Judgement]:
    """Score the resyntheses `heard` of `system`; `num_bits` are the sizes of their streams.

    All are scored at 16 kHz; words only with a recogniser. A resynthesis that is not finite has no STOI and PESQ, and
    is recognised with those samples replaced by silence.
    """
    originals = [at_rate(utterance.audio, METRIC_RATE) for utterance in utterances]
    heard = [
        at_rate(audio, METRIC_RATE, original.samples_T.numel())
        for audio, original in zip(heard, originals, strict=True)
    ]
    original_BT, num_samples_B = pad_rows([audio.samples_T for audio in originals])
    heard_BT, _ = pad_rows([audio.samples_T for audio in heard])
    pair = original_BT, heard_BT, num_samples_B, METRIC_RATE
    scores = zip(
        stoi_scores(*pair).tolist(),
        pesq_scores(*pair, mode="nb").tolist(),
        pesq_scores(*pair, mode="wb").tolist(),
        strict=True,
    )
    audible = [Audio(audio.samples_T.nan_to_num(0, 0, 0), METRIC_RATE) for audio in heard]
    hypotheses = recognised(recogniser, audible, language) if recogniser else [None] * len(audible)
    judgements = []
    for utterance, bits, text, values in zip(utterances, num_bits, hypotheses, scores, strict=True):
        reference, hypothesis = normaliser(utterance.text), normaliser(text or "")
        errors = math.nan if text is None else word_errors(reference, hypothesis)
        about = system, utterance.key, utterance.audio.seconds, bits, len(reference.split()), errors
        judgements.append(Judgement(*about, *values, reference, hypothesis))
    return judgements


def recognised(recogniser: Recogniser, audios: Sequence[Audio], language: str) -> list[str | None]:
    """Transcribe all clips in one call; if that fails, one by one, with None for those that fail.

    Exceptions propagate if the installation is broken, or if each of several clips fails.
    """
    try:
        return list(recogniser.transcribe(audios, language))
    except BROKEN_INSTALLATION:
        raise
    except Exception as error:
        if len(audios) == 1:
            logger.warning("The recogniser failed on a clip of %.1f s: %r", audios[0].seconds, error)
            return [None]
        texts = [recognised(recogniser, [audio], language)[0] for audio in audios]
        if all(text is None for text in texts):
            raise
        return texts


def verify(
    utterance: EvaluatedRecording, heard: Mapping[str, Audio], verifiers: Sequence[Verifier], language: str
) -> dict[str, dict[str, float]]:
    """System -> verifier -> score of each system's output, at 16 kHz; the reference is the recording."""
    original = at_rate(utterance.audio, METRIC_RATE)
    prompt = Prompt(utterance.key, utterance.text, language, reference=original)
    num_samples, no_codes = original.samples_T.numel(), torch.zeros(0, dtype=torch.int64)
    audios = [at_rate(audio, METRIC_RATE, num_samples) for audio in heard.values()]
    candidates = [
        Candidate(utterance.key, index, 0, no_codes, math.nan, stopped=True, audio=audio)
        for index, audio in enumerate(audios)
    ]
    for verifier in verifiers:
        score_tasks([(prompt, candidates)], verifier)
    return {system: candidate.scores for system, candidate in zip(heard, candidates, strict=True)}


def summarise(
    judgements: Sequence[Judgement],
    seed: int,
    num_resamples: int = 2000,
    codebook_sizes: Mapping[str, int] | None = None,
    verifier_ends: Mapping[str, Ends] | None = None,
) -> dict[str, dict[str, Estimate]]:
    """System -> metric -> Estimate, systems in the order of their first row.

    Always wer, stoi, pesq_nb, pesq_wb and bit_rate; then the verifiers' names, and system measurements: code_usage,
    code_perplexity (if `codebook_sizes` has the system), encode_rtf, decode_rtf. `wer` is the corpus WER, all errors
    over all words; `bit_rate` (bit/s) all bits over all seconds; `*_rtf` seconds of computation per second of audio,
    below 1 is faster than real time. `verifier_ends`: the range of each verifier's scores. The order of the rows of one
    system does not matter, and all systems use the same bootstrap resamples of utterances.
    """
    by_system: dict[str, list[Judgement]] = {}
    for row in judgements:
        by_system.setdefault(row.system, []).append(row)
    sizes, ends = codebook_sizes or {}, METRIC_ENDS | dict(verifier_ends or {})
    return {
        system: _estimates(sorted(rows, key=lambda row: row.key), seed, num_resamples, sizes.get(system, 0), ends)
        for system, rows in by_system.items()
    }


def _estimates(
    rows: Sequence[Judgement], seed: int, num_resamples: int, codebook_size: int, ends: Mapping[str, Ends]
) -> dict[str, Estimate]:
    """Metric -> Estimate of one system."""
    column = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Judgement)}

    def ratio(name: str, over: str, range_of: str = "") -> Estimate:
        return ratio_estimate(column[name], column[over], seed, num_resamples, ends.get(range_of, UNBOUNDED))

    estimates = {
        "wer": ratio("num_errors", "num_words", "wer"),
        **{name: mean_estimate(column[name], seed, num_resamples) for name in ("stoi", "pesq_nb", "pesq_wb")},
        "bit_rate": ratio("num_bits", "seconds"),
    }
    for name in dict.fromkeys(name for scores in column["scores"] for name in scores):
        values = [scores.get(name, math.nan) for scores in column["scores"]]
        estimates[name] = mean_estimate(values, seed, num_resamples, ends.get(name, UNBOUNDED))
    if codebook_size:
        estimates |= code_estimates(column["codes_QS"], codebook_size, seed, num_resamples)
    for half in ("encode", "decode"):
        if not np.isnan(column[f"{half}_seconds"]).all():
            estimates[f"{half}_rtf"] = ratio(f"{half}_seconds", "seconds")
    return estimates
