"""SpeechWriter: in a real Trainer with a tiny, randomly initialised language model, and through the command line."""

import json
import math
import re
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Trainer

import run
from callbacks.synthesis import SpeechWriter, readable_name
from datamodules.prompt_sets.text_and_shard_prompts import PromptDataModule
from modules.api import Candidate, Prompt, SamplingSettings, Verifier
from modules.lm.network import LlamaSize
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.growth import candidate_seed
from tests.test_configs import DryCLI
from tests.toys.search_toys import CODEBOOK_SIZE, HOP_LENGTH, ToyCodec, ToyVerifier, WritingVerifier, mean_level

TEXT = "four two"
NUM_CANDIDATES, MAX_NEW_TOKENS = 6, 24
SAMPLING = SamplingSettings(temperature=0.9)
CONFIG = Path(__file__).resolve().parents[2] / "configs/demo/synthesise.yaml"

COMMAND = """
seed_everything: 0
return_predictions: false
model:
  class_path: modules.lm_module.LMModule
  init_args: {size: {hidden_size: 32, intermediate_size: 48, num_layers: 1, num_heads: 2, num_key_value_heads: 2}}
data:
  class_path: datamodules.prompt_sets.text_and_shard_prompts.PromptDataModule
  init_args:
    prompt_format:
      class_path: modules.lm.text.prompt_format.TextToSpeech
      init_args:
        tokenizer: {class_path: modules.lm.text.byte_tokenizer.ByteTokenizer, init_args: {characters: " acdefortuw"}}
        codebook_size: 16
trainer:
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: callbacks.synthesis.SpeechWriter
      init_args:
        folder: speech
        codec: {class_path: tests.toys.search_toys.ToyCodec}
        algorithm:
          class_path: modules.search.algorithms.best_of_n.BestOfN
          init_args: {num_candidates: 2, max_new_tokens: 8}
        sampling: {temperature: 1.0}
        selector: {class_path: modules.verifiers.likelihood.Likelihood}
        seed: ${seed_everything}
"""


class VoiceLevel(ToyVerifier):
    """A verifier of similarity to the reference: the closer the level, the higher the score."""

    needs_text, needs_reference = True, True

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> torch.Tensor:
        wanted = float(prompt.reference.samples_T.mean())
        scores = [-abs(float(one.audio.samples_T.mean()) - wanted) for one in candidates]
        return torch.tensor(scores, dtype=torch.float64)


@pytest.fixture(scope="module")
def model() -> LMModule:
    torch.set_num_threads(1)
    torch.manual_seed(5)
    module = LMModule(TextToSpeech(ByteTokenizer(), CODEBOOK_SIZE), LlamaSize(32, 48, 1, 2, 2))
    module.configure_model()
    return module.eval()


@pytest.fixture(scope="module")
def drawn(model: LMModule) -> list[tuple[list[int], bool]]:
    """Codes of the candidates, and whether each ended: sampled one at a time, without search, driver and codec."""
    (batch,) = PromptDataModule(model.prompt_format, text=TEXT).predict_dataloader()
    found = []
    with torch.inference_mode():
        for index in range(NUM_CANDIDATES):
            sampler = model.sampler(SAMPLING)
            seed = candidate_seed(0, batch.prompts[0].key, index)
            (branch,) = sampler.extend(sampler.start(batch.prompts), 1, MAX_NEW_TOKENS, [seed])
            found.append((branch.codes_S.tolist(), branch.stopped))
    assert len({tuple(codes) for codes, _ in found}) == NUM_CANDIDATES and all(codes for codes, _ in found)
    assert {stopped for _, stopped in found} == {True, False}
    return found


def writer(folder: Path, selector: Verifier | None = None, **changes: Any) -> SpeechWriter:
    search = {"codec": ToyCodec(), "algorithm": BestOfN(NUM_CANDIDATES, MAX_NEW_TOKENS), "sampling": SAMPLING}
    return SpeechWriter(folder=folder, selector=selector, **(search | changes))


