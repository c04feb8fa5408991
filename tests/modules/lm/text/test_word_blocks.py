"""Word blocks against sequences written by hand, and their sampling against a loop without a cache."""

import numpy as np
import pytest
import torch

from datamodules.shards.samples import Sample
from datamodules.tasks import TextToSpeech as TextToSpeechTask
from modules.api import Candidate, Prompt, SamplingSettings, WritesWords
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.phoneme_tokenizer import PhonemeTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm.text.word_blocks import WordBlocks, word_stops
from modules.search.growth import finished_candidate
from modules.tokens import Utterance
from modules.verifiers.likelihood import Likelihood
from tests.toys.lm_toys import eager_copy, splitmix_uniform, toy_network

FORMAT = WordBlocks(ByteTokenizer(), codebook_size=24)
SPACE = FORMAT.token_space
SAID = Utterance("a cat, sat", [5, 6, 7, 8, 9, 10, 11, 12], words=[("a", 0.1), ("cat,", 0.5), ("sat", 0.8)])


def test_each_word_precedes_its_codes_after_the_whole_text():
    """Guards against codes at another word, lost codes, and loss on the text before the answer."""
    tokens, num_context = FORMAT.aligned_example(SAID)
    c = SPACE.code_offset
    prompt = [SPACE.text_start, *b"a cat, sat", SPACE.text_end, SPACE.speech_start]
    answer = [*b"a ", c + 5, *b"cat, ", *range(c + 6, c + 10), *b"sat ", *range(c + 10, c + 13), SPACE.speech_end]
    assert tokens == prompt + answer
    assert num_context == len(prompt)
    assert FORMAT.prompt_tokens(SAID.text) == prompt
    assert FORMAT.written_tokens(SAID.text) == [*b"a cat, sat "]
    assert isinstance(FORMAT, WritesWords)


def test_a_stored_sample_becomes_the_same_document():
    """Guards against word times that are lost between the json of a shard and the format."""
    about = {"text": SAID.text, "words": [list(word) for word in SAID.words]}
    document = TextToSpeechTask().document(FORMAT, Sample(about, SAID.codes), None)
    assert document == FORMAT.aligned_example(SAID)
    with pytest.raises(ValueError, match="words"):
        Sample({"text": "a", "words": [["a"]]}, [1]).utterance()


@pytest.mark.parametrize(
    "words", [(), [("a", 0.1), ("cat,", 0.5)], [("a", 0.1), ("cat", 0.5), ("sat", 0.8)]], ids=["none", "few", "other"]
)
def test_words_that_are_not_those_of_the_text_are_refused(words):
    """Guards against a model that learns to skip words."""
    with pytest.raises(ValueError, match="words"):
        FORMAT.aligned_example(Utterance(SAID.text, SAID.codes, words=words))


def test_times_that_do_not_ascend_are_refused():
    for ends in ([0.0, 0.5], [0.5, 0.5], [0.5, 0.2]):
        with pytest.raises(ValueError, match="ascend"):
            word_stops(ends, 10)
    assert word_stops([0.24, 1.0], 50) == [12, 50]


def test_examples_spell_some_known_words_and_prompts_none():
    """Guards against prompts in another spelling than most examples, and examples that change from epoch to epoch."""
    form = WordBlocks(PhonemeTokenizer(spelled_share=0.3), codebook_size=24)
    words = ("the old cat sat on the mat and saw the dog " * 20).split()
    said = Utterance(" ".join(words), range(20), words=[(word, float(place + 1)) for place, word in enumerate(words)])
    tokens, num_context = form.aligned_example(said)
    spelled = bytes(token for token in tokens[:num_context] if token < 256).decode()
    num_spelled = sum(one == word for one, word in zip(spelled.split(" "), words, strict=True))
    assert 0.2 < num_spelled / len(words) < 0.4
    assert form.aligned_example(said) == (tokens, num_context)
    assert form.prompt_tokens("old cat") == form.prompt_tokens("old cat")
    assert bytes(form.prompt_tokens("old cat")[1:-2]) == bytes(PhonemeTokenizer().encode("old cat"))
    assert (
        tokens[1 : num_context - 2]
        == [token for token in [*tokens[num_context:-1]] if token < SPACE.text_vocab_size][:-1]
    )


def may_follow(answer, text):
    """The tokens that may follow under `force_words`, from what the answer already writes."""
    said = bytes(token for token in answer if token < 256).decode()
    left = f"{text} ".removeprefix(said)
    codes = range(SPACE.code_offset, SPACE.code_offset + 24)
    if not said or not said.endswith(" "):
        return {ord(left[0])}
    return {*codes, ord(left[0]) if left else SPACE.speech_end}


