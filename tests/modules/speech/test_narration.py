"""Narrations: one voice for all sentences of a text, part files, limits and the model's context."""

from pathlib import Path

import pytest
import torch

from modules.api import Prompt
from modules.speech import sentence_search
from modules.speech.narration import Narration
from modules.speech.result import GAP_SECONDS
from modules.speech.settings import SpeakingSettings
from tests.toys.speaking_toys import (
    BOOK,
    END,
    LONG,
    RATE,
    codes_of,
    parts_of,
    prompts_of,
    recording,
    says_its_text,
    seeds_of,
    toy_voice,
)


def test_every_sentence_continues_the_first_one_and_no_other() -> None:
    """Guards against a chain, in which the voice drifts."""
    voice = toy_voice(spoken_prompts=True)
    voice.say(BOOK)
    first, *rest = prompts_of(voice)
    assert first.voice is None
    assert [prompt.voice.text for prompt in rest] == [first.text] * 2
    assert {prompt.voice.codes for prompt in rest} == {tuple(codes_of(first.text.rstrip(".").split()))}


@pytest.mark.parametrize("fault", ["ran away", "silent", "empty", "too short"])
def test_a_faulty_first_sentence_is_no_voice_of_the_others(fault: str) -> None:
    """Guards against a book in the voice of a runaway; the next sentence that is good enough is taken."""
    texts = ["one two three four five", BOOK.split(".")[0] + " nine", "four five six"]

    def said(prompt: Prompt, seed: int) -> list[str]:
        if prompt.text.rstrip(".") != texts[0] or fault == "too short":
            return says_its_text(prompt, seed)
        return {"ran away": ["one"], "silent": ["", END], "empty": [END]}[fault]

    voice = toy_voice(said, spoken_prompts=True)
    record = voice.say(". ".join(texts) + ".").record
    last = prompts_of(voice)[-1]
    assert last.voice.text == texts[1] + "."
    assert record["sentences"][0]["faults"] == ([] if fault == "too short" else [fault])


def test_nothing_is_continued_where_no_first_sentence_is_good_enough() -> None:
    """Guards against a faulty voice, and against silence about it."""
    voice = toy_voice(lambda prompt, seed: ["", END], spoken_prompts=True)
    record = voice.say(LONG).record
    assert {prompt.voice for prompt in prompts_of(voice)} == {None}
    assert any("good enough" in note for note in record["notes"])


def test_a_voice_prompt_that_leaves_no_room_is_not_used() -> None:
    """Guards against sequences beyond the context that the model was trained for."""
    voice, settings = toy_voice(spoken_prompts=True, max_tokens=280), SpeakingSettings()
    narration = Narration(voice, voice.script(BOOK, settings), settings)
    before = narration.tasks
    assert not narration.condition(1, "one two", [1] * 250, None)
    assert narration.tasks == before
    assert narration.condition(1, "one two", [1] * 12, None)
    assert [task.prompt.voice is None for task in narration.tasks] == [True] + [False] * (len(before) - 1)
    for text in ("one.", BOOK):
        for task in Narration(
            toy_voice(max_tokens=300), voice.script(text, SpeakingSettings()), SpeakingSettings()
        ).tasks:
            assert len(task.prompt.text) + task.limit <= 300


def test_texts_of_a_list_keep_their_own_voice_and_seeds() -> None:
    """Guards against a second text in the voice of the first, and equal texts with other samples."""
    others = BOOK.replace("one", "two", 1)
    voice = toy_voice(spoken_prompts=True)
    first, second, third = voice.say([BOOK, others, BOOK])
    assert torch.equal(first.audio.samples_T, third.audio.samples_T)
    assert torch.equal(second.audio.samples_T, toy_voice(spoken_prompts=True).say(others).audio.samples_T)
    assert first.record["sentences"] == third.record["sentences"]
    assert second.record["notes"] != first.record["notes"]


def test_a_sentence_is_the_same_beside_a_longer_one(tmp_path: Path) -> None:
    """Guards against limits and part files that change when another sentence of the text is edited."""

    def said(prompt: Prompt, seed: int) -> list[str]:
        return says_its_text(prompt, seed) if len(prompt.text) > 20 else ["one"] * 100 + [END]

    alone = toy_voice(said).say("one two three.").record["sentences"][0]
    beside = toy_voice(said).say("one two three. " + BOOK).record["sentences"][0]
    assert (alone["faults"], alone["seconds"]) == (["ran away"], beside["seconds"])
    assert alone["candidates"] == beside["candidates"]
    parts_of(toy_voice(), LONG, tmp_path)
    voice = toy_voice()
    parts_of(voice, LONG + " " + BOOK, tmp_path)
    assert len(prompts_of(voice)) == 3


def test_an_accepted_sentence_is_kept_before_the_batch_is_done(tmp_path: Path) -> None:
    """Guards against hours that are lost because one sentence of the batch is drawn again."""
    finished: list[int] = []
    bad = set(seeds_of("eight nine ten one.", 1))
    voice = toy_voice(lambda prompt, seed: says_its_text(prompt, seed)[: -1 if seed in bad else None], kill_at=2)
    settings = SpeakingSettings()
    with pytest.raises(KeyboardInterrupt):
        list(Narration(voice, voice.script(LONG, settings), settings, tmp_path).sentences(finished.append))
    assert len(list(tmp_path.iterdir())) == sum(finished) == 2


