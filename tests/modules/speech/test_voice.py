"""Voices that say what a test wants them to say: what is chosen, kept, placed, streamed and refused."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.api import Audio, Prompt
from modules.speech import selection, sentence_search
from modules.speech.result import GAP_SECONDS
from modules.speech.voice import Voice
from tests.toys.speaking_toys import (
    END,
    LONG,
    RATE,
    WORDS,
    LevelCodec,
    codes_of,
    recording,
    says_its_text,
    seeds_of,
    toy_voice,
    words_in,
)


def heard(voice: Voice, text: str, **options: object) -> list[str]:
    return words_in(voice.say(text, **options).audio)


def test_texts_share_batches_and_are_what_each_is_alone() -> None:
    """Guards against texts of a list that are sampled one by one, or that depend on their neighbours."""
    texts = ["one two three.", "four five six seven.", "eight nine ten."]
    voice = toy_voice()
    together = voice.say(texts)
    assert [len(batch) for batch in voice.model.own.batches] == [3]
    for text, speech in zip(texts, together, strict=True):
        assert torch.equal(speech.audio.samples_T, toy_voice().say(text).audio.samples_T)
        assert words_in(speech.audio) == text.rstrip(".").split()


def test_samples_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against limits, seeds or choices that change with the number of sentences in a batch."""

    def said(prompt: Prompt, seed: int) -> list[str]:
        words = says_its_text(prompt, seed)
        return words[:-1] if seed % 3 == 0 else words if seed % 3 == 1 else [words[0], END]

    whole = toy_voice(said).say(LONG, best_of=3)
    monkeypatch.setattr(sentence_search, "MAX_ROWS", 1)
    voice = toy_voice(said)
    alone = voice.say(LONG, best_of=3)
    assert len(voice.model.own.batches) > 2
    assert torch.equal(whole.audio.samples_T, alone.audio.samples_T)
    assert whole.record["sentences"] == alone.record["sentences"]


def test_everything_is_loaded_once(tmp_path: Path) -> None:
    """Guards against models or codes of the reference that are read again for every sentence."""
    reference = recording(tmp_path / "me.wav", ["red"] * 8)
    voice = toy_voice(max_tokens=4000)
    text = " ".join(
        f"{first} {second} three four." for first in ("one", "two", "five", "six") for second in 5 * ["ten"]
    )
    settings = {"reference": reference, "reference_text": "red red red red red red red red"}
    record = voice.say(text, best_of=2, **settings).record
    voice.say(text, **settings)
    assert len(record["sentences"]) == 20
    once = {"language model", "codec", "levels", "speaker encoder", "reference"}
    assert record["loaded"] == dict.fromkeys(once, 1) == voice.loaded
    assert voice.model.num_loads == voice.codec.num_encoded == 1


