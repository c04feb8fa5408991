"""The GAN step: which updates count as steps, when discriminators are used, and resuming."""

import sys

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.audio import AudioDataModule
from datamodules.shards.shards import ShardIndex
from modules.api import Audio
from modules.batches import AudioBatch
from modules.codec.formats.checkpoints import CodecCheckpoint, load_generator
from modules.codec.generator import CodecGenerator
from modules.codec.parts.quantizers import FiniteScalarQuantizer
from modules.codec.parts.semantic_encoder import random_network
from modules.codec.parts.spectral_encoder import SpectralEncoder
from modules.codec.parts.vocos_decoder import VocosDecoder
from modules.codec.streaming import EncodeWindow
from modules.codec.training import perceptual_loss as perceptual
from modules.codec.training.discriminators import DiscriminatorEnsemble, MultiPeriodDiscriminator
from modules.codec.training.losses import MultiResolutionMelLoss
from modules.codec_module import CodecModule, noise_seed
from modules.schedule import WarmupCosine
from tests.modules.test_codec_parallel import SPEECH_ENCODER


class Recorder(L.Callback):
    """Weights after every step: equal weights imply equal losses, gradients, orders and crops before them."""

    def __init__(self):
        self.generator, self.discriminator, self.steps = [], [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.steps.append(trainer.global_step)
        for kept, part in ((self.generator, module.generator), (self.discriminator, module.discriminator)):
            if part is not None:
                kept.append(torch.nn.utils.parameters_to_vector(part.parameters()).detach().clone())


def build(**changes):
    torch.manual_seed(0)
    settings = {
        "generator": CodecGenerator(
            SpectralEncoder(16000, 320, num_mels=20, channels=16, num_layers=1, hidden_channels=16),
            FiniteScalarQuantizer(16, [4, 4]),
            VocosDecoder(16000, 320, channels=16, num_layers=1, hidden_channels=16),
        ),
        "discriminator": DiscriminatorEnsemble([MultiPeriodDiscriminator([2, 3], [4, 4])]),
        "reconstruction_loss": MultiResolutionMelLoss(16000, [256, 512], [10, 20]),
        "optimizer": lambda weights: torch.optim.AdamW(weights, lr=1e-3),
        "discriminator_optimizer": lambda weights: torch.optim.AdamW(weights, lr=1e-3),
        "scheduler": lambda optimizer: WarmupCosine(optimizer, 2, 20),
        "discriminator_start_step": 3,
        "discriminator_samples": 2000,
    }
    return CodecModule(**{**settings, **changes})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    from datamodules.shards.preparation import prepare_audio_shards
    from datamodules.sources.source import Recording

    class Noise:
        num_recordings = 24

        def recordings(self):
            for number in range(24):
                samples = 0.1 * torch.randn(4000 + 500 * number, generator=torch.Generator().manual_seed(number))
                split = "held_out" if number % 6 == 0 else "train"
                yield Recording(f"n{number}", Audio(samples, 16000), "one", "a", "en", "noise", "none", split)

        def credits(self):
            return "none"

    folder = tmp_path_factory.mktemp("audio")
    prepare_audio_shards([Noise()], folder / "shards", 16000, "wav")
    return folder / "shards"


def fit(shards, folder, max_steps, module=None, resume=None, **options):
    recorder = Recorder()
    saver = ModelCheckpoint(folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    trainer = L.Trainer(
        max_steps=max_steps, accelerator="cpu", logger=False, callbacks=[recorder, saver], enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, limit_val_batches=0,
        log_every_n_steps=1, **options,
    )  # fmt: skip
    data = AudioDataModule(shards, segment_seconds=0.25, batch_size=4, num_batches=7)
    trainer.fit(module or build(), data, ckpt_path=resume, weights_only=False)
    return recorder, trainer


def loaders(shards, num_ranks, which="val", **settings):
    """The keys of each batch of every rank."""
    found = []
    for rank in range(num_ranks):
        data = AudioDataModule(shards, validation_split="train", predict_splits=["train"], **settings)
        data.trainer = type("Trainer", (), {"global_rank": rank, "world_size": num_ranks, "callbacks": []})()
        made = getattr(data, f"{which}_dataloader")()
        found.append([batch.keys for batch in (made[0] if which == "predict" else made)])
    return found


def test_no_discriminator_is_one_that_never_starts(shards, tmp_path):
    """Guards against a codec without discriminators that learns otherwise, cannot be resumed or read, and against half
    of the setting."""
    never, _ = fit(shards, tmp_path / "never", 6, build(discriminator_start_step=100))
    absent = {"discriminator": None, "discriminator_optimizer": None, "discriminator_start_step": 0}
    whole, trainer = fit(shards, tmp_path / "absent", 6, build(**absent))
    assert whole.steps == never.steps == list(range(1, 7)) and not whole.discriminator
    for mine, other in zip(whole.generator, never.generator, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    assert "train/generator_skipped_updates" in trainer.logged_metrics
    assert not [name for name in trainer.logged_metrics if "discriminator" in name], "a chart of nothing"
    module = build(**absent, scheduler=torch.optim.lr_scheduler.ConstantLR)
    _, scheduled = module.configure_optimizers()
    assert [one["interval"] for one in scheduled] == ["step"], "LearningRateMonitor would log the first rate alone"
    resumed, _ = fit(shards, tmp_path / "on", 6, build(**absent), tmp_path / "absent/step=5.ckpt")
    torch.testing.assert_close(resumed.generator[-1], whole.generator[-1], rtol=0, atol=0)
    for half in ("discriminator", "discriminator_optimizer"):
        with pytest.raises(ValueError, match=f"or null for both, but got only .*: `{half}` is null"):
            build(**{half: None})
    with pytest.raises(ValueError, match="Expected no start step and no scheduler"):
        build(**absent | {"discriminator_start_step": 3})
    with pytest.raises(ValueError, match="training without discriminators, but got one with them"):
        fit(shards, tmp_path / "other", 6, build(**absent), tmp_path / "never/step=5.ckpt")


@pytest.mark.parametrize("num_ranks", [1, 3, 8, 20])
def test_every_rank_validates_as_many_batches_as_the_others(shards, num_ranks):
    """Guards against a rank without a batch, at which Lightning stops the run before its first step, and one with a
    batch less, for which the others wait for ever with sharded weights. The train split has 20 recordings."""
    found = loaders(shards, num_ranks, evaluation_batch_size=16)
    assert len({len(batches) for batches in found}) == 1 and found[0]
    alone = loaders(shards, 1, evaluation_batch_size=16)[0]
    assert sorted(key for batches in found for keys in batches for key in keys) == sorted(
        key for keys in alone for key in keys
    )
    assert (num_ranks > 1) or [len(keys) for keys in alone] == [16, 4]
    predicted = loaders(shards, num_ranks, "predict", evaluation_batch_size=16)
    assert all(predicted) and sum(map(len, predicted)) == max(2, num_ranks)


def test_too_few_recordings_for_all_ranks_are_refused(shards):
    """Guards against Lightning's error about a data loader of zero length, which has no remedy."""
    for num_ranks, num_wanted, settings in (
        (24, 24, {}),
        (12, 12, {"num_validation_samples": 10}),
        (12, 24, {"evaluation_batch_size": 1}),
    ):
        with pytest.raises(ValueError, match=f"at least {num_wanted} recordings"):
            loaders(shards, num_ranks, **settings)


def test_steps_are_generator_updates_and_discriminators_start_when_told(shards, tmp_path):
    """Guards against Lightning counting both optimizers, which halves max_steps and moves checkpoints."""
    recorder, trainer = fit(shards, tmp_path, 10)
    assert recorder.steps == list(range(1, 11))
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"step=5.ckpt", "step=10.ckpt"}
    for before, after in zip(recorder.generator, recorder.generator[1:], strict=False):
        assert not torch.equal(before, after)
    assert torch.equal(recorder.discriminator[0], recorder.discriminator[2]), "idle before step 3"
    for before, after in zip(recorder.discriminator[2:], recorder.discriminator[3:], strict=False):
        assert not torch.equal(before, after)
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates == [pytest.approx(1e-3 * (0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 8 / 18)))))]


