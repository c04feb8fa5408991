"""Speaker similarity over a long text: every sentence continues one reference, or each the sentence before it.

    python -m studies.speech.long_text

For each of five voices (studies/two_directions/run.sh trains the model), a recording of digits that is not in the
training set is the reference of 24 strings of four digits. Cosine of Resemblyzer's embeddings of each sentence and the
reference, in the order of the text: one sample a sentence, no selection. Writes studies/speech/long_text.json.
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from datamodules.shards.samples import read_about, read_samples, text_of
from datamodules.shards.shards import ShardIndex, ShardReader
from modules.api import Audio
from modules.audio import write_wav
from modules.provenance import package_versions
from modules.speech import Voice, load_voice
from modules.statistics import mean_estimate
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from studies.collected import date_and_machine, write_json

MODEL, RECORDINGS = Path("runs/two_directions/voices_lm"), Path("cache/shards/numerals/test")
HERE = Path(__file__).parent
LANGUAGE = "mul"  # no recogniser: nothing is selected
WAYS = ("one reference", "chain")


def references(folder: Path) -> dict[str, tuple[Audio, str]]:
    """The first recording of every voice, and its text."""
    index = ShardIndex.load(folder, "audio")
    reader, found = ShardReader(index), {}
    for row in range(len(index)):
        _, speaker = index.speakers[index.speaker_of[row]]
        if speaker not in found:
            files = reader.read(row)
            audio = Audio(torch.from_numpy(read_samples(index, row, files)), index.header["sample_rate"])
            found[str(speaker)] = audio, text_of(read_about(files))
    return found


def texts(num_sentences: int) -> list[str]:
    digits = np.random.default_rng(0).integers(1, 10, (num_sentences, 4))
    return [" ".join(map(str, row)) for row in digits]


def spoken(voice: Voice, way: str, sentences: list[str], reference: Audio, text: str, seed: int) -> list[Audio]:
    """The sentences as audio."""
    with tempfile.TemporaryDirectory() as folder:
        path, audios = Path(folder) / "reference.wav", []
        write_wav(reference, path)
        if way == "one reference":
            speech = voice.say(
                "\n\n".join(sentences), reference=path, reference_text=text, language=LANGUAGE, seed=seed
            )
            bounds = [(one["start"], one["end"]) for one in speech.record["sentences"]]
            rate = speech.audio.sample_rate
            return [
                Audio(speech.audio.samples_T[round(start * rate) : round(end * rate)], rate) for start, end in bounds
            ]
        for number, sentence in enumerate(sentences):
            speech = voice.say(sentence, reference=path, reference_text=text, language=LANGUAGE, seed=seed)
            audios.append(speech.audio)
            if speech.audio.seconds > 1:  # a recording of less cannot be a reference
                path, text = Path(folder) / f"{number}.wav", sentence
                write_wav(speech.audio, path)
        return audios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="folder of runs/ and cache/")
    parser.add_argument("--num_sentences", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path, default=HERE / "long_text.json")
    given = parser.parse_args()
    voice, encoder = load_voice(str(MODEL), root=given.root), Resemblyzer()
    sentences, similarities = texts(given.num_sentences), {way: [] for way in WAYS}
    recordings = references(given.root / RECORDINGS)
    for speaker, (reference, text) in recordings.items():
        embedding = encoder.embed([reference])[0]
        for seed in given.seeds:
            for way in WAYS:
                audios = spoken(voice, way, sentences, reference, text, seed)
                found = [one if isinstance(one, np.ndarray) else None for one in encoder.embed(audios)]
                row = [None if one is None else round(float(one @ embedding), 4) for one in found]
                similarities[way].append({"speaker": speaker, "seed": seed, "similarity": row})
                print(speaker, seed, way, np.mean([one for one in row if one is not None]), flush=True)
    values = {way: np.array([one["similarity"] for one in rows], dtype=float) for way, rows in similarities.items()}
    third = given.num_sentences // 3
    result = {
        "command": "python -m studies.speech.long_text",
        "model": voice.about["model"],
        "num_sentences": given.num_sentences,
        "seeds": given.seeds,
        "similarities": similarities,
        "first_third": {way: asdict(mean_estimate(np.nanmean(rows[:, :third], 1), 0)) for way, rows in values.items()},
        "last_third": {way: asdict(mean_estimate(np.nanmean(rows[:, -third:], 1), 0)) for way, rows in values.items()},
        "interval": "95 %, hull of percentile and Bayesian bootstrap over voices and seeds",
        "versions": package_versions(("torch", "transformers", "resemblyzer")),
        **date_and_machine(),
    }
    write_json(result, given.json)


if __name__ == "__main__":
    main()