@torch.no_grad()
def naive_answer(plain, prompt, settings, seed, max_new_tokens):
    """All tokens by recomputing the whole sequence at every step; markers other than the end are masked, and codes of
    the answer penalised."""
    tokens, answer, log_probability = FORMAT.prompt_tokens(prompt.text), [], 0.0
    forbidden = [token for token in range(256, SPACE.code_offset) if token != SPACE.speech_end]
    for position in range(max_new_tokens):
        logits_V = plain(torch.tensor([tokens])).logits[0, -1].double()
        logits_V[forbidden] = -torch.inf
        wanted_V, penalty = logits_V.clone(), settings.repetition_penalty
        for code in {one for one in answer if one >= SPACE.code_offset}:
            wanted_V[code] = wanted_V[code] / penalty if wanted_V[code] > 0 else wanted_V[code] * penalty
        if settings.force_words:
            wanted_V[[one for one in range(len(wanted_V)) if one not in may_follow(answer, prompt.text)]] = -torch.inf
        cumulative = np.cumsum((wanted_V / settings.temperature).softmax(-1).numpy())
        token = int(np.argmax(cumulative > splitmix_uniform(seed, position) * cumulative[-1]))
        log_probability += float(logits_V.log_softmax(-1)[token])
        if token == SPACE.speech_end:
            return answer, log_probability, True
        answer.append(token)
        tokens.append(token)
    return answer, log_probability, False


@pytest.mark.parametrize(("penalty", "force_words"), [(1.0, False), (3.0, False), (1.0, True), (3.0, True)])
def test_answers_are_those_of_a_loop_without_a_cache(penalty, force_words):
    """Guards against words that are masked or penalised, and noise, caches or continued branches that count codes
    alone; with `force_words` against lost or other words, and probabilities that are not the model's."""
    torch.set_num_threads(1)
    network = toy_network()
    plain, settings = eager_copy(network), SamplingSettings(1.1, repetition_penalty=penalty, force_words=force_words)
    prompts, seeds = [Prompt("a", "one"), Prompt("b", "seven eight")], list(range(6))
    expected = [naive_answer(plain, prompts[seed // 3], settings, seed, 20) for seed in seeds]
    assert any(stopped for _, _, stopped in expected) or all(len(answer) == 20 for answer, _, _ in expected)
    assert any(min(answer) < 256 and max(answer) >= SPACE.code_offset for answer, _, _ in expected)
    sampler = KVCacheSampler(network, FORMAT, settings)
    children = sampler.extend(sampler.start(prompts), 3, 20, seeds)
    branches = [branch for branch in sampler.start(prompts) for _ in range(3)]
    for num_new in (4, 9, 7):
        branches = sampler.extend(branches, 1, num_new, seeds)
        sampler.drop(branches)  # recomputed from the sampled tokens
    for child, (answer, log_probability, stopped) in zip([*children, *branches], 2 * expected, strict=True):
        assert child.tokens_S.tolist() == answer
        assert child.codes_S.tolist() == [t - SPACE.code_offset for t in answer if t >= SPACE.code_offset]
        assert child.stopped == stopped
        assert child.num_tokens == len(answer)
        assert child.log_probability == pytest.approx(log_probability, abs=1e-3)
    candidate = finished_candidate(children[0], 0, 0)
    assert candidate.num_codes + candidate.num_written_tokens == len(expected[0][0])
    row = sampler.extend(sampler.start(prompts[1:]), 1, 20, seeds[3:4])[0]  # alone, by steps of a fixed width
    sampler.row_graphs.capture = False
    fixed = sampler.extend(sampler.start(prompts[1:]), 1, 20, seeds[3:4])[0]
    assert row.tokens_S.tolist() == fixed.tokens_S.tolist() == expected[3][0]


def test_forced_words_are_those_of_the_text():
    """Guards against an end before the last word, and an effect of `force_words` where no words are written."""
    sampler = KVCacheSampler(toy_network(), FORMAT, SamplingSettings(force_words=True))
    texts = ["one", "seven eight", "a a a b"]
    for child in sampler.extend(sampler.start([Prompt(text, text) for text in texts]), 4, 400, list(range(12))):
        assert child.stopped
        assert bytes(one for one in child.tokens_S.tolist() if one < 256).decode() == f"{child.prompt.text} "
    drawn = [
        KVCacheSampler(toy_network(), TextToSpeech(ByteTokenizer(), 24), SamplingSettings(force_words=forced))
        for forced in (False, True)
    ]
    free, forced = ([*one.extend(one.start([Prompt("a", "one")]), 3, 20, [0, 1, 2])] for one in drawn)
    assert [one.codes_S.tolist() for one in free] == [one.codes_S.tolist() for one in forced]


def test_spoken_prompts_are_refused():
    with pytest.raises(ValueError, match="no spoken prompt"):
        FORMAT.prompt_tokens("one", voice=Utterance("two", [1]))


def test_likelihood_is_the_mean_over_words_and_codes():
    """Guards against a mean over codes alone, which favours answers of few words."""
    candidate = Candidate("a", 0, 0, torch.arange(5), -22.0, True, num_written_tokens=5)
    assert Likelihood().score(Prompt("a", "one"), [candidate]).tolist() == [-2.0]


def test_what_word_blocks_cannot_do_is_refused():
    """Guards against text-then-codes examples in a model that writes words, and nonsense transcripts."""
    with pytest.raises(ValueError, match="times of the words"):
        FORMAT.example_from_tokens([97], [1])
    with pytest.raises(ValueError, match="no spoken prompt"):
        FORMAT.example_tokens("one", [1], voice=Utterance("two", [1]))
    with pytest.raises(ValueError, match="speech recognition"):
        WordBlocks(PhonemeTokenizer(), 24).answer_text([65])
