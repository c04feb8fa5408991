"""Speech in chunks of audio while its codes are sampled.

Shapes: T audio samples, S code frames.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modules.api import Branch, Codec, Prompt, Sampler
from modules.codec.streaming import DecodeWindow, StreamingDecoder
from modules.search.voices import voice_codes

FIRST_CHUNKS = (5, 10)  # frames: at 50 a second the first chunk is heard after ten codes, with the look-ahead
FADE_FRAMES = 1  # more would sound more of the decode that knew fewer codes


@dataclass
class SpeechStream:
    """One candidate as chunks of audio: float32 on the CPU, at the codec's rate.

    Its codes are those of one `extend` with the same seed, as long as the sampler's noise is a function of (seed,
    position); candidate_seed(seed, prompt.key, 0) gives the first candidate of BestOfN. Memory is bounded by the
    window: audio that was yielded is not kept. An iterator that is closed or dropped early drops the sampler's
    branches. Every iteration samples the same codes anew.

    Args:
        sampler: Samples the codes.
        codec: Decodes them.
        prompt: With a voice, its codes (already encoded) are the decoder's left context.
        seed: The candidate's seed.
        max_new_tokens: Maximum number of tokens, including the end of speech.
        window: Chunk and context of the decoder, after the first chunks.
        first_chunks: Frames of the first chunks.
        branch: The codes so far, their log-probability, and whether they ended; without a cache after the last chunk.
    """

    sampler: Sampler
    codec: Codec
    prompt: Prompt
    seed: int
    max_new_tokens: int
    window: DecodeWindow = field(default_factory=DecodeWindow)
    first_chunks: tuple[int, ...] = FIRST_CHUNKS
    branch: Branch | None = field(default=None, init=False)

    def __iter__(self) -> Generator[Tensor, None, None]:
        """Sample and decode a chunk at a time. Raises as Sampler.start."""
        fade_frames = min(FADE_FRAMES, self.window.look_ahead_frames)
        context_S = voice_codes(self.prompt)
        decoder = StreamingDecoder(self.codec, self.window, self.first_chunks, fade_frames, context_S)
        (self.branch,) = self.sampler.start([self.prompt])
        try:
            while num_tokens := self._num_tokens(decoder.num_codes_needed):
                codes_S = self._sample(num_tokens)
                for audio_T in decoder.push(codes_S):
                    yield _on_host(audio_T)
            for audio_T in decoder.flush():
                yield _on_host(audio_T)
        finally:
            self.sampler.drop([self.branch])

    def _num_tokens(self, num_wanted: int) -> int:
        """How many tokens to sample next; 0 at the end."""
        if self.branch.stopped:
            return 0
        return min(num_wanted, self.max_new_tokens - self.branch.num_tokens)

    def _sample(self, num_tokens: int) -> Tensor:
        """Extend the branch; returns its new codes."""
        before = self.branch
        (self.branch,) = self.sampler.extend([before], 1, num_tokens, [self.seed])
        self.sampler.drop([before])
        return self.branch.codes_S[before.codes_S.numel() :]


def _on_host(audio_T: Tensor) -> Tensor:
    return audio_T.to("cpu", torch.float32)
