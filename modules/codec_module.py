"""CodecModule: the GAN step of the codec; predict_step tokenises.

Shapes: B batch, T samples, S frames.
"""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from modules.api import AudioBatch, CodePrediction
from modules.codec.discriminators import judge_pair
from modules.codec.generator import CodecGenerator
from modules.codec.losses import LossWeights, adversarial_loss, discriminator_loss, feature_matching_loss


class CodecModule(L.LightningModule):
    """A codec trained with reconstruction losses and, from a given step on, discriminators.

    Optimisation is manual. Only the generator's optimizer counts steps: `global_step`, `max_steps` and checkpoints mean
    generator updates. Gradients are clipped per network.

    Args:
        generator: Encoder, quantizer and decoder.
        discriminator: forward(audio_BT) -> Judgement.
        reconstruction_loss: forward(generated_BT, target_BT) -> scalar.
        optimizer, scheduler: Of the generator; the scheduler steps once per update.
        discriminator_optimizer, discriminator_scheduler: Of the discriminator.
        loss_weights: Weights of the generator's terms.
        discriminator_start_step: First generator update with discriminators; at or above max_steps: none.
        discriminator_samples: Length of the random window that discriminators see; 0 for whole crops.
        gradient_clip: Largest gradient norm of either network.
    """

    def __init__(
        self,
        generator: CodecGenerator,
        discriminator: nn.Module,
        reconstruction_loss: nn.Module,
        optimizer: OptimizerCallable,
        discriminator_optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None = None,
        discriminator_scheduler: LRSchedulerCallable | None = None,
        loss_weights: LossWeights = LossWeights(),  # noqa: B008 (frozen)
        discriminator_start_step: int = 0,
        discriminator_samples: int = 0,
        gradient_clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator, self.discriminator, self.reconstruction_loss = generator, discriminator, reconstruction_loss
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer
        self.scheduler, self.discriminator_scheduler = scheduler, discriminator_scheduler
        self.loss_weights, self.gradient_clip = loss_weights, gradient_clip
        self.discriminator_start_step, self.discriminator_samples = discriminator_start_step, discriminator_samples

    def configure_optimizers(self) -> Any:
        generator = self.optimizer(self.generator.parameters())
        discriminator = self.discriminator_optimizer(self.discriminator.parameters())
        schedulers = [
            schedule(optimizer)
            for schedule, optimizer in (
                (self.scheduler, generator),
                (self.discriminator_scheduler, discriminator),
            )
            if schedule is not None
        ]
        return [generator, discriminator], schedulers

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer.precision == "16-mixed":
            raise ValueError(
                "Expected `precision` 32-true or bf16-mixed, but got 16-mixed: the discriminator's optimizer is "
                "stepped outside Lightning, which then cannot unscale its gradients."
            )

    def training_step(self, batch: AudioBatch, batch_index: int) -> None:
        # The raw discriminator optimizer does not count into global_step.
        generator_optimizer, _ = self.optimizers()
        _, discriminator_optimizer = self.optimizers(use_pl_optimizer=False)
        timed = self.trainer.profiler.profile
        target_BT = batch.audio_BT
        with timed("codec: generator"):
            generated_BT = self.generator(target_BT, batch.num_samples_B).audio_BT
        with timed("codec: reconstruction loss"):
            reconstruction = self.reconstruction_loss(generated_BT, target_BT)
        terms = {"mel": reconstruction}
        loss = self.loss_weights.mel * reconstruction
        if self.global_step >= self.discriminator_start_step:
            real_BT, fake_BT = self._discriminator_window(target_BT, generated_BT)
            with timed("codec: discriminator update"):
                terms["discriminator"] = self._update_discriminator(real_BT, fake_BT, discriminator_optimizer)
            with timed("codec: adversarial terms"):
                terms["adversarial"], terms["feature_matching"] = self._adversarial_terms(real_BT, fake_BT)
            loss = loss + self.loss_weights.adversarial * terms["adversarial"]
            loss = loss + self.loss_weights.feature_matching * terms["feature_matching"]
        generator_optimizer.zero_grad()
        with timed("codec: backward"):
            self.manual_backward(loss)
        with timed("codec: generator update"):
            norm = nn.utils.clip_grad_norm_(self.generator.parameters(), self.gradient_clip)
            generator_optimizer.step()
        self._step_schedulers()
        terms |= {"loss": loss, "generator_gradient_norm": norm}
        if self._logs_now():
            self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
            self.log("train/mel_bar", reconstruction.detach(), prog_bar=True, logger=False)

    def _logs_now(self) -> bool:
        return self.global_step % self.trainer.log_every_n_steps == 0

    def _discriminator_window(self, real_BT: Tensor, fake_BT: Tensor) -> tuple[Tensor, Tensor]:
        length = self.discriminator_samples or real_BT.shape[-1]
        room = max(0, real_BT.shape[-1] - length)
        # A function of the step, so that a resumed run looks at the same windows.
        start = int(torch.randint(room + 1, (), generator=torch.Generator().manual_seed(self.global_step)))
        return real_BT[:, start : start + length], fake_BT[:, start : start + length]

    def _update_discriminator(self, real_BT: Tensor, fake_BT: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        real, fake = judge_pair(self.discriminator, real_BT, fake_BT.detach())
        loss = discriminator_loss(real.scores, fake.scores)
        optimizer.zero_grad()
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.gradient_clip)
        optimizer.step()
        return loss

    def _adversarial_terms(self, real_BT: Tensor, fake_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The generator's terms; the discriminator's weights get no gradient here."""
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            real = self.discriminator(real_BT)
        fake = self.discriminator(fake_BT)
        self.discriminator.requires_grad_(True)
        return adversarial_loss(fake.scores), feature_matching_loss(real.features, fake.features)

    def _step_schedulers(self) -> None:
        schedulers = self.lr_schedulers() or []
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()

    def validation_step(self, batch: AudioBatch, batch_index: int) -> dict[str, Tensor]:
        made = self.generator(batch.audio_BT, batch.num_samples_B)
        audible_BT = torch.arange(batch.audio_BT.shape[-1], device=self.device) < batch.num_samples_B[:, None]
        loss = self.reconstruction_loss(made.audio_BT * audible_BT, batch.audio_BT)
        self.log("val/mel", loss, prog_bar=True, sync_dist=True, batch_size=len(batch.keys))
        return {"codes_BS": made.codes_BS, "num_codes_B": made.num_codes_B}

    def test_step(self, batch: AudioBatch, batch_index: int) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_index)

    def predict_step(self, batch: AudioBatch, batch_index: int, dataloader_idx: int = 0) -> CodePrediction:
        codes_BS, num_codes_B = self.generator.encode(batch.audio_BT, batch.num_samples_B)
        return CodePrediction(codes_BS, num_codes_B, batch)

    def resynthesise(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Audio after encoding and decoding, (B, T)."""
        codes_BS, num_codes_B = self.generator.encode(audio_BT, num_samples_B)
        return self.generator.decode(codes_BS, num_codes_B)[:, : audio_BT.shape[-1]]
