"""X-codec2 continued from files in the released shape: by configs/llasa/codec.yaml, saved, resumed and loaded back."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import soundfile
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import Xcodec2Config, Xcodec2Model

import run
from datamodules.audio import AudioDataModule
from modules.codec.formats.checkpoints import CodecCheckpoint, load_codec, main
from modules.codec.formats.tensor_names import training_networks
from modules.codec.formats.weights import fill
from modules.codec.generator import CodecGenerator
from modules.codec.parts.semantic_fusion import SemanticDecoder
from modules.codec.training.discriminators import (
    DiscriminatorEnsemble,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
)
from modules.codec_module import CodecModule
from modules.schedule import WarmupLinear
from modules.tokeniser_module import CodecTokeniser
from tests.modules.codec.test_formats import RELEASED_CONFIG
from tests.modules.test_codec_parallel import Crops, build, run_training, sharding, trainer_of, whole
from tests.test_voice_recipe import TEXTS
from tests.toys.codec_files import ReleasedDiscriminators, released_semantic_decoder, released_tensors
from tests.toys.codec_references import (
    SMALL,
    calibrated,
    noise_items,
    perturbed,
    reference_audio,
    reference_codes,
    semantic_config,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs/llasa"
SIZES = {"periods": [2, 3], "period_channels": [4, 8], "fft_sizes": [78, 126], "channels": [4, 4, 8]}
OVERLAY = """
stage: {folder: FOLDER}
model:
  init_args:
    scheduler: {init_args: {num_warmup_steps: 2}}
    discriminator:
      init_args:
        discriminators:
          - class_path: modules.codec.training.discriminators.MultiPeriodDiscriminator
            init_args: {periods: [2, 3], channels: [4, 8], output_kernel_size: 2}
          - class_path: modules.codec.training.discriminators.MultiResolutionDiscriminator
            init_args: {fft_sizes: [78, 126], channels: [4, 4, 8], centred: true}
data: {init_args: {folder: shards, segment_seconds: 0.2, batch_size: 2, num_validation_samples: 1, num_workers: 0}}
trainer:
  accelerator: cpu
  precision: 32-true
  max_steps: 4
  val_check_interval: 4
  log_every_n_steps: 1
  enable_model_summary: false
checkpoint: {every_n_train_steps: 2, save_top_k: -1}
progress_bar: null
"""
SEMANTIC_DECODER = ("--model.semantic_decoder.in_channels", "160", "--model.semantic_decoder.channels", "32")


@dataclass(frozen=True)
class Released:
    """`model`: transformers' own. In `place`: `xcodec2`, the hub's folder, without w2v-BERT, which is in `w2v`;
    `released.ckpt`, that of the training; `mine`, recordings with texts."""

    place: Path
    model: Xcodec2Model
    discriminators: ReleasedDiscriminators
    semantic_decoder: dict[str, torch.Tensor]


def reference_of_sixteen_layers() -> Xcodec2Model:
    """Small, but with as many layers of the semantic network as are run of the released one."""
    semantic = semantic_config(num_hidden_layers=16, hidden_dropout=0.1)
    return calibrated(perturbed(Xcodec2Model(Xcodec2Config(**{**SMALL, "semantic_model_config": semantic})), 0))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    place = tmp_path_factory.mktemp("released")
    torch.manual_seed(0)
    model, discriminators = reference_of_sixteen_layers(), ReleasedDiscriminators(**SIZES)
    semantic_decoder = released_semantic_decoder(160, 32)
    tensors = released_tensors(model, "code")
    state = {**tensors, **discriminators.tensors(), **semantic_decoder, "criteria.mel.window": torch.ones(4)}
    torch.save({"state_dict": state, "epoch": 4, "global_step": 1_400_000}, place / "released.ckpt")
    (place / "xcodec2").mkdir()
    (place / "xcodec2/config.json").write_text(RELEASED_CONFIG)
    alone = {key: value for key, value in released_tensors(model, "package").items() if "semantic_model" not in key}
    save_file(alone, place / "xcodec2/model.safetensors")
    model.semantic_encoder.save_pretrained(place / "w2v")
    (place / "mine").mkdir()
    for number, text in enumerate(TEXTS):  # both splits
        wave_BT, _ = noise_items(4000 + 700 * number, seed=number)
        soundfile.write(place / f"mine/take {number}.wav", wave_BT[0].clamp(-1, 1).numpy(), 16000)
        (place / f"mine/take {number}.txt").write_text(text + "\n")
    return Released(place, model, discriminators, semantic_decoder)


def fit(released: Released, source: Path, folder: str, *more: str, overlays: tuple[Path, ...] = ()) -> run.SuiteCLI:
    """The command of configs/llasa/codec.yaml, with small discriminators and few steps."""
    small = released.place / f"{folder}.yaml"
    small.write_text(OVERLAY.replace("FOLDER", str(released.place / folder)))
    files = [CONFIGS / "codec.yaml", *overlays, small]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(released.place)
        patch.setattr("sys.argv", ["run.py"])
        patch.setenv("FOLDER", "mine")
        patch.setenv("XCODEC2", str(source))
        return run.SuiteCLI(["fit", *[word for file in files for word in ("--config", str(file))], *more])


@pytest.fixture(scope="module")
def decoder_only(released: Released) -> run.SuiteCLI:
    """Four updates from the hub's folder, with w2v-BERT from elsewhere."""
    return fit(released, released.place / "xcodec2", "decoder_only", *W2V)


