"""Conversion of codecs from and to other formats, against transformers' own models."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, NeuCodecModel, Wav2Vec2BertConfig, Xcodec2Model

from modules.api import Codec
from modules.codec.formats import tensor_names as naming
from modules.codec.formats.checkpoints import CodecCheckpoint, load_codec, main, save_transformers
from modules.codec.formats.released import load_released
from modules.codec.formats.weights import local_path, read_folder
from modules.codec.parts.quantizers import FiniteScalarQuantizer
from modules.codec.parts.snake import kaiser_sinc_filter
from tests.toys.codec_files import lightning_checkpoint, released_tensors
from tests.toys.codec_references import (
    CONFIGS,
    noise_items,
    reference_audio,
    reference_codes,
    reference_model,
    small_codec,
)

DATA = Path(__file__).parents[2] / "data"
LENGTHS = (9600, 4801, 3200)


def key_list(name: str) -> dict[str, tuple[int, ...]]:
    lines = (DATA / f"xcodec2_keys_{name}.txt").read_text().splitlines()
    return {key: ast.literal_eval(shape) for key, shape in (line.split("\t") for line in lines)}


def assert_equal_codecs(codec, model):
    """Codes equal, waveforms within 1e-5, item by item in transformers, as one batch here."""
    audio_BT, num_samples_B = noise_items(*LENGTHS)
    codes_BS, num_codes_B = codec.encode(audio_BT, num_samples_B)
    expected = [reference_codes(model, audio_BT[item, :length]) for item, length in enumerate(LENGTHS)]
    assert num_codes_B.tolist() == [len(codes_S) for codes_S in expected]
    assert torch.cat(expected).unique().numel() > 20, "a constant code would pass every comparison"
    decoded_BT = codec.decode(codes_BS, num_codes_B)
    for item, codes_S in enumerate(expected):
        assert torch.equal(codes_BS[item, : len(codes_S)], codes_S)
        heard_T = reference_audio(model, codes_S)
        torch.testing.assert_close(decoded_BT[item, : len(heard_T)], heard_T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", CONFIGS)
def test_transformers_folders_are_read_and_written_without_a_change(kind, seed, tmp_path):
    """Guards against any number that differs from transformers' model, and any tensor changed by a round trip."""
    model = reference_model(kind, seed)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="300KB")
    codec = load_codec(tmp_path / "theirs")
    assert isinstance(codec, Codec)
    assert_equal_codecs(codec, model)
    save_transformers(codec, tmp_path / "ours")
    again, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert again.config.to_dict() == type(model).from_pretrained(tmp_path / "theirs").config.to_dict() | {
        "_name_or_path": str(tmp_path / "ours")
    }
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    saved = {name: read_folder(tmp_path / name) for name in ("theirs", "ours")}
    assert saved["theirs"].keys() == saved["ours"].keys()
    extractor = json.loads((tmp_path / "ours/preprocessor_config.json").read_text())
    assert extractor["feature_extractor_type"] == type(model).__name__.replace("Model", "FeatureExtractor")


@pytest.mark.parametrize(("kind", "rate", "edge_padding"), [(Xcodec2Model, 16000, 160), (NeuCodecModel, 24000, 0)])
def test_a_trained_codec_goes_to_transformers(kind, rate, edge_padding, tmp_path):
    """Guards against weight norm folded incorrectly, and against settings missing in the configuration."""
    codec = small_codec(rate, edge_padding)
    save_transformers(codec, tmp_path)
    model = kind.from_pretrained(tmp_path).eval().requires_grad_(False)
    assert_equal_codecs(codec, model)
    assert_equal_codecs(load_codec(tmp_path), model)


