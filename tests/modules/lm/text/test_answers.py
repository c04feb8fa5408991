"""Transcripts written by the language model: against a loop without a cache, and in `trainer.test`."""

import json
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.recognition_evaluation import RecognitionEvaluation
from modules.api import Audio, Branch, Prompt, SamplingSettings
from modules.batches import PromptBatch
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.tokens import Utterance
from modules.verifiers.recognisers.normalise import BasicWords
from tests.toys.lm_toys import FORMAT, eager_copy, splitmix_uniform, toy_network
from tests.toys.search_toys import CODEBOOK_SIZE, ToyCodec

MARKERS = 256  # the byte tokenizer's tokens come before them
TEXT_END, HEARD_START, HEARD_END, CODE_0 = MARKERS + 1, MARKERS + 6, MARKERS + 7, MARKERS + 8
VOICES = [(5, 23, 0, 11), (7, 7, 2), (1, 2, 3, 4, 5, 6)]
PROMPTS = [Prompt(f"p{number}", "seven", voice=Utterance("", codes)) for number, codes in enumerate(VOICES)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


@torch.no_grad()
def naive_answer(plain, codes, seed, penalty, max_new_tokens):
    """Recompute the whole sequence for every token: all words but text tokens and the end of the text are excluded."""
    allowed = [*range(256), TEXT_END]
    prompt = [HEARD_START, *(CODE_0 + code for code in codes), HEARD_END, MARKERS]
    written: list[int] = []
    log_probability = 0.0
    for position in range(max_new_tokens):
        logits = plain(torch.tensor([prompt + written])).logits[0, -1, allowed].double()
        log_probabilities = logits.log_softmax(0)
        for token in set(written):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        cumulative = np.cumsum(logits.softmax(0).numpy())
        word = int(np.argmax(cumulative > splitmix_uniform(seed, position) * cumulative[-1]))
        log_probability += float(log_probabilities[word])
        if allowed[word] == TEXT_END:
            return written, log_probability, True
        written.append(word)
    return written, log_probability, False


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_answers_are_those_of_a_loop_without_a_cache(penalty: float) -> None:
    """Guards against an answer with codes or markers, a missed end, and a prompt of the other direction."""
    network = toy_network()
    with torch.no_grad():
        network.lm_head.weight[TEXT_END] += 0.5 * network.lm_head.weight[:256].std(0)  # so that some answers end
    plain = eager_copy(network)
    sampler = KVCacheSampler(network, FORMAT, SamplingSettings(repetition_penalty=penalty), 4, answer="text")
    seeds = list(range(50, 59))
    expected = [naive_answer(plain, VOICES[index // 3], seed, penalty, 30) for index, seed in enumerate(seeds)]
    answers = sampler.extend(sampler.start(PROMPTS), 3, 30, seeds)
    assert {stopped for _, _, stopped in expected} == {True, False}
    for answer, (written, log_probability, stopped) in zip(answers, expected, strict=True):
        assert answer.codes_S.tolist() == written
        assert answer.stopped == stopped
        assert answer.log_probability == pytest.approx(log_probability, abs=1e-3)
    paused = sampler.extend(sampler.extend(sampler.start(PROMPTS[:1]), 1, 4, seeds[:1]), 1, 26, seeds[:1])
    assert paused[0].codes_S.tolist() == expected[0][0]


def test_a_prompt_without_speech_is_refused() -> None:
    """Guards against transcribing a prompt without speech."""
    sampler = KVCacheSampler(toy_network(), FORMAT, SamplingSettings(), answer="text")
    with pytest.raises(ValueError, match=r"Expected the `voice` of prompt 'a' as codes, but got none"):
        sampler.start([Prompt("a", "one")])


class Listener(LightningModule):
    """A toy language model: its transcripts are given by the prompts' keys."""

    prompt_format = TextToSpeech(ByteTokenizer(), CODEBOOK_SIZE)
    codec_fingerprint, model_hash = ToyCodec.fingerprint, "listener"

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__()
        self.answers, self.heard = answers, {}

    def sampler(self, settings: SamplingSettings, answer: str) -> "Listener":
        assert answer == "text" and settings.top_k == 1
        return self

    def start(self, prompts: list[Prompt]) -> list[Branch]:
        self.heard |= {prompt.key: tuple(prompt.voice.codes) for prompt in prompts}
        return [Branch(prompt, torch.empty(0)) for prompt in prompts]

    def extend(self, branches: list[Branch], num_children: int, max_new: int, seeds: list[int]) -> list[Branch]:
        assert num_children == 1 and len(set(seeds)) == len(branches)
        texts = [self.answers[branch.prompt.key].encode() for branch in branches]
        return [
            Branch(branch.prompt, torch.tensor(list(text)), stopped=len(text) < max_new)
            for branch, text in zip(branches, texts, strict=True)
        ]

    def test_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        pass

    def transfer_batch_to_device(self, batch: PromptBatch, device: torch.device, dataloader_index: int) -> PromptBatch:
        return batch


def spoken(key: str, text: str, codes: list[int]) -> Prompt:
    samples_T = ToyCodec().decode(torch.tensor([codes]), torch.tensor([len(codes)]))[0]
    return Prompt(key, text, reference=Audio(samples_T, ToyCodec.sample_rate))


def test_error_rates_are_those_of_all_words_together(tmp_path: Path) -> None:
    """Guards against a mean of rates, another recording's transcript, sets that mix, and transcripts that are not
    stored."""
    sets = [
        [spoken("a", "One two!", [1, 2, 3]), spoken("b", "three four five six", [4, 5])],
        [spoken("c", "seven", [6])],
    ]
    listener = Listener({"a": "one", "b": "three for five six seven", "c": "seven"})
    callback = RecognitionEvaluation(ToyCodec(), BasicWords(), tmp_path, max_new_tokens=20)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
    loaders = [DataLoader([PromptBatch(prompts)], batch_size=None) for prompts in sets]
    trainer.test(listener, loaders, verbose=False)
    assert listener.heard == {"a": (1, 2, 3), "b": (4, 5), "c": (6,)}
    expected = jiwer.wer(["one two", "three four five six"], ["one", "three for five six seven"])
    assert callback.rates["recordings 0"].value == pytest.approx(expected)
    assert callback.rates["recordings 0"].num == 2
    assert callback.rates["recordings 1"].value == 0
    written = json.loads((tmp_path / "understanding.json").read_text())
    assert written["error_rates"]["recordings 0"]["value"] == pytest.approx(expected)
    assert [(one["key"], one["heard"], one["ended"]) for one in written["answers"]] == [
        ("a", "one", True), ("b", "three for five six seven", False), ("c", "seven", True),
    ]  # fmt: skip
    assert written["num_never_ended"] == 1


def test_a_codec_of_another_model_is_refused(tmp_path: Path) -> None:
    """Guards against meaningless errors: codes have another meaning for the model."""
    listener = Listener({"a": "one"})
    listener.codec_fingerprint = "another codec"
    callback = RecognitionEvaluation(ToyCodec(), BasicWords(), tmp_path)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
    with pytest.raises(ValueError, match="another codec"):
        trainer.test(listener, DataLoader([PromptBatch([spoken("a", "one", [1])])], batch_size=None), verbose=False)
