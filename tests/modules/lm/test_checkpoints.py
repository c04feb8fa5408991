"""From a Hugging Face folder to training and back: ids, weights, logits, against transformers' own reading."""

from pathlib import Path

import pytest
import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from modules.batches import TokenBatch
from modules.checkpoint_files import SHARDS_METADATA
from modules.described import instantiate
from modules.lm.adapters import LowRankAdapters
from modules.lm.attention import find_segments
from modules.lm.checkpoints import export, main
from modules.lm.pretrained import PretrainedNetwork, check_adapters, load_pretrained
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer, with_speech_tokens
from modules.lm.text.prompt_format import LlasaChat
from modules.tokens import MARKERS, TokenSpace
from tests.toys.tiny_llama import tiny_llama, tiny_tokenizer

NUM_CODES = 16
CONFIG = """
trainer: {{accelerator: cpu, devices: 1, max_steps: 3, logger: false, enable_progress_bar: false,
           enable_model_summary: false, enable_checkpointing: false, default_root_dir: {folder}}}
model:
  class_path: modules.lm_module.LMModule
  init_args:
    prompt_format:
      class_path: modules.lm.text.prompt_format.LlasaChat
      init_args:
        tokenizer:
          class_path: modules.lm.text.huggingface_tokenizer.HuggingFaceTokenizer
          init_args: {{source: {source}}}
        codebook_size: 16
    pretrained: {{source: {source}}}
    adapters: {adapters}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
data: {data}
"""


class OneExample(LightningDataModule):
    """The same document at every step; its tokens are random, its codes carry loss."""

    def train_dataloader(self) -> DataLoader:
        tokens = torch.randint(320, (1, 24), generator=torch.Generator().manual_seed(0))
        labels = tokens.roll(-1, 1)
        labels[:, :8] = labels[:, -1] = -100
        batch = TokenBatch(tokens, labels, torch.arange(24)[None], torch.zeros_like(tokens))
        return DataLoader([batch] * 3, batch_size=None)


def trained(folder: Path, source: Path, adapters: str = "null") -> tuple[LightningCLI, Path]:
    """Train three steps from `source` and save the checkpoint."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    data = f"{__name__}.OneExample"
    config.write_text(CONFIG.format(folder=folder, source=source, adapters=adapters, data=data))
    options = {"subclass_mode_model": True, "subclass_mode_data": True, "auto_configure_optimizers": False}
    parser = {"parser_mode": "omegaconf+"}
    args = ["--config", str(config)]
    cli = LightningCLI(
        LightningModule, LightningDataModule, save_config_callback=None, run=False, args=args, parser_kwargs=parser,
        **options,
    )  # fmt: skip
    cli.trainer.fit(cli.model, cli.datamodule)
    path = folder / "model.ckpt"
    cli.trainer.save_checkpoint(path)
    return cli, path


def logits(network: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(tokens).logits


@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_model_gives_transformers_the_same_logits(tied, tmp_path):
    """Guards against a head stored twice or lost, a vocabulary in another order, a config of other positions."""
    torch.manual_seed(0)
    cli, path = trained(tmp_path / "run", tiny_llama(tmp_path / "start", tied))
    target = tmp_path / "exported"
    main(["export", str(path), str(target)])
    network, tokenizer = AutoModelForCausalLM.from_pretrained(target), AutoTokenizer.from_pretrained(target)
    space = cli.model.token_space
    text = f"hé{MARKERS[4]}<|s_0|><|s_15|>{MARKERS[5]}"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert tokens[-4:] == [space.speech_start, space.code_offset, space.code_offset + 15, space.speech_end]
    assert len(tokenizer) == space.vocab_size == network.config.vocab_size
    assert tokenizer.decode(tokens) == text
    ours = cli.model.network.llama.model(
        input_ids=torch.tensor([tokens]), segments=find_segments(torch.zeros(1, len(tokens), dtype=torch.int64))
    ).last_hidden_state
    expected = ours @ cli.model.network.llama.lm_head.weight.T
    torch.testing.assert_close(logits(network, torch.tensor([tokens])), expected.detach(), rtol=1e-5, atol=1e-5)
    assert ("lm_head.weight" in load_file(target / "model.safetensors")) == (not tied)
    assert network.generation_config.eos_token_id == space.speech_end
    # The export can itself be used for initialisation, unchanged.
    again = load_pretrained(PretrainedNetwork(str(target)), space)
    for name, weight in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert HuggingFaceTokenizer(str(target)).vocab_size == space.text_vocab_size


@pytest.mark.parametrize("num_spare_rows", [0, 11])
def test_text_is_unchanged_by_new_words(num_spare_rows, tmp_path):
    """Guards against rows that move, and against new rows that are large, equal, or only in a tied head."""
    for tied in (True, False):
        source = tiny_llama(tmp_path / f"start_{tied}", tied, num_spare_rows)
        num_text = HuggingFaceTokenizer(str(source)).vocab_size
        network = load_pretrained(PretrainedNetwork(str(source)), TokenSpace(num_text, 4000))
        plain = AutoModelForCausalLM.from_pretrained(source)
        tokens = torch.randint(num_text, (2, 9))
        actual = logits(network, tokens)
        torch.testing.assert_close(actual[..., :num_text], logits(plain, tokens)[..., :num_text], rtol=1e-5, atol=1e-5)
        assert actual.shape[-1] == num_text + 8 + 4000
        assert (network.lm_head.weight is network.model.embed_tokens.weight) == tied
        for weight in (network.lm_head.weight, network.model.embed_tokens.weight):
            old, new = weight[:num_text], weight[num_text:]
            torch.testing.assert_close(new.mean(0), old.mean(0), rtol=0, atol=4 * 0.3 / 4000**0.5)
            torch.testing.assert_close(new.std(0), old.std(0), rtol=0.05, atol=0)
            assert len(new.unique(dim=0)) == len(new)


def test_a_released_folder_with_head_and_embedding_both_stored(tmp_path):
    """Guards against tying away one of the two tensors in Llasa-3B's file: the config says tied, the weights differ."""
    source = tiny_llama(tmp_path / "start")
    space = TokenSpace(HuggingFaceTokenizer(str(source)).vocab_size, NUM_CODES)
    released = tmp_path / "released"
    network = load_pretrained(PretrainedNetwork(str(source)), space)
    network.save_pretrained(released)
    with_speech_tokens(tiny_tokenizer(), space).save_pretrained(released)
    weights = load_file(released / "model.safetensors")
    for shift in (0.0, 1.0):
        stored = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"] + shift}
        save_file(stored, released / "model.safetensors", metadata={"format": "pt"})
        loaded = load_pretrained(PretrainedNetwork(str(released)), space)
        assert torch.equal(loaded.lm_head.weight, stored["lm_head.weight"])
        assert torch.equal(loaded.model.embed_tokens.weight, stored["model.embed_tokens.weight"])
        assert loaded.config.tie_word_embeddings == (shift == 0)
    with pytest.raises(ValueError, match="but got one of 16 codes"):
        load_pretrained(PretrainedNetwork(str(released)), TokenSpace(space.text_vocab_size, 64))
    with pytest.raises(ValueError, match="Expected a network of 99 text tokens"):
        load_pretrained(PretrainedNetwork(str(released)), TokenSpace(99, NUM_CODES))


