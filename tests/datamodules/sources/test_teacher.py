"""TeacherSource: what is held out, what a smaller corpus is, and what a recording says. No synthesiser is needed."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from datamodules.shards.samples import phoneme_times
from datamodules.sources.source import Recording, Skipped
from datamodules.sources.teacher import TeacherSource
from tests.toys.spoken_sentences import ListedSentences, ToneTeacher

WORDS = re.findall(r"\w+", "the old cat saw a red dog near my house and ran off to eat some cake")


def written(num_sentences: int, seed: int) -> ListedSentences:
    """Sentences of a few words, many with four words in a row of another."""
    noise = random.Random(seed)
    texts = [" ".join(noise.choices(WORDS[:8], k=noise.randint(2, 7))) for _ in range(num_sentences)]
    texts += [" ".join(noise.choices(WORDS, k=noise.randint(4, 9))).capitalize() + "." for _ in range(num_sentences)]
    return ListedSentences(tuple(dict.fromkeys(texts)), f"list{seed}")


def source(num_sentences: int | None = None, **arguments) -> TeacherSource:
    arguments = {"num_held_out": 12, "num_test": 9, **arguments}
    return TeacherSource(ToneTeacher(), [written(150, 1), written(150, 2)], num_sentences, **arguments)


def runs_of_four(text: str) -> set[tuple[str, ...]]:
    words = re.sub(r"[^a-z ]", "", text.lower()).split()
    return {tuple(words[start : start + 4]) for start in range(len(words) - 3)}


def test_held_out_sentences_share_no_four_words() -> None:
    """Guards against a test sentence whose parts were heard in training, or that is too short to say: compared with
    every other sentence of the lists by brute force."""
    texts = {text for one in source().sentences for _, text in one.sentences()}
    items = list(source().items())
    assert Counter(item.split for item in items).keys() == {"train", "held_out", "test"}
    for split, number in (("held_out", 12), ("test", 9)):
        chosen = [item.text for item in items if item.split == split]
        assert len(chosen) == number
        for text in chosen:
            others = [other for other in texts if other != text]
            assert runs_of_four(text) and not any(runs_of_four(text) & runs_of_four(other) for other in others)


def test_the_choice_fails_on_shared_words() -> None:
    """Guards against a comparison that compares nothing, and one that misses figures: they are spoken as words."""
    pairs = ("we saw an old house", "he saw an old house", "there are 4 old cats here", "it is all of it")
    listed = TeacherSource(ToneTeacher(), [ListedSentences(pairs)], num_held_out=0, num_test=1)
    assert [item.text for item in listed.items() if item.split == "test"] == ["it is all of it"]
    with pytest.raises(ValueError, match="share no 4 words in a row with another one, but got 1 among 4"):
        list(TeacherSource(ToneTeacher(), [ListedSentences(pairs)], num_held_out=1, num_test=1).items())


def test_a_smaller_corpus_is_part_of_a_larger_one() -> None:
    """Guards against curves over hours whose points have different sentences, and against test sets that change with
    the size or with the lists' order."""
    sizes = [dict(source(number).keyed_items()) for number in (0, 20, 100, None)]
    for smaller, larger in pairwise(sizes):
        assert smaller.items() < larger.items()
    assert Counter(item.split for item in sizes[1].values()) == {"train": 20, "held_out": 12, "test": 9}
    turned = TeacherSource(ToneTeacher(), source().sentences[::-1], 20, 12, 9)
    assert {(item.text.lower(), item.split) for item in turned.items()} >= {
        (item.text.lower(), item.split) for item in sizes[1].values() if item.split != "train"
    }


def test_each_text_is_spoken_once() -> None:
    """Guards against a sentence that is in training and, with other capitals, in the test."""
    listed = ListedSentences(("A cat.", "a cat", "a dog!", "...", "A  dog"))
    items = TeacherSource(ToneTeacher(), [listed, listed], num_held_out=0, num_test=0).keyed_items()
    assert sorted(key for key, _ in items) == ["tones-flute_list-0", "tones-flute_list-2"]


def test_a_recording_says_what_is_spoken() -> None:
    """Guards against a text that differs from the words with times, an item that stops the run, and speech that is not
    marked as synthetic."""
    listed = ListedSentences(("Hello, you there!", "this is Unspeakable"))
    teacher = TeacherSource(ToneTeacher(), [listed], num_held_out=0, num_test=0)
    found = {item.key: item for item in teacher.recordings()}
    one = found["tones-flute_list-0"]
    assert isinstance(one, Recording) and one.speaker == "flute" and one.source == "tones-flute"
    words = [["hello,", 0.05], ["you", 0.1], ["there!", one.audio.seconds]]
    assert one.text == "hello, you there!" and one.split == "train"
    assert one.more == {"written": "Hello, you there!", "words": words, "synthetic": True}
    assert one.license == "CC0 1.0; text: CC0 1.0"
    assert found["tones-flute_list-1"] == Skipped("tones-flute_list-1", "not spoken: nothing to speak: at all")
    assert teacher.credits() == "Synthetic speech. Tones by nobody.\n\nlist by nobody."


def test_times_of_phonemes_are_stored_where_the_teacher_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against phonemes that a corpus loses; without them the json has no such field (above)."""
    speak, phonemes = ToneTeacher.speak, (("SIL", 0.01), ("AH", 0.05))
    monkeypatch.setattr(ToneTeacher, "speak", lambda self, text: replace(speak(self, text), phonemes=phonemes))
    teacher = TeacherSource(ToneTeacher(), [ListedSentences(("hello you",))], num_held_out=0, num_test=0)
    (one,) = teacher.recordings()
    assert one.more["phonemes"] == [["SIL", 0.01], ["AH", 0.05]]
    assert phoneme_times(json.loads(json.dumps(one.more))) == phonemes


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected `sentences`"):
        TeacherSource(ToneTeacher(), [])
    with pytest.raises(ValueError, match="Expected `num_test` to be at least 0, but got -1"):
        source(num_test=-1)
    with pytest.raises(ValueError, match="Expected `name`"):
        source(name="a/b")