W2V = ("--model.pretrained.semantic_model", "w2v")


def encoding(codec: CodecGenerator) -> dict[str, torch.Tensor]:
    return {name: value for name, value in codec.state_dict().items() if name.startswith(("encoder", "quantizer"))}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_decoder_is_trained_and_codes_stay(released: Released, decoder_only: run.SuiteCLI) -> None:
    """Guards against a codec that cannot be loaded back, needs the released file or a hub again, or whose codes, which
    a Llasa knows, have changed; and against moments and gradients of what is frozen."""
    path = released.place / "decoder_only/checkpoints/last.ckpt"
    before, after = load_codec(released.place / "xcodec2", str(released.place / "w2v")), load_codec(path)
    assert after.fingerprint == before.fingerprint and same(encoding(after), encoding(before))
    assert after.decoder_fingerprint != before.decoder_fingerprint
    trained = decoder_only.model.generator
    assert same(after.state_dict(), trained.state_dict())
    assert not any(weight.requires_grad for weight in trained.encoder.parameters())
    assert all(weight.grad is None for part in (trained.encoder, trained.quantizer) for weight in part.parameters())
    trained.train()
    assert trained.decoder.training and not trained.encoder.training and not trained.quantizer.training
    stored = torch.load(path, weights_only=True)
    num_trained = len([*trained.decoder.parameters(), *trained.bridge.parameters()])
    assert len(stored["optimizer_states"][0]["state"]) == num_trained
    assert stored["hyper_parameters"]["pretrained"] is None
    again = CodecModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert same(again.generator.state_dict(), trained.state_dict())
    audio_BT, num_samples_B = noise_items(6400, 3001, seed=9)
    trained.eval()
    codes_BS, num_codes_B = after.encode(audio_BT, num_samples_B)
    for item, num_samples in enumerate((6400, 3001)):
        expected_S = reference_codes(released.model, audio_BT[item, :num_samples])
        assert torch.equal(codes_BS[item, : len(expected_S)], expected_S)
    with torch.no_grad():
        heard_BT = trained.decode(codes_BS, num_codes_B)
    assert torch.equal(after.decode(codes_BS, num_codes_B), heard_BT)
    assert not torch.allclose(before.decode(codes_BS, num_codes_B), heard_BT, atol=1e-4)
    main(["convert", str(path), str(released.place / "transformers")])
    converted = Xcodec2Model.from_pretrained(released.place / "transformers").eval().requires_grad_(False)
    codes_S = reference_codes(converted, audio_BT[0])
    assert torch.equal(codes_S, codes_BS[0, : len(codes_S)])
    heard_T = reference_audio(converted, codes_S)
    torch.testing.assert_close(heard_BT[0, : len(heard_T)], heard_T, atol=1e-5, rtol=0)


def test_a_resumed_run_is_the_uninterrupted_one(released: Released, decoder_only: run.SuiteCLI) -> None:
    """Guards against a run that reads the released file again, which is gone, and starts from it; bit for bit."""
    folder = released.place / "decoder_only"
    whole_run = torch.load(folder / "checkpoints/last.ckpt", weights_only=True, mmap=False)["state_dict"]
    (saved,) = (folder / "checkpoints").glob("*step=2.ckpt")
    saved.rename(released.place / "saved.ckpt")
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    shutil.copy(released.place / "saved.ckpt", folder / "checkpoints/last.ckpt")
    marker = folder / "stage_fit.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"finished": False}))
    for name in ("xcodec2", "w2v"):
        (released.place / name).rename(released.place / f"{name}_gone")
    try:
        resumed = fit(released, released.place / "xcodec2", "decoder_only", *W2V)
        named = fit(
            released, released.place / "xcodec2", "named", *W2V, "--ckpt_path", str(released.place / "saved.ckpt")
        )
    finally:
        for name in ("xcodec2", "w2v"):
            (released.place / f"{name}_gone").rename(released.place / name)
    assert same(resumed.model.state_dict(), whole_run)
    assert same(named.model.state_dict(), whole_run)


