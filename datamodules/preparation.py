"""From recordings to audio shards: resampled, checked, split, indexed."""

import io
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards import ShardIndex, ShardWriter, held_out
from datamodules.sources.source import Recording, Skipped, Source
from modules.api import SpeechStates

SILENCE_PEAK = 1e-3  # full scale is 1; below this a recording holds nothing


def prepare_audio_shards(
    sources: Sequence[Source],
    folder: Path,
    sample_rate: int,
    audio_format: str = "flac",
    samples_per_shard: int = 1000,
    semantic: SpeechStates | None = None,
) -> dict[str, ShardIndex]:
    """Turn sources into `folder/SPLIT` audio shards; does nothing where they stand already.

    With `semantic`, what it says of each whole recording stands beside the audio: KEY.states.npy, (S, C) float16.

    A recording that cannot be used is skipped, counted and listed in the index's report; it never stops the run. The
    shards are written beside `folder` and moved there whole; nothing in `folder` is ever removed.
    Raises ValueError where the folder was prepared from other sources or settings or holds something else, or where
    nothing could be used.
    """
    about = {
        "sample_rate": sample_rate,
        "audio_format": audio_format,
        "sources": [_describe(source) for source in sources],
    }
    if semantic is not None:
        about["semantic"] = semantic.encode_settings
    marker = folder / "prepared.json"
    if marker.is_file():
        prepared = json.loads(marker.read_text())
        if {name: prepared.get(name) for name in about} != about:
            raise ValueError(
                f"Expected `{folder}` to be prepared from {about}, but it was prepared from {prepared}. "
                "Name another folder, or remove this one to prepare it anew."
            )
        return {split: ShardIndex.load(folder / split, "audio") for split in prepared["splits"]}
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"Expected `folder` to be new, empty or prepared shards, but `{folder}` holds other files.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / folder.name
        splits = _write_splits(sources, whole, sample_rate, audio_format, samples_per_shard, semantic)
        (whole / "CREDITS.txt").write_text("\n\n".join(source.credits() for source in sources))
        (whole / marker.name).write_text(json.dumps({**about, "splits": splits}, indent=1))
        whole.replace(folder)
    indexes = {split: ShardIndex.load(folder / split, "audio") for split in splits}
    for split, index in indexes.items():
        minutes = index.lengths.sum() / sample_rate / 60
        print(f"{folder}/{split}: {len(index)} recordings, {minutes:.1f} minutes")
    return indexes


def usable_audio(recording: Recording, sample_rate: int) -> np.ndarray | str:
    """float32 samples at `sample_rate`, or the reason why there are none."""
    samples = recording.audio.samples_T.numpy()
    if samples.size == 0:
        return "empty"
    if not np.isfinite(samples).all():
        return "not finite"
    if np.abs(samples).max() < SILENCE_PEAK:
        return "silent"
    if recording.audio.sample_rate != sample_rate:
        import soxr

        samples = soxr.resample(samples, recording.audio.sample_rate, sample_rate)
    if samples.size < sample_rate // 20:
        return "shorter than 50 ms"
    return np.clip(samples, -1, 1).astype(np.float32)


def _write_splits(
    sources: Sequence[Source],
    folder: Path,
    sample_rate: int,
    audio_format: str,
    samples_per_shard: int,
    semantic: SpeechStates | None,
) -> list[str]:
    from tqdm import tqdm

    header = {"sample_rate": sample_rate, "audio_format": audio_format}
    if semantic is not None:
        header["semantic"] = semantic.encode_settings
    writers: dict[str, ShardWriter] = {}
    skipped: list[Skipped] = []
    keys: set[str] = set()
    with ExitStack() as stack:
        progress = stack.enter_context(
            tqdm(
                total=sum(source.num_recordings for source in sources),
                desc=f"preparing {folder.name}",
                unit="recording",
            )
        )
        for source in sources:
            for item in source.recordings():
                progress.update()
                samples = usable_audio(item, sample_rate) if isinstance(item, Recording) else item.reason
                if isinstance(samples, str):
                    skipped.append(Skipped(item.key, samples))
                    continue
                if item.key in keys:
                    skipped.append(Skipped(item.key, "another recording has this key"))
                    continue
                keys.add(item.key)
                split = item.split or ("held_out" if held_out(item.key) else "train")
                if split not in writers:
                    writer = ShardWriter(folder / split, "audio", header, samples_per_shard)
                    writers[split] = stack.enter_context(writer)
                files = _files(item, samples, sample_rate, audio_format)
                if semantic is not None:
                    files["states.npy"] = _states(semantic, samples)
                writers[split].write(item.key, files, len(samples), item.text)
        if not writers:
            reasons = [f"{item.key}: {item.reason}" for item in skipped[:5]]
            raise ValueError(f"Expected at least one usable recording, but got none; the first reasons: {reasons}.")
        first = writers.get("train", next(iter(writers.values())))
        for item in skipped:
            first.skip(item.key, item.reason)
    return sorted(writers)


def _files(recording: Recording, samples: np.ndarray, sample_rate: int, audio_format: str) -> dict[str, Any]:
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, sample_rate, format=audio_format.upper(), subtype=None)
    metadata = {
        "text": recording.text,
        "speaker": recording.speaker,
        "language": recording.language,
        "source": recording.source,
        "license": recording.license,
        "duration": len(samples) / sample_rate,
    }
    return {audio_format: stream.getvalue(), "json": metadata}


def _states(semantic: SpeechStates, samples: np.ndarray) -> np.ndarray:
    """(S, C) float16."""
    import torch

    audio_BT = torch.from_numpy(samples)[None]
    return semantic(audio_BT, torch.tensor([len(samples)])).latent_BSC[0].half().numpy()


def _describe(source: Source) -> dict[str, Any]:
    """The source's class and public settings, as JSON holds them."""
    settings = {
        name: _describe(value) if hasattr(value, "recordings") else value
        for name, value in vars(source).items()
        if not name.startswith("_")
    }
    return json.loads(json.dumps({"class": type(source).__name__, **settings}, default=str))
