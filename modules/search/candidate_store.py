"""CandidateStore: sampled candidates on disk, so that sweeps resume and new selectors need no new samples."""

import json
import logging
import math
import os
import re
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from modules.api import Candidate, Cost, Prompt, disagreement_name
from modules.atomic_file import write_whole
from modules.provenance import digest
from modules.search.protocol import Trace
from modules.search.voices import voice_codes

logger = logging.getLogger(__name__)

# 3: identities use the prompt's tokens and the model's configuration, and no class's module path.
FORMAT_VERSION = 3


@dataclass
class CandidateRecord:
    """A prompt's trace with score identities and transcripts of its candidates.

    `score_identities` maps a verifier's name to the model and settings that gave its scores (see `score_identity`).
    `hypotheses` maps (candidate index, verifier name) to the verifier's transcript.
    """

    trace: Trace
    score_identities: dict[str, str] = field(default_factory=dict)
    hypotheses: dict[tuple[int, str], str] = field(default_factory=dict)

    def forget_scores_of_others(self, identities: dict[str, str]) -> None:
        """Remove scores, costs, transcripts of other versions of the verifiers in `identities` (name -> identity)."""
        for name, identity in identities.items():
            if self.score_identities.get(name) == identity:
                continue
            for candidate in self.trace.candidates:
                candidate.scores.pop(name, None)
                candidate.scores.pop(disagreement_name(name), None)
                candidate.verifier_costs.pop(name, None)
            self.hypotheses = {key: text for key, text in self.hypotheses.items() if key[1] != name}
            self.score_identities[name] = identity


def file_name(text: str) -> str:
    """Convert a text to a file name: keeps letters and digits of any script with their combining marks, `-` and `_`; a
    run of other characters becomes one `_`."""
    kept = (one if one.isalnum() or one in "-_" or unicodedata.category(one)[0] == "M" else "\0" for one in text)
    return re.sub("\0+", "_", "".join(kept))


class CandidateStore:
    """One JSON file per (model, prompt, setting) in `folder`, one candidate per line.

    The file name contains the prompt's key and the digest of the identity (`candidate_identity`); the file contains the
    identity and a digest of the content. Writes are atomic: files are written under a temporary name in the same
    folder, flushed to disk and renamed. A damaged file is logged and renamed to NAME.damaged.

    Args:
        folder: Need not exist.
        reports_older: Log once, at the first missing prompt, the number of files in an older format.
    """

    def __init__(self, folder: Path, reports_older: bool = True) -> None:
        self.folder, self._reports_older = Path(folder), reports_older

    def path(self, identity: dict[str, Any]) -> Path:
        # File systems allow names of 255 bytes, which 80 characters of most scripts would fill.
        readable = file_name(identity["prompt"]["key"])[:80].encode()[:160].decode(errors="ignore")
        return self.folder / f"{readable}-{digest(identity)[:24]}.json"

    def load(self, identity: dict[str, Any], prompt: Prompt) -> CandidateRecord | None:
        """The stored candidates of `prompt` (without audio), or None if there are none or the file was damaged."""
        path = self.path(identity)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return _record_from_content(content, identity, prompt)
        except FileNotFoundError:
            self._report_older()
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            aside = path.with_suffix(".json.damaged")
            os.replace(path, aside)
            logger.warning(
                "The stored candidates %s cannot be used (%r): renamed to %s and sampled again.",
                path,
                error,
                aside.name,
            )
            return None

    def _report_older(self) -> None:
        """Log that the folder has candidates that can no longer be found because their names follow an older rule."""
        if not self._reports_older:
            return
        self._reports_older = False
        num_older = sum(0 < stored_format(path) < FORMAT_VERSION for path in self.folder.glob("*.json"))
        if num_older:
            logger.warning(
                "%d files in %s have candidates in an older format, which did not distinguish two templates or two "
                "versions of a model: those prompts are sampled again, and the files are kept.",
                num_older,
                self.folder,
            )

    def save(self, identity: dict[str, Any], record: CandidateRecord) -> None:
        """Write the record. Failed scores are omitted, so that a later run retries them."""
        body = {
            "format": FORMAT_VERSION,
            "identity": identity,
            "score_identities": record.score_identities,
            "candidates": [_candidate_content(one, record.hypotheses) for one in record.trace.candidates],
        }
        head = {key: value for key, value in body.items() if key != "candidates"} | {"digest": digest(body)}
        lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in body["candidates"])
        text = json.dumps(head, ensure_ascii=False, indent=1)[:-2] + f',\n "candidates": [\n{lines}\n]}}\n'
        write_whole(self.path(identity), text)


def stored_format(path: Path) -> int:
    """The format version in the head of a file; 0 if there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            found = re.search(r'"format":\s*(\d+)', stream.read(100))
    except FileNotFoundError:  # another rank has renamed it
        return 0
    return int(found[1]) if found else 0


def _candidate_content(candidate: Candidate, hypotheses: dict[tuple[int, str], str]) -> dict[str, Any]:
    scores = {
        name: None if math.isnan(score) else score
        for name, score in candidate.scores.items()
        if name not in candidate.failed
    }
    return {
        "index": candidate.index,
        "seed": candidate.seed,
        "stopped": bool(candidate.stopped),
        "log_probability": float(candidate.log_probability),
        "scores": scores,
        "hypotheses": {name: text for (index, name), text in hypotheses.items() if index == candidate.index},
        "cost": asdict(candidate.cost),
        "verifier_costs": {name: asdict(cost) for name, cost in candidate.verifier_costs.items()},
        "codes": candidate.codes_S.tolist(),
        **({"num_written_tokens": candidate.num_written_tokens} if candidate.num_written_tokens else {}),
    }


def _record_from_content(content: dict[str, Any], identity: dict[str, Any], prompt: Prompt) -> CandidateRecord:
    expected_digest = content.pop("digest")
    if digest(content) != expected_digest:
        raise ValueError("the content does not match its digest")
    if content["format"] != FORMAT_VERSION or content["identity"] != json.loads(json.dumps(identity)):
        raise ValueError("the format, model, prompt or setting of the file does not match its name")
    candidates, hypotheses = [], {}
    for one in content["candidates"]:
        scores = {name: math.nan if score is None else float(score) for name, score in one["scores"].items()}
        hypotheses |= {(one["index"], name): text for name, text in one["hypotheses"].items()}
        candidates.append(
            Candidate(
                prompt_key=prompt.key,
                index=one["index"],
                seed=one["seed"],
                codes_S=torch.tensor(one["codes"], dtype=torch.int64),
                log_probability=one["log_probability"],
                stopped=one["stopped"],
                scores=scores,
                cost=Cost(**one["cost"]),
                voice_codes_S=voice_codes(prompt),
                num_written_tokens=one.get("num_written_tokens", 0),
                verifier_costs={name: Cost(**cost) for name, cost in one["verifier_costs"].items()},
            )
        )
    return CandidateRecord(Trace(prompt, candidates), content["score_identities"], hypotheses)
