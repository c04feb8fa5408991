"""CodecModule: GAN training step of the codec; predict_step tokenises.

Shapes: B batch, T samples, S frames.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from modules.batches import AudioBatch, CodePrediction
from modules.checkpoint_files import read_checkpoint
from modules.codec.formats.checkpoints import CodecCheckpoint, describe_resumed, match_classifier
from modules.codec.formats.weights import fill
from modules.codec.generator import CodecGenerator, Resynthesis, check_input_rate
from modules.codec.streaming import EncodeWindow, encode_batch_in_windows
from modules.codec.training.discriminators import check_discriminator, discriminator_windows
from modules.codec.training.guarded_updates import GuardedUpdates
from modules.codec.training.losses import (
    LossWeights,
    adversarial_losses,
    by_family,
    discriminator_losses,
    feature_matching_loss,
    semantic_loss,
    weighted_sum,
    weights_of,
)
from modules.codec.training.phoneme_classifier import phoneme_loss
from modules.codec.training.sharding import clip_gradients, restore_frozen, shard_codec
from modules.metrics import PooledMean


class CodecModule(L.LightningModule):
    """A codec trained with reconstruction losses and, from a given step on, discriminators.

    Uses manual optimisation. Only the generator's optimizer counts steps: `global_step`, `max_steps` and checkpoints
    refer to generator updates. Gradients are clipped per network. An update with a non-finite gradient is skipped and
    counted; too many in a row end the run.

    Args:
        generator: Encoder, quantizer and decoder; None beside `pretrained`.
        discriminator: forward(audio_BT) -> DiscriminatorOutput; None trains with the other losses alone.
        reconstruction_loss: forward(generated_BT, target_BT, num_samples_B) -> scalar, the term `mel`. For `val/mel`:
            `distances` of the same arguments -> MelDistances, and `num_resolutions`.
        optimizer, scheduler: For the generator and what reads its codes; the scheduler steps once per update.
        discriminator_optimizer, discriminator_scheduler: For the discriminator; None without one.
        loss_weights: Weights of the generator's terms.
        gradient_clip: Largest gradient norm of either network.
        discriminator_start_step: First generator update with discriminators; at or above max_steps: none.
        discriminator_samples: Length of the random window of each crop passed to the discriminators; 0 for whole crops.
            It contains no padding: it lies within the crop's audio, and a shorter crop is repeated to fill it.
        semantic_decoder: forward(latent_BSC, num_codes_B) -> semantic_BSC: reconstructs the states of the encoder's
            frozen speech encoder from the codes. Used in training only.
        phoneme_classifier: forward(latent_BSC) -> logits_BFK: of the data's `phonemes`. Used in training only.
        perceptual_loss: forward(generated_BT, target_BT, num_samples_B) -> scalar; used from generator update
            `perceptual_start_step` on.
        compile_backend: torch.compile backend for the training networks, e.g. "inductor"; None disables compilation.
            Names of weights and checkpoints stay the same. Validation is not compiled, because its lengths vary.
        encode_window: In `predict`, encodes recordings one by one in overlapping windows: hours of audio in bounded
            memory.
        family_weights: Weights of the adversarial and feature matching losses of each family of discriminators
            (multi_period, multi_resolution), within the terms of `loss_weights`; 1 for those not named.
        pretrained: A codec to start from, in place of `generator`: its sizes are those of its file, which holds the
            discriminators and readers of its training, or they start anew. The file is read once:
            checkpoints describe and hold the codec.
        decoder_only: Train only what follows the quantizer. Codes and the codec's fingerprint stay, and with them token
            shards and language models.

    Raises:
        ValueError: Neither `generator` nor `pretrained`; a discriminator without its optimizer, or the reverse;
            `decoder_only` with a network that reads the codes, which then teaches nothing; weights in the file of
            `pretrained` that do not fit the networks here.
    """

    generator: CodecGenerator

    def __init__(
        self,
        generator: CodecGenerator | None,
        discriminator: nn.Module | None,
        reconstruction_loss: nn.Module,
        optimizer: OptimizerCallable,
        discriminator_optimizer: OptimizerCallable | None,
        scheduler: LRSchedulerCallable | None = None,
        discriminator_scheduler: LRSchedulerCallable | None = None,
        loss_weights: LossWeights = LossWeights(),  # noqa: B008 (frozen)
        discriminator_start_step: int = 0,
        discriminator_samples: int = 0,
        gradient_clip: float = 1.0,
        semantic_decoder: nn.Module | None = None,
        perceptual_loss: nn.Module | None = None,
        perceptual_start_step: int = 0,
        compile_backend: str | None = None,
        encode_window: EncodeWindow | None = None,
        family_weights: dict[str, float] | None = None,
        pretrained: CodecCheckpoint | None = None,
        decoder_only: bool = False,
        phoneme_classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        settings = (discriminator_optimizer, discriminator_scheduler, discriminator_start_step, family_weights)
        check_discriminator(discriminator, *settings)
        readers = {"semantic_decoder": semantic_decoder, "phoneme_classifier": phoneme_classifier}
        check_start(generator, pretrained, decoder_only, [name for name in readers if readers[name] is not None])
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.discriminator, self.reconstruction_loss = discriminator, reconstruction_loss
        self.pretrained, self.decoder_only = pretrained, decoder_only
        if generator is not None and pretrained is None:
            self._hold(generator)
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer
        self.scheduler, self.discriminator_scheduler = scheduler, discriminator_scheduler
        self.loss_weights, self.gradient_clip = loss_weights, gradient_clip
        self.discriminator_start_step, self.discriminator_samples = discriminator_start_step, discriminator_samples
        self.semantic_decoder, self.perceptual_loss = semantic_decoder, perceptual_loss
        self.phoneme_classifier, self.compile_backend = phoneme_classifier, compile_backend
        self.perceptual_start_step, self.encode_window = perceptual_start_step, encode_window
        self._sharded, self.family_weights = False, family_weights
        self.val_mel = PooledMean(reconstruction_loss.num_resolutions)
        trained = ["generator"] if discriminator is None else ["generator", "discriminator"]
        self._updates = {name: GuardedUpdates(name) for name in trained}

    def _hold(self, generator: CodecGenerator) -> None:
        self.generator = generator
        if self.decoder_only:
            generator.keep_codes()

    def _take_pretrained(self) -> None:
        """Take the codec of the checkpoint that is about to be restored, or else of `pretrained`: once."""
        if self.pretrained is None:
            return
        resumed = self._trainer.ckpt_path if self._trainer is not None else None
        stored = self.pretrained.read() if resumed is None else describe_resumed(Path(resumed))
        self._hold(stored.generator)
        taken, source = ["the codec"], self.pretrained.path if resumed is None else Path(resumed)
        for name in ("discriminator", "semantic_decoder", "phoneme_classifier"):
            if fill_network(name, getattr(self, name), stored.networks, source):
                taken.append(f"`{name}`")
        if resumed is None and self.global_rank == 0:
            print(f"taken from {self.pretrained.path}: {', '.join(taken)}", flush=True)
        if "_instantiator" not in self.hparams:  # built in Python: objects, with which a checkpoint cannot be loaded
            self.hparams.clear()
        self.hparams.update(generator=stored.description, pretrained=None)
        self.pretrained = None

    def configure_model(self) -> None:
        """Take the codec to start from. Shard the networks if there is a device mesh (ModelParallelStrategy): FSDP2,
        one unit each."""
        self._take_pretrained()
        if self.device_mesh is None or self._sharded:
            return
        check_sharding(self.compile_backend, self.trainer.callbacks)
        for network in self._trained_networks():
            shard_codec(network, self.device_mesh["data_parallel"])
        self._sharded = True

    def _trained_networks(self) -> list[nn.Module]:
        """The generator, what reads its codes, the discriminator."""
        networks = (self.generator, self.semantic_decoder, self.phoneme_classifier, self.discriminator)
        return [network for network in networks if network is not None]

    def _generator_weights(self) -> list[nn.Parameter]:
        networks = [network for network in self._trained_networks() if network is not self.discriminator]
        return [weight for network in networks for weight in network.parameters() if weight.requires_grad]

    def configure_optimizers(self) -> Any:
        pairs = [(self.scheduler, self.optimizer(self._generator_weights()))]
        if self.discriminator is not None:
            pairs.append((self.discriminator_scheduler, self.discriminator_optimizer(self.discriminator.parameters())))
        schedulers = [schedule(optimizer) for schedule, optimizer in pairs if schedule is not None]
        # LearningRateMonitor reads the interval; the module itself steps its schedulers.
        return [optimizer for _, optimizer in pairs], [{"scheduler": one, "interval": "step"} for one in schedulers]

    def setup(self, stage: str) -> None:
        self._take_pretrained()
        check_input_rate(self.generator, getattr(self.trainer, "datamodule", None))
        if stage != "fit":
            return
        check_training(self.generator, self.trainer.precision)
        if self.perceptual_start_step < self.trainer.max_steps or self.trainer.max_steps == -1:
            # Load it now: otherwise a missing file ends the run weeks later, at its first step with this loss.
            getattr(self.perceptual_loss, "network", None)
        if self.compile_backend is not None:
            # Fixed shapes: crops have one length, and so have the discriminators' windows.
            for network in self._trained_networks():
                network.compile(backend=self.compile_backend, dynamic=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["updates"] = {name: updates.state_dict() for name, updates in self._updates.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None and (self._trainer.evaluating or self._trainer.predicting):
            match_classifier(self, checkpoint.get("state_dict", {}))  # sharded ones come without
        for name, state in checkpoint.get("updates", {}).items():
            if name not in self._updates:
                raise ValueError("Expected a checkpoint of a training without discriminators, but got one with them.")
            self._updates[name].load_state_dict(state)
        path = self.trainer.ckpt_path if self._sharded else None
        if path is not None and Path(path).is_file():  # a folder of shards is loaded whole
            restore_frozen(self, read_checkpoint(Path(path), "a codec checkpoint")["state_dict"])

    def on_fit_start(self) -> None:
        self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: AudioBatch, batch_index: int) -> None:
        # Seeds dropout, so that a resumed run equals an uninterrupted one. Checkpoints do not store every rank's state.
        torch.manual_seed(noise_seed(self._seed, self.global_rank, self.global_step))

    def training_step(self, batch: AudioBatch, batch_index: int) -> None:
        # The raw discriminator optimizer does not count towards global_step.
        generator_optimizer, *_ = as_list(self.optimizers())
        raw_optimizer, *discriminator_optimizer = as_list(self.optimizers(use_pl_optimizer=False))
        timed = self.trainer.profiler.profile
        target_BT = batch.audio_BT
        with timed("codec: generator"):
            made = self.generator(target_BT, batch.num_samples_B, batch.semantic_BSC)
        with timed("codec: reconstruction loss"):
            terms = self._reconstruction_terms(made, batch)
        logged = {}
        if discriminator_optimizer and self.global_step >= self.discriminator_start_step:
            # A function of the step, so that a resumed run uses the same windows.
            real_BT, fake_BT = discriminator_windows(
                target_BT, made.audio_BT, batch.num_samples_B, self.discriminator_samples, self.global_step
            )
            with timed("codec: discriminator update"):
                logged |= self._update_discriminator(real_BT, fake_BT, *discriminator_optimizer)
            with timed("codec: adversarial terms"):
                terms |= self._adversarial_terms(real_BT, fake_BT, logged)
        loss = sum(getattr(self.loss_weights, name) * term for name, term in terms.items())
        generator_optimizer.zero_grad()
        with timed("codec: backward"):
            self.manual_backward(loss)
        with timed("codec: generator update"):
            norm = clip_gradients(self._generator_weights(), self.gradient_clip)
            with self._updates["generator"].around(raw_optimizer, norm):
                generator_optimizer.step()
        self._step_schedulers()
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self._log_step(logged | terms | {"loss": loss, "generator_gradient_norm": norm})

    def _log_step(self, logged: dict[str, Tensor]) -> None:
        """Log means over ranks, each of which had its own crops."""
        for name, updates in self._updates.items():
            logged[f"{name}_skipped_updates"] = torch.as_tensor(updates.num_skipped, device=logged["loss"].device)
        values_N = torch.stack([value.detach().float() for value in logged.values()])
        means = self.trainer.strategy.reduce(values_N, reduce_op="mean").unbind()
        self.log_dict({f"train/{name}": mean for name, mean in zip(logged, means, strict=True)})
        # Set directly: Lightning would synchronise with the device for this number after every later step.
        self.trainer.progress_bar_metrics["train/mel"] = float(logged["mel"].detach())
        for updates in self._updates.values():
            updates.check()

    def _reconstruction_terms(self, made: Resynthesis, batch: AudioBatch) -> dict[str, Tensor]:
        """Loss terms that need no discriminator, by their names in `loss_weights`."""
        terms = {"mel": self.reconstruction_loss(made.audio_BT, batch.audio_BT, batch.num_samples_B)}
        if made.commitment_loss is not None:
            terms["commitment"] = made.commitment_loss
        if self.semantic_decoder is not None:
            read_BSC = self.semantic_decoder(made.latent_BSC, made.num_codes_B)
            terms["semantic"] = semantic_loss(read_BSC, made.semantic_BSC, made.num_codes_B)
        if self.phoneme_classifier is not None:
            terms["phonemes"] = phoneme_loss(self.phoneme_classifier(made.latent_BSC), batch.phonemes_BF)
        if self.perceptual_loss is not None and self.global_step >= self.perceptual_start_step:
            terms["perceptual"] = self.perceptual_loss(made.audio_BT, batch.audio_BT, batch.num_samples_B)
        return terms

    def _update_discriminator(
        self, real_BT: Tensor, fake_BT: Tensor, optimizer: torch.optim.Optimizer
    ) -> dict[str, Tensor]:
        """Update the discriminator. Returns its loss and the norm of its gradient before clipping, for logging."""
        # Two passes: one pass of twice the batch was slower on a CPU (studies/codec_speed/README.md).
        real, fake = self.discriminator(real_BT), self.discriminator(fake_BT.detach())
        losses_D = discriminator_losses(real.scores, fake.scores)
        loss = losses_D.sum()
        optimizer.zero_grad()
        self.manual_backward(loss)
        norm = clip_gradients(list(self.discriminator.parameters()), self.gradient_clip)
        with self._updates["discriminator"].around(optimizer, norm):
            optimizer.step()
        families = by_family("discriminator", losses_D, fake.families)
        return {"discriminator": loss, "discriminator_gradient_norm": norm} | families

    def _adversarial_terms(self, real_BT: Tensor, fake_BT: Tensor, logged: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the adversarial and the feature matching loss; the unweighted losses of each family go to `logged`.

        The discriminator's weights get no gradient here, except sharded ones, whose `requires_grad` does not reach the
        gathered weights: that gradient is dropped before their own update.
        """
        self.discriminator.requires_grad_(self._sharded)
        with torch.no_grad():
            real = self.discriminator(real_BT)
        fake = self.discriminator(fake_BT)
        self.discriminator.requires_grad_(True)
        weights_D = weights_of(fake.families, self.family_weights)
        matching = feature_matching_loss(real.features, fake.features, weights_D)
        adversarial_D = adversarial_losses(fake.scores)
        logged |= by_family("adversarial", adversarial_D, fake.families)
        return {"adversarial": weighted_sum(adversarial_D, weights_D), "feature_matching": matching}

    def _step_schedulers(self) -> None:
        for one in as_list(self.lr_schedulers()):
            one.step()

    def validation_step(self, batch: AudioBatch, batch_index: int) -> dict[str, Tensor]:
        with nullcontext() if self.compile_backend is None else torch.compiler.set_stance("force_eager"):
            made = self.generator(batch.audio_BT, batch.num_samples_B, batch.semantic_BSC)
        distances = self.reconstruction_loss.distances(made.audio_BT, batch.audio_BT, batch.num_samples_B)
        self.val_mel.update(distances.mean_R * distances.num_frames_R, distances.num_frames_R)
        self.log("val/mel", self.val_mel, prog_bar=True)
        return {"codes_BS": made.codes_BS, "num_codes_B": made.num_codes_B}

    def test_step(self, batch: AudioBatch, batch_index: int) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_index)

    def predict_step(self, batch: AudioBatch, batch_index: int, dataloader_idx: int = 0) -> CodePrediction:
        given = batch.audio_BT, batch.num_samples_B
        if self.encode_window is None:
            return CodePrediction(*self.generator.encode(*given), batch)
        return CodePrediction(*encode_batch_in_windows(self.generator, *given, self.encode_window), batch)

    def resynthesise(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Encode and decode audio, (B, T)."""
        codes_BS, num_codes_B = self.generator.encode(audio_BT, num_samples_B)
        return self.generator.decode(codes_BS, num_codes_B)[:, : audio_BT.shape[-1]]


def as_list(value: Any) -> list[Any]:
    """Lightning's optimizers or schedulers as a list: several come as one, a single one alone, none as None."""
    return value if isinstance(value, list) else [] if value is None else [value]


def fill_network(name: str, network: nn.Module | None, stored: Mapping[str, Tensor], source: Path) -> bool:
    """Give a network of the training its weights among those of a file, `NAME.*`; False if it or they are missing.
    Raises ValueError for other sizes."""
    weights = {key.removeprefix(f"{name}."): stored[key] for key in stored if key.startswith(f"{name}.")}
    if network is None or not weights:
        return False
    try:
        fill(network, weights, [], source)
    except ValueError as error:
        raise ValueError(
            f"Expected `model.init_args.{name}` to have the sizes of the `{name}` that `{source}` holds: "
            f"set them in the yaml, or start from a file without one. {error}"
        ) from error
    return True


def check_sharding(compile_backend: str | None, callbacks: Sequence[L.Callback]) -> None:
    """Raise ValueError for features that do not work with sharded weights."""
    if compile_backend is not None:
        raise ValueError(
            f"Expected no `compile_backend` under ModelParallelStrategy, but got {compile_backend!r}: whole "
            "networks are gathered around their call. Train with `strategy: ddp_find_unused_parameters_true`."
        )
    if any(isinstance(callback, WeightAveraging) for callback in callbacks):
        raise ValueError(
            "Expected no average of weights (EMAWeightAveraging) under ModelParallelStrategy, but got one: "
            "sharded weights cannot be copied. Train with `strategy: ddp_find_unused_parameters_true`, or without."
        )


def check_start(
    generator: CodecGenerator | None, pretrained: CodecCheckpoint | None, decoder_only: bool, readers: Sequence[str]
) -> None:
    """Raises ValueError without a codec, and for networks that read its codes, `readers`, and would teach nothing."""
    if generator is None and pretrained is None:
        raise ValueError("Expected `generator`, a new codec, or `pretrained`, one to start from, but got neither.")
    if decoder_only and readers:
        raise ValueError(
            f"Expected no `{readers[0]}` with `decoder_only`, but got one: it teaches encoder and quantizer, which "
            "stay as they are. Leave one of the two out."
        )


def noise_seed(seed: int, rank: int, step: int) -> int:
    """Seed of the noise of one step on one rank: 32 bits, the range of torch's CPU generator."""
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1)[0])


def check_training(generator: CodecGenerator, precision: str) -> None:
    """Raise ValueError for a precision or a codec that cannot be trained here."""
    if precision == "16-mixed":
        raise ValueError(
            "Expected `precision` 32-true or bf16-mixed, but got 16-mixed: the discriminator's optimizer is "
            "stepped outside Lightning, which then cannot unscale its gradients."
        )
    if generator.facts.sample_rate != generator.facts.input_sample_rate:
        raise ValueError(
            f"Expected a generator that gives audio at the rate it takes, {generator.facts.input_sample_rate}, to "
            f"train it, but got {generator.facts.sample_rate}: such a codec is loaded and run, not trained, here."
        )
