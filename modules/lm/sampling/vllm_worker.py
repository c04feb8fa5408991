"""Extension of vLLM's worker processes: restricts logits to the words of an answer.

Shapes: R rows, V words of the whole vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

WORKER_EXTENSION = "modules.lm.sampling.vllm_worker.SpeechOnly"


class SpeechOnly:
    """Mixin for vLLM's worker class, on every platform and rank (`worker_extension_cls`).

    Restricts the network's logits before vLLM's sampler receives them. The log-probabilities that vLLM reports
    (`raw_logprobs`) are then those over these words at temperature 1, as in decoding_batch.py. With
    `allowed_token_ids`, which it applies later, they would be over all words, and each request would carry 65,537 ids.
    """

    def restrict_to_speech(self, allowed: list[tuple[int, int]]) -> None:
        """Set the logits of words outside the ranges [start, stop), ascending, to -inf from now on. Call it once."""
        model: Any = self.model_runner.get_model()  # type: ignore[attr-defined]
        compute_logits = model.compute_logits

        def compute_speech_logits(*arguments: Any, **options: Any) -> Tensor | None:
            logits_RV = compute_logits(*arguments, **options)
            if logits_RV is not None:  # only one of the tensor-parallel ranks may have them
                stops = [0, *(stop for _, stop in allowed)]
                starts = [*(start for start, _ in allowed), logits_RV.shape[-1]]
                for stop, start in zip(stops, starts, strict=True):
                    logits_RV[..., stop:start] = float("-inf")
            return logits_RV

        model.compute_logits = compute_speech_logits