def test_discriminators_change_what_the_generator_learns(shards, tmp_path):
    """Guards against adversarial terms that are logged but have no gradient."""
    with_gan, _ = fit(shards, tmp_path / "a", 6)
    without, _ = fit(shards, tmp_path / "b", 6, build(discriminator_start_step=100))
    assert torch.equal(with_gan.generator[2], without.generator[2])
    assert not torch.allclose(with_gan.generator[5], without.generator[5])
    weightless, _ = fit(shards, tmp_path / "c", 6, build(family_weights={"multi_period": 0.0}))
    assert torch.equal(weightless.generator[5], without.generator[5])
    assert not torch.equal(weightless.discriminator[5], without.discriminator[5]), "it learns"
    with pytest.raises(ValueError, match="multi_scale"):
        build(family_weights={"multi_scale": 1.0})


def test_a_resumed_run_is_the_uninterrupted_one(shards, tmp_path):
    """Bit for bit: both networks, both optimizers, schedule, order, crops and windows; over a pass's border."""
    whole, _ = fit(shards, tmp_path / "whole", 12)
    fit(shards, tmp_path / "cut", 5)
    torch.manual_seed(123)
    torch.rand(7)
    rest, _ = fit(shards, tmp_path / "cut", 12, resume=tmp_path / "cut" / "step=5.ckpt")
    assert rest.steps == list(range(6, 13))
    for name in ("generator", "discriminator"):
        for kept, again in zip(getattr(whole, name)[5:], getattr(rest, name), strict=True):
            assert torch.equal(kept, again)


