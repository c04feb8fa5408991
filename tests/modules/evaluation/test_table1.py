"""configs/llasa/table1.yaml as a command: a codec in the released shape on LibriSpeech's published layout."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import save_file

import run
from modules.codec.formats.checkpoints import load_codec
from modules.pitch import WHY_BY_PITCH
from modules.verifiers.naturalness import Utmos
from tests.conftest import REPOSITORY, SAMPLE_RATE, speech_like
from tests.modules.verifiers.embeddings.test_wavlm_speaker import head_tensors, published_names, wavlm
from tests.toys.audio_model_toys import save_audio_model
from tests.toys.codec_files import released_tensors
from tests.toys.codec_references import reference_model

TEXTS = {"61-70968-0000": "BAD CAB", "61-70968-0001": "FACE", "121-1-0000": "A BEE FED", "121-1-0001": "DEAD BEEF"}
PITCHES = {"61": 110.0, "121": 230.0}


def save_corpus(root: Path) -> dict[str, torch.Tensor]:
    """test-clean with two voices, one low and one high, and a subset that is not part of the table."""
    generator, audio = torch.Generator().manual_seed(0), {}
    for subset, texts in {"test-clean": TEXTS, "dev-clean": {"84-1-0000": "BAD"}}.items():
        for key, text in texts.items():
            speaker, chapter, _ = key.split("-")
            folder = root / subset / speaker / chapter
            folder.mkdir(parents=True, exist_ok=True)
            samples_T = speech_like(text.split() * 2, PITCHES.get(speaker, 150.0), generator).clamp(-1, 1)
            soundfile.write(folder / f"{key}.flac", samples_T.numpy(), SAMPLE_RATE)
            audio[key] = torch.from_numpy(soundfile.read(folder / f"{key}.flac", dtype="float32")[0])
            with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as stream:
                stream.write(f"{key} {text}\n")
    return audio


def opinion(verifier: Utmos, audios: list) -> list[float]:
    """A score that follows the pitch, in place of a network of 95 million weights."""
    rates = [float((one.samples_T[1:] * one.samples_T[:-1] < 0).float().mean()) for one in audios]
    return [5 - min(4.0, 8 * rate) for rate in rates]


def test_the_command_measures_a_released_codec_beside_the_quoted_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Guards against a table that needs a checkpoint of ours, another subset, a column that stays empty, codes other
    than the released codec's, and opinion scores without their pitch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    audio = save_corpus(tmp_path / "data/LibriSpeech")
    model = reference_model("xcodec2")
    (tmp_path / "xcodec2").mkdir()
    save_file(released_tensors(model, "package"), tmp_path / "xcodec2/model.safetensors")
    torch.manual_seed(0)
    dac = transformers.DacConfig(encoder_hidden_size=4, decoder_hidden_size=64, downsampling_ratios=[2, 4, 5, 8],
                                 n_codebooks=3, codebook_size=32)  # fmt: skip
    transformers.DacModel(dac).save_pretrained(tmp_path / "dac_16khz")
    torch.save({"model": published_names(wavlm()) | head_tensors()}, tmp_path / "data/wavlm_large_finetune.pth")
    (tmp_path / "utmos").mkdir()
    (tmp_path / "utmos/utmos_state_dict.pt").write_bytes(b"weights")
    monkeypatch.setattr(Utmos, "_judge_all", opinion)
    own = REPOSITORY / "configs/llasa/table1.yaml"
    classes = "modules.evaluation.transformers_codec.TransformersCodec"
    speaker, utmos = "modules.verifiers.embeddings.wavlm_speaker.FineTunedWavLM", "modules.verifiers.naturalness.Utmos"
    (tmp_path / "tiny.yaml").write_text(f"""
trainer: {{accelerator: cpu}}
codec_evaluation:
  init_args:
    recogniser: {{init_args: {{model: {save_audio_model(tmp_path / "hubert", "ctc")}, device: cpu}}}}
    verifiers:
    - class_path: modules.verifiers.speaker.Speaker
      init_args:
        encoder: {{class_path: {speaker}, init_args: {{weights: data/wavlm_large_finetune.pth}}}}
    - {{class_path: {utmos}, init_args: {{weights: utmos}}}}
    comparisons:
    - {{class_path: {classes}, init_args: {{model: dac_16khz, num_codebooks: 2}}}}
    num_logged: 1
""")
    run.main(["test", "--config", str(own), "--config", "tiny.yaml", "--model.codec.path", "xcodec2"])

    folder = tmp_path / "runs/llasa/table1"
    card = json.loads((folder / "codec_evaluation.json").read_text(), parse_constant=pytest.fail)
    assert list(card["systems"]) == ["recording", "X-codec2", "dac_16khz x2"] and card["num_prompts"] == len(TEXTS)
    assert card["data"]["split"] == "test" and card["num_left_out"] == {}
    assert {"wer", "stoi", "pesq_wb", "pesq_nb", "speaker", "utmos", "bit_rate"} <= set(card["systems"]["X-codec2"])
    assert card["facts"]["dac_16khz x2"]["num_codebooks"] == 2 and card["facts"]["X-codec2"]["frame_rate"] == 50
    released = load_codec(tmp_path / "xcodec2")
    assert card["codec"]["fingerprint"] == released.fingerprint
    assert card["systems"]["recording"]["speaker"]["value"] == pytest.approx(1, abs=1e-5)
    num_codes = sum(int(released.encode(one_T[None], torch.tensor([len(one_T)]))[1]) for key, one_T in audio.items()
                    if key in TEXTS)  # fmt: skip
    assert card["systems"]["X-codec2"]["bit_rate"]["value"] * card["seconds"] == pytest.approx(16 * num_codes)
    written, printed = (folder / "codec_table.md").read_text(), capsys.readouterr().out
    for text in (written, printed):
        assert WHY_BY_PITCH in text and "low, below 140 Hz" in text and "WavTokenizer" in text and "UTMOS" in text
    assert "UTMOS: empty" not in written and "SPK-SIM: empty" not in written
    assert 'id="by-pitch"' in (folder / "report/index.html").read_text()

    rows = list(csv.DictReader((folder / "codec_utterances.csv").open()))
    expected = {}
    for row in rows:
        speaker = re.search(r"(\d+)-\d+-\d+$", row["key"])[1]
        group = "low" if speaker == "61" else "high"
        assert float(row["pitch"]) == pytest.approx(PITCHES[speaker], rel=0.05)
        expected.setdefault((row["system"], "utmos", group), []).append(float(row["utmos"]))
    by_pitch = list(csv.DictReader((folder / "codec_pitch.csv").open()))
    assert {(row["system"], row["judge"], row["group"]): float(row["mean"]) for row in by_pitch} == pytest.approx(
        {key: np.mean(values) for key, values in expected.items()}
    )
    assert {int(row["num"]) for row in by_pitch} == {2}
