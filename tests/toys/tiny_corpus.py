"""TinyCorpus: a synthetic Source in the shape of the recorded English prompts, for tests of the whole chain."""

from collections.abc import Iterator

import torch

from datamodules.sources.digits import DIGIT_WORDS
from datamodules.sources.source import Recording, Skipped
from modules.api import Audio
from tests.conftest import SAMPLE_RATE, speech_like


class TinyCorpus:
    """Ten digits and `num_prompts` prompts of five words; each fifth prompt held out; one unusable file."""

    def __init__(self, num_prompts: int = 10) -> None:
        self.num_prompts = num_prompts

    @property
    def num_recordings(self) -> int:
        return len(DIGIT_WORDS) + self.num_prompts + 1

    def recordings(self) -> Iterator[Recording | Skipped]:
        generator = torch.Generator().manual_seed(3)
        texts = {f"en_digits_{digit}": word for digit, word in enumerate(DIGIT_WORDS)}
        texts |= {f"en_prompt_{number}": f"press {number} to hear more" for number in range(self.num_prompts)}
        for number, (key, text) in enumerate(texts.items()):
            audio = Audio(speech_like(text.split(), 150.0, generator).float(), SAMPLE_RATE)
            split = "held_out" if number > len(DIGIT_WORDS) and number % 5 == 0 else "train"
            yield Recording(key, audio, text, "tiny", "en", "synthetic", "CC0-1.0", split)
        yield Skipped("en_broken", "unreadable")

    def credits(self) -> str:
        return "Synthetic tones, CC0-1.0."