def test_all_is_trained_with_the_networks_of_the_released_training(
    released: Released, capsys: pytest.CaptureFixture
) -> None:
    """Guards against discriminators and a semantic decoder that start anew though the file holds them, and against a
    fingerprint that stays where codes change."""
    cli = fit(
        released, released.place / "released.ckpt", "all", *SEMANTIC_DECODER, overlays=(CONFIGS / "codec_all.yaml",)
    )
    assert "the codec, `discriminator`, `semantic_decoder`" in capsys.readouterr().out
    before = load_codec(released.place / "released.ckpt")
    after = load_codec(released.place / "all/checkpoints/last.ckpt")
    assert after.fingerprint != before.fingerprint
    frozen = [name for name in before.state_dict() if ".semantic." in name]
    assert same(after.encoder.semantic.state_dict(), before.encoder.semantic.state_dict()) and frozen
    changed = [name for name, weight in before.named_parameters() if not torch.equal(weight, after.state_dict()[name])]
    assert len(changed) == len(list(before.parameters()))
    started, ended = released.discriminators.tensors(), cli.model.discriminator.state_dict()
    bias = ended["discriminators.0.stacks.0.layers.0.bias"] - started["discriminator.discriminators.0.convs.0.0.bias"]
    assert 0 < bias.abs().max() < 1e-3, "four updates of 1e-4 at most from the released ones"


def test_new_discriminators_learn_before_the_generator_moves() -> None:
    """Guards against released weights that random discriminators spoil in the first updates."""
    given = yaml.safe_load((CONFIGS / "codec.yaml").read_text())["model"]["init_args"]
    moved = []
    for name in ("scheduler", "discriminator_scheduler"):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = WarmupLinear(optimizer, **given[name]["init_args"] | {"num_steps": 20000})
        moved.append(0.0)
        for _ in range(200):
            moved[-1] += schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
    assert moved[0] < 0.005 * moved[1]


def discriminators() -> DiscriminatorEnsemble:
    return DiscriminatorEnsemble(
        [MultiPeriodDiscriminator([2, 3], [4, 8], 2), MultiResolutionDiscriminator([78, 126], [4, 4, 8], True)]
    )


def test_the_networks_of_the_released_training_compute_the_same(released: Released) -> None:
    """Guards against layers in another order, norms and directions exchanged, and a shifted window."""
    networks = training_networks(torch.load(released.place / "released.ckpt", weights_only=True)["state_dict"])
    module = torch.nn.Module()
    module.discriminator = discriminators()
    module.semantic_decoder = SemanticDecoder(160, 32)
    fill(module, networks, [], released.place)
    audio_BT, _ = noise_items(3200, 3200)
    with torch.no_grad():
        expected, given = released.discriminators(audio_BT), module.discriminator(audio_BT).scores
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one.flatten(1), other.flatten(1), atol=1e-5, rtol=1e-4)
    part, latent_BSC = released.semantic_decoder, torch.randn(2, 7, 160)

    def convolved(name: str, x_BCT: torch.Tensor) -> torch.Tensor:
        name = f"SemanticDecoder_module.{name}"
        return F.conv1d(x_BCT, part[f"{name}.weight"], part.get(f"{name}.bias"), padding=1)

    x_BCT = F.relu(convolved("initial_conv", (latent_BSC @ part["fc_post_s.weight"].T + part["fc_post_s.bias"]).mT))
    x_BCT = x_BCT + convolved("residual_blocks.3", F.relu(convolved("residual_blocks.1", x_BCT)))
    with torch.no_grad():
        read_BSC = module.semantic_decoder(latent_BSC, torch.tensor([7, 7]))
    torch.testing.assert_close(read_BSC, convolved("final_conv", x_BCT).mT, atol=1e-4, rtol=1e-4)


def test_other_networks_than_those_of_the_file_are_refused(released: Released) -> None:
    """Guards against discriminators of which half are the file's, an error that does not name the argument to change,
    and a start from nothing."""
    pretrained = CodecCheckpoint(released.place / "released.ckpt")
    module = build(generator=None, pretrained=pretrained, semantic_decoder=None, perceptual_loss=None)
    with pytest.raises(ValueError, match=r"^Expected `model\.init_args\.discriminator` .*discriminators\.0\.stacks"):
        module.configure_model()
    with pytest.raises(ValueError, match="got neither"):
        build(generator=None)
    with pytest.raises(ValueError, match="no `semantic_decoder` with `decoder_only`"):
        build(decoder_only=True)


