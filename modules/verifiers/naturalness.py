"""Naturalness verifiers, without a reference: DNSMOS (Reddy et al., arXiv 2110.01763), Distill-MOS, UTMOS and other
regressors."""

import math
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt, VerifierFacts
from modules.audio import resampled
from modules.settings import constructor_settings
from modules.threads import num_cores, torch_threads
from modules.verifiers.audio import ClipVerifier, in_threads
from modules.verifiers.embeddings.audio_models import AudioModel, UsesAudioModel
from modules.verifiers.model_files import content_hash, model_folder, package_folder

SAMPLE_RATE = 16_000
WINDOW_SECONDS = 9.01
# FLOPs of one window, 2 per multiply-add, over the 3 x 3 convolutions; the size halves at each pooling by 2.
# P.835: 900 frames x 161 bins, channels 1-128-64-64-32, then 32-32-64. P.808: 900 x 120, channels 1-32-32-32-32-64.
P835_WINDOW_FLOPS = 18 * (
    900 * 161 * (128 + 128 * 64 + 64 * 64 + 64 * 32) + (450 * 80 + 225 * 40) * 32 * 32 + 112 * 20 * 32 * 64
)
P808_WINDOW_FLOPS = 18 * (900 * 120 * 32 + (450 * 60 + 2 * 225 * 30) * 32 * 32 + 112 * 15 * 32 * 64)
DISTILL_WINDOW, DISTILL_HOP = 122_880, 16_000  # samples
DISTILL_WINDOW_FLOPS = 30_508_812_688  # of one window, by torch's counter
UTMOS_FILE = "utmos_state_dict.pt"
UTMOS_FRAMES_PER_SECOND = 50


def audible(audio: Audio) -> np.ndarray:
    """The samples at 16 kHz. Raises ValueError for silence, for which the networks give a score too: Distill-MOS 1.97,
    more than for damaged speech."""
    samples_T = resampled(audio, SAMPLE_RATE)
    if not samples_T.any():
        raise ValueError("Expected `audio` that is not silent, but got silence.")
    return samples_T


