"""Exports the voice of a run of scripts/open_voice.sh, in half precision with its codec, completes its card, and
records a sentence.

    python -m studies.voice.ship "1.5 hours" voices/rms [--root FOLDER]

The card's word errors are those of the run's cell in studies/voice/results.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from modules.audio import write_wav
from modules.lm.model_card import NO_LICENCE
from modules.speech import load_voice
from modules.speech.export import main as export
from studies.collected import cell, table
from studies.voice.collect import HERE, ONE, TEACHER

SENTENCE = "Nobody has ever said that 42 purple elephants were waiting for the train."
ABOUT = """\
# {name}: a synthetic voice that reads English

It reads any English sentence: `python run.py say "Any sentence." --model voices/{name}`. Everything it says is
**synthetic speech**; label it where people hear it.

[sample.wav](sample.wav) ({seconds:.1f} s) was made by

    python run.py say "{sentence}" --model voices/{name} --out sample.wav

## Data

{hours:.1f} hours of speech that the synthesiser flite spoke with its voice rms: {sentences:,} sentences, most of
them examples and definitions of WordNet 3.0, the others from templates. No recording of a person was used in this
training; flite's voice was made of the recordings of one US English man, who read them for CMU Arctic, a corpus for
speech synthesis.

## Licences

- flite and the CMU Arctic voice: BSD-style licences that permit use, modification, distribution and sale.
- WordNet 3.0: its licence permits use, modification and distribution for any purpose.
- Templates: CC0 1.0. These weights: Apache-2.0, as the repository.

The notices of flite, CMU Arctic and WordNet are in CREDITS.txt.

## Consent

CMU Arctic's speakers recorded for speech synthesis, and its licence permits this use. The voice is not to be
presented as a real person, nor used to mislead: docs/consent.md.

## Word errors

{num} sentences of at least four words that share no four words in a row with any other sentence of the lists;
transcribed by Whisper tiny.en, which errs on the teacher too. In brackets: 95 % intervals over sentences. Measured
on {date}, before the weights were rounded to half precision; one training, one seed: studies/voice.

{errors}
"""


def about(name: str, found: dict[str, Any], seconds: float) -> str:
    """The card of a cell of results.json; `seconds`: length of the recorded sentence."""
    shown = {TEACHER: "the teacher, flite", "codec": "the codec's resynthesis", ONE: "this voice, one sample"}
    shown |= {system: f"this voice, {system}" for system in found["systems"] if system.startswith("best of")}
    rows = [[label, *(cell(found["systems"][key][one]) for one in ("wer", "excess"))] for key, label in shown.items()]
    return ABOUT.format(
        name=name,
        seconds=seconds,
        sentence=SENTENCE,
        hours=found["hours_of_speech"],
        sentences=found["num_sentences"],
        num=found["systems"][ONE]["wer"]["num"],
        date=found["date"],
        errors="\n".join(table(["", "WER", "excess over the teacher"], rows)),
    )


def completed(card: str, text: str) -> str:
    """The exported card with a licence, and this text before its first heading."""
    metadata, mark, rest = card.partition("\n---\n\n")
    if not mark or NO_LICENCE not in rest:
        raise ValueError("Expected a card that begins with metadata and names no licence, but got another one.")
    licence = "Apache-2.0; those of the data are under Licences."
    return f"{metadata}\nlicense: apache-2.0{mark}{text}\n{rest.replace(NO_LICENCE, licence)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path, default=Path(), help="folder with runs/open_voice and its shards")
    given = parser.parse_args()
    found = json.loads((HERE / "results.json").read_text(encoding="utf-8"))["cells"][given.cell]
    run = given.root / "runs/open_voice"
    options = ["--with_codec", "--codec", str(run / "codec/checkpoints/last.ckpt"), "--dtype", "float16"]
    export([str(run / "lm/checkpoints/last.ckpt"), str(given.folder), *options])
    sample = load_voice(str(given.folder), device="cpu").say(SENTENCE).audio
    write_wav(sample, given.folder / "sample.wav")
    card = given.folder / "README.md"
    card.write_text(
        completed(card.read_text(encoding="utf-8"), about(given.folder.name, found, sample.seconds)), encoding="utf-8"
    )
    credits = (given.root / "cache/shards/open_voice/CREDITS.txt").read_text(encoding="utf-8")
    (given.folder / "CREDITS.txt").write_text(credits, encoding="utf-8")


if __name__ == "__main__":
    main()