def test_every_step_and_rank_has_noise_of_its_own():
    """Guards against the same dropout on all ranks, at every step, or under every seed."""
    seeds = [noise_seed(seed, rank, step) for seed in (0, 1, 2**63) for rank in range(8) for step in range(100)]
    assert len(set(seeds)) == len(seeds)


def test_long_recordings_are_encoded_in_windows():
    """Guards against a whole recording in one pass, and against codes of another length or order."""
    longest = []
    module = build(encode_window=EncodeWindow(10, 8)).eval()
    module.generator.encoder.register_forward_pre_hook(lambda _, given: longest.append(given[0].shape[-1]))
    lengths_B = torch.tensor([20011, 640, 9000])
    batch = AudioBatch(torch.randn(3, 20011), lengths_B, ["a", "b", "c"], [{}] * 3)
    made = module.predict_step(batch, 0)
    assert max(longest) <= (8 + 10 + 8) * 320
    module.encode_window = None
    whole = module.predict_step(batch, 0)
    assert torch.equal(made.num_codes_B, whole.num_codes_B)
    for windowed_S, whole_S, num in zip(made.codes_BS, whole.codes_BS, whole.num_codes_B, strict=True):
        assert torch.equal(windowed_S[:num], whole_S[:num])


def test_sixteen_bit_floats_are_refused(shards, tmp_path):
    module = build()
    module.trainer = type("Trainer", (), {"precision": "16-mixed"})()
    with pytest.raises(ValueError, match="16-mixed"):
        module.setup("fit")


def test_data_of_another_rate_is_refused(shards, tmp_path):
    """Guards against a codec that is silently trained on recordings at half their speed."""
    module = build()
    for stage in ("fit", "validate", "test", "predict"):
        data = AudioDataModule(shards, sample_rate=24000)
        module.trainer = type("Trainer", (), {"precision": "32-true", "max_steps": 1, "datamodule": data})()
        with pytest.raises(ValueError, match="16000 Hz, but got `sample_rate`=24000"):
            module.setup(stage)
        data.sample_rate = 16000
        module.setup(stage)