class Dnsmos(ClipVerifier):
    """Mean opinion score, 1 (bad) to 5, predicted by DNSMOS: p808 and ovrl of the whole sound, sig of speech, bak of
    what is behind it.

    The networks of the package speechmos, on the CPU.

    A clip is repeated until it fills 9.01 s and scored in windows with a hop of 1 s, as in the reference; each window
    costs 0.17 CPU-seconds (P.835) or 0.01 (P.808). Clips are scored in parallel, one thread each, which is faster than
    one clip on all threads and gives the same numbers. `ovrl_mos`, `sig_mos` and `bak_mos` are outputs of one network
    and have the same model hash; `p808_mos` is the output of another.

    Args:
        field: Type of score: overall, signal or background (ITU-T P.835), or overall by ITU-T P.808.
        num_workers: Clips scored in parallel; 0 is one per core.
    """

    def __init__(
        self, field: Literal["ovrl_mos", "sig_mos", "bak_mos", "p808_mos"] = "ovrl_mos", num_workers: int = 0
    ) -> None:
        if field not in ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos"):
            raise ValueError(f"Expected `field` to be ovrl_mos, sig_mos, bak_mos or p808_mos, but got {field!r}.")
        super().__init__(f"naturalness_{field.removesuffix('_mos')}")
        self.field = field
        self.num_workers = num_workers

    @cached_property
    def facts(self) -> VerifierFacts:
        folder = package_folder("speechmos", "speechmos") / "dnsmos_models"
        return VerifierFacts(
            name=self.name,
            model_hash=content_hash([folder / ("model_v8.onnx" if self.field == "p808_mos" else "sig_bak_ovr.onnx")]),
            settings=constructor_settings(self),
            families=frozenset({"dnsmos"}),
            worst_score=1.0,
            best_score=5.0,
            reaches_ends=False,
            needs_text=False,
            needs_reference=False,
            judges_partial=True,
        )

    @cached_property
    @torch_threads()
    def _model(self) -> Any:
        try:
            import onnxruntime
            from speechmos.dnsmos import DNSMOS
        except ImportError as error:
            raise ImportError("DNSMOS needs speechmos: pip install speechmos onnxruntime librosa") from error
        folder = package_folder("speechmos", "speechmos") / "dnsmos_models"
        primary, p808 = str(folder / "sig_bak_ovr.onnx"), str(folder / "model_v8.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = DNSMOS(primary, p808)
        # One thread per clip and several clips in parallel; the network that the field does not need is not run.
        if self.field == "p808_mos":
            model.onnx_sess = _NotRun()
            model.p808_onnx_sess = onnxruntime.InferenceSession(p808, options)
        else:
            model.onnx_sess = onnxruntime.InferenceSession(primary, options)
            model.p808_onnx_sess = _NotRun()
        return model

    def _judge(self, audio: Audio) -> float:
        samples_T = np.clip(audible(audio), -1, 1)  # the range of a file with integer samples
        return self._model(samples_T, SAMPLE_RATE, False)[self.field]

    @torch_threads()
    def _judge_all(self, audios: list[Audio]) -> list[float | Exception]:
        self._model  # noqa: B018 - load once here, not in several threads
        return in_threads(self._judge, audios, self.num_workers or num_cores())

    def flops(self, seconds: float) -> float:
        """Number of windows x FLOPs of their convolutions (nearly the whole cost; see the constants above)."""
        if seconds <= 0:
            return 0.0
        while seconds < WINDOW_SECONDS:
            seconds *= 2
        # speechmos skips a window that is one sample short because of rounding.
        num_steps = int(np.floor(seconds) - WINDOW_SECONDS) + 1
        starts = range(0, num_steps * SAMPLE_RATE, SAMPLE_RATE)
        stops = [int((step + WINDOW_SECONDS) * SAMPLE_RATE) for step in range(num_steps)]
        full = int(WINDOW_SECONDS * SAMPLE_RATE)
        num_windows = sum(stop - start >= full for start, stop in zip(starts, stops, strict=True))
        return num_windows * (P808_WINDOW_FLOPS if self.field == "p808_mos" else P835_WINDOW_FLOPS)


class DistillMos(ClipVerifier):
    """Mean opinion score, 1 (bad) to 5, predicted by the network in the package distillmos (Stahl and Gamper, arXiv
    2502.05356), whose weights are in the package.

    A clip is filled with silence to 7.68 s, or scored in windows of that length with a hop of at most 1 s, and every
    window is scaled to its peak, as in the package. A window costs 0.5 CPU-seconds.

    Args:
        device: Device of the model.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__("distillmos")
        self.device = device

    @cached_property
    def _weights(self) -> Path:
        return package_folder("distillmos", "--no-deps distillmos xls-r-sqa") / "weights" / "distill_mos_v7.pt"

    @cached_property
    def facts(self) -> VerifierFacts:
        return VerifierFacts(
            name=self.name,
            model_hash=content_hash([self._weights]),
            settings=constructor_settings(self),
            families=frozenset({"distillmos"}),
            worst_score=1.0,
            best_score=5.0,
            reaches_ends=False,
            needs_text=False,
            needs_reference=False,
            judges_partial=True,
        )

    @cached_property
    def _model(self) -> Any:
        model = _distillmos().ConvTransformerSQAModel(load_weights=False)  # the package's own loading prints
        model.load_state_dict(torch.load(self._weights, map_location="cpu", weights_only=True)["model"])
        return model.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def _judge(self, audio: Audio) -> float:
        return float(self._model(torch.from_numpy(audible(audio))[None].to(self.device)))

    def _judge_all(self, audios: list[Audio]) -> list[float | Exception]:
        self._model  # noqa: B018 - a broken installation is not a clip's failure
        return in_threads(self._judge, audios, 1)

    def flops(self, seconds: float) -> float:
        """Number of windows x FLOPs of one."""
        if seconds <= 0:
            return 0.0
        surplus = max(0, round(seconds * SAMPLE_RATE) - DISTILL_WINDOW)
        return (math.ceil(surplus / DISTILL_HOP) + 1) * DISTILL_WINDOW_FLOPS


class Utmos(ClipVerifier):
    """Mean opinion score, 1 (bad) to 5, by the strong learner of UTMOS (Saeki et al., arXiv 2204.02152): a fine-tuned
    wav2vec 2.0 with a recurrent head, through the package utmos-pytorch, which has no weights. It is the UTMOS of most
    papers, the Llasa paper among them. Clips are scored one by one, since the network hears padding.

    Args:
        weights: Name on the hub, or a folder, with utmos_state_dict.pt: the tensors of the published checkpoint.
        device: Device of the model.

    Raises (on use):
        FileNotFoundError: There is no such file.
        ValueError: The file lacks a tensor, or one has another shape.
    """

    def __init__(self, weights: str = "Blinorot/UTMOS-PyTorch", device: str = "cpu") -> None:
        super().__init__("utmos")
        self.weights, self.device = weights, device

    @cached_property
    def _file(self) -> Path:
        file = model_folder(self.weights, [UTMOS_FILE]) / UTMOS_FILE
        if not file.is_file():
            raise FileNotFoundError(f"Expected {UTMOS_FILE} in {file.parent}, but there is no such file.")
        return file

    @cached_property
    def model_hash(self) -> str:
        return content_hash([self._file])

    @cached_property
    def facts(self) -> VerifierFacts:
        return VerifierFacts(
            name=self.name,
            model_hash=self.model_hash,
            settings=constructor_settings(self),
            families=frozenset({"utmos", "wav2vec2"}),
            worst_score=1.0,
            best_score=5.0,
            reaches_ends=False,
            needs_text=False,
            needs_reference=False,
            judges_partial=True,
        )

    @cached_property
    def _network(self) -> Any:
        try:
            from utmos_pytorch.utmos_torch import UTMOSModel, UTMOSScoreTorch
        except ImportError as error:
            raise ImportError("UTMOS needs utmos-pytorch: pip install utmos-pytorch") from error
        given = torch.load(self._file, map_location="cpu", weights_only=True, mmap=True)
        with torch.device("meta"):
            wanted = UTMOSModel().state_dict()
        for name, tensor in wanted.items():  # the package leaves what the file lacks random
            if name not in given or given[name].shape != tensor.shape:
                got = tuple(given[name].shape) if name in given else "no such tensor"
                raise ValueError(f"Expected {self._file} to hold {name} {tuple(tensor.shape)}, but got {got}.")
        return UTMOSScoreTorch(str(self._file), self.device).requires_grad_(False)

    @torch.inference_mode()
    def _judge(self, audio: Audio) -> float:
        return float(self._network.score(torch.from_numpy(audible(audio)).to(self.device)))

    def _judge_all(self, audios: list[Audio]) -> list[float | Exception]:
        self._network  # noqa: B018 - a broken installation is not a clip's failure
        return in_threads(self._judge, audios, 1)

    def flops(self, seconds: float) -> float:
        """2 FLOPs per weight and frame."""
        num_weights = sum(weight.numel() for weight in self._network.parameters())
        return 2.0 * num_weights * UTMOS_FRAMES_PER_SECOND * max(0.0, seconds)


class AudioRegressor(UsesAudioModel, ClipVerifier):
    """Score of a transformers regressor: any audio classification model with one output, such as a fine-tuned wav2vec2
    that predicts opinion scores. Higher must be better.

    Args:
        model: A folder, or a name on the hub.
        name: Column name in tables.
        worst_score: The lower end of the scale that the model was trained on.
        device: Device of the model.
        batch_size: Clips per batch.
        best_score: The upper end of the scale.
        families: Model families, for reports; None: the model type in its configuration.

    Raises:
        ValueError: At the first score, if the model does not have exactly one output.
    """

    def __init__(
        self,
        model: str,
        name: str = "naturalness",
        worst_score: float = 1.0,
        device: str = "cpu",
        batch_size: int = 16,
        best_score: float = 5.0,
        families: list[str] | None = None,
    ) -> None:
        super().__init__(name)
        self.worst_score, self.best_score = worst_score, best_score
        self._audio_model = AudioModel(model, "AutoModelForAudioClassification", device, batch_size, families)

    @cached_property
    def facts(self) -> VerifierFacts:
        """Its settings are the ends of its scale."""
        return VerifierFacts(
            name=self.name,
            model_hash=self.model_hash,
            settings=constructor_settings(self),
            families=self.families,
            worst_score=self.worst_score,
            best_score=self.best_score,
            reaches_ends=False,
            needs_text=False,
            needs_reference=False,
            judges_partial=True,
        )

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts, on the model's own scale: all clips in one batch."""
        if self._audio_model.config.num_labels != 1:
            number = self._audio_model.config.num_labels
            raise ValueError(f"Expected `model` of {self.name} to have 1 output, but got {number}.")
        return super().score_many(prompts, groups)

    def _judge_all(self, audios: list[Audio]) -> list[float | Exception]:
        return self._audio_model.judge(audios, lambda output, _: output.logits[:, 0].tolist())


class _NotRun:
    """Replaces a network that the field does not need: returns NaN."""

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[list[list[float]]]:
        return [[[float("nan")] * 3]]


def _distillmos() -> ModuleType:
    """The package distillmos, which imports torchaudio but uses it in its own command only. An empty module stands in
    for it during the import, and is removed: other libraries would take it for an installed torchaudio."""
    stands_in = "torchaudio" not in sys.modules and find_spec("torchaudio") is None
    if stands_in:
        sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        import distillmos
    except ImportError as error:
        raise ImportError("Distill-MOS needs distillmos: pip install --no-deps distillmos xls-r-sqa") from error
    finally:
        if stands_in:
            del sys.modules["torchaudio"]
    return distillmos
