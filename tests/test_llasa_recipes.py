"""docs/llasa.md: its commands in a tiny form, one after the other, from folders in the shape of the released files;
their prompts, codes and weights against transformers' and the model card's.

Shapes: T audio samples, S codes, L tokens of a prompt.
"""

import contextlib
import io
import json
import re
import shlex
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import run
from modules.api import SamplingSettings
from modules.command import speaking
from modules.command.line import enter_root
from modules.command.speaking import is_speaking
from modules.lm.adapters import stored_weights
from modules.lm.attention import find_segments
from modules.lm.checkpoints import read_model, restored_network
from modules.lm.pretrained import PretrainedNetwork
from modules.lm.resource_plan import LLASA_ADAPTERS
from modules.lm.sampling.sampler import KVCacheSampler
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.lm.text.prompt_format import LlasaChat, encoded_prompt
from modules.lm_module import LMModule
from modules.speech.export import main as export_main
from modules.speech.models import find_model
from modules.speech.narration import Narration
from modules.speech.settings import SpeakingSettings
from modules.speech.voice import Voice, load_voice
from tests.conftest import REPOSITORY, SAMPLE_RATE, speech_like
from tests.modules.codec.test_formats import RELEASED_CONFIG
from tests.test_voice_recipe import QUICK, TEXTS, write_ljspeech
from tests.toys.codec_files import released_tensors
from tests.toys.codec_references import reference_codes, reference_model
from tests.toys.llasa_folder import NUM_CODES, save_network, true_tokenizer

PAGE = REPOSITORY / "docs/llasa.md"
SMALL = """
data: {init_args: {row_length: 512, batch_size: 1, num_validation_rows: 1}}
model: {init_args: {scheduler: {init_args: {num_warmup_steps: 1}}}}
trainer: {max_steps: 2, val_check_interval: 1, log_every_n_steps: 1, accelerator: cpu}
"""
OVERLAYS = {"finetune.yaml": SMALL, "tokenise.yaml": "trainer: {accelerator: cpu}\n"}
CODE_0, SPEECH_END, NUM_DRAWN = 128_264, 128_261, 12
TEXT = "Dealing with family secrets is never easy: it's half past seven."


def commands_of_page() -> list[str]:
    """Those to speak and to fine-tune; tests/modules/test_codec_finetuning.py and tests/datamodules/test_memmaps.py run
    those that continue a training."""
    page = PAGE.read_text().partition("## What to expect")[0]
    return re.findall(r"^    ((?:[A-Z]+=\S+ )*python .*)$", page, re.M)


@dataclass
class Followed:
    """A folder in which the page's commands have run: what each printed, and the sound that it made."""

    place: Path
    printed: dict[str, list[str]] = field(default_factory=dict)
    sounds: dict[str, Path] = field(default_factory=dict)

    def of(self, *parts: str) -> list[str]:
        """What the only command with these parts printed."""
        ((_, lines),) = [one for one in self.printed.items() if all(part in one[0] for part in parts)]
        return lines


def follow(command: str, place: Path) -> list[str]:
    """Run a command line in this process, with the overlay of its config; return the printed lines."""
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z]+=.*", words[0]):
        words.pop(0)  # the fixture has set them
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.MonkeyPatch.context() as patch:
        if words[:3] == ["python", "-m", "modules.speech.export"]:
            export_main(words[3:])
            return output.getvalue().splitlines()
        assert words[:2] == ["python", "run.py"]
        if is_speaking(words[2:]):
            assert speaking.run([*words[2:], "--device", "cpu"]) == 0
        else:
            (name,) = [one for one in OVERLAYS if f"configs/llasa/{one}" in words]
            patch.setattr("sys.argv", ["run.py", *words[2:], "--config", str(place / f"small_{name}")])
            enter_root()
            run.main()
    return output.getvalue().splitlines()


@pytest.fixture(scope="module")
def codec_model() -> nn.Module:
    """transformers' X-codec2. One object: some of its weights depend on the global random state."""
    return reference_model("xcodec2")


