"""The exported folder as an external user loads it: only transformers, in a process that cannot import this
repository."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from modules.api import Prompt, SamplingSettings
from modules.codec.formats.checkpoints import save_transformers
from modules.lm.checkpoints import export, read_model, restored_network, stored_prompt_format
from modules.lm.network import LlamaSize
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.phoneme_tokenizer import PhonemeTokenizer
from modules.lm.text.prompt_format import LlasaChat, TextToSpeech
from modules.lm.text.word_blocks import WordBlocks
from modules.lm.voice_file import VoiceFile
from modules.lm_module import LMModule
from tests.modules.lm.test_checkpoints import trained
from tests.toys.codec_references import small_codec
from tests.toys.tiny_llama import tiny_llama

MAX_NEW_TOKENS = 40
# Appended to the card's program: its sample, greedy codes of the same prompt, and the audio of the card's codec.
BEHIND = f"""
import importlib.util, json
assert importlib.util.find_spec("modules") is None, "this repository is on the path"
greedy = model.generate(tokens, do_sample=False, max_new_tokens={MAX_NEW_TOKENS}, **options)[0, tokens.shape[1]:]
print(json.dumps([tokens[0].tolist(), answer.tolist(), greedy.tolist()]))
"""


def programs(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def checkpoint(kind: str, folder: Path) -> Path:
    """A checkpoint of LMModule: trained for three steps inside a chat template, or random, with bytes for text or with
    phonemes and word blocks."""
    if kind == "chat":
        return trained(folder / "run", tiny_llama(folder / "start"))[1]
    size = LlamaSize(
        hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_key_value_heads=2, max_positions=128
    )
    tokenizer = {
        "class_path": "modules.lm.text.byte_tokenizer.ByteTokenizer",
        "init_args": {"characters": "abcdefghi nomr"},
    }
    class_path = "modules.lm.text.prompt_format.TextToSpeech"
    prompt_format = TextToSpeech(ByteTokenizer(tokenizer["init_args"]["characters"]), 16)
    if kind == "words":
        class_path = "modules.lm.text.word_blocks.WordBlocks"
        tokenizer = {"class_path": "modules.lm.text.phoneme_tokenizer.PhonemeTokenizer"}
        prompt_format = WordBlocks(PhonemeTokenizer(), 16)
    described = {"tokenizer": tokenizer, "codebook_size": 16}
    module = LMModule(prompt_format, size=size, optimizer=lambda parameters: torch.optim.AdamW(parameters))
    module.configure_model()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)  # the usual .02 would make the greedy answer empty
    content = {
        "state_dict": module.state_dict(),
        "token_space": prompt_format.token_space.as_dict(),
        "hyper_parameters": {
            "prompt_format": {"class_path": class_path, "init_args": described},
            "size": vars(size),
        },
    }
    torch.save(content, folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.mark.parametrize("kind", ["chat", "plain", "words"])
def test_the_cards_example_draws_what_our_sampler_draws(kind: str, tmp_path: Path) -> None:
    """Guards against a prompt, a stop or an example that is not the model's: greedy codes equal our own sampler's."""
    torch.manual_seed(0)
    path, target = checkpoint(kind, tmp_path), tmp_path / "exported"
    export(path, target)
    card = (target / "README.md").read_text()
    to_codes, to_sound = programs(card)
    assert len(to_codes.strip().splitlines()) <= 12
    sound = ""
    if kind == "chat":  # once is enough
        save_transformers(small_codec(), target / "codec")
        # A model of three steps may stop at once, and the card samples without a seed: other codes for the audio.
        sound = f"codes = torch.arange(9)\n{to_sound}\nassert len(audio) == 320 * 9 and audio.isfinite().all()\n"
    output = run(to_codes + sound + BEHIND, target)
    assert output.returncode == 0, output.stderr
    tokens, answer, greedy = json.loads(output.stdout.splitlines()[-1])

    stored = read_model(path)
    prompt_format = stored_prompt_format(stored)
    space = prompt_format.token_space
    text = re.search(r"run.py say '(.*?)'", card)[1]
    assert tokens == prompt_format.prompt_tokens(text)
    markers = set(range(space.text_vocab_size, space.code_offset)) - {space.speech_end}
    assert not markers & set(answer) and (kind == "words" or min(answer) >= space.speech_end)
    sampler = KVCacheSampler(restored_network(stored), prompt_format, SamplingSettings(top_k=1))
    (drawn,) = sampler.extend(sampler.start([Prompt("k", text)]), 1, MAX_NEW_TOKENS, [0])
    assert len(set(drawn.codes_S.tolist())) > (kind != "words")  # random words among them are mostly bytes
    if kind == "words":
        assert greedy == [*drawn.tokens_S.tolist(), *([space.speech_end] if drawn.stopped else [])]
        assert min(greedy) < space.text_vocab_size
        assert GenerationConfig.from_pretrained(target).temperature == VoiceFile.read(target).sampling["temperature"]
    assert [token - space.code_offset for token in greedy if token >= space.code_offset] == drawn.codes_S.tolist()
    assert (greedy[-1] == space.speech_end) == drawn.stopped


def test_files_stored_with_the_weights(tmp_path: Path) -> None:
    """Guards against `generate` without a cache, other sampling than Llasa's, and prompts with today's date."""
    path, target = checkpoint("chat", tmp_path), tmp_path / "exported"
    export(path, target)
    assert json.loads((target / "config.json").read_text())["use_cache"] is True
    prompt_format = stored_prompt_format(read_model(path))
    assert isinstance(prompt_format, LlasaChat)
    config, end = GenerationConfig.from_pretrained(target), prompt_format.token_space.speech_end
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 0.8, 50, 1.0)
    assert (config.eos_token_id, config.pad_token_id, config.max_length, config.use_cache) == (end, end, 2048, True)
    tokenizer = AutoTokenizer.from_pretrained(target)
    request = "Convert the text to speech:<|TEXT_UNDERSTANDING_START|>one<|TEXT_UNDERSTANDING_END|>"
    messages = [{"role": "user", "content": request}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert [*given, prompt_format.token_space.speech_start] == prompt_format.prompt_tokens("one")
    assert "Today Date: 1 Jan 2030" in tokenizer.apply_chat_template(messages, tokenize=False, date_string="1 Jan 2030")


def test_the_card_shows_the_place_of_speaker_and_language(tmp_path: Path) -> None:
    """Guards against a card whose prompts name no speaker, for a model trained with speakers."""
    path, target = checkpoint("plain", tmp_path), tmp_path / "exported"
    stored = torch.load(path, weights_only=False)
    prefixes = {"prefix": "{speaker}: ", "answer_prefix": "[{language}] "}
    stored["hyper_parameters"]["prompt_format"]["init_args"] |= prefixes
    torch.save(stored, path)
    export(path, target)
    card = (target / "README.md").read_text()
    assert "the text begins with '{speaker}: '" in card
    assert "'[{language}] ' stands directly before `<|SPEECH_GENERATION_START|>`" in card