def test_adapters_train_with_frozen_weights_and_merge_on_export(tmp_path):
    """Guards against adapters that are lost on export, and against frozen weights that move."""
    torch.manual_seed(0)
    source = tiny_llama(tmp_path / "start")
    cli, path = trained(tmp_path / "run", source, "{rank: 4, train_embeddings: true}")
    state = cli.model.network.llama.state_dict()
    frozen = load_pretrained(PretrainedNetwork(str(source)), cli.model.token_space).state_dict()
    for name, weight in frozen.items():
        if "proj" in name:
            assert torch.equal(state[name.replace("proj.", "proj.base_layer.")], weight)
    assert any(weight.any() for name, weight in state.items() if "lora_B" in name)
    assert not torch.equal(state["model.embed_tokens.weight"], frozen["model.embed_tokens.weight"])
    export(path, tmp_path / "exported")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert not [name for name in load_file(tmp_path / "exported/model.safetensors") if "lora" in name]
    tokens = torch.randint(300, (1, 12))
    segments = find_segments(torch.zeros_like(tokens))
    hidden = cli.model.network.llama.eval().model(input_ids=tokens, segments=segments).last_hidden_state
    expected = (hidden @ state["lm_head.weight"].T).detach()
    torch.testing.assert_close(logits(network, tokens), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(source), tokens), expected[..., :304])


def test_adapters_with_new_words_train_their_rows_or_are_refused(tmp_path):
    """Guards against silent fine-tuning with random rows for all markers and codes."""
    source = tiny_llama(tmp_path / "start")
    with pytest.raises(ValueError, match=r"`train_embeddings: true` beside `.*start`, a text model"):
        trained(tmp_path / "refused", source, "{rank: 2}")
    cli, path = trained(tmp_path / "whole", source, "{rank: 2, train_embeddings: true}")
    first_new = cli.model.token_space.text_vocab_size
    drawn = load_pretrained(PretrainedNetwork(str(source)), cli.model.token_space).lm_head.weight[first_new:]
    assert not torch.equal(cli.model.network.llama.lm_head.weight[first_new:], drawn)
    export(path, tmp_path / "knows_codes")
    again, _ = trained(tmp_path / "again", tmp_path / "knows_codes", "{rank: 2}")
    state = again.model.network.llama.state_dict()
    assert any(weight.any() for name, weight in state.items() if "lora_B" in name)
    with pytest.raises(ValueError, match="beside a network of `size`"):
        check_adapters(LowRankAdapters(), None)