@pytest.mark.parametrize("fault", ["ran away", "empty", "silent", "too short for its text"])
def test_an_unusable_candidate_is_never_chosen_while_another_exists(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a runaway that a recogniser likes best, and against silence."""
    text = "one two three four"
    good = seeds_of(text, 3)[2]

    def said(prompt: Prompt, seed: int) -> list[str]:
        if seed == good:
            return ["one", "two", "nine", "four", END]  # a worse transcript than the runaway's
        return {
            "ran away": prompt.text.split(),
            "empty": [END],
            "silent": [""] * 4 + [END],
            "too short for its text": ["", END],
        }[fault]

    if fault == "too short for its text":
        monkeypatch.setattr(selection, "is_silent", lambda audio: False)
    voice = toy_voice(said)
    speech = voice.say(text, best_of=3)
    (sentence,) = speech.record["sentences"]
    assert sentence["chosen"] == 2
    assert sentence["faults"] == []
    assert [one["faults"] for one in sentence["candidates"]][:2] == [[fault]] * 2
    assert fault in sentence["why"]


def test_a_sentence_without_a_usable_candidate_is_drawn_again() -> None:
    """Guards against a single sample that ran away and is returned."""
    text = "one two three four"
    first = set(seeds_of(text, 1))
    voice = toy_voice(lambda prompt, seed: prompt.text.split() + ([] if seed in first else [END]))
    (sentence,) = voice.say(text).record["sentences"]
    assert sentence["num_redraws"] == 1
    assert sentence["faults"] == []
    assert len(sentence["candidates"]) == 2


def test_an_unusable_one_is_returned_and_said_where_there_is_no_other() -> None:
    """Guards against an endless search, and against silence about it."""
    (sentence,) = toy_voice(lambda prompt, seed: prompt.text.split()).say("one two three four").record["sentences"]
    assert sentence["faults"] == ["ran away"]
    assert "ran away" in sentence["why"]
    assert sentence["num_redraws"] == sentence_search.MAX_REDRAWS


@pytest.mark.parametrize("text", ["four", "four two"])
def test_short_texts_are_spoken_in_full(text: str) -> None:
    """Guards against a dropped word of one- and two-word texts, which models of this family drop."""
    wrong = set(seeds_of(text, 4))
    voice = toy_voice(lambda prompt, seed: [*(["nine"] if seed in wrong else prompt.text.split()), END])
    speech = voice.say(text)
    assert words_in(speech.audio) == text.split()
    assert speech.record["sentences"][0]["num_redraws"] == 1


def test_words_of_the_reference_do_not_leak(tmp_path: Path) -> None:
    """Guards against speech that begins with the end of the recording that it continues."""
    reference = recording(tmp_path / "me.wav", ["seven", "red", "red", "red", "red", "eight", "nine"])
    text = "one two three four"
    leaking = seeds_of(text, 1)[0]
    voice = toy_voice(lambda prompt, seed: ["eight", "nine"] * (seed == leaking) + [*prompt.text.split(), END])
    speech = voice.say(text, reference=reference, reference_text="seven red red red red eight nine")
    (sentence,) = speech.record["sentences"]
    assert sentence["candidates"][0]["faults"] == ["begins with words of the reference"]
    assert words_in(speech.audio) == text.split()


def test_a_region_of_a_language_is_left_out() -> None:
    """Guards against `en-GB` as a language without a recogniser."""
    voice = toy_voice()
    (sentence,) = voice.say("four", language="en-GB").record["sentences"]
    assert len(sentence["candidates"]) == 4


def test_an_unknown_speaker_is_refused() -> None:
    with pytest.raises(ValueError, match="'nobody'"):
        toy_voice(speakers=("Ann", "Ben")).say("four", speaker="nobody")


def test_the_steered_search_moves_towards_the_reference(tmp_path: Path) -> None:
    """Guards against a search that ignores the recording: beams whose level is nearest to its own are kept."""
    reference = recording(tmp_path / "me.wav", ["red"] * 6)
    text = "one two three four five six seven eight nine ten one two three four five six seven eight"

    def said(prompt: Prompt, seed: int) -> list[str]:
        return [["one", "six", "red"][seed % 3]] * 24 + [END]

    speech = toy_voice(said, max_tokens=4000).say(
        text, search="partial_prm_orm", best_of=4, reference=reference, reference_text="red red red red red red"
    )
    assert set(words_in(speech.audio)) == {"red"}
    assert {one["scores"]["speaker"] > 0.99 for one in speech.record["sentences"][0]["candidates"][:4]} == {True}


def test_pauses_have_their_length_and_sentences_a_gap() -> None:
    """Guards against pauses that are added to the gap, or lost."""
    speech = toy_voice().say("one two three. [pause:1500ms] four five six. seven eight nine.\n\nten one two.")
    times = [(one["start"], one["end"]) for one in speech.record["sentences"]]
    gaps = [round(after[0] - before[1], 3) for before, after in pairwise(times)]
    assert gaps[:2] == [1.5, GAP_SECONDS]
    assert gaps[2] > GAP_SECONDS
    samples = speech.audio.samples_T
    assert not samples[round(times[0][1] * RATE) : round(times[1][0] * RATE)].any()
    assert words_in(speech.audio) == [*WORDS[1:11], "one", "two"]


def test_silence_and_stray_noise_are_trimmed_and_counted() -> None:
    """Guards against the click and the second of silence that such models begin and end with."""
    voice = toy_voice(lambda prompt, seed: ["", "", *prompt.text.split(), "", "", "", END])
    speech = voice.say("one two three four")
    frame = 0.02 * 6
    before, after = speech.record["sentences"][0]["trimmed_seconds"]
    assert before == pytest.approx(2 * frame - 0.06, abs=0.011)
    assert after == pytest.approx(3 * frame + 0.02 - 0.06, abs=0.011)
    assert speech.record["trimmed_seconds"] == pytest.approx(before + after, abs=1e-3)
    assert words_in(speech.audio) == ["one", "two", "three", "four"]


def test_unknown_words_are_refused_by_name(tmp_path: Path) -> None:
    """Guards against "hello world" spoken as "one two"."""
    voice = toy_voice(words=("four", "two"))
    with pytest.raises(ValueError, match="'hello', 'world'"):
        voice.say("Hello two world")
    reference = recording(tmp_path / "me.wav", ["red"] * 8)
    with pytest.raises(ValueError, match="'red'"):  # what is said in the recording is a prompt too
        voice.say("four", reference=reference, reference_text="red four")
    assert heard(voice, "Four two.") == ["four", "two"]
    assert voice.model.own.batches[0][0].text == "Four two."


def test_streamed_audio_is_the_offline_audio() -> None:
    """Guards against a stream of other samples."""
    voice = toy_voice()
    pieces = list(voice.stream("one two three four. [pause:1s] five six seven."))
    assert len(pieces) > 6
    streamed = Audio(torch.cat([piece.samples_T for piece in pieces]), RATE)
    assert words_in(streamed) == ["one", "two", "three", "four", "five", "six", "seven"]
    assert not voice.model.own.alive
    first = torch.cat([piece.samples_T for piece in pieces])[: len(codes_of(["one"] * 4)) * 160]
    expected = LevelCodec().decode(torch.tensor([codes_of(["one", "two", "three", "four"])]), torch.tensor([24]))[0]
    assert torch.allclose(first, expected, atol=1e-6)


def test_a_search_is_streamed_by_sentence() -> None:
    voice = toy_voice()
    next(voice.stream(LONG, best_of=2))
    assert len(voice.model.own.batches) == 1  # heard before the second sentence is sampled
    pieces = list(voice.stream(LONG, best_of=2))
    assert len([piece for piece in pieces if piece.samples_T.any()]) == 3
    assert torch.equal(torch.cat([one.samples_T for one in pieces]), toy_voice().say(LONG, best_of=2).audio.samples_T)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_saved_file_is_marked_as_synthetic(suffix: str, tmp_path: Path) -> None:
    """Guards against synthetic speech that nobody can tell from a recording."""
    speech = toy_voice().say("one two three")
    path = speech.save(tmp_path / f"x{suffix}")
    with soundfile.SoundFile(path) as file:
        assert file.comment == "synthetic speech"
        assert file.samplerate == RATE
        assert file.frames == pytest.approx(speech.audio.samples_T.numel(), abs=RATE // 4)
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["synthetic"] is True
    assert record["sentences"][0]["text"] == "one two three"
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(["x.json", f"x{suffix}"])


def test_saving_replaces_nothing_of_others(tmp_path: Path) -> None:
    """Guards against `save("package.wav")`, which would replace package.json, and against a lost recording."""
    speech = toy_voice().say("one two three")
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "mine.wav").write_bytes(b"recording")
    for name in ("package.wav", "mine.wav"):
        with pytest.raises(ValueError, match="another file"):
            speech.save(tmp_path / name)
    assert (tmp_path / "package.json").read_text() == "{}"
    assert (tmp_path / "mine.wav").read_bytes() == b"recording"
    speech.save(tmp_path / "x.wav")
    speech.save(tmp_path / "x.wav")


def test_a_runaway_is_worse_than_a_misheard_word() -> None:
    """Guards against a runaway that says every word, chosen before a text that ends."""
    text = "four two"
    good = seeds_of(text, 4)[1]
    voice = toy_voice(lambda prompt, seed: ["four", "nine", END] if seed == good else ["four", "two"])
    (sentence,) = voice.say(text).record["sentences"]
    assert sentence["faults"] == ["not every word is heard"]


def test_audio_that_is_not_finite_is_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a part file that fails again at every resume."""
    text, voice = "one two three four", toy_voice()
    decode, bad = voice.codec.decode, iter([True, False, False])

    def broken(*given: object, **named: object) -> torch.Tensor:
        audio_BT = decode(*given, **named)
        return audio_BT * float("nan") if next(bad, False) else audio_BT

    monkeypatch.setattr(voice.codec, "decode", broken)
    (sentence,) = voice.say(text).record["sentences"]
    assert sentence["candidates"][0]["faults"] == ["not finite"]
    assert sentence["faults"] == []


def test_sentences_without_word_times_are_named_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a list of texts whose records do not say which words have no times."""

    class Refusing:
        def align(self, audio: Audio, words: list[str]) -> None:
            raise ValueError(" ".join(words))

    voice = toy_voice()
    monkeypatch.setattr(voice.listeners, "aligner", lambda language: Refusing())
    first, second = voice.say(["one two three", "four five six"], word_times=True)
    assert first.record["without_word_times"] == ["'one two three': one two three"]
    assert second.record["without_word_times"] == ["'four five six': four five six"]


def test_a_saved_wav_has_the_samples(tmp_path: Path) -> None:
    speech = toy_voice().say("one two three")
    samples, _ = soundfile.read(speech.save(tmp_path / "x.wav"), dtype="float32")
    assert np.abs(samples - speech.audio.samples_T.numpy()).max() <= 2**-15


def test_the_record_is_json_without_nan() -> None:
    record = toy_voice().say("one two three", best_of=2).record
    assert not re.search("NaN|Infinity", json.dumps(record))