@pytest.fixture(scope="module")
def released(codec_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llasa-1B and xcodec2 as they are released, without cards, with small random bodies."""
    place = tmp_path_factory.mktemp("released")
    true_tokenizer().save_pretrained(place / "Llasa-1B")
    for name, tied in (("Llasa-1B", True), ("untied", False)):
        save_network(place / name, tied)
        network = LlamaForCausalLM.from_pretrained(place / name)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():  # the usual deviation of .02 would make every greedy code the same
            for weight in network.parameters():
                if weight.dim() > 1:
                    weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
        network.save_pretrained(place / name)
    (place / "xcodec2").mkdir()
    (place / "xcodec2/config.json").write_text(RELEASED_CONFIG)
    save_file(released_tensors(codec_model, "code"), place / "xcodec2/model.safetensors")
    return place


@pytest.fixture(scope="module")
def followed(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    place = tmp_path_factory.mktemp("llasa")
    generator = torch.Generator().manual_seed(5)
    samples = [speech_like(re.findall(r"\w+", text), 150.0, generator).numpy() for text in TEXTS]
    (place / "desk/recordings").mkdir(parents=True)
    write_ljspeech(place / "desk/recordings", samples)
    soundfile.write(place / "desk/me.wav", np.concatenate(samples[:6]), SAMPLE_RATE)
    for name, overlay in OVERLAYS.items():
        (place / f"small_{name}").write_text(overlay)
    found = Followed(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place / "desk")
        for name, value in QUICK.items():
            patch.setattr(f"modules.speech.{name}", value)
        variables = {"FOLDER": "recordings", "SPEAKER": "anna", "SUITE_ROOT": str(place)}
        for name, value in {**variables, "LLASA": str(released / "Llasa-1B")}.items():
            patch.setenv(name, value)
        patch.setenv("XCODEC2", str(released / "xcodec2"))
        for command in commands_of_page():
            before = set((place / "runs").rglob("*.wav"))
            found.printed[command] = follow(command, place)
            for path in set((place / "runs").rglob("*.wav")) - before:
                found.sounds[command] = path
        yield found


@pytest.fixture(scope="module")
def voice(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Voice:
    """The released folders as `say` loads them."""
    root = tmp_path_factory.mktemp("root")
    return load_voice(str(released / "Llasa-1B"), str(released / "xcodec2"), "cpu", "fp32", root=root)


# -------------------------------------------------------------------------------------------------- the four commands


def test_the_pages_commands_lead_from_released_folders_to_sound(followed: Followed) -> None:
    """Guards against commands that do not fit each other, a folder that only the hub has, and silence."""
    spoken = [command for command in followed.printed if " say " in command]
    assert len(spoken) >= 3 and set(followed.sounds) == set(spoken)
    for path in followed.sounds.values():
        with wave.open(str(path)) as sound:
            assert sound.getframerate() == 16_000
            samples_T = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)
        assert len(samples_T) > 8000 and np.abs(samples_T).max() > 0
    commands = list(followed.printed)
    fit = "python run.py fit --config configs/llasa/finetune.yaml"
    assert fit in commands
    assert followed.of("tokenise.yaml")[-1].strip() == f"{fit} --data.init_args.folder runs/my_llasa/tokens"
    assert followed.printed[fit][-1].strip() in commands
    for command, lines in followed.printed.items():
        if command.startswith(fit):  # one folder each
            folder = command.partition("--stage.folder ")[2] or "runs/my_llasa/lm"
            assert f"{folder}/checkpoints/best.ckpt {folder}/export " in lines[-1]
            stage = json.loads((followed.place / folder / "stage_fit.json").read_text())
            assert [name.rpartition("runs/")[2] for name in stage["inputs"]] == [
                "my_llasa/tokens/train",
                "my_llasa/tokens/held_out",
            ]
    said = shlex.split(followed.of("export ")[-1])
    assert said[:3] == ["python", "run.py", "say"] and said[4:] == ["--model", "runs/my_llasa/lm/export"]


def test_a_released_folder_speaks_as_its_card_says(followed: Followed) -> None:
    """Guards against another temperature than the card's, a lost voice prompt, and other limits."""
    (zero_shot, cloned) = [
        json.loads(path.with_suffix(".json").read_text())
        for command, path in followed.sounds.items()
        if "speak.yaml" in command
    ]
    for record in (zero_shot, cloned):
        assert record["model"]["kind"] == "released" and record["model"]["max_tokens"] == 2048
        sampling = record["settings"]["sampling"]
        assert (sampling["temperature"], sampling["top_k"], sampling["top_p"]) == (0.8, 50, 1.0)
    assert zero_shot["reference"] is None and cloned["reference"]["text"]


def test_an_export_has_the_licence_of_its_origin(followed: Followed) -> None:
    """Guards against a fine-tuned Llasa that is passed on as free."""
    folder = followed.place / "runs/my_llasa/lm/export"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n") and "must not be used commercially" in card
    assert "The model that its training started from is licensed under cc-by-nc-4.0" in card
    assert find_model(str(folder), followed.place, device="cpu").facts.licenses == ("cc-by-nc-4.0",)


def test_an_export_names_its_codec_and_settings(followed: Followed, released: Path) -> None:
    """Guards against a fine-tuned Llasa that speaks with settings of other models, refuses words that its few
    recordings lack, or decodes with another codec."""
    folder = followed.place / "runs/my_llasa/lm/export"
    content = json.loads((folder / "voice.json").read_text())
    assert content["sampling"] == {"temperature": 0.8, "top_k": 50, "top_p": 1.0}
    facts = find_model(str(folder), followed.place, device="cpu").facts
    assert facts.words is None
    assert facts.codec == str(released / "xcodec2") and len(facts.codec_fingerprint) > 8
    assert facts.speakers == ("anna",) and facts.languages == ("en",)
    stated = json.loads((folder / "generation_config.json").read_text())
    assert (stated["eos_token_id"], stated["max_length"], stated["top_k"]) == (SPEECH_END, 2048, 50)


def test_a_run_keeps_the_best_checkpoint_without_more_than_it_needs(followed: Followed, released: Path) -> None:
    """Guards against gigabytes of frozen weights in float32, weights that are rounded, and several checkpoints."""
    folder = followed.place / "runs/my_llasa/lm/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert (folder / "last.ckpt").resolve() == (folder / "best.ckpt").resolve()
    checkpoint = read_model(folder / "best.ckpt")
    weights = {name.removeprefix("model.llama."): one for name, one in checkpoint["state_dict"].items()}
    trained = {name for name in weights if "lora_" in name}
    assert len(trained) == 4 and {weights[name].dtype for name in trained} == {torch.float32}
    assert any(weights[name].abs().max() > 0 for name in trained if "lora_B" in name), "nothing was trained"
    before = load_file(released / "Llasa-1B/model.safetensors")
    for name in weights.keys() - trained:
        known = before.get(name.replace(".base_layer", ""), before["model.embed_tokens.weight"])
        assert weights[name].dtype == torch.bfloat16 and torch.equal(weights[name], known), name
    full = read_model(followed.place / "runs/my_llasa/full/checkpoints/best.ckpt")
    assert not full["hyper_parameters"]["adapters"]
    assert {one.dtype for name, one in full["state_dict"].items() if "llama" in name} == {torch.float32}
    rate = full["lr_schedulers"][0]["base_lrs"]
    assert rate == [1e-5] and checkpoint["lr_schedulers"][0]["base_lrs"] == [5e-4]


def test_speakers_stand_before_the_answer(followed: Followed) -> None:
    """Guards against an option for several voices that is read as something else, or that a checkpoint loses."""
    path = followed.place / "runs/my_llasa/speakers/checkpoints/best.ckpt"
    stored = read_model(path)["hyper_parameters"]["prompt_format"]["init_args"]
    assert stored["answer_prefix"] == "Speaker {speaker} "


# ---------------------------------------------------------------------------- against the card's code and transformers


def cards_prompt(voice: Voice, text: str, codes: list[int]) -> list[int]:
    """What the model card does, by transformers' template alone: the codes of a recording begin the answer."""
    request = f"<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>"
    turns = [
        {"role": "user", "content": f"Convert the text to speech:{request}"},
        {"role": "assistant", "content": "<|SPEECH_GENERATION_START|>" + "".join(f"<|s_{code}|>" for code in codes)},
    ]
    return voice.model.prompt_format.tokenizer.tokenizer.apply_chat_template(
        turns, tokenize=True, continue_final_message=True, date_string="26 Jul 2024", return_dict=False
    )


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "me.wav"
    samples_T = speech_like(["my", "voice", "has", "a", "few", "words"], 150.0, torch.Generator().manual_seed(2))
    soundfile.write(path, samples_T.numpy(), SAMPLE_RATE)
    return path


@pytest.mark.parametrize("clones", [False, True], ids=["zero_shot", "cloning"])
def test_prompts_and_greedy_codes_are_those_of_transformers(
    clones: bool,
    voice: Voice,
    released: Path,
    codec_model: nn.Module,
    recording: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards against a prompt that differs in a token, the recording's codes among the answer, another encoder, and a
    sentence beyond the card's 2,048 tokens."""
    settings = SpeakingSettings()
    if clones:
        settings = replace(settings, reference=recording, reference_text="My voice has a few words.")
    monkeypatch.setattr("modules.speech.narration.SECONDS_PER_CHARACTER", 100.0)  # only the context limits
    (task,) = Narration(voice, voice.script(TEXT, settings), settings).tasks
    codes, text = [], task.prompt.text
    if clones:
        heard, codes = voice.reference(settings).reference, list(task.prompt.voice.codes)
        known = reference_codes(codec_model, heard.audio.samples_T).tolist()
        assert len(codes) == len(known) and len(set(codes)) > 10
        assert sum(one != other for one, other in zip(codes, known, strict=True)) <= 1, "more than a tie in rounding"
        text = f"{heard.text} {text}"
    expected = cards_prompt(voice, text, codes)
    assert encoded_prompt(voice.model.prompt_format, task.prompt) == expected
    assert 2048 - 50 < len(expected) + task.limit <= 2048

    sampler = voice.model.sampler(SamplingSettings(top_k=1))
    (drawn,) = sampler.extend(sampler.start([task.prompt]), 1, NUM_DRAWN, [0])
    network = AutoModelForCausalLM.from_pretrained(released / "Llasa-1B", dtype=torch.float32)
    allowed = [SPEECH_END, *range(CODE_0, CODE_0 + NUM_CODES)]
    given = torch.tensor([expected])
    answer = network.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=NUM_DRAWN,
        eos_token_id=SPEECH_END, prefix_allowed_tokens_fn=lambda row, tokens: allowed,
    )[0, len(expected) :]  # fmt: skip
    assert len(answer.unique()) > 1
    assert drawn.codes_S.tolist() == [token - CODE_0 for token in answer.tolist() if token != SPEECH_END]
    assert drawn.stopped == (answer[-1] == SPEECH_END)


def logits_LV(network: LlamaForCausalLM, tokens: list[int]) -> Tensor:
    row = torch.tensor([tokens])
    more = {}
    if network.config._attn_implementation not in ("sdpa", "eager"):
        more["segments"] = find_segments(torch.zeros_like(row))
    with torch.no_grad():
        hidden = network.model(row, position_ids=torch.arange(len(tokens))[None], use_cache=False, **more)
        return network.lm_head(hidden.last_hidden_state)[0]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_merged_adapters_are_the_adapter_model(
    tied: bool, voice: Voice, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an export that forgets the adapters or scales them otherwise: logits and greedy codes of the model
    as trained, merged, and merged by hand into transformers' own."""
    tokenizer = voice.model.prompt_format.tokenizer.tokenizer
    monkeypatch.setattr("modules.lm.text.huggingface_tokenizer.read_tokenizer", lambda *given: tokenizer)
    source = released / ("Llasa-1B" if tied else "untied")
    form = LlasaChat(HuggingFaceTokenizer(str(source)), NUM_CODES)
    module = LMModule(form, pretrained=PretrainedNetwork(str(source)), adapters=LLASA_ADAPTERS)
    module.configure_model()
    trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    assert len(trained) == 4
    for weight in trained.values():
        torch.nn.init.normal_(weight, std=0.3)
    checkpoint = {
        "state_dict": stored_weights(module.state_dict(), trained),
        "token_space": form.token_space.as_dict(),
        "network_config": module.network.llama.config.to_json_string(use_diff=False),
        "hyper_parameters": {"adapters": vars(LLASA_ADAPTERS)},
    }
    adapted, merged = (restored_network(checkpoint, merge) for merge in (False, True))
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    before = logits_LV(plain, form.prompt_tokens(TEXT))
    for name, weight in trained.items():
        if "lora_A" not in name:
            continue
        place = name.removeprefix("model.llama.").partition(".lora_A")[0]
        other = trained[name.replace("lora_A", "lora_B")]
        with torch.no_grad():
            plain.get_submodule(place).weight += LLASA_ADAPTERS.alpha / LLASA_ADAPTERS.rank * (other @ weight)
    expected = logits_LV(plain, form.prompt_tokens(TEXT))
    assert (expected - before).abs().max() > 0.1
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    for network in (adapted, merged, again):
        torch.testing.assert_close(logits_LV(network, form.prompt_tokens(TEXT)), expected, atol=1e-4, rtol=1e-4)
    (prompt,) = Narration(voice, voice.script(TEXT, SpeakingSettings()), SpeakingSettings()).tasks
    drawn = []
    for network in (adapted, merged):
        sampler = KVCacheSampler(network, form, SamplingSettings(top_k=1))
        (branch,) = sampler.extend(sampler.start([prompt.prompt]), 1, NUM_DRAWN, [0])
        drawn.append(branch.codes_S.tolist())
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1