def speak(model: LMModule, callback: SpeechWriter, text: str = TEXT) -> tuple[Path, dict]:
    """Predict with the callback; returns the wav's path and the json."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=[callback], enable_checkpointing=False, **quiet)
    trainer.predict(model, PromptDataModule(model.prompt_format, text=text), return_predictions=False)
    (path,) = callback.written
    text = path.with_suffix(".json").read_text()
    assert not re.search(r"\b(NaN|Infinity)\b", text), "Python reads these, JSON has no such thing"
    return path, json.loads(text)


def pcm_of_codes(codes: list[int], gain: float = 1.0) -> np.ndarray:
    """Output of ToyCodec as 16-bit samples, computed by hand."""
    levels = [min(1.0, code / CODEBOOK_SIZE * gain) for code in codes for _ in range(HOP_LENGTH)]
    return np.array([min(32767, round(level * 32768)) for level in levels])


def pcm_of_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, ToyCodec.sample_rate)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def mean_code(codes: list[int]) -> float:
    return sum(codes) / len(codes)


def test_the_wav_is_the_candidate_that_the_selector_prefers(
    model: LMModule, drawn: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Guards against a wav of another candidate than the json's, and against scaled or cut audio."""
    path, record = speak(model, writer(tmp_path, ToyVerifier("level", mean_level)))
    best = max(range(NUM_CANDIDATES), key=lambda index: mean_code(drawn[index][0]))
    assert best != 0, "the test would not see the first candidate being written"
    assert record["chosen"] == best
    assert pcm_of_wav(path).tolist() == pcm_of_codes(drawn[best][0]).tolist()
    with soundfile.SoundFile(path) as file:
        assert file.comment == "synthetic speech"
    assert f"{path}: '{TEXT}'" in (said := capsys.readouterr().out) and f"number {best + 1} of 6" in said
    assert sorted(tmp_path.iterdir()) == [path.with_suffix(".json"), path], "a temporary file was left"


def test_without_a_selector_the_first_candidate_is_written(model: LMModule, drawn: list, tmp_path: Path) -> None:
    """Guards against a selection that was not requested."""
    path, record = speak(model, writer(tmp_path))
    assert record["chosen"] == 0 and record["selector"] is None and record["heard"] is None
    assert pcm_of_wav(path).tolist() == pcm_of_codes(drawn[0][0]).tolist()


def test_the_json_records_candidates_and_settings(model: LMModule, drawn: list, tmp_path: Path) -> None:
    """Guards against a record from which the run cannot be repeated, and against NaN, which is not JSON."""

    def level_of_long(samples_T: torch.Tensor) -> float:
        return math.nan if samples_T.numel() < MAX_NEW_TOKENS * HOP_LENGTH else float(samples_T.mean())

    _, record = speak(model, writer(tmp_path, WritingVerifier("long", level_of_long, "abc"), keep_all=True))
    rows = record["candidates"]
    assert [(row["num_codes"], row["stopped"]) for row in rows] == [(len(codes), ended) for codes, ended in drawn]
    expected = [None if len(codes) < MAX_NEW_TOKENS else mean_code(codes) / CODEBOOK_SIZE for codes, _ in drawn]
    assert [row["scores"]["long"] for row in rows] == pytest.approx(expected)
    assert record["ran_away"] is True and record["num_runaways"] == sum(not ended for _, ended in drawn)
    assert record["seconds"] == pytest.approx(MAX_NEW_TOKENS / ToyCodec.frame_rate)
    assert record["heard"].startswith("text-") and record["heard"].endswith(f"{record['chosen']}: {MAX_NEW_TOKENS}")
    assert record["selector"]["name"] == "long" and record["selector"]["model_hash"] == "abc"
    assert record["model_hash"] == model.model_hash and record["codec_fingerprint"] == ToyCodec.fingerprint
    assert record["sampling"] == SamplingSettings(temperature=0.9).stored()
    assert record["algorithm"]["num_candidates"] == record["num_candidates"] == NUM_CANDIDATES
    assert record["seed"] == 0 and record["text"] == TEXT and record["versions"]["torch"] == torch.__version__


