"""SpeechWriter: synthesises texts in `trainer.predict`: a search samples candidates, a selector selects one.

Shapes: T audio samples.
"""

import datetime
import json
import logging
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from modules.api import Candidate, Codec, Prompt, SamplerEngine, SamplingSettings, Transcribes, Verifier
from modules.atomic_file import write_whole
from modules.audio import SYNTHETIC, read_audio, write_wav
from modules.batches import PromptBatch
from modules.members import check_members
from modules.provenance import digest, package_versions, plain
from modules.search.candidate_store import file_name
from modules.search.driver import run_searches
from modules.search.identity import candidate_identity, check_codec, score_identity
from modules.search.panel import chosen_index
from modules.search.protocol import SearchAlgorithm, SpeechModel, Trace
from modules.search.scorer import Scorer, check_texts
from modules.search.voices import with_voice_codes
from modules.tokens import Utterance

logger = logging.getLogger(__name__)

MAX_NAME_CHARACTERS = 40


class SpeechWriter(Callback):
    """Writes NAME.wav (16-bit PCM, the codec's rate, marked as synthetic) and NAME.json for every prompt of `predict`.

    Batches are PromptBatch. The module is a SpeechModel (modules/search/protocol.py).
    Candidates are sampled, decoded and scored as in a sweep: with the same settings and prompt key they are identical.
    NAME is a readable form of the text and a hash of everything that the audio depends on: other settings write another
    file, the same command writes the same one. `written` lists the wavs of the last run.

    With several ranks each writes the prompts of its dataloader.

    Args:
        codec: Decodes codes to audio.
        algorithm: The search. Its number of candidates is N.
        sampling: Sampling settings.
        selector: The verifier that selects (the first wins ties; candidates that cannot be scored rank last). None: the
            first candidate.
        reference: A recording of the target voice, for a selector that compares voices; any format libsndfile reads,
            channels are averaged. None: the prompt's reference, if any.
        reference_text: Transcript of `reference`, which then becomes a voice prompt that the generation continues.
        folder: Output folder.
        seed: Seed of the candidates.
        keep_all: Also write every candidate as NAME/candidate_INDEX.wav.
        decode_batch_size: Candidates per batch of the codec.
        engine: Sampling engine in place of the model's own sampler: modules.lm.sampling.vllm_engine.VLLM.

    Raises:
        ValueError: The codec's codebook differs from the model's; the selector needs a reference and there is none, or
            compares texts and one is empty after normalisation.
        FileNotFoundError: `reference` does not exist.
    """

    def __init__(
        self,
        codec: Codec,
        algorithm: SearchAlgorithm,
        sampling: SamplingSettings,
        folder: Path,
        selector: Verifier | None = None,
        reference: Path | None = None,
        seed: int = 0,
        keep_all: bool = False,
        decode_batch_size: int = 16,
        reference_text: str = "",
        engine: SamplerEngine | None = None,
    ) -> None:
        if decode_batch_size < 1:
            raise ValueError(f"Expected `decode_batch_size` to be at least 1, but got {decode_batch_size}.")
        if reference_text and reference is None:
            raise ValueError(f"Expected a `reference` with the transcript {reference_text!r}, but got none.")
        self.codec = codec
        self.algorithm = algorithm
        self.sampling = sampling
        self.folder = Path(folder)
        self.selector = selector
        self.reference = reference
        self.reference_text = reference_text
        self.seed = seed
        self.keep_all = keep_all
        self.decode_batch_size = decode_batch_size
        self.engine = engine
        self.written: list[Path] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the settings before the first sample is drawn."""
        self.written = []
        if self.selector is not None:
            check_members(self.selector, Verifier, "verifier")
        if self.engine is not None:
            check_members(self.engine, SamplerEngine, "sampling engine")
        check_members(pl_module, SpeechModel, "model")
        codebook_size = pl_module.prompt_format.token_space.codebook_size
        check_codec(self.codec, codebook_size, pl_module.codec_fingerprint)
        self._model_hash, self._prompt_format = pl_module.model_hash, pl_module.prompt_format
        self._decoder = self.codec.decoder_fingerprint
        try:
            self._voice = None if self.reference is None else read_audio(Path(self.reference))
        except RuntimeError as error:  # soundfile's errors are RuntimeErrors
            raise ValueError(
                f"Expected `reference` to be audio that libsndfile reads, but got `{self.reference}`."
            ) from error

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(batch, PromptBatch):
            raise TypeError(f"Expected predict batches to be PromptBatch, but got {type(batch).__name__}.")
        check_texts(batch.prompts, [] if self.selector is None else [self.selector])
        prompts = with_voice_codes([self._with_voice(prompt) for prompt in batch.prompts], self.codec)
        for trace in self._search(prompts, pl_module):
            chosen = 0 if self.selector is None else chosen_index(trace.candidates, self.selector.facts.name)
            path = self._write(trace, chosen)
            self.written.append(path)
            print(f"{path}: {self._sentence(trace, chosen)}", flush=True)
            self._warn(trace, chosen)

    @torch.inference_mode()
    def _search(self, prompts: Sequence[Prompt], pl_module: LightningModule) -> list[Trace]:
        selectors = [] if self.selector is None else [self.selector]
        scorer = Scorer(self.codec, self.decode_batch_size)
        sampler = pl_module.sampler(self.sampling, engine=self.engine)
        traces = run_searches(prompts, self.algorithm, sampler, scorer, selectors, self.seed)
        scorer.decode([one for trace in traces for one in trace.candidates])
        return traces

    def _with_voice(self, prompt: Prompt) -> Prompt:
        voiced = prompt if self._voice is None else replace(prompt, reference=self._voice)
        if self.reference_text:
            voiced = replace(voiced, voice=Utterance(self.reference_text))
        if self.selector is not None and self.selector.facts.needs_reference and voiced.reference is None:
            raise ValueError(
                f"Expected `reference`, a recording of the target voice, for the selector {self.selector.facts.name}, "
                "but got none."
            )
        return voiced

    def _write(self, trace: Trace, chosen: int) -> Path:
        record = self._record(trace, chosen)
        path = self.folder / f"{readable_name(trace.prompt.text)}-{record['hash'][:8]}.wav"
        if self.keep_all:
            for one in trace.candidates:
                write_wav(one.audio, path.with_suffix("") / f"candidate_{one.index:03d}.wav", SYNTHETIC)
        write_wav(trace.candidates[chosen].audio, path, SYNTHETIC)
        text = json.dumps({"wav": path.name, **record}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(path.with_suffix(".json"), text.encode())
        return path

    def _record(self, trace: Trace, chosen: int) -> dict[str, Any]:
        """Settings and results, JSON serialisable; NaN scores are null. `hash` covers the settings."""
        prompt, selector = trace.prompt, self.selector
        drawn_by = (self.sampling, self.algorithm, self.seed)
        identity = candidate_identity(
            self._model_hash, self._prompt_format, self.codec, prompt, *drawn_by, engine=self.engine
        ) | {
            "decoder": self._decoder,
            "selector": selector and [selector.facts.name, score_identity(selector, prompt, self._decoder)],
        }
        best = trace.candidates[chosen]
        return {
            "text": prompt.text,
            "language": prompt.language,
            "speaker": prompt.speaker,
            "prompt_key": prompt.key,
            "chosen": best.index,
            "seconds": best.audio.seconds,
            "sample_rate": best.audio.sample_rate,
            "ran_away": not best.stopped,
            "heard": self._transcript(prompt, best),
            "num_candidates": len(trace.candidates),
            "num_runaways": sum(not one.stopped for one in trace.candidates),
            "candidates": [candidate_record(one) for one in trace.candidates],
            "selector": selector and {"name": selector.facts.name} | plain(selector),
            "reference": None if self.reference is None else str(self.reference),
            "reference_text": self.reference_text,
            "algorithm": {"name": self.algorithm.name} | plain(self.algorithm),
            "sampling": self.sampling.stored(),
            "engine": self.engine and self.engine.identity(),
            "seed": self.seed,
            "model_hash": self._model_hash,
            "codec_fingerprint": self.codec.fingerprint,
            "decoder_fingerprint": self._decoder,
            "cost": asdict(trace.cost_with([selector.facts.name] if selector else [])),
            "hash": digest(identity),
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version()} | package_versions(),
        }

    def _transcript(self, prompt: Prompt, candidate: Candidate) -> str | None:
        """The transcript by a selector that transcribes; None for other selectors, silence, or a failure."""
        if not isinstance(self.selector, Transcribes) or not candidate.num_codes:
            return None
        try:
            return self.selector.hypotheses(prompt, [candidate])[0]
        except Exception as error:  # noqa: BLE001 - the transcript only illustrates; the audio is written in any case
            logger.warning("%s returned no transcript for %s: %r", self.selector.facts.name, prompt.key, error)
            return None

    def _sentence(self, trace: Trace, chosen: int) -> str:
        """Description of the selected candidate for the terminal."""
        candidates, best = trace.candidates, trace.candidates[chosen]
        if self.selector is None:
            how = f"candidate 1 of {len(candidates)}, the first (no selector)"
        else:
            scores = [one.scores.get(self.selector.facts.name, math.nan) for one in candidates]
            how = f"number {best.index + 1} of {len(candidates)}, {self.selector.facts.name} {scores[chosen]:.3g}"
            if num_equals := scores.count(scores[chosen]) - 1:
                how += f" (as {num_equals} more)"
        heard = self._transcript(trace.prompt, best)
        if heard is not None:
            how += f", transcript {heard!r}"
        return f"{trace.prompt.text!r}, {best.audio.seconds:.1f} s, {how}"

    def _warn(self, trace: Trace, chosen: int) -> None:
        best = trace.candidates[chosen]
        if self.selector is not None and math.isnan(best.scores.get(self.selector.facts.name, math.nan)):
            logger.warning("%s could score none of the candidates: the first was written.", self.selector.facts.name)
        if not best.stopped:
            logger.warning(
                "The selected candidate never ended: it was cut after %d codes. More candidates, another seed or a "
                "larger `max_new_tokens` may help.",
                best.num_codes,
            )
        if best.num_codes == 0:
            logger.warning("The selected candidate is empty: the model ended before the first code.")


def candidate_record(candidate: Candidate) -> dict[str, Any]:
    """A decoded candidate as a JSON serialisable record: without its codes, NaN scores as None."""
    return {
        "index": candidate.index,
        "seed": candidate.seed,
        "stopped": bool(candidate.stopped),
        "num_codes": candidate.num_codes,
        "seconds": candidate.audio.seconds,
        "log_probability": float(candidate.log_probability),
        "scores": {name: None if math.isnan(score) else score for name, score in candidate.scores.items()},
    }


def readable_name(text: str) -> str:
    """The text as a file name, at most 40 characters: letters, digits and combining marks of any script, the rest as
    underscores."""
    words = file_name(text.lower().replace("-", " ")).lstrip("_")
    return words[:MAX_NAME_CHARACTERS].strip("_") or "speech"
