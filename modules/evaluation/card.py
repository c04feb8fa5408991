"""The evaluation card: a JSON record of everything needed to reproduce a codec's table."""

import hashlib
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

import torch

from modules.api import Verifier
from modules.evaluation.judge import METRIC_RATE, EvaluatedRecording
from modules.evaluation.systems import CodecUnderTest, Resynthesiser, public
from modules.provenance import package_versions, plain
from modules.recognition import Recogniser
from modules.statistics import interval_label
from modules.verifiers.audio import audio_hash

PACKAGES = (
    *("torch", "lightning", "transformers", "faster-whisper", "ctranslate2", "jiwer", "pystoi", "pesq", "speechmos"),
    *("distillmos", "moonshine-voice", "onnxruntime", "utmos-pytorch", "librosa", "resemblyzer", "av", "soxr", "numpy"),
)


def data_hash(hashes: Mapping[str, str]) -> str:
    """sha256 over the keys and hashes of the evaluated recordings, in the order of the keys."""
    return hashlib.sha256("".join(f"{key} {hashes[key]}\n" for key in sorted(hashes)).encode()).hexdigest()


def utterance_hash(utterance: EvaluatedRecording) -> str:
    """sha256 of the recording's samples, its rate and its text."""
    return hashlib.sha256(f"{audio_hash(utterance.audio)} {utterance.text}".encode()).hexdigest()


def described_data(data: Any, hashes: Mapping[str, str], selection: Any, left_out: Counter[str]) -> dict[str, Any]:
    """Source of the recordings (`data`, the datamodule), and their hashes."""
    return {
        "folder": str(getattr(data, "folder", "")),
        "split": getattr(data, "validation_split", ""),
        "sample_rate": data.sample_rate,
        "sources": [plain(source) for source in getattr(data, "sources", None) or []],
        "sha256": data_hash(hashes),
        "num_prompts": len(hashes),
        "selection": asdict(selection),
        "num_left_out": dict(left_out),
    }


def described_systems(
    under_test: CodecUnderTest, systems: Sequence[Resynthesiser], comparisons: Sequence[Resynthesiser]
) -> dict[str, Any]:
    """The codec under test with its hashes, the others with settings, and unavailable systems."""
    codec, layout = under_test.codec, ("codebook_size", "num_codebooks", "frame_rate", "latency_seconds")
    facts = {one.facts.name: asdict(one.facts) for one in systems}
    missing = [one.facts for one in comparisons if one.facts.requirement]
    return {
        "codec": {
            "name": under_test.facts.name,
            "model_hash": under_test.model_hash,
            "fingerprint": codec.fingerprint,
            "frame_rate": codec.facts.frame_rate,
            "codebook_size": codec.facts.codebook_size,
        },
        "comparisons": {one.facts.name: _described(one) for one in systems[2:]},
        "missing_comparisons": {one.name: one.requirement for one in missing},
        "facts": {name: {key: value for key, value in one.items() if key in layout} for name, one in facts.items()},
    }


def _described(system: Resynthesiser) -> dict[str, Any]:
    record, settings = {"class": type(system).__qualname__}, plain(system.facts.settings)
    return record | ({"model_hash": system.model_hash, "settings": settings} if system.model_hash else settings)


def described_judges(recogniser: Recogniser | None, normaliser: Any, verifiers: Sequence[Verifier]) -> dict[str, Any]:
    """Recogniser, normaliser and verifiers: hashes of the models' weights, and their settings."""
    return {
        "recogniser": plain({**public(recogniser), "model_hash": recogniser.model_hash}) if recogniser else None,
        "normaliser": normaliser.name,
        "verifiers": {verifier.facts.name: plain(verifier) for verifier in verifiers},
        "judged_at_hz": METRIC_RATE,
    }


def described_run(device: torch.device, seed: int, num_resamples: int) -> dict[str, Any]:
    """Interval, seeds, versions and machine, which real-time factors depend on."""
    return {
        "interval": interval_label("utterances", num_resamples)
        + "; of code usage and perplexity the percentile bootstrap's spread",
        "seed": seed,
        "seed_everything": torch.initial_seed(),
        "machine": {
            "device": str(device),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
            "processor": platform.processor() or platform.machine(),
            "num_cores": os.cpu_count(),
            "num_threads": torch.get_num_threads(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),  # CTranslate2's transcripts depend on it
        },
        "versions": {"python": platform.python_version(), **package_versions(PACKAGES)},
        "date": date.today().isoformat(),
    }