def test_every_candidate_is_kept_on_demand(model: LMModule, drawn: list, tmp_path: Path) -> None:
    """Guards against candidates in another order, and against samples that wrap around instead of being clipped."""
    path, _ = speak(model, writer(tmp_path, codec=ToyCodec(gain=2.0), keep_all=True))
    files = sorted(path.with_suffix("").iterdir())
    assert len(files) == NUM_CANDIDATES
    for file, (codes, _) in zip(files, drawn, strict=True):
        assert pcm_of_wav(file).tolist() == pcm_of_codes(codes, gain=2.0).tolist()


def test_a_candidate_that_never_ended_and_a_selector_that_cannot_judge_are_warned_of(
    model: LMModule, drawn: list, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against noise that is silently returned as speech."""
    speak(model, writer(tmp_path, ToyVerifier("short", lambda samples_T: -samples_T.numel())))
    assert not [entry for entry in caplog.messages if "never ended" in entry or "score none" in entry]
    _, record = speak(model, writer(tmp_path, ToyVerifier("deaf", lambda samples_T: math.nan), seed=3))
    assert record["chosen"] == 0
    assert [entry for entry in caplog.messages if "deaf could score none" in entry]
    _, record = speak(model, writer(tmp_path, ToyVerifier("length", torch.Tensor.numel)))
    assert record["ran_away"]
    assert [entry for entry in caplog.messages if f"cut after {MAX_NEW_TOKENS} codes" in entry]


def test_a_speaker_selector_receives_the_reference(model: LMModule, drawn: list, tmp_path: Path) -> None:
    """Guards against a reference that is not passed to the selector, or without one of its channels."""
    selector = VoiceLevel("voice", mean_level)
    with pytest.raises(ValueError, match=r"Expected `reference`.*voice"):
        speak(model, writer(tmp_path / "none", selector))
    with pytest.raises(FileNotFoundError, match=r"not_there\.wav"):
        speak(model, writer(tmp_path / "none", selector, reference=tmp_path / "not_there.wav"))
    (tmp_path / "no_audio.wav").write_text("nothing to hear")
    with pytest.raises(ValueError, match=r"no_audio\.wav"):
        speak(model, writer(tmp_path / "none", selector, reference=tmp_path / "no_audio.wav"))
    assert not (tmp_path / "none").exists()
    wanted = sorted(range(NUM_CANDIDATES), key=lambda index: mean_code(drawn[index][0]))[NUM_CANDIDATES // 2]
    level = mean_code(drawn[wanted][0]) / CODEBOOK_SIZE
    stereo_TC = np.tile([[level - 0.2, level + 0.2]], (4000, 1))
    soundfile.write(tmp_path / "voice.flac", stereo_TC, 8000)
    _, record = speak(model, writer(tmp_path, selector, reference=tmp_path / "voice.flac"))
    assert record["chosen"] == wanted and record["reference"].endswith("voice.flac")


def test_a_codec_of_another_codebook_is_refused(model: LMModule, tmp_path: Path) -> None:
    """Guards against codes that the codec was not trained on."""
    codec = ToyCodec()
    codec.codebook_size = 2 * CODEBOOK_SIZE
    with pytest.raises(ValueError, match=f"codebook_size={CODEBOOK_SIZE}, but got {2 * CODEBOOK_SIZE}"):
        speak(model, writer(tmp_path, codec=codec))


def test_names_are_readable_and_belong_to_one_setting(model: LMModule, tmp_path: Path) -> None:
    """Guards against a run that overwrites another's audio, against a new file each time, and unsafe file names."""
    few = {"algorithm": BestOfN(2, 4)}
    first, _ = speak(model, writer(tmp_path, **few))
    assert re.fullmatch(r"four_two-[0-9a-f]{8}\.wav", first.name)
    before = first.read_bytes()
    assert speak(model, writer(tmp_path, **few))[0] == first
    changes = [few | {"seed": 1}, {"algorithm": BestOfN(3, 4)}, few | {"codec": ToyCodec(gain=0.5)}]
    changes.append(few | {"selector": ToyVerifier("level", mean_level)})
    names = {speak(model, writer(tmp_path, **change))[0] for change in changes}
    assert len(names | {first}) == 5 and first.read_bytes() == before
    assert readable_name("../..") == "speech" and readable_name("a/b: C?") == "a_b_c"
    assert readable_name("Да, ça va") == "да_ça_va" and len(readable_name("word " * 99)) <= 40


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`run.py predict` with a tiny, randomly initialised model and the toy codec, as in the demo's config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run.py"])
    Path("tiny.yaml").write_text(COMMAND)
    return ["predict", "--config", "tiny.yaml"]


def test_the_command_speaks_a_text_with_its_options(command: list[str]) -> None:
    """Guards against command-line options without effect: N, the selector, the seed."""
    run.main([*command, "--data.init_args.text", TEXT])
    options = ["--trainer.callbacks.algorithm.num_candidates", "3", "--trainer.callbacks.selector", "null"]
    run.main([*command, "--data.init_args.text", TEXT, *options, "--seed_everything", "4"])
    records = [json.loads(path.read_text()) for path in Path("speech").glob("*.json")]
    default, changed = sorted(records, key=lambda record: record["num_candidates"])
    assert (default["num_candidates"], default["selector"]["name"], default["seed"]) == (2, "likelihood", 0)
    assert (changed["num_candidates"], changed["selector"], changed["seed"]) == (3, None, 4)
    assert all((Path("speech") / record["wav"]).is_file() for record in records)


MISTAKES = {"four Bs!": "got '!', 'B', 's' in 'four Bs!'", " ": "something to speak", "": "Expected `text`"}


@pytest.mark.parametrize(("text", "complaint"), MISTAKES.items())
def test_a_text_that_cannot_be_spoken_is_refused_in_one_line(
    command: list[str], text: str, complaint: str, capsys: pytest.CaptureFixture
) -> None:
    """Guards against a traceback for a typing error, and against an error without the characters."""
    with pytest.raises(SystemExit) as stop:
        run.main([*command, *(["--data.init_args.text", text] if text else [])])
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert complaint in line
    assert not Path("speech").exists()


def test_the_options_that_the_config_names_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a comment at the top of the demo's config that no longer matches the code."""
    head = CONFIG.read_text().split("seed_everything: 0")[0]
    options = re.findall(r"^#\s+(--\S+) (\S+)", head, flags=re.MULTILINE)
    assert re.search(r"run.py predict --config (\S+)", head)[1] == f"configs/demo/{CONFIG.name}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.syspath_prepend(str(CONFIG.parents[2]))
    selectors = [option for option in options if ".selector" in option[0]]
    others = [part for option in options if option not in selectors for part in option]
    chosen = []
    for place, (name, value) in enumerate(selectors):
        if name.endswith(".encoder"):
            continue  # belongs to the option before it
        encoder = selectors[place + 1] if value.endswith(".Speaker") else ()
        arguments = ["--config", str(CONFIG), "--data.init_args.text", TEXT, *others, name, value, *encoder]
        callbacks = DryCLI(["predict", *arguments]).trainer.callbacks
        (speech_writer,) = (one for one in callbacks if isinstance(one, SpeechWriter))
        assert speech_writer.algorithm.num_candidates == 64 and speech_writer.keep_all and speech_writer.seed == 1
        assert speech_writer.sampling.temperature == 0.9 and speech_writer.folder == Path("FOLDER")
        selector = speech_writer.selector
        name = selector.facts.name if isinstance(selector, Verifier) else ""
        chosen.append(f"{type(getattr(selector, 'recogniser', selector)).__qualname__} {name}")
    names = ["NoneType ", "Likelihood likelihood", "Dnsmos naturalness_ovrl", "FasterWhisper transcript"]
    assert chosen == [*names, "Speaker speaker"]
