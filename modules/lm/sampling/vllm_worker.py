"""Extension of vLLM's worker processes: restricts logits to codes and the end of speech.

Shapes: R rows, V words of the whole vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

WORKER_EXTENSION = "modules.lm.sampling.vllm_worker.SpeechOnly"


class SpeechOnly:
    """Mixin for vLLM's worker class, on every platform and rank (`worker_extension_cls`).

    Restricts the network's logits before vLLM's sampler receives them. The log-probabilities that vLLM reports
    (`raw_logprobs`) are then those over codes and end at temperature 1, as in decoding_batch.py. With
    `allowed_token_ids`, which it applies later, they would be over all words, and each request would carry 65,537 ids.
    """

    def restrict_to_speech(self, speech_end: int, code_offset: int, codebook_size: int) -> None:
        """Set the logits of all other words to -inf from now on. Call it once."""
        model: Any = self.model_runner.get_model()  # type: ignore[attr-defined]
        compute_logits = model.compute_logits

        def compute_speech_logits(*arguments: Any, **options: Any) -> Tensor | None:
            logits_RV = compute_logits(*arguments, **options)
            if logits_RV is not None:  # only one of the tensor-parallel ranks may have them
                logits_RV[..., :speech_end] = float("-inf")
                logits_RV[..., speech_end + 1 : code_offset] = float("-inf")
                logits_RV[..., code_offset + codebook_size :] = float("-inf")
            return logits_RV

        model.compute_logits = compute_speech_logits
