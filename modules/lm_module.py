"""LMModule: the language model as a LightningModule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor

from modules.api import PromptFormat, Sampler, SamplerEngine, SamplingSettings
from modules.batches import NamesPromptSets, PromptBatch, TokenBatch
from modules.lm.accumulation import AccumulationWindow, summed_over_ranks
from modules.lm.adapters import LowRankAdapters, add_adapters, stored_weights
from modules.lm.flops import TransformerSize
from modules.lm.loss import code_bits, sums_by_task
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama, model_hash
from modules.lm.pretrained import PretrainedNetwork, check_adapters, load_pretrained
from modules.lm.sampling.noise import training_seed
from modules.lm.sampling.sampler import sampler_of
from modules.lm.sharding import build_sharded
from modules.lm.text.answers import AnswerKind
from modules.metrics import PooledMean
from modules.step_logging import is_logged_step, log_step
from modules.tokens import TokenSpace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LMModule(lightning.LightningModule):
    """A Llama over text and speech tokens, trained on the speech.

    The checkpoint is the model file: `load_from_checkpoint` rebuilds everything, also with `weights_only=True` if the
    module was built by the command line. Sampling settings are not part of it; pass them to `sampler`.

    Args:
        prompt_format: Layout of text and codes; owns the vocabulary. Must equal that of the data.
        size: Sizes of a new Llama.
        optimizer: Called with the trained parameters.
        scheduler: Called with the optimizer; stepped once per optimizer step. None keeps the learning rate constant.
        pretrained: A network to initialise from, in place of a new one of `size`.
        adapters: Train low-rank adapters and freeze the rest.
        recompute_activations: Keep only the blocks' inputs and recompute the rest in the backward pass.

    Raises:
        ValueError: When loading a checkpoint of another TokenSpace; in a fit, for adapters with new tokens that stay
            frozen.
    """

    def __init__(
        self,
        prompt_format: PromptFormat,
        size: LlamaSize = LlamaSize(),  # noqa: B008 (frozen)
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        pretrained: PretrainedNetwork | None = None,
        adapters: LowRankAdapters | None = None,
        recompute_activations: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)  # a logger cannot write frozen dataclasses; run.py saves the config
        self.prompt_format = prompt_format
        self.size = size
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.pretrained = pretrained
        self.adapters = adapters
        self.recompute_activations = recompute_activations
        self.model: SpeechLanguageModel | None = None
        self.val_loss, self.val_code_bits, self.val_bits = PooledMean(), PooledMean(), PooledMean()
        self.val_task_losses = torch.nn.ModuleDict()
        self._window: AccumulationWindow | None = None  # the micro-batches of the current step
        self._task_totals: Tensor | None = None  # (2, tasks): sum of losses and number of targets since the last log
        self.codec_fingerprint = ""  # fingerprint of the training data's codec; known after training or loading
        self.training_facts: dict[str, Any] = {}  # plain data about the training data, needed to speak

    @property
    def token_space(self) -> TokenSpace:
        return self.prompt_format.token_space

    @property
    def network(self) -> SpeechLanguageModel:
        """The network, once `configure_model` has built it."""
        if self.model is None:
            self.configure_model()
        return self.model

    def configure_model(self) -> None:
        """Build the network once: sharded if there is a device mesh (ModelParallelStrategy), otherwise whole.

        Lightning calls this before it restores weights (shard by shard if sharded), so nothing may initialise them
        later.
        """
        if self.model is not None:
            return
        if self.device_mesh is not None:
            num_tensor_parallel = self.device_mesh["tensor_parallel"].size()
            if num_tensor_parallel != 1:
                raise ValueError(f"Expected `tensor_parallel_size` to be 1, but got {num_tensor_parallel}.")
            parameter_dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            mesh = self.device_mesh["data_parallel"]
            self.model = build_sharded(self._new_network, self._prepare, mesh, parameter_dtype)
        else:
            network = self._new_network()
            self._prepare(network)
            self.model = SpeechLanguageModel(network)

    def _new_network(self) -> PreTrainedModel:
        if self.pretrained is not None:
            return load_pretrained(self.pretrained, self.token_space)
        return build_llama(self.size, self.token_space.vocab_size)

    def _prepare(self, network: PreTrainedModel) -> None:
        if self.adapters is not None:
            add_adapters(network, self.adapters)
        if self.recompute_activations:
            network.gradient_checkpointing_enable()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([weight for weight in self.parameters() if weight.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    # -------------------------------------------------------------------------------------------------------- steps

    def on_fit_start(self) -> None:
        self._seed, self._window = torch.initial_seed(), None

    def on_train_batch_start(self, batch: TokenBatch, batch_index: int) -> None:
        if self.adapters is not None and self.adapters.dropout:
            # Makes a resumed run equal an uninterrupted one. Checkpoints do not store every rank's random state.
            torch.manual_seed(training_seed(self._seed, self.global_rank, self.global_step, batch_index))

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Return a loss whose gradient, over the micro-batches of a step and averaged over ranks, is that of the mean
        over all their targets: see AccumulationWindow."""
        loss = self.network(batch)
        num_accumulated = self.trainer.accumulate_grad_batches
        if self._window is None or batch_index % num_accumulated == 0:  # Lightning zeroes the gradients here
            self._window = AccumulationWindow(self.trainer.world_size)
        if batch.tasks_RL is not None:
            sums = sums_by_task(loss, batch, len(self.val_task_losses))
            self._task_totals = sums if self._task_totals is None else self._task_totals + sums
        return self._window.add(loss) * num_accumulated  # Lightning divides by it, even in a last, shorter window

    def optimizer_step(self, epoch: int, batch_index: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Average the gradients right after the last backward pass, before callbacks and clipping read them."""

        def closure() -> Tensor | None:
            loss = optimizer_closure()
            self._window.average_gradients(self.parameters())
            return loss

        super().optimizer_step(epoch, batch_index, optimizer, closure)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip as Lightning does, also gradients of a fused optimizer in bf16-mixed. Lightning refuses those because
        a fused optimizer unscales its gradients itself; but only fp16 has a scaler."""
        plugin = self.trainer.precision_plugin
        if not gradient_clip_val or not isinstance(plugin, MixedPrecision) or plugin.scaler is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        algorithm = gradient_clip_algorithm or GradClipAlgorithmType.NORM
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val, GradClipAlgorithmType(algorithm))

    def validation_step(self, batch: TokenBatch, batch_index: int) -> None:
        loss = self.network(batch)
        self.val_loss.update(loss.total, loss.num_targets)
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=1)
        if self._frame_rate:
            bits_C = code_bits(loss, batch.labels_RL, self.token_space.code_offset)  # none for text answers
            self.val_code_bits.update(self._frame_rate * bits_C.sum(), len(bits_C))
            self.log("val/bits_per_second_of_audio", self.val_code_bits, batch_size=1)
            if batch.tasks_RL is None:  # words among the codes count too
                num_bits = loss.losses_N.sum() / math.log(2) * bool(len(bits_C))
                self.val_bits.update(self._frame_rate * num_bits, len(bits_C))
                self.log("val/bits_per_second_of_audio_all_tokens", self.val_bits, batch_size=1)
        if batch.tasks_RL is not None:
            sums = sums_by_task(loss, batch, len(self.val_task_losses))
            for metric, total, count in zip(self.val_task_losses.values(), *sums, strict=True):
                metric.update(total, count)
            self.log_dict({f"val/loss_{name}": metric for name, metric in self.val_task_losses.items()}, batch_size=1)

    def test_step(self, batch: PromptBatch | TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Teacher-forced loss, if the codes are known. Callbacks do the sampling."""
        tokens = batch.tokens if isinstance(batch, PromptBatch) else batch
        if tokens is not None:
            loss = self.network(tokens)
            mean = loss.total / loss.num_targets.clamp(min=1)
            tag = self._test_tag(dataloader_idx)
            self.log(tag, mean, batch_size=int(loss.num_targets), sync_dist=True, add_dataloader_idx=False)

    def _test_tag(self, dataloader_idx: int) -> str:
        """`test/loss`, followed by the name of the prompt set where there are several."""
        loaders, data = self.trainer.test_dataloaders, getattr(self.trainer, "datamodule", None)
        if not isinstance(loaders, list) or len(loaders) == 1:
            return "test/loss"
        name = data.prompt_set_names[dataloader_idx] if isinstance(data, NamesPromptSets) else dataloader_idx
        return f"test/loss/{name}"

    def predict_step(self, batch: PromptBatch, batch_index: int, dataloader_idx: int = 0) -> PromptBatch:
        """Return the batch itself, for callbacks that sample."""
        return batch

    def setup(self, stage: str) -> None:
        if stage == "fit":
            check_adapters(self.adapters, self.pretrained)
        data = getattr(self.trainer, "datamodule", None)
        names, self._frame_rate = getattr(data, "task_names", []), getattr(data, "frame_rate", None)
        self.val_task_losses = torch.nn.ModuleDict({name: PooledMean() for name in names}).to(self.device)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the loss of the step, over all its micro-batches and ranks, and the losses by task."""
        if is_logged_step(self.trainer):
            total, num_targets = self._window.sums()
            mean = total / num_targets.clamp(min=1)
            self.log("train/loss", mean, batch_size=1)
            # Set directly: Lightning would synchronise with the device for this number after every later step.
            self.trainer.progress_bar_metrics["train/loss"] = float(mean)
            values = {"train/perplexity": mean.exp(), "train/num_targets": num_targets}
            log_step(self.trainer, values | self._task_losses())

    def _task_losses(self) -> dict[str, float]:
        """Mean loss of each task that occurred on any rank since the last call, every `log_every_n_steps`."""
        if self._task_totals is None or (self.global_step + 1) % (self.trainer.log_every_n_steps or 1):
            return {}
        totals_2K = summed_over_ranks(self._task_totals, self.trainer.world_size)
        self._task_totals = None
        totals = zip(self.val_task_losses, totals_2K.T.tolist(), strict=True)
        return {f"train/loss_{name}": total / count for name, (total, count) in totals if count}

    # ----------------------------------------------------------------------------------------------------- sampling

    def sampler(
        self,
        settings: SamplingSettings,
        max_batch_rows: int = 64,
        answer: AnswerKind = "speech",
        engine: SamplerEngine | None = None,
    ) -> Sampler:
        """Return a sampler of codes, or of transcripts. It uses the network's weights at the time of each call; an
        `engine`, which samples only codes, uses a copy of the current ones.

        Raises ValueError under a sharding strategy, because sampling needs whole weights, and for text from an engine.
        """
        if self.device_mesh is not None:
            raise ValueError("Expected whole weights to sample from, but got a sharded model: sample with one device.")
        return sampler_of(self.network, self.prompt_format, settings, engine, max_batch_rows, answer)

    def training_flops(self, num_tokens: float, num_documents: float, num_targets: float) -> float:
        """FLOPs of training on `num_tokens` in documents of equal length (TransformerSize.training_flops)."""
        size = TransformerSize.of(self.network.llama)
        return size.training_flops(num_tokens, num_tokens / num_documents, num_targets / num_tokens)

    @property
    def model_hash(self) -> str:
        """Hash that identifies this model in stored candidates (modules.lm.network.model_hash)."""
        return model_hash(self.network, self.token_space)

    # -------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.adapters is not None and self.device_mesh is None:
            trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
            checkpoint["state_dict"] = stored_weights(checkpoint["state_dict"], trained)
        checkpoint["token_space"] = self.token_space.as_dict()
        checkpoint["network_config"] = self.network.llama.config.to_json_string(use_diff=False)
        data = getattr(self.trainer, "datamodule", None)
        checkpoint["codec_fingerprint"] = getattr(data, "codec_fingerprint", self.codec_fingerprint)
        checkpoint["training_facts"] = getattr(data, "training_facts", self.training_facts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_token_space(self.token_space, checkpoint.get("token_space"))
        self.codec_fingerprint = checkpoint.get("codec_fingerprint", "")
        self.training_facts = checkpoint.get("training_facts", {})


def check_token_space(expected: TokenSpace, stored: dict[str, Any] | None) -> None:
    """Raise ValueError if a checkpoint has another TokenSpace."""
    if stored != expected.as_dict():
        raise ValueError(
            f"Expected a checkpoint with the `token_space` {expected.as_dict()}, but got one with {stored}. "
            "The text tokenizer and the codec's codebook must be those that the model was trained with."
        )