@pytest.mark.parametrize(("start", "max_steps", "is_read"), [(600, 700, True), (600, -1, True), (600, 600, False)])
def test_the_perceptual_network_is_read_before_the_first_step(start, max_steps, is_read, monkeypatch):
    """Guards against a run that fails after weeks, at the first step that needs an unavailable network."""
    read = []

    def pretrained(model, num_layers):
        read.append((model, num_layers))
        return random_network(SPEECH_ENCODER, num_layers), SPEECH_ENCODER

    monkeypatch.setattr(perceptual, "pretrained_network", pretrained)
    loss = perceptual.PerceptualLoss(torch.nn.Identity(), [1, 2], model="a/b")
    module = build(perceptual_loss=loss, perceptual_start_step=start)
    module.trainer = type("Trainer", (), {"precision": "32-true", "max_steps": max_steps})()
    module.setup("validate")
    assert not read
    module.setup("fit")
    assert read == [("a/b", 2)] * is_read


def test_a_checkpoint_that_is_no_codec_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="once it is trained"):
        CodecCheckpoint(tmp_path / "none.ckpt").encode(torch.zeros(1, 320), torch.tensor([320]))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="CodecModule"):
        load_generator(tmp_path / "other.ckpt")


def test_a_checkpoint_cannot_choose_imports(tmp_path):
    """Guards against a checkpoint that runs arbitrary code: an import runs it, whatever is checked afterwards."""
    for name in ("this.Module", "torch.nn.Identity", "Module", "modules.codec.formats.checkpoints.Path"):
        torch.save({"state_dict": {}, "hyper_parameters": {"generator": {"class_path": name}}}, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match=r"classes of modules\.codec"):
            load_generator(tmp_path / "other.ckpt")
    assert "this" not in sys.modules


def test_damaged_recordings_are_skipped_and_counted(shards, tmp_path):
    """Guards against one damaged file that stops a run, or is silently dropped."""
    import shutil

    from datamodules.audio import AudioRows

    shutil.copytree(shards / "train", tmp_path / "train")
    index = ShardIndex.load(tmp_path / "train", "audio")
    path = tmp_path / "train" / index.shards[0]
    content = bytearray(path.read_bytes())
    content[index.offsets[2] : index.offsets[2] + 2000] = b"\0" * 2000  # the tar's header
    start = content.index(b"RIFF", index.offsets[7])  # the recording itself, in an undamaged tar
    content[start : start + 12] = b"no recording"
    path.write_bytes(content)
    rows = AudioRows(index, 0, 0)
    batch = rows.load([(number, 0) for number in range(9)])
    assert batch.keys == [str(key) for key in index.keys[[0, 1, 3, 4, 5, 6, 8]]]
    assert rows.skipped.number == 2


def test_preparation_removes_nothing_and_skips_repeated_keys(shards, tmp_path):
    """Guards against deleting a folder of recordings that was given as the folder for shards."""
    from datamodules.shards.preparation import prepare_audio_shards
    from datamodules.sources.source import Recording

    class Twice:
        num_recordings = 2

        def recordings(self):
            for number in range(2):
                yield Recording("same", Audio(torch.full((4000,), 0.1 + number / 10), 16000), "a", "a", "en", "x", "x")

        def credits(self):
            return ""

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.wav").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds other files"):
        prepare_audio_shards([Twice()], tmp_path / "mine", 16000)
    assert (tmp_path / "mine" / "precious.wav").is_file()
    (index,) = prepare_audio_shards([Twice()], tmp_path / "new", 16000).values()
    assert len(index) == 1
    assert index.report["skipped_by_reason"] == {"another recording has this key": 1}
