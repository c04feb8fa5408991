"""How much of the oracle's gain is the judge's own noise: word errors of recordings that no listener tells apart.

    python -m studies.voice.judge_noise [--root FOLDER] [--run runs/test]

FOLDER holds cache/shards/open_voice and a run of configs/voice/open/evaluate.yaml. A variant of a recording has up to
20 ms of silence before it, a gain of up to 3 dB up or down, and white noise 60 dB below its peak; none goes through
the codec again. The judge is the one of the run. Two controls:

- The best by the judge of 8 variants of the teacher's own recording, against one of them: a gain without any
  difference of pronunciation.
- The oracle of the model's 8 candidates, which chooses by the candidates and is judged by a variant of each, or the
  other way round. What is left of its gain is of the candidates and not of the judge's noise.

Writes judge_noise.json beside this file and fills README.md; without --root only the latter.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch

from datamodules.prompt_sets.text_and_shard_prompts import PromptPlan
from datamodules.shards.shards import ShardIndex
from modules.api import Audio, Candidate, Prompt
from modules.audio import checked
from modules.codec.formats.checkpoints import CodecCheckpoint
from modules.provenance import package_versions
from modules.search.scorer import decode_candidates
from modules.statistics import UNBOUNDED, difference_ends
from modules.verifiers.recognisers.normalise import SpokenEnglish
from modules.verifiers.recognisers.whisper import FasterWhisper
from modules.verifiers.transcript import Transcript
from studies.collected import cell, date_and_machine, filled, table, write_json
from studies.voice.collect import HERE, JUDGE, RATE, ratio

PAGE, RESULTS = HERE / "README.md", HERE / "judge_noise.json"
NUM_TEACHER, NUM_CANDIDATE = 8, 1  # variants of a recording of the teacher, and of a candidate beside itself
SILENCE_MS, GAIN_DB, NOISE_DB = 20, 3, -60
WINDOW_SECONDS = 15


def variant(audio: Audio, seed: Sequence[int]) -> Audio:
    """The recording with silence before it, another gain and faint noise; a pure function of the seed."""
    random = np.random.default_rng(list(seed))
    samples_T = audio.samples_T.numpy() * 10 ** (random.uniform(-GAIN_DB, GAIN_DB) / 20)
    num_silent = random.integers(0, round(SILENCE_MS / 1000 * audio.sample_rate) + 1)
    samples_T = np.pad(samples_T, (num_silent, 0)).astype(np.float32)
    noise_T = random.standard_normal(len(samples_T), dtype=np.float32) * np.abs(samples_T).max() * 10 ** (NOISE_DB / 20)
    return Audio(torch.from_numpy(samples_T + noise_T), audio.sample_rate)


def repeated(errors_NV: np.ndarray) -> float:
    """Errors in one variant of the candidate that has the fewest in the others, on average over the variants; ties
    share."""
    found = []
    for index in range(errors_NV.shape[1]):
        others_N = np.delete(errors_NV, index, axis=1).sum(axis=1)
        found.append(errors_NV[np.isclose(others_N, others_N.min()), index].mean())
    return float(np.mean(found))


def noise_of(teacher_UV: np.ndarray, candidates_UNV: np.ndarray, words_U: np.ndarray) -> dict[str, Any]:
    """Word errors and gains, from the errors in every variant of the teacher's recordings and of the candidates.
    Shapes: U sentences, N candidates, V variants."""
    one_U, best_U = teacher_UV.mean(axis=1), teacher_UV.min(axis=1)
    sample_U = candidates_UNV.mean(axis=(1, 2))
    oracle_U = candidates_UNV.min(axis=1).mean(axis=1)  # chooses by the variant that judges
    repeated_U = np.array([repeated(errors_NV) for errors_NV in candidates_UNV])
    own, of_all = "teacher, one variant", "model, one sample"
    best, oracle = f"teacher, best of {teacher_UV.shape[1]} variants", f"model, oracle of {candidates_UNV.shape[1]}"
    other = f"{oracle}, judged by other variants"
    errors = {own: one_U, best: best_U, of_all: sample_U, oracle: oracle_U, other: repeated_U}
    saved = {best: one_U - best_U, oracle: sample_U - oracle_U, other: sample_U - repeated_U}
    return {
        "wer": {name: ratio(errors_U, words_U) for name, errors_U in errors.items()},
        "gain": {name: ratio(saved_U, words_U, difference_ends(RATE)) for name, saved_U in saved.items()},
        "share": {name: ratio(saved[name], saved[oracle], UNBOUNDED) for name in (best, other)},
        "sentences_whose_variants_differ": float((best_U < teacher_UV.max(axis=1)).mean()),
    }


def errors_of(judge: Transcript, prompt: Prompt, audios: Sequence[Audio | None], seed: int, num: int) -> np.ndarray:
    """(A, V) word errors of `num` variants of each recording, at most the sentence's words."""
    clips = [variant(checked(audio), (seed, row, index)) for row, audio in enumerate(audios) for index in range(num)]
    heard = [Candidate(prompt.key, row, 0, torch.zeros(0), 0.0, True, clip) for row, clip in enumerate(clips)]
    scores = np.nan_to_num(judge.score(prompt, heard).numpy())
    return (1 - scores).reshape(len(audios), num) * judge.reference_length(prompt)