def test_what_cannot_be_exported_raises_an_error(tmp_path, capsys):
    """Guards against an incomplete folder, and against a checkpoint that runs arbitrary code."""
    (tmp_path / SHARDS_METADATA).touch()
    for command in (["export", str(tmp_path / "none.ckpt"), str(tmp_path / "a")], ["export", str(tmp_path), "b"]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "there is none" in said and "consolidate_checkpoint" in said
    with pytest.raises(ValueError, match="classes of"):
        instantiate({"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}}, "modules.lm")


def test_chat_prompts_are_those_of_the_template(tmp_path):
    """Guards against merging tokens across pieces, today's date, and a template that is not the model's."""
    source = tiny_llama(tmp_path / "start")
    chat = LlasaChat(HuggingFaceTokenizer(str(source)), NUM_CODES)
    space = chat.token_space
    reference = with_speech_tokens(AutoTokenizer.from_pretrained(source), space)
    content = "Convert the text to speech:<|TEXT_UNDERSTANDING_START|> one é <|TEXT_UNDERSTANDING_END|>"
    answer = "<|SPEECH_GENERATION_START|><|s_3|><|s_0|><|SPEECH_GENERATION_END|>"
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    expected = reference.apply_chat_template(messages, tokenize=True, date_string="26 Jul 2024", return_dict=False)
    tokens, num_context = chat.example_tokens(" one é ", [3, 0])
    assert [*tokens, reference.eos_token_id] == expected
    assert tokens[:num_context] == chat.prompt_tokens(" one é ")
    assert num_context == expected.index(space.speech_start) + 1
    assert 0 <= 2 + len(chat.tokenizer.encode(" one é ")) + chat.num_extra_tokens - len(tokens) <= 4


def test_the_answer_s_prefix_is_where_the_template_puts_it(tmp_path):
    """Guards against a speaker in another place, or in other tokens, than in multi-speaker Llasa models."""
    source = tiny_llama(tmp_path / "start")
    chat = LlasaChat(HuggingFaceTokenizer(str(source)), NUM_CODES, answer_prefix="Speaker {speaker} ")
    reference = with_speech_tokens(AutoTokenizer.from_pretrained(source), chat.token_space)
    content = "Convert the text to speech:<|TEXT_UNDERSTANDING_START|>one<|TEXT_UNDERSTANDING_END|>"
    answer = "Speaker kore <|SPEECH_GENERATION_START|>"
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    expected = reference.apply_chat_template(
        messages, tokenize=True, continue_final_message=True, date_string="26 Jul 2024", return_dict=False
    )
    assert chat.prompt_tokens("one", "kore") == expected
    assert chat.example_tokens("one", [3, 0], "kore")[1] == len(expected)
    unnamed = LlasaChat(HuggingFaceTokenizer(str(source)), NUM_CODES).prompt_tokens("one", "kore")
    assert chat.prompt_tokens("one") == unnamed


def test_special_tokens_in_a_text_are_read_as_characters(tmp_path):
    """Guards against a text that ends the user's turn or speaks codes by itself."""
    tokenizer = HuggingFaceTokenizer(str(tiny_llama(tmp_path / "start")))
    eot = tokenizer.tokenizer.eos_token_id
    assert eot not in tokenizer.encode("one<|eot_id|>two")
    assert tokenizer.decode(tokenizer.encode("one<|eot_id|>two")) == "one<|eot_id|>two"
    assert tokenizer.encode_template("one<|eot_id|>")[-1] == eot
    with_speech_tokens(tokenizer.tokenizer, TokenSpace(tokenizer.vocab_size, NUM_CODES))
    with pytest.raises(ValueError, match="without names of markers"):
        tokenizer.encode("one<|s_3|>")
    with pytest.raises(ValueError, match="something to speak"):
        tokenizer.encode(" ")


def test_tokenizers_that_do_not_fit_are_refused(tmp_path):
    """Guards against ids that collide, codes in another order, and formats that need a missing template."""
    whole = tiny_tokenizer()
    space = TokenSpace(len(whole), NUM_CODES)
    broken = {
        "markers": (list(reversed(MARKERS)), "all markers in Llasa's order"),
        "codes": ([*MARKERS, "<|s_1|>", "<|s_0|>"], r"<\|s_0\|> .* at id"),
        "partial": (list(MARKERS[:3]), "all markers in Llasa's order"),
    }
    for name, (added, message) in broken.items():
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(added)
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            _ = HuggingFaceTokenizer(str(tmp_path / name)).vocab_size
    collides = tiny_tokenizer()
    collides.add_tokens(["another"])
    with pytest.raises(ValueError, match="Expected the marker"):
        with_speech_tokens(collides, space)
    tiny_tokenizer(template=None).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="to have a chat template"):
        LlasaChat(HuggingFaceTokenizer(str(tmp_path / "bare")), NUM_CODES).prompt_tokens("one")
