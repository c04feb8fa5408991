"""The codec report: tables, audio players and mel spectrograms in one self-contained HTML page. Pure functions.

The HTML is in the Jinja template codec_page.html; this module fills it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from modules.api import Audio
from modules.audio import encoded
from modules.evaluation.judge import EvaluatedRecording, Judgement
from modules.evaluation.quoted_table import EMPTY
from modules.evaluation.results import EvaluatedCodecs
from modules.evaluation.table import EXPLANATIONS, PAPER_COLUMNS, notes, table_cells
from modules.pitch import WHY_BY_PITCH
from modules.report.mel_picture import mel_picture
from modules.report.page import data_uri, page_environment, readable_setting
from modules.report.sweep_page import MAX_LOSSLESS_BYTES


@dataclass(frozen=True)
class HeardClip:
    """One system's resynthesis of an utterance, with the recogniser's transcript and the scores."""

    system: str
    audio: Audio
    heard: str
    scores: dict[str, str]


@dataclass(frozen=True)
class HeardExample:
    """An utterance with the clips of all systems, in the order of the table."""

    key: str
    text: str
    clips: list[HeardClip]

    @property
    def seconds(self) -> float:
        """Seconds of the longest clip: the common time axis of the spectrograms."""
        return max(clip.audio.seconds for clip in self.clips)


def codec_page(results: EvaluatedCodecs, title: str, command: str, credits: Mapping[str, str]) -> str:
    """Render the page. Figures and audio are data URIs; it makes no network requests."""
    rows = {(row.system, row.key): row for row in results.judgements}
    examples = [heard_example(utterance, audios, rows) for utterance, audios in results.examples]
    num_bytes = sum(2 * clip.audio.samples_T.numel() for example in examples for clip in example.clips)
    audio_format = "flac" if num_bytes <= MAX_LOSSLESS_BYTES else "ogg"
    environment = page_environment()
    environment.filters |= {
        "audio_uri": lambda audio: data_uri(encoded(finite(audio), audio_format), f"audio/{audio_format}"),
        "mel_picture": lambda audio, seconds, label: mel_picture(finite(audio), seconds, label),
        "plain": readable_setting,
    }
    return environment.get_template("codec_page.html").render(
        title=title,
        description=results.description,
        tables=split_table(table_cells(results.table, results.facts, all_columns=True)),
        explanations=[*EXPLANATIONS, *notes(results.table)],
        by_pitch=results.pitch_cells,
        why_by_pitch=WHY_BY_PITCH,
        quoted=results.quoted,
        examples=examples,
        command=command,
        credits=credits,
    )


def split_table(cells: list[list[str]]) -> dict[str, list[list[str]]]:
    """Split into the paper's columns and the others, each with the system's name, since the table exceeds the page."""
    last = len(PAPER_COLUMNS) + 1
    return {"measured": [row[:last] for row in cells], "measured-more": [row[:1] + row[last:] for row in cells]}


def heard_example(
    utterance: EvaluatedRecording, audios: Mapping[str, Audio], rows: Mapping[tuple[str, str], Judgement]
) -> HeardExample:
    """Example of an utterance for the page; `rows` by (system, key)."""
    clips = []
    for system, audio in audios.items():
        row = rows[system, utterance.key]
        values = {"STOI": row.stoi, "PESQ-WB": row.pesq_wb, "PESQ-NB": row.pesq_nb, **row.scores}
        scores = {"word errors": readable(row.num_errors, 0) + f" of {row.num_words}"}
        scores |= {name: readable(value, 3 if name == "STOI" else 2) for name, value in values.items()}
        scores["bit/s"] = readable(row.num_bits / row.seconds, 0)
        clips.append(HeardClip(system, audio, row.hypothesis, scores))
    return HeardExample(utterance.key, utterance.text, clips)


def readable(value: float, num_digits: int) -> str:
    return EMPTY if math.isnan(value) else f"{value:.{num_digits}f}"


def finite(audio: Audio) -> Audio:
    """Replace samples that are not finite by silence, since players do not accept NaN."""
    return Audio(audio.samples_T.nan_to_num(0, 0, 0), audio.sample_rate)