def test_every_tensor_counts_and_counts_as_in_transformers():
    """Guards against a tensor that is loaded but not used, or used in place of another: each one is changed in turn.

    One of thousands of values may lie on a step of the quantizer: for it the inputs are compared, for all others the
    codes.
    """
    model = reference_model("xcodec2")
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    heads = model.config.num_attention_heads
    codec = load_from(model)
    base, surplus = naming.from_transformers(tensors, heads)
    assert not surplus
    state, inputs = codec.state_dict(), {}
    for side, quantizer in (("ours", codec.quantizer), ("theirs", model.quantizer)):
        quantizer.project_in.register_forward_hook(lambda module, _, output, side=side: inputs.update({side: output}))
    audio_BT, num_samples_B = noise_items(9600, seed=5)
    codes_S = reference_codes(model, audio_BT[0])
    heard_T = reference_audio(model, codes_S)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        # Used only in training the speech encoder itself; and an offset equal for all scores of a query.
        if name.endswith(("masked_spec_embed", "linear_k.bias")):
            continue
        changed = tensor + torch.randn(tensor.shape, generator=generator) * tensor.std(correction=0).clamp(min=0.5)
        named = naming.from_transformers({**tensors, name: changed}, heads)[0]
        (ours,) = [key for key, value in named.items() if not torch.equal(value, base[key])]
        theirs = model.get_parameter(name)
        with torch.no_grad():
            theirs.copy_(changed)
            state[ours].copy_(named[ours])
            if ours.startswith(("decoder", "bridge", "quantizer.project_out")):
                given_T = codec.decode(codes_S[None], torch.tensor([len(codes_S)]))[0]
                torch.testing.assert_close(given_T, reference_audio(model, codes_S), atol=2e-5, rtol=1e-4)
                assert (given_T - heard_T).abs().max() > 1e-4, name
            else:
                given_S = codec.encode(audio_BT, num_samples_B)[0][0]
                expected_S = reference_codes(model, audio_BT[0])
                torch.testing.assert_close(inputs["ours"], inputs["theirs"], atol=1e-3, rtol=1e-3)
                assert (given_S != expected_S).sum() <= 1, name
                assert not torch.equal(given_S, codes_S), name
            theirs.copy_(tensor)
            state[ours].copy_(base[ours])
    assert torch.equal(codec.encode(audio_BT, num_samples_B)[0][0], codes_S)


def load_from(model, folder=None):
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(name)
        return load_codec(name)


