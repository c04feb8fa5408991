"""Quality control: each measure against the number that a signal was built with, each threshold on both sides."""

import hashlib
import json
import math
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from datamodules.shards.quality import HIGH_IS_WORSE, MEASURES, QualityControl, letters_in, rows_to_hear, worst

RATE = 16_000
FRAME = 320  # 20 ms
LOUD, QUIET = 0.25, 0.005  # 34 dB apart


def signs(amplitude: float, num_frames: float) -> np.ndarray:
    """Noise whose power is the same in every stretch of it: plus or minus `amplitude` at random."""
    drawn = np.random.default_rng(int(1e6 * amplitude)).choice([-1.0, 1.0], round(num_frames * FRAME))
    return (amplitude * drawn).astype(np.float32)


def decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude)


def recording() -> np.ndarray:
    """51.5 frames: loud but for a quiet first one, a pause of 10, 9 that are digitally silent, and a fainter end."""
    parts = (signs(QUIET, 1), signs(LOUD, 15), signs(QUIET, 10), np.zeros(9 * FRAME), signs(LOUD, 15), signs(0.1, 1.5))
    return np.concatenate(parts).astype(np.float32)


TEXT = "A text of 20 letters, or so."
MEASURED = QualityControl().examine(recording(), RATE, TEXT)


class Heard:
    """A recogniser that hears given texts in turn."""

    model_hash = "abc"
    families = frozenset({"scripted"})

    def __init__(self, texts: list[str] | None = None, beam: int = 1) -> None:
        self.texts, self.beam = texts or [], beam
        self.calls: list[tuple[float, int, str]] = []

    def transcribe(self, audios, language):
        self.calls += [(float(one.samples_T.abs().max()), one.sample_rate, language) for one in audios]
        text = self.texts[len(self.calls) - 1]
        if isinstance(text, Exception):
            raise text
        return [text]

    def flops(self, seconds):
        return 0.0


class Lower:
    name = "lower"

    @property
    def identity(self):
        return {"class": "Lower", "version": 1}

    def __call__(self, text):
        return text.lower().replace(".", "")


def test_measures_are_the_numbers_that_the_signal_was_built_with() -> None:
    """Guards against levels of another unit, silence that is taken for noise, and a last frame that ends too early."""
    samples = recording()
    # The frames that are measured: a quiet one, 15 loud, 10 quiet, 9 silent, 15 loud, one of the tail.
    loud, quiet, silent = 30, 11, 9
    power = (loud * LOUD**2 + quiet * QUIET**2 + 0.1**2) / (loud + quiet + 1)
    level = 10 * math.log10(power)
    expected = {
        "seconds": 51.5 * 0.02, "level": level, "peak": LOUD, "clipped": 0, "silence": silent / 51,
        "noise": -100, "snr": 100 + decibels(LOUD), "start": decibels(QUIET) - level, "end": decibels(0.1) - level,
    }  # fmt: skip
    assert set(MEASURED) == set(MEASURES) - {"error_rate"}
    for name, value in expected.items():
        assert MEASURED[name] == pytest.approx(value, abs=2e-4), name
    noisy = np.where(samples == 0, signs(QUIET, len(samples) / FRAME), samples)
    found = QualityControl().examine(noisy, RATE, "")
    assert found["noise"] == pytest.approx(decibels(QUIET), abs=2e-4)
    assert found["snr"] == pytest.approx(decibels(LOUD / QUIET), abs=2e-4)
    assert found["silence"] == 0 and math.isnan(found["characters_per_second"])


