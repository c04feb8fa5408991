"""Exported folders as voices: they speak as their run does, with all that is known of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modules.lm.checkpoints import export, main
from modules.lm.licences import forbids_commerce
from modules.lm.voice_file import VoiceFile
from modules.speech.export import main as export_of_run
from modules.speech.models import find_model, list_models
from tests.modules.speech.test_models import CPU, change, drawn, problem
from tests.toys.tiny_voice import FORMAT, save_run
from tests.toys.tiny_voice import NUM_CODES as NUM_TINY_CODES


def test_an_export_of_an_earlier_versions_checkpoint_has_all_facts(tmp_path, monkeypatch, caplog):
    """Guards against an export that speaks words its model never learned, since its checkpoint stores no facts."""
    paths = [save_run(tmp_path, name, stores_facts) for name, stores_facts in (("a", True), ("b", False))]
    monkeypatch.chdir(tmp_path)
    for path in paths:
        export_of_run([str(path), f"runs/exported_{path.parts[-4]}"])
    voices = [VoiceFile.read(tmp_path / f"runs/exported_{name}") for name in "ab"]
    new, old = (find_model(f"runs/exported_{name}", tmp_path).facts for name in "ab")
    assert old == replace(new, name=old.name, codec="runs/b/codec/checkpoints/last.ckpt", date=old.date)
    assert old.words == ("four", "one", "two") and old.longest_text == 9
    assert voices[1].training == {**voices[0].training, "codec": old.codec}
    assert not caplog.text
    assert export(paths[1], tmp_path / "unknown").training == {}
    (record,) = caplog.records
    assert "states no words" in record.getMessage() and "\n" not in record.getMessage()


def test_an_export_names_what_other_machines_have(tmp_path, monkeypatch, caplog):
    """Guards against paths of one machine, and names of classes that have moved, in a folder that is passed on."""
    path = save_run(tmp_path, "a")
    inside = tmp_path / "runs/a/codec/checkpoints/last.ckpt"
    outside = tmp_path.parent / f"{tmp_path.name}.ckpt"
    shutil.copy(inside, outside)

    def age(content):
        described = content["hyper_parameters"]["prompt_format"]
        described["class_path"] = "modules.lm.documents.TextToSpeech"
        described["init_args"]["tokenizer"]["class_path"] = "modules.lm.tokenizer.ByteTokenizer"
        content["training_facts"]["codec"] = str(outside)

    change(path, age)
    monkeypatch.chdir(tmp_path)
    expected = (str(inside.relative_to(tmp_path)), "codec.ckpt", str(outside))
    for options, codec in zip(({"codec": str(inside)}, {"with_codec": True}, {}), expected, strict=True):
        export(path, folder := tmp_path / f"exported{len(codec)}", **options)
        written = (folder / "voice.json").read_text() + (folder / "README.md").read_text()
        assert json.loads((folder / "voice.json").read_text())["codec"] == codec and f"`{codec}`" in written
        assert (str(tmp_path.parent) in written) == (codec == str(outside))
        assert "modules.lm.documents" not in written and "modules.lm.tokenizer" not in written
        assert find_model(str(folder), tmp_path, device="cpu").codec.facts.codebook_size == NUM_TINY_CODES
    (record,) = caplog.records
    assert str(outside) in record.getMessage() and "--with_codec" in record.getMessage()


def test_an_export_with_its_codec_speaks_anywhere_as_its_run(tmp_path):
    """Guards against exports that lose the characters, the words, the settings or the codec of their run."""
    path = save_run(tmp_path / "here", "a")
    folder = tmp_path / "exported"
    codec = tmp_path / "here/runs/a/codec/checkpoints/last.ckpt"
    main(["export", str(path), str(folder), "--codec", str(codec), "--with_codec"])
    run = find_model("runs/a", tmp_path / "here", device="cpu")
    shutil.move(folder, tmp_path / "there/voices/small")
    shutil.rmtree(tmp_path / "here")
    model = find_model(None, tmp_path / "there", device="cpu")
    same = (
        "languages",
        "licenses",
        "words",
        "longest_text",
        "sampling",
        "num_codes",
        "codec_fingerprint",
        "num_parameters",
        "num_bytes",
    )
    assert {name: getattr(model.facts, name) for name in same} == {name: getattr(run.facts, name) for name in same}
    assert (model.facts.name, model.facts.kind, model.facts.max_tokens) == ("voices/small", "shipped", 256)
    assert model.codec.fingerprint == run.codec_fingerprint
    assert (
        "discriminator.x" not in torch.load(tmp_path / "there/voices/small/codec.ckpt", weights_only=True)["state_dict"]
    )
    assert model.prompt_format.prompt_tokens("four two") == FORMAT.prompt_tokens("four two")
    with pytest.raises(ValueError, match="only characters"):
        model.prompt_format.prompt_tokens("4")
    for one in list_models(tmp_path / "there"):
        assert one == replace(model.facts, codec=one.codec)


def test_an_export_in_half_precision_speaks(tmp_path, monkeypatch):
    """Guards against a codec that is refused because rounding changed its fingerprint, and one that stays as large."""
    path = save_run(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    for dtype in ("float32", "float16"):
        export_of_run([str(path), f"voices/{dtype}", "--with_codec", "--dtype", dtype])
    whole, half = (find_model(f"voices/{dtype}", tmp_path, device="cpu") for dtype in ("float32", "float16"))
    stored = [torch.load(f"voices/{dtype}/codec.ckpt", weights_only=True) for dtype in ("float32", "float16")]
    for name, weight in stored[0]["state_dict"].items():
        assert torch.equal(stored[1]["state_dict"][name], weight.half())
    assert half.codec.fingerprint == half.codec_fingerprint != whole.codec.fingerprint
    assert f"`{half.codec_fingerprint}`" in Path("voices/float16/README.md").read_text()
    codes_BS, num_codes_B = torch.arange(4)[None], torch.tensor([4])
    heard = [model.codec.decode(codes_BS, num_codes_B) for model in (whole, half)]
    torch.testing.assert_close(*heard, atol=1e-2, rtol=1e-2)
    half.load(CPU, torch.float32)
    assert drawn(half.sampler(half.facts.sampling))


def test_an_export_names_its_codec(tmp_path, monkeypatch, capsys):
    """Guards against a folder that nobody can decode: the codec in voice.json, in the card, and as found again."""
    path = save_run(tmp_path, "a")
    monkeypatch.chdir(tmp_path)  # where the run was trained: paths in its facts start there
    main(["export", str(path), "runs/exported"])
    assert "its codec runs/a/codec/checkpoints/last.ckpt" in capsys.readouterr().out
    voice = json.loads(Path("runs/exported/voice.json").read_text())
    assert voice["codec"] == voice["training"]["codec"] == "runs/a/codec/checkpoints/last.ckpt"
    card = Path("runs/exported/README.md").read_text()
    assert "That codec: `runs/a/codec/checkpoints/last.ckpt`" in card
    assert "python run.py say 'good morning' --model FOLDER --out" in card
    model, run = (find_model(name, tmp_path, device="cpu") for name in ("runs/exported", "runs/a"))
    assert [facts.name for facts in list_models(tmp_path)] == ["runs/a", "runs/exported"]
    for one in (model, run):
        one.load(CPU, torch.float32)
    assert drawn(model.sampler(model.facts.sampling)) == drawn(run.sampler(run.facts.sampling))
    assert model.codec.fingerprint == run.codec.fingerprint
    export(path, Path("elsewhere"), codec="someone/codec")
    assert json.loads(Path("elsewhere/voice.json").read_text())["codec"] == "someone/codec"
    for absent in ("runs/a/nothing/there.ckpt", "typo/last.ckpt", "typo/model.safetensors"):
        with pytest.raises(FileNotFoundError, match="--codec"):
            export(path, Path("other"), codec=absent)
        assert not Path("other").exists()
    Path("elsewhere/voice.json").write_text('{"format": 1}')
    assert "export it again" in problem("elsewhere", tmp_path)
    Path("elsewhere/voice.json").unlink()  # as earlier versions wrote it
    assert "--codec PATH_OR_HUB_NAME" in problem("elsewhere", tmp_path)
    given = find_model("elsewhere", tmp_path, codec="runs/a/codec/checkpoints/last.ckpt", device="cpu")
    assert given.codec.facts.codebook_size == given.facts.num_codes == NUM_TINY_CODES


def test_a_card_says_that_the_data_allows_no_commercial_use(tmp_path, monkeypatch):
    """Guards against a published model whose licence is freer than that of the recordings it was trained on."""
    path = save_run(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    folder = export_with(path, {"CC BY-NC 4.0": 3.04, "CC0-1.0": 1.0, "": 1.0})
    card = (folder / "README.md").read_text()
    assert "3.0 hours of the 5.0 hours of speech that it was trained on are licensed under CC BY-NC 4.0, which" in card
    assert "must not be used commercially" in card and "None is given here" not in card
    assert card.startswith("---\nlicense: cc-by-nc-4.0\nlibrary_name: transformers\n")
    assert find_model(str(folder), tmp_path).facts.licenses == ("cc-by-nc-4.0",)
    folder = export_with(path, {"CC0-1.0": 2.0, "CC-BY-NC-4.0": 0.5, "for research only": 0.5})
    card = (folder / "README.md").read_text()
    assert "1.0 hours of the 3.0 hours" in card and "under CC-BY-NC-4.0 and for research only, which allow no" in card
    assert card.startswith("---\nlicense: other\nlicense_name: non-commercial\n")
    assert "for research only" in find_model(str(folder), tmp_path).facts.licenses
    card = (export_with(path, {}, ["CC-BY-NC-SA-3.0"]) / "README.md").read_text()  # of a version without hours
    assert "A part of the speech that it was trained on is licensed under CC-BY-NC-SA-3.0" in card
    assert "license: cc-by-nc-sa-3.0\n" in card
    card = (export_with(path, {"CC-BY-4.0": 3.0, "MIT": 1.0}) / "README.md").read_text()
    assert "commercially" not in card and "None is given here" in card and "\nlicense:" not in card.split("---")[1]


def export_with(path: Path, hours: dict[str, float], licenses: list[str] | None = None) -> Path:
    """An export of a run whose training data had these hours by licence."""
    named = licenses or [name for name in hours if name]
    change(path, lambda content: content["training_facts"].update(license_hours=hours, licenses=named))
    folder = path.parents[2] / f"exported{len(list(path.parents[2].iterdir()))}"
    export(path, folder)
    return folder


@pytest.mark.parametrize(
    ("license", "is_forbidden"),
    [
        ("CC BY-NC 4.0", True), ("cc_by_nc_sa_4.0", True), ("CC-BY-NC-ND", True), ("Non-Commercial", True),
        ("noncommercial use", True), ("not for commercial use", True), ("research only", True),
        ("for research purposes", True), ("Research use only", True), ("academic use only", True),
        ("CC-BY-4.0", False), ("CC0-1.0", False), ("Apache-2.0", False), ("public domain", False), ("NCSA", False),
        ("commercial use allowed", False), ("unknown", False), ("", False),
    ],
)  # fmt: skip
def test_licences_that_allow_no_commercial_use(license, is_forbidden):
    assert forbids_commerce(license) == is_forbidden