def candidates_of(report: Path) -> dict[str, list[Candidate]]:
    """The stored candidates of each sentence, with the judge's score."""
    found: dict[str, list[Candidate]] = defaultdict(list)
    columns = ["prompt_key", "index", "seed", "log_probability", "stopped", JUDGE, "codes"]
    for row in pyarrow.parquet.read_table(report / "candidates.parquet", columns=columns).to_pylist():
        codes_S = torch.tensor(row["codes"])
        key, about = row["prompt_key"], (row["index"], row["seed"], codes_S, row["log_probability"])
        found[key].append(Candidate(key, *about, bool(row["stopped"]), scores={JUDGE: row[JUDGE]}))
    return found


def measured(root: Path, run: str, codec: Path) -> dict[str, Any]:
    plan = PromptPlan(ShardIndex.load(root / "cache/shards/open_voice/test", "audio"), None, None)
    candidates = candidates_of(root / run / "report")
    judge = Transcript(FasterWhisper(window_seconds=WINDOW_SECONDS, device="cpu"), SpokenEnglish(), name=JUDGE)
    decoder = CodecCheckpoint(codec, device="cpu")
    teacher, model, words = [], [], []
    for row in range(len(plan.audio)):
        prompt = plan.prompt(row)
        own = candidates[prompt.key]
        if not all(one.stopped and one.scores[JUDGE] == one.scores[JUDGE] for one in own):
            raise ValueError(f"Expected candidates that ended and were judged, but got others of {prompt.key!r}.")
        decode_candidates(own, decoder)
        words.append(judge.reference_length(prompt))
        teacher.append(errors_of(judge, prompt, [prompt.reference], 2 * row, NUM_TEACHER)[0])
        stored_N1 = np.array([[(1 - one.scores[JUDGE]) * words[-1]] for one in own])
        varied_NV = errors_of(judge, prompt, [one.audio for one in own], 2 * row + 1, NUM_CANDIDATE)
        model.append(np.concatenate([stored_N1, varied_NV], axis=1))
        print(f"{row + 1} of {len(plan.audio)}: {sum(map(np.mean, teacher)) / sum(words):.4f} of the words", flush=True)
    return {
        **date_and_machine(),
        "command": "python -m studies.voice.judge_noise --root FOLDER --run runs/NAME",
        "versions": package_versions(),
        "judge": judge.facts.settings | {"model_hash": judge.facts.model_hash},
        "variants": {
            "teacher": NUM_TEACHER,
            "candidate": NUM_CANDIDATE,
            "silence_ms": [0, SILENCE_MS],
            "gain_db": [-GAIN_DB, GAIN_DB],
            "noise_db_below_peak": NOISE_DB,
            "seeds": "numpy default_rng([2 * sentence + (0: teacher, 1: model), recording, variant])",
        },
        "num_sentences": len(words),
        **noise_of(np.stack(teacher), np.stack(model), np.array(words, dtype=float)),
    }


def render(found: dict[str, Any], page: str) -> str:
    """The page with the table of the judge's noise filled."""
    rows = [
        [name, *(cell(found[part].get(name)) for part in ("wer", "gain")), cell(found["share"].get(name), 2)]
        for name in found["wer"]
    ]
    return filled(page, "judge noise", "\n".join(table(["", "WER", "gain", "share of the oracle's gain"], rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with cache/shards/open_voice and the run")
    parser.add_argument("--run", default="runs/open_voice", help="folder of the run in it")
    parser.add_argument("--codec", type=Path, default=Path("voices/rms/codec.ckpt"), help="codec of the run")
    given = parser.parse_args()
    if given.root:
        write_json(measured(given.root, given.run, given.codec), RESULTS)
    page = render(json.loads(RESULTS.read_text(encoding="utf-8")), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
