"""docs/new_language.md: its commands for the language model, in its order, from a small random run of another one."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import run
from datamodules.shards.shards import ShardIndex
from modules.command import speaking
from modules.speech.export import main as export
from studies.new_language.minutes import main as write_minutes
from tests.conftest import REPOSITORY
from tests.toys.tiny_voice import NUM_CODES, save_run, write_tokens

PAGE = REPOSITORY / "docs/new_language.md"
SMALL = f"""
model:
  init_args:
    size: {{hidden_size: 32, intermediate_size: 48, num_layers: 1, num_heads: 2, num_key_value_heads: 2}}
    optimizer: {{init_args: {{lr: 0.0}}}}
    scheduler: {{init_args: {{num_warmup_steps: 0}}}}
data: {{init_args: {{row_length: 256, prompt_format: {{init_args: {{codebook_size: {NUM_CODES}}}}}}}}}
trainer: {{max_steps: 1, val_check_interval: 1, log_every_n_steps: 1, accelerator: cpu}}
"""
# The page's other commands: tests/test_voice_recipe.py runs `prepare`, tests/callbacks/test_resynthesis.py and
# tests/datamodules/test_tokenising.py `predict`, tests/modules/verifiers/recognisers/test_word_templates.py the digits.
ELSEWHERE = ("FOLDER=", "python run.py predict", "python -m datamodules.word_recordings", "--model.")
TEXTS = ("привет", "четыре, два", "да")


def commands() -> list[str]:
    """The page's indented lines outside of its yaml."""
    found = re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", PAGE.read_text("utf-8"), flags=re.S), re.M)
    assert sum(line.startswith(ELSEWHERE) for line in found) == 5
    return [line for line in found if not line.startswith(ELSEWHERE)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Of a checkpoint, by their names in an export."""
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("model.llama."): weight for name, weight in state.items()}


def test_a_model_of_another_language_is_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a page whose commands do not fit each other, a model that starts from scratch in spite of
    `pretrained`, a tokenizer that refuses the new letters, and old languages that are not mixed in."""
    place = tmp_path / "runs/new_language"
    save_run(tmp_path, "new_language")  # its codec serves the new language
    about = ShardIndex.load(place / "tokens/train", "tokens").header["codec_fingerprint"]
    shutil.move(place / "tokens", place / "known")
    write_tokens(place / "tokens", TEXTS, about, "runs/new_language/codec/checkpoints/last.ckpt")
    for folder in ("known", "tokens"):
        shutil.copytree(place / folder / "train", place / folder / "held_out")
    shutil.rmtree(place / "lm")
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUITE_ROOT", str(tmp_path))
    for name, value in {"sentence_search.MAX_REDRAWS": 0, "voice.SPOKEN_SECONDS_PER_CHARACTER": 0.02}.items():
        monkeypatch.setattr(f"modules.speech.{name}", value)
    done = []
    for command in commands():
        python, *words = shlex.split(command)
        assert python == "python"
        if words[:2] == ["run.py", "fit"]:
            run.main([*words[1:], "--config", "small.yaml", "--seed_everything", str(len(done))])
        elif words[:2] == ["-m", "modules.speech.export"]:
            export(words[2:])
        else:
            assert words[:2] == ["run.py", "say"]
            words = words[: words.index("--recogniser")]  # none is here
            monkeypatch.setattr("sys.argv", words)
            assert speaking.run(words[1:]) == 0
        done.append(words[1])
    assert done == ["fit", "fit", "modules.speech.export", "fit", "fit", "say"]
    base, scratch = load_file(place / "base/model.safetensors"), weights(place / "lm/checkpoints/last.ckpt")
    grown = weights(place / "grown/checkpoints/last.ckpt")
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"):
        assert torch.equal(grown[name], base[name]) and not torch.equal(scratch[name], base[name])
    assert list((tmp_path / "runs/speech").glob("*.wav"))
    monkeypatch.setattr("sys.argv", ["", str(place / "tokens"), "0.01"])
    write_minutes()
    assert len(ShardIndex.load(place / "tokens/train_0.01", "tokens")) == 2