def test_sentences_in_an_own_voice_are_resumed_and_removed(tmp_path: Path) -> None:
    """Guards against another own voice after a resume, and parts that stay because their prompts have changed."""
    whole = parts_of(toy_voice(spoken_prompts=True), BOOK)
    with pytest.raises(KeyboardInterrupt):
        parts_of(toy_voice(spoken_prompts=True, kill_at=2), BOOK, tmp_path / "parts")
    voice, settings = toy_voice(spoken_prompts=True), SpeakingSettings()
    narration = Narration(voice, voice.script(BOOK, settings), settings, tmp_path / "parts")
    resumed = list(narration.sentences())
    assert narration.num_resumed == 1
    assert [one.about for one in whole] == [one.about for one in resumed]
    narration.remove_parts()
    assert not (tmp_path / "parts").exists()


def test_a_misheard_first_sentence_is_no_voice_of_the_others() -> None:
    """Guards against a voice prompt whose text is not what its codes say: later sentences would leak its words."""
    texts = [BOOK.split(".")[0], BOOK.split(".")[0] + " nine", "four five six"]

    def said(prompt: Prompt, seed: int) -> list[str]:
        words = says_its_text(prompt, seed)
        return ["red"] * 9 + words[9:] if prompt.text == texts[0] + "." else words

    voice = toy_voice(said, spoken_prompts=True)
    voice.say(". ".join(texts) + ".")
    assert prompts_of(voice)[-1].voice.text == texts[1] + "."


@pytest.mark.parametrize("first", ["silent", "ran away"])
def test_a_stream_does_not_continue_a_faulty_sentence(first: str) -> None:
    """Guards against a stream in the voice of silence: the next sentence that is good enough is taken."""
    texts = ["one two three four five", BOOK.split(".")[0] + " nine", "four five six"]

    def said(prompt: Prompt, seed: int) -> list[str]:
        if prompt.text.rstrip(".") != texts[0]:
            return says_its_text(prompt, seed)
        return ["", "", "", "", "", END] if first == "silent" else ["one"]

    voice = toy_voice(said, spoken_prompts=True)
    list(voice.stream(". ".join(texts) + "."))
    assert [prompt.voice and prompt.voice.text for prompt in prompts_of(voice)] == [None, None, texts[1] + "."]


def test_only_its_own_parts_are_removed(tmp_path: Path) -> None:
    """Guards against the parts of another text that is spoken into a file of the same name."""
    settings, voice = SpeakingSettings(), toy_voice()
    parts_of(voice, BOOK, tmp_path / "parts")
    mine = Narration(voice, voice.script(LONG, settings), settings, tmp_path / "parts")
    list(mine.sentences())
    mine.remove_parts()
    assert len(list((tmp_path / "parts").iterdir())) == 3
    others = Narration(voice, voice.script(BOOK, settings), settings, tmp_path / "parts")
    others.remove_parts()
    assert not (tmp_path / "parts").exists()


def test_a_stream_keeps_the_voice_and_the_gaps() -> None:
    """Guards against a stream in which every sentence has another voice, without pauses between them."""
    voice = toy_voice(spoken_prompts=True)
    samples = torch.cat([piece.samples_T for piece in voice.stream(BOOK)])
    first, *rest = prompts_of(voice)
    assert [prompt.voice.text for prompt in rest] == [first.text] * 2
    num_codes = sum(len(codes_of(prompt.text.rstrip(".").split())) for prompt in (first, *rest))
    assert samples.numel() == num_codes * 160 + 2 * round(GAP_SECONDS * RATE)


def test_a_given_reference_conditions_every_sentence(tmp_path: Path) -> None:
    reference = recording(tmp_path / "me.wav", ["red"] * 6)
    voice = toy_voice(spoken_prompts=True)
    voice.say(LONG, reference=reference, reference_text="red red red red red red")
    voices = {prompt.voice for batch in voice.model.own.batches for prompt in batch}
    assert len(voices) == 1
    assert voices.pop().text == "red red red red red red"


def test_sentences_are_resumed_and_equal_an_uninterrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a book that starts over after Ctrl-C, and against parts of another text, seed or model."""
    monkeypatch.setattr(sentence_search, "MAX_ROWS", 1)
    whole = parts_of(toy_voice(), LONG)
    with pytest.raises(KeyboardInterrupt):
        parts_of(toy_voice(kill_at=3), LONG, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    voice = toy_voice()
    resumed = parts_of(voice, LONG, tmp_path)
    assert len(voice.model.own.batches) == 1
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one.audio.samples_T, other.audio.samples_T)
        assert (one.about, one.text, one.written) == (other.about, other.text, other.written)
    next(tmp_path.iterdir()).write_bytes(b"damaged")
    voice = toy_voice()
    parts_of(voice, LONG, tmp_path)
    assert len(voice.model.own.batches) == 1
    voice = toy_voice()
    parts_of(voice, LONG, tmp_path, seed=1)
    assert len(voice.model.own.batches) == 3


def test_a_sentence_that_does_not_fit_is_refused_in_seconds(tmp_path: Path) -> None:
    """Guards against a limit of tokens that nobody can read."""
    reference = recording(tmp_path / "me.wav", ["red"] * 40)
    voice = toy_voice(max_tokens=320)
    with pytest.raises(
        ValueError, match=r"320 tokens \(6 s\) leaves \d\.\d s of speech beside the text after a recording of 4\.\d s"
    ):
        voice.say("one two three four five six seven", reference=reference, reference_text="red " * 40)
    assert voice.model.own.batches == []