def test_a_sine_has_the_level_of_its_formula_at_any_rate() -> None:
    for rate in (8000, 22_050, 48_000):
        sine = (0.5 * np.sin(2 * np.pi * 200 * np.arange(rate // 5) / rate)).astype(np.float32)
        found = QualityControl().examine(sine, rate, "")
        assert found["level"] == pytest.approx(decibels(0.5 / math.sqrt(2)), abs=0.02)
        assert found["seconds"] == 0.2 and found["silence"] == 0 and abs(found["start"]) < 0.05 > abs(found["end"])


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.05, 4.0])
def test_clipping_counts_runs_at_full_scale(gain: float) -> None:
    """Guards against a normalised recording, which touches full scale, that counts as clipped."""
    sine = np.sin(2 * np.pi * 220 * np.arange(4000) / RATE)
    samples = np.clip(gain * sine, -1, 32767 / 32768).astype(np.float32)
    samples[[0, 1999]] = 1.0  # alone at full scale, or at the end of a run
    samples[-3:] = -1.0
    runs = [len(list(run)) for is_full, run in groupby(np.abs(samples) >= 0.9999) if is_full]
    expected = sum(run for run in runs if run >= 3) / 4000
    assert QualityControl().examine(samples, RATE, "")["clipped"] == expected
    assert (expected == 3 / 4000) == (gain <= 1)


def test_letters_of_many_scripts() -> None:
    """Guards against Chinese text that seems short for its recording, and numbers that seem to be said in no time."""
    assert letters_in("Hello, world! It's 1984.") == 10 + 3 + 4 * 4
    assert letters_in("Über allen Gipfeln – 3 Uhr") == 4 + 5 + 7 + 4 + 3
    assert letters_in("你好，世界。") == 4 * 3
    assert letters_in("ありがとう 東京") == 5 * 2 + 2 * 3
    assert letters_in("안녕 hello") == 2 * 2 + 5
    assert letters_in("") == letters_in(" ... ") == 0


THRESHOLDS = [
    ("min_seconds", "seconds", "shorter than"),
    ("max_seconds", "seconds", "longer than"),
    ("min_level", "level", "quiet: -13.5 dB of full scale"),
    ("max_silence", "silence", "silence: 18 % of the recording"),
    ("min_snr", "snr", "noise: the speech is 88.0 dB above it"),
    ("max_edge", "end", "cut within speech: the end has -6.5 dB of its level"),
    ("min_characters_per_second", "characters_per_second", "less text than speech: 25.2 characters per second"),
    ("max_characters_per_second", "characters_per_second", "less speech than text: 25.2 characters per second"),
]


@pytest.mark.parametrize(("argument", "measure", "reason"), THRESHOLDS)
def test_a_threshold_keeps_its_own_value_and_nothing_beyond(argument: str, measure: str, reason: str) -> None:
    value = MEASURED[measure]
    control = QualityControl(**{argument: value})
    assert control.examine(recording(), RATE, TEXT) == MEASURED and control.refusal(MEASURED) == ""
    beyond = math.nextafter(value, math.inf if argument.startswith("min") else -math.inf)
    refusal = QualityControl(**{argument: beyond}).refusal(MEASURED)
    assert refusal.startswith(reason) and refusal.count(":") == 1, refusal
    assert control.refusal({**MEASURED, measure: math.nan}) == ""
    assert control.thresholds()[measure][-1] == value


def test_the_thresholds_of_clipping_the_start_and_errors() -> None:
    measures = {"clipped": 0.031, "start": -2.0, "end": -40.0, "error_rate": 0.5}
    heard = {"recogniser": Heard(), "normaliser": Lower()}
    assert QualityControl(max_clipped=0.031).refusal(measures) == ""
    assert QualityControl(max_clipped=0.03).refusal(measures) == "clipping: 3.1 % of the samples at full scale"
    assert QualityControl(max_edge=-2).refusal(measures) == ""
    assert QualityControl(max_edge=-2.1).refusal(measures) == "cut within speech: the start has -2.0 dB of its level"
    assert QualityControl(max_error_rate=0.5, **heard).refusal(measures) == ""
    assert QualityControl(max_error_rate=0.49, **heard).refusal(measures) == "transcript differs: error rate 50 %"


def test_by_default_only_what_is_shorter_than_50_ms_is_refused() -> None:
    """Guards against quality control that changes what a preparation keeps before anybody asks for it."""
    control = QualityControl()
    awful = {
        "clip": np.ones(800),
        "silent": np.zeros(800),
        "one bit": np.full(800, 2.0**-15),
        "tone": np.eye(1, 5000)[0],
    }
    for name, samples in awful.items():
        for text in ("", "word " * 1000):
            measures = control.examine(samples.astype(np.float32), RATE, text)
            assert control.refusal(measures) == "" and not any(map(math.isinf, measures.values())), name
    short = control.examine(np.ones(799, np.float32), RATE, "")
    assert control.refusal(short) == "shorter than 50 ms: 0.050 s"
    assert control.refusal(control.examine(np.zeros(0, np.float32), RATE, "a")) == "shorter than 50 ms: 0.000 s"
    assert QualityControl(min_seconds=0).refusal(short) == ""
    assert control.settings() == {} and control.thresholds() == {"seconds": [0.05]}


def test_long_recordings_are_refused_or_cut() -> None:
    samples = recording()
    assert len(QualityControl(max_seconds=0.3, long="cut").cut(samples, RATE)) == 4800
    assert QualityControl(max_seconds=0.3, long="cut").refusal(MEASURED) == ""
    assert len(QualityControl(max_seconds=0.3).cut(samples, RATE)) == len(samples)
    assert QualityControl(max_seconds=0.3).refusal(MEASURED) == "longer than 0.3 s: 1.0 s"
    assert len(QualityControl(long="cut").cut(samples, RATE)) == len(samples)


def test_errors_of_a_recogniser_are_counted_and_its_failures_are_not() -> None:
    """Guards against a recording that is dropped because a recogniser cannot read it, and against useless work."""
    recogniser = Heard(["one too THREE", ValueError("too short"), RuntimeError("out of memory")])
    control = QualityControl(max_error_rate=0.3, max_seconds=2, recogniser=recogniser, normaliser=Lower())
    measures = control.examine(recording(), RATE, "One two three.", "de")
    assert measures["error_rate"] == pytest.approx(1 / 3)
    assert control.refusal(measures) == "transcript differs: error rate 33 %"
    assert math.isnan(control.examine(recording(), RATE, " . ")["error_rate"])
    failed = control.examine(recording(), RATE, "One two three.")
    assert math.isnan(failed["error_rate"]) and control.refusal(failed) == ""
    assert math.isnan(control.examine(np.tile(recording(), 2), RATE, "Refused as too long.")["error_rate"])
    assert recogniser.calls == [(LOUD, RATE, "de"), (LOUD, RATE, "en")]
    with pytest.raises(RuntimeError, match="out of memory"):
        control.examine(recording(), RATE, "One two three.")
    by_character = QualityControl(recogniser=Heard(["你号"]), normaliser=Lower(), unit="character")
    assert by_character.examine(recording(), RATE, "你好")["error_rate"] == 0.5


def test_settings_are_plain_and_change_with_every_argument() -> None:
    """Guards against shards that are used again though they were prepared with other thresholds."""
    heard = {"recogniser": Heard(), "normaliser": Lower()}
    given = [
        *({name: 0.01 if name.startswith("m") and "level" not in name and "edge" not in name else -1.5}
          for name, _, _ in THRESHOLDS),
        {"max_clipped": 0.01}, {"long": "cut", "max_seconds": 9}, {"duplicate_audio": False}, {"repeated_text": True},
        {"held_out_texts": True}, {"drop_worst": {"snr": 0.1}}, {"drop_worst": {"dnsmos": 0.1}}, heard,
        {**heard, "unit": "character"}, {**heard, "recogniser": Heard(beam=2)}, {**heard, "max_error_rate": 0.3},
    ]  # fmt: skip
    given[1] = {"max_seconds": 9.5}
    stored = [json.dumps(QualityControl(**one).settings()) for one in given]
    assert len(set(stored)) == len(given) and "{}" not in stored
    ordered = QualityControl(drop_worst={"snr": 0.1, "peak": 0.2, "noise": 0}, max_seconds=30, min_level=None)
    other = QualityControl(drop_worst={"peak": 0.2, "snr": 0.1}, max_seconds=30.0, min_level=0)
    assert json.dumps(ordered.settings()) == json.dumps(other.settings())
    assert ordered.settings() == {"max_seconds": 30.0, "drop_worst": {"peak": 0.2, "snr": 0.1}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_silence": 1.5}, "`max_silence` to be between 0 and 1, but got 1.5"),
        ({"min_level": 3}, "`min_level` to be between -100.0 and 0"),
        ({"min_seconds": 3, "max_seconds": 2}, "`min_seconds` to be at most `max_seconds`=2"),
        ({"long": "split"}, "`long` to be refuse or cut"),
        ({"unit": "phoneme"}, "`unit` to be word or character"),
        ({"max_error_rate": 0.3}, "a `recogniser` for `max_error_rate`=0.3"),
        ({"recogniser": Heard()}, "a `recogniser` and a `normaliser`, or neither"),
        ({"drop_worst": {"snr": 1.0}}, "but got 1.0 for snr"),
        ({"drop_worst": {"error_rate": 0.1}}, "`drop_worst` by error_rate"),
    ],
)
def test_values_that_no_threshold_can_have(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityControl(**arguments)


@pytest.mark.parametrize("name", ["snr", "clipped", "dnsmos"])
@pytest.mark.parametrize("share", [0.29, 0.5, 0.001])
def test_the_worst_share_is_dropped(name: str, share: float) -> None:
    """Guards against the best that are dropped, against dropping what nobody scored, and against ties by chance."""
    values = np.random.default_rng(0).integers(0, 30, 104).astype(float)
    values[[3, 50, 60, 103]] = math.nan, math.nan, math.inf, math.nan
    scored = [place for place, value in enumerate(values) if math.isfinite(value)]
    badness = {place: values[place] if name in HIGH_IS_WORSE else -values[place] for place in scored}
    expected = sorted(scored, key=lambda place: (badness[place], place))[len(scored) - round(100 * share) :]
    assert np.flatnonzero(worst(name, values, share)).tolist() == sorted(expected[: round(100 * share)])


def test_a_yaml_sets_it(tmp_path: Path) -> None:
    """Guards against arguments that the command line cannot read."""
    parser = ArgumentParser()
    parser.add_argument("--quality", type=QualityControl)
    init = {
        "max_seconds": 20, "long": "cut", "min_snr": None, "drop_worst": {"dnsmos": 0.1},
        "recogniser": {"class_path": "modules.verifiers.recognisers.pocketsphinx.Pocketsphinx"},
        "normaliser": {"class_path": "modules.verifiers.recognisers.normalise.BasicWords"},
    }  # fmt: skip
    given = {"quality": {"class_path": "datamodules.shards.quality.QualityControl", "init_args": init}}
    short = parser.instantiate(parser.parse_object({"quality": {"max_silence": 0.5}})).quality
    assert short.settings() == {"max_silence": 0.5}
    built = parser.instantiate(parser.parse_object(given)).quality
    assert built.max_seconds == 20 and built.drop_worst == {"dnsmos": 0.1} and built.recogniser.families


def test_rows_to_hear_are_the_worst_and_some_by_hash() -> None:
    """Guards against players of the best recordings, and of recordings that do not differ from the others."""
    keys = [f"k{number}" for number in range(40)]
    measures = {
        "snr": np.where(np.arange(40) == 3, math.nan, np.arange(40.0)[::-1]),
        "clipped": np.where(np.arange(40) == 7, 0.5, 0.0),
        "silence": np.full(40, math.nan),
    }
    chosen = rows_to_hear(keys, measures, 2, 3)
    by_hash = sorted(range(40), key=lambda row: hashlib.sha256(keys[row].encode()).hexdigest())[:3]
    assert {row for row, why in chosen.items() if "random" in why} == set(by_hash)
    assert [row for row, why in chosen.items() if "lowest snr" in why] == [38, 39]
    assert [row for row, why in chosen.items() if "highest clipped" in why] == [7] and list(chosen) == sorted(chosen)
    assert not any("silence" in reason for why in chosen.values() for reason in why)
    assert rows_to_hear([], {"snr": np.zeros(0)}, 2, 3) == {}
    assert rows_to_hear(["a"], {"snr": np.ones(1)}, 2, 3) == {0: ["random"]}
