"""Every overlay of configs/corpora, prepared from a miniature in the published layout, quirks included.

    python -m studies.corpora.layouts

The miniatures are those of the tests: recordings of 0.05 to 1 s. Writes layouts.json beside this file. Their audio is
one tone, so `duplicate_audio` is off.
"""

import contextlib
import importlib
import inspect
import io
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.quality import QualityControl
from datamodules.sources.source import Source
from studies.collected import date_and_machine, write_json
from tests.datamodules.sources import (
    test_common_voice,
    test_emilia,
    test_folder,
    test_huggingface,
    test_kaldi,
    test_lhotse,
    test_librispeech,
    test_libritts,
    test_manifest,
    test_mls,
    test_vctk,
    test_webdataset_tars,
    test_wenetspeech4tts,
)
from tests.toys.miniatures import write_text, write_tone
from tests.toys.tar_miniatures import write_tar

HERE = Path(__file__).parent
OVERLAYS = HERE.parents[1] / "configs/corpora"
SAMPLE_RATE = 16_000


def emilia_first_layout(root: Path) -> None:
    write_tar(root / "EN/EN_B00000.tar.gz", test_emilia.write_first_layout(root), "w:gz")


def f5_tts(root: Path) -> None:
    write_tone(root / "wavs/a.wav", 24_000)
    write_tone(root / "wavs/b.wav", 24_000, 0.2)
    rows = ["audio_file|text", f'{root}/wavs/a.wav|He said "no', "wavs/b.wav|one | two", "wavs/c.wav|no file", "bad"]
    write_text(root / "metadata.csv", b"\xef\xbb\xbf" + "\r\n".join(rows).encode())


def lhotse(root: Path) -> None:
    from lhotse import AudioSource, Recording, RecordingSet, SupervisionSet

    with pytest.MonkeyPatch.context() as patch:
        recordings = test_lhotse.recordings_of(root, patch)
    recordings["piped"] = Recording("piped", [AudioSource("command", [0], "cat audio/a.wav")], SAMPLE_RATE, 3200, 0.2)
    spans = [
        test_lhotse.supervision("s1", "x.y/call", 0.05, 0.1, "left", channel=0, speaker="ann"),
        test_lhotse.supervision("s2", "x.y/call", 0.1, 0.2, "right", channel=1, speaker="bob"),
        test_lhotse.supervision("s3", "a", 0, 0.2, "whole", speaker="ann"),
        test_lhotse.supervision("s4", "piped", 0, 0.2, "piped"),
        test_lhotse.supervision("s5", "a", 0, 0.2, None),
    ]
    RecordingSet.from_recordings(recordings.values()).to_file(root / "data/toy_recordings.jsonl.gz")
    SupervisionSet.from_segments(spans).to_file(root / "data/toy_supervisions.jsonl.gz")


def with_patch(write: Callable[[Path, pytest.MonkeyPatch], Any]) -> Callable[[Path], None]:
    def call(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            write(root, patch)

    return call


# Writes the miniature of an overlay into an empty folder; returns the folder of the source if it is another.
MINIATURES: dict[str, Callable[[Path], Path | None]] = {
    "ljspeech": test_folder.write_ljspeech,
    "libritts": test_libritts.write_corpus,
    "libritts_r": lambda root: test_libritts.write_corpus(root, underscores=True),
    "librispeech": test_librispeech.write_corpus,
    "mls": test_mls.write_corpus,
    "common_voice": test_common_voice.write_corpus,
    "vctk": test_vctk.write_corpus,
    "wenetspeech4tts": test_wenetspeech4tts.write_corpus,
    "emilia": test_emilia.write_emilia,
    "emilia_first_layout": emilia_first_layout,
    "huggingface_parquet": with_patch(test_huggingface.write_parquet),
    "huggingface_audiofolder": lambda root: test_huggingface.write_audio_folder(root, "csv"),
    "lhotse": lhotse,
    "lhotse_shar": lambda root: with_patch(test_lhotse.write_shar)(root) or root / "shar",
    "kaldi": test_kaldi.write_directories,
    "webdataset": lambda root: test_webdataset_tars.write_tars(root),
    "nemo_manifest": test_manifest.write_nemo,
    "f5_tts_csv": f5_tts,
}


# Names of columns and fields in the miniatures of layouts that hold any corpus.
FIELDS = {
    "huggingface_parquet": {"text_column": "sentence"},
    "webdataset": {"text_field": "transcript", "speaker_field": "who", "license_field": "licence"},
}


def source_of(overlay: Path, folder: Path) -> Source:
    """The source that an overlay names, reading another folder."""
    (named,) = yaml.safe_load(overlay.read_text())["data"]["init_args"]["sources"]
    settings = {**named["init_args"], "folder": folder, **FIELDS.get(overlay.stem, {})}
    module, _, name = named["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**settings)


def prepared(name: str, home: Path) -> dict[str, Any]:
    corpus = home / name
    corpus.mkdir()
    folder = MINIATURES[name](corpus)
    source = source_of(OVERLAYS / f"{name}.yaml", folder or corpus)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        quality = QualityControl(duplicate_audio=False)
        indices = prepare_audio_shards([source], home / f"{name}_shards", SAMPLE_RATE, quality=quality)
    skips = Counter(
        one["reason"].partition(":")[0] for index in indices.values() for one in index.report.get("skipped", ())
    )
    lines = (OVERLAYS / f"{name}.yaml").read_text().splitlines()
    return {
        "source": type(source).__name__,
        "recordings": {split: len(index) for split, index in indices.items()},
        "seconds": round(sum(int(index.lengths.sum()) for index in indices.values()) / SAMPLE_RATE, 3),
        "yaml_lines": sum(not line.startswith("#") for line in lines),
        "source_lines": len(Path(inspect.getfile(type(source))).read_text().splitlines()),
        "skips": dict(sorted(skips.items())),
    }


def main() -> None:
    names = sorted(path.stem for path in OVERLAYS.glob("*.yaml"))
    if set(names) != set(MINIATURES):
        raise ValueError(f"Expected a miniature for each overlay, but got {sorted(set(names) ^ set(MINIATURES))}.")
    with tempfile.TemporaryDirectory() as home:
        layouts = {name: prepared(name, Path(home)) for name in MINIATURES}
    write_json({"layouts": layouts, **date_and_machine()}, HERE / "layouts.json")


if __name__ == "__main__":
    main()