@pytest.mark.parametrize("kind", ["module", "tokeniser"])
def test_codes_do_not_depend_on_batches_and_shares(released: Released, decoder_only: run.SuiteCLI, kind: str) -> None:
    """Guards against codes that depend on who encodes: transformers' alone, both modules in two shares of batches of
    unequal lengths."""
    pretrained = CodecCheckpoint(released.place / "released.ckpt")
    if kind == "module":
        module: L.LightningModule = build(
            generator=None, pretrained=pretrained, discriminator=discriminators(), semantic_decoder=None,
            perceptual_loss=None,
        )  # fmt: skip
    else:
        module = CodecTokeniser(pretrained)
    module.configure_model()
    module.eval()
    keys = []
    for rank in range(2):
        data = AudioDataModule(released.place / "shards", predict_splits=["train"], evaluation_batch_size=3)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, callbacks=[])
        for batch in data.predict_dataloader()[0]:
            with torch.no_grad():
                made = module.predict_step(batch, 0)
            keys += batch.keys
            for audio_T, num_samples, codes_S in zip(batch.audio_BT, batch.num_samples_B, made.codes_BS, strict=True):
                expected_S = reference_codes(released.model, audio_T[:num_samples])
                assert torch.equal(codes_S[: len(expected_S)], expected_S)
    assert len(set(keys)) == len(keys) >= 5


NUM_STEPS = 3


def train_decoder(strategy: object, num_ranks: int, folder: Path) -> dict[str, object]:
    """The decoder alone from `folder/codec`, by a module built in Python; its checkpoint and its weights, gathered."""
    torch.set_num_threads(1)
    module = build(
        generator=None, pretrained=CodecCheckpoint(folder / "codec"), decoder_only=True, semantic_decoder=None,
        perceptual_loss=None, discriminator_start_step=1,
    )  # fmt: skip
    trainer = trainer_of(strategy, num_ranks, max_steps=NUM_STEPS)
    trainer.fit(module, DataLoader(Crops(trainer.global_rank, num_ranks), batch_size=None))
    frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    assert frozen and all(name.startswith(("generator.encoder", "generator.quantizer")) for name in frozen)
    name = "fsdp2" if isinstance(strategy, ModelParallelStrategy) else str(strategy)
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    return whole(module)


def test_a_frozen_encoder_is_trained_on_two_ranks_as_on_one(released: Released, tmp_path: Path) -> None:
    """Guards against frozen weights in the reducer or in a sharded unit, codes that drift, and shards that cannot be
    loaded back; DDP and FSDP2 against one process."""
    released.model.save_pretrained(tmp_path / "codec")
    config = tmp_path / "codec/config.json"  # ranks have noise of their own
    config.write_text(json.dumps(json.loads(config.read_text()) | {"activation_dropout": 0.0}))
    alone = train_decoder("auto", 1, tmp_path)
    before = load_codec(tmp_path / "codec")
    start = {f"generator.{name}": weight for name, weight in before.named_parameters()}
    moved = {name.split(".")[1] for name in start if not torch.equal(alone[name], start[name])}
    assert moved == {"decoder", "bridge"}
    largest = max((alone[name] - start[name]).abs().max().item() for name in start)
    assert largest > 1e-3  # a hundred times the tolerance
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    first, second = run_training(tmp_path, "both", command, __file__)
    for name, weight in alone.items():
        for strategy in ("ddp_find_unused_parameters_true", "fsdp2"):
            torch.testing.assert_close(first[strategy][name], weight, rtol=0, atol=1e-5)
            assert torch.equal(first[strategy][name], second[strategy][name])
    for strategy in ("auto", "ddp_find_unused_parameters_true", "fsdp2"):
        loaded = load_codec(tmp_path / f"{strategy}.ckpt")
        assert loaded.fingerprint == before.fingerprint and same(encoding(loaded), encoding(before))
        for name, weight in loaded.named_parameters():
            torch.testing.assert_close(weight, alone[f"generator.{name}"], rtol=0, atol=1e-5)


if __name__ == "__main__":
    main_folder, made = Path(sys.argv[2]), {}
    for main_strategy in ("ddp_find_unused_parameters_true", "fsdp2"):
        made[main_strategy] = train_decoder(sharding(2) if main_strategy == "fsdp2" else main_strategy, 2, main_folder)
    torch.save(made, main_folder / f"both_{os.environ['LOCAL_RANK']}.pt")
