"""Voice prompts of a search: their recordings are encoded once, before sampling.

Shapes: T audio samples, B batch, S code frames.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modules.api import Audio, Codec, Prompt
from modules.audio import resampled
from modules.batches import pad_rows


def voice_codes(prompt: Prompt) -> Tensor | None:
    """The codes of the prompt's voice as (S,) int64; None if it has none."""
    if prompt.voice is None or not len(prompt.voice.codes):
        return None
    return torch.tensor([int(code) for code in prompt.voice.codes], dtype=torch.int64)


def with_voice_codes(prompts: Sequence[Prompt], codec: Codec, batch_size: int = 8) -> list[Prompt]:
    """Encode `reference` into the codes of each prompt's voice; prompts without a voice, or with codes, are unchanged.

    A recording that several prompts share is encoded once. Its last frame may contain padding added by the codec.

    Raises:
        ValueError: A prompt has a voice without a recording, or one too short to give a code.
    """
    recordings: dict[int, Audio] = {}
    for prompt in filter(_is_unread, prompts):
        if prompt.reference is None or not prompt.reference.samples_T.numel():
            raise ValueError(f"Expected a `reference` recording for the voice of prompt {prompt.key!r}, but got none.")
        recordings[id(prompt.reference)] = prompt.reference
    codes = _encoded(recordings, codec, batch_size)
    coded = []
    for prompt in prompts:
        if _is_unread(prompt):
            own = codes[id(prompt.reference)]
            if not own:
                raise ValueError(
                    f"Expected the recording of prompt {prompt.key!r} to hold at least one frame of the codec, "
                    f"but got {prompt.reference.seconds:.3f} s."
                )
            prompt = replace(prompt, voice=replace(prompt.voice, codes=own))
        coded.append(prompt)
    return coded


def _is_unread(prompt: Prompt) -> bool:
    return prompt.voice is not None and not len(prompt.voice.codes)


def _encoded(recordings: dict[int, Audio], codec: Codec, batch_size: int) -> dict[int, tuple[int, ...]]:
    """The codes of each recording; recordings of similar length share a batch."""
    sample_rate = codec.facts.input_sample_rate
    samples = ((torch.from_numpy(resampled(audio, sample_rate)), name) for name, audio in recordings.items())
    rows = sorted(samples, key=lambda row: row[0].numel())
    codes: dict[int, tuple[int, ...]] = {}
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        audio_BT, num_samples_B = pad_rows([samples_T for samples_T, _ in batch])
        codes_BS, num_codes_B = codec.encode(audio_BT, num_samples_B)
        for (_, name), codes_S, number in zip(batch, codes_BS.cpu(), num_codes_B.tolist(), strict=True):
            codes[name] = tuple(codes_S[:number].tolist())
    return codes