@pytest.mark.parametrize("kind", ["xcodec2", "neucodec"])
@pytest.mark.parametrize("form", ["safetensors", "package", "ckpt", "folder"])
def test_released_files_are_read(form, kind, tmp_path):
    """Guards against a wrong mapping of any tensor in the authors' naming, in particular beta, which is called bias."""
    model = reference_model(kind)
    tensors = released_tensors(model, "package" if form == "package" else "code")
    if form == "ckpt":
        tensors |= {"fc_post_s.weight": torch.zeros(32, 160), "discriminator.x.weight": torch.zeros(1)}
        path = tmp_path / "released.ckpt"
        torch.save({"state_dict": tensors, "epoch": 4, "global_step": 1_400_000}, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file(tensors, path)
        (tmp_path / "config.json").write_text('{"model_type": "xcodec"}')
    codec = load_codec(tmp_path if form == "folder" else path)
    assert_equal_codecs(codec, model)


RELEASED_CONFIG = (  # from HKUSTAudio/xcodec2 on the hub
    '{"model_type": "xcodec2", "semantic_hidden_size": 1024, "codec_encoder_hidden_size": 1024, '
    '"codec_decoder_hidden_size": 1024, "use_vocos": true, "architectures": ["XCodec2Model"]}'
)


@pytest.mark.parametrize("spelling", ["code", "package"])
def test_the_released_folder_is_known_by_its_tensors(spelling, tmp_path):
    """Guards against the released config.json, which claims the type of transformers' own models; and against a file in
    bfloat16 that fails because of its rounded filters or is computed in bfloat16."""
    model = reference_model("xcodec2")
    model.load_state_dict({name: value.bfloat16().float() for name, value in model.state_dict().items()})
    tensors = released_tensors(model, spelling)
    (tmp_path / "config.json").write_text(RELEASED_CONFIG)
    save_file(tensors, tmp_path / "model.safetensors")
    whole = load_codec(tmp_path)
    assert_equal_codecs(whole, model)
    save_file({name: value.bfloat16() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    halved = load_codec(tmp_path)
    assert {weight.dtype for weight in halved.parameters()} == {torch.float32}
    for (name, weight), other in zip(whole.state_dict().items(), halved.state_dict().values(), strict=True):
        if "config" not in name:
            assert torch.equal(weight.bfloat16(), other.bfloat16()), name
    model.save_pretrained(tmp_path / "theirs")
    assert_equal_codecs(load_codec(tmp_path / "theirs/model.safetensors"), model)


def test_released_and_converted_are_the_same_tensors(tmp_path):
    """Guards against a conversion that differs from the official one, tensor by tensor."""
    model = reference_model("xcodec2")
    save_file(released_tensors(model, "code"), tmp_path / "model.safetensors")
    main(["convert", str(tmp_path / "model.safetensors"), str(tmp_path / "folder")])
    converted, expected = read_folder(tmp_path / "folder"), model.state_dict()
    assert converted.keys() == expected.keys()
    for name, tensor in converted.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)
        assert torch.equal(tensor, expected[name]) or name.startswith("acoustic_encoder"), name


@pytest.mark.parametrize("spelling", ["checkpoint", "pypi015"])
def test_the_full_size_key_lists_load_and_every_value_arrives(spelling):
    """Guards against an unmapped key of the released model, or a different shape."""
    config = Wav2Vec2BertConfig(num_hidden_layers=1, intermediate_size=8)
    network = AutoModel.from_config(config).state_dict()
    values = iter(torch.rand(1000, generator=torch.Generator().manual_seed(0)).tolist())
    tensors = {key: torch.tensor(next(values)).expand(shape) for key, shape in key_list(spelling).items()}
    for key in tensors:
        if key.endswith(".filter"):
            tensors[key] = kaiser_sinc_filter(0.25, 0.3, 12).view(1, 1, 12)
    tensors["generator.head.istft.window"] = torch.hann_window(1280)
    codec = load_released({**tensors, **{f"semantic_model.{key}": network[key] for key in network}}, Path("released"))
    state = codec.state_dict()
    inside = {float(tensor.flatten()[0]) for name, tensor in state.items() if "semantic" not in name}
    training_only = ("fc_post_s", "SemanticDecoder_module")
    constant = (".filter", ".window")
    wanted = [key for key in tensors if not key.startswith(training_only) and not key.endswith(constant)]
    assert len(wanted) == len(inside) == len([name for name in state if "semantic" not in name])
    assert inside == {float(tensors[key].flatten()[0]) for key in wanted}
    names = naming.to_transformers(
        {key: value for key, value in folded(codec).items() if not key.startswith("encoder.semantic")}, 16
    )
    assert {name: tuple(tensor.shape) for name, tensor in names.items()} == key_list("hf")


def folded(codec):
    from modules.codec.formats.transformers_folder import _folded

    return _folded(codec)


def test_our_checkpoint_is_read_without_a_hub_and_converted_on_the_command_line(tmp_path):
    """Guards against a codec that downloads weights that its checkpoint contains, and a conversion that changes
    codes."""
    codec = small_codec()
    lightning_checkpoint(codec, tmp_path / "last.ckpt")
    loaded = CodecCheckpoint(tmp_path / "last.ckpt", "cpu")
    assert loaded.fingerprint == codec.fingerprint
    assert loaded.decoder_fingerprint == codec.decoder_fingerprint
    main(["convert", str(tmp_path / "last.ckpt"), str(tmp_path / "folder")])
    model = Xcodec2Model.from_pretrained(tmp_path / "folder").eval().requires_grad_(False)
    assert_equal_codecs(loaded, model)
    assert_equal_codecs(CodecCheckpoint(tmp_path / "folder", "cpu"), model)


def test_missing_surplus_and_other_tensors_are_listed(tmp_path):
    """Guards against a well-known failure: a checkpoint that loads with a warning, and beta left at 0."""
    model = reference_model("xcodec2")
    tensors = released_tensors(model, "code")
    path = tmp_path / "model.safetensors"

    def refused(changes, *words, drop=()):
        save_file({key: value for key, value in {**tensors, **changes}.items() if key not in drop}, path)
        with pytest.raises(ValueError, match=".*".join(re.escape(word) for word in words)):
            load_codec(path)

    snake = "CodecEnc.conv_blocks.2.block.1.block.2.act"
    refused({}, "missing 1 keys", "blocks.1.units.1.activation2.beta", drop=[f"{snake}.beta"])
    refused({f"{snake}.gamma": torch.zeros(4)}, "surplus 1 keys", "gamma")
    refused({"CodecEnc.lstm.weight": torch.zeros(4)}, "surplus 1 keys", "CodecEnc.lstm.weight")
    refused({"semantic_model.encoder.layers.1.x": torch.zeros(1)}, "surplus 1 keys", "layers.1.x")
    refused(
        {}, "missing 1 keys", "ffn1.output_dense.bias", drop=["semantic_model.encoder.layers.1.ffn1.output_dense.bias"]
    )
    refused({f"{snake}.alpha": torch.zeros(5)}, "to fit the codec", "activation2.alpha")
    filters = {f"{snake[:-4]}.upsample.filter": torch.ones(1, 1, 12) / 12}
    refused(filters, "upsample.filter", "another one")
    refused(
        {}, "semantic network", "semantic_model=", drop=[key for key in tensors if key.startswith("semantic_model.")]
    )
    model.save_pretrained(tmp_path / "folder")
    kept = read_folder(tmp_path / "folder")
    beta = kept.pop("acoustic_encoder.block.0.snake1.act.beta")
    save_file({**kept, "acoustic_encoder.block.0.snake1.act.bias": beta}, tmp_path / "folder/model.safetensors")
    with pytest.raises(ValueError, match=r"blocks\.0\.activation\.beta.*surplus.*activation\.bias"):
        load_codec(tmp_path / "folder")


def test_a_codec_that_transformers_cannot_express_is_refused_with_what_differs(tmp_path):
    """Guards against a folder that loads in transformers and gives other results."""

    def refused(codec, *words):
        with pytest.raises(ValueError, match="transformers can express") as error:
            save_transformers(codec, tmp_path / "folder")
        assert all(word in str(error.value) for word in words), error.value
        assert not (tmp_path / "folder").exists()

    codec = small_codec(time_rotary=True)
    codec.encoder.appends_frame = False
    refused(codec, "`decoder.time_rotary` is True", "`encoder.appends_frame` is False")
    codec = small_codec()
    codec.quantizer = FiniteScalarQuantizer(96, [4] * 8)
    codec.encoder.adapter = torch.nn.Identity()
    refused(codec, "`quantizer` is FiniteScalarQuantizer", "`encoder.adapter` is Identity")
    refused(small_codec(24000, 160), "`decoder.sample_rate` is 24000")
    model = reference_model("xcodec2")
    model.config.hidden_act = "gelu"
    model.save_pretrained(tmp_path / "gelu")
    with pytest.raises(ValueError, match="hidden_act"):
        load_codec(tmp_path / "gelu")


def test_files_that_hold_no_codec_are_named(tmp_path):
    """Guards against a KeyError instead of a clear error, and against code that runs on loading."""
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match="describes no generator"):
            load_codec(path)
    torch.save({"state_dict": {}, "hyper_parameters": {"path": Path("x")}}, tmp_path / "code.ckpt")
    with pytest.raises(ValueError, match="weights_only=False"):
        load_codec(tmp_path / "code.ckpt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_codec(tmp_path / "empty")


def test_a_hub_name_is_fetched_and_a_wrong_path_is_not(tmp_path, monkeypatch):
    """Guards against a request to the hub for a mistyped file, and against a traceback of the hub's client."""
    asked = []

    def snapshot(name: str, **options: object) -> str:
        asked.append(name)
        return str(tmp_path)

    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert local_path(Path("owner/xcodec2")) == tmp_path
    for path in ("runs/last.ckpt", "/absent/folder", "runs/absent/folder"):
        with pytest.raises(FileNotFoundError, match="there is nothing"):
            load_codec(path)
    assert set(asked) == {"owner/xcodec2"}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: read_folder(tmp_path / "no hub"))
    with pytest.raises(FileNotFoundError, match=r"got `owner/absent`.*The hub: "):
        load_codec("owner/absent")
