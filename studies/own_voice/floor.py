"""Judges recordings as studies/own_voice/run.sh judges the models: what similarity and digit error can reach.

    python -m studies.own_voice.floor [--output runs/own_voice/floor.json]

The strings of the test as recorded, the same after the codec, and the same strings of the other voices, all against the
references of the new voice.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from datamodules.prompt_sets.text_and_shard_prompts import PromptPlan
from datamodules.prompt_sets.voice_prompts import VoicePromptDataModule
from datamodules.shards.shards import ShardIndex
from modules.api import Audio, Prompt
from modules.codec.formats.checkpoints import CodecCheckpoint
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.recognition import error_rate
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.recognisers.word_templates import WordTemplates

FORMAT = TextToSpeech(ByteTokenizer(" 0123456789"), 4096)
HELD_OUT, CODEC = Path("cache/shards/asterisk/held_out"), Path("runs/own_voice/codec/checkpoints/last.ckpt")


def test_prompts(num_texts: int) -> list[Prompt]:
    """The prompts of the new voice, as the sweep has them; `reference` is what judges compare with."""
    data = VoicePromptDataModule(
        FORMAT, Path("cache/shards/own_voice"), Path("runs/own_voice/own_tokens"), num_texts=num_texts,
        conditions=["none"], reference_folder=HELD_OUT,
    )  # fmt: skip
    return [prompt for batch in data.test_dataloader()[0] for prompt in batch.prompts]


def said(folder: Path, texts: list[str]) -> dict[str, list[Audio]]:
    """The recordings of these strings, by language."""
    index = ShardIndex.load(folder, "audio")
    plan, found = PromptPlan(index, None, FORMAT), dict[str, dict[str, Audio]]()
    for row in range(len(index)):
        prompt = plan.prompt(row)
        found.setdefault(prompt.language, {})[prompt.text] = prompt.reference
    return {language: [by_text[text] for text in texts] for language, by_text in found.items()}


def resynthesised(codec: CodecCheckpoint, audio: Audio) -> Audio:
    samples_BT, num_samples_B = audio.samples_T[None], torch.tensor([audio.samples_T.numel()])
    return Audio(codec.decode(*codec.encode(samples_BT, num_samples_B))[0], codec.facts.sample_rate)


def judged(audios: list[Audio], prompts: list[Prompt], digits: WordTemplates | None) -> dict[str, Any]:
    """Similarity to the references and, with a recogniser, digit error, both by prompt."""
    encoder = Resemblyzer()
    own, references = encoder.embed(audios), encoder.embed([prompt.reference for prompt in prompts])
    found = {"similarity": [float(one @ other) for one, other in zip(own, references, strict=True)]}
    if digits is not None:
        heard = digits.transcribe(audios, prompts[0].language)
        pairs = zip(prompts, heard, strict=True)
        found["digit_error"] = [min(1.0, error_rate(prompt.text, text, "word")) for prompt, text in pairs]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/own_voice/floor.json"))
    parser.add_argument("--num_texts", type=int, default=16)
    given = parser.parse_args()
    prompts, codec = test_prompts(given.num_texts), CodecCheckpoint(CODEC, "cpu")
    texts, digits = [prompt.text for prompt in prompts], WordTemplates(Path("cache/digit_words"))
    (own,) = said(Path("cache/shards/own_voice/test"), texts).values()
    found = {
        "recording": judged(own, prompts, digits),
        "recording after the codec": judged([resynthesised(codec, one) for one in own], prompts, digits),
    }
    for language, audios in sorted(said(Path("cache/shards/own_voice_base/test"), texts).items()):
        found[f"another voice ({language}), after the codec"] = judged(
            [resynthesised(codec, one) for one in audios], prompts, None
        )
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {given.output}")


if __name__ == "__main__":
    main()
