"""Digits of several voices, and prompts that test in which voice a model continues."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.prompt_sets.voice_prompts import VoicePromptDataModule
from datamodules.shards.shards import ShardWriter
from datamodules.sources.digits import NumeralsSource
from datamodules.sources.source import Recording, Skipped
from modules.api import Audio
from studies.two_directions.collect import clustered, voice_results
from tests.test_configs import EXPERIMENTS, REPOSITORY, subcommand_of
from tests.toys.lm_toys import FORMAT

SAMPLE_RATE = 16_000
VOICES = {"aa": 151.0, "bb": 1013.0, "cc": 3011.0}  # language and pitch


class VoicesOfTones:
    """Digits 1 to 9 in each voice: a tone of the voice's pitch, with a length given by the digit."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken

    @property
    def num_recordings(self) -> int:
        return 9 * len(VOICES)

    def recordings(self):
        for language, pitch in VOICES.items():
            for digit in range(1, 10):
                key = f"{language}_digits_{digit}"
                if key == self.broken:
                    yield Skipped(key, "unreadable")
                    continue
                samples_T = 0.5 * torch.sin(2 * torch.pi * pitch * torch.arange(1600 * digit) / SAMPLE_RATE)
                yield Recording(key, Audio(samples_T, SAMPLE_RATE), "word", f"voice {language}", language, "x", "CC0")

    def credits(self) -> str:
        return "Tones by nobody."


def numerals(num_strings: int, low: int, high: int, split: str, broken: str = "") -> list[Recording]:
    """The strings of every voice."""
    tones = VoicesOfTones(broken)
    sources = [NumeralsSource(tones, language, num_strings, low, high, split) for language in VOICES]
    return [one for source in sources for one in source.recordings()]


def pitch_of(audio: Audio) -> float:
    spectrum = torch.fft.rfft(audio.samples_T).abs()
    return float(spectrum.argmax()) * SAMPLE_RATE / audio.samples_T.numel()


def test_every_voice_speaks_the_same_strings() -> None:
    """Guards against a text that reveals the voice, words of another voice, and held-out strings in training."""
    train, test = (numerals(30, low, 4, split) for low, split in ((1, "train"), (4, "test")))
    texts = {language: [one.text for one in train if one.language == language] for language in VOICES}
    assert texts["aa"] == texts["bb"] == texts["cc"] and len(set(texts["aa"])) > 20
    for one in [*train, *test]:
        assert pitch_of(one.audio) == pytest.approx(VOICES[one.language], rel=0.05)
        num_tenths = sum(map(int, one.text.split()))  # of a second of sound
        loud = float((one.audio.samples_T.abs() > 1e-3).sum()) / SAMPLE_RATE
        assert loud == pytest.approx(num_tenths / 10, rel=0.1)
        assert one.speaker == f"voice {one.language}" and one.key.startswith(f"{one.language}_numerals_{one.split}_")
    assert not {one.text for one in train} & {one.text for one in test}
    assert len({one.key for one in [*train, *test]}) == 2 * 30 * 3
    assert "0" not in "".join(texts["aa"])


def test_a_missing_digit_is_named() -> None:
    """Guards against strings with a missing word."""
    with pytest.raises(ValueError, match=r"digits of one language.*bb_digits_3 \(unreadable\)"):
        numerals(3, 1, 4, "train", "bb_digits_3")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings of each voice, as audio and as codes (which count up, so that each can be identified)."""
    folder = tmp_path_factory.mktemp("shards")
    audio = ShardWriter(folder / "audio/test", "audio", {"sample_rate": SAMPLE_RATE, "audio_format": "wav"})
    tokens = ShardWriter(folder / "tokens/test", "tokens", {"codebook_size": 24, "codec_fingerprint": "x"})
    with audio, tokens:
        for number, one in enumerate(numerals(4, 4, 4, "test")):
            about = {"text": one.text, "speaker": one.speaker, "language": one.language}
            encoded = json.dumps(about).encode()
            wave = folder / "one.wav"
            soundfile.write(wave, one.audio.samples_T.numpy(), SAMPLE_RATE, subtype="FLOAT")
            audio.write(one.key, {"wav": wave.read_bytes(), "json": encoded}, one.audio.samples_T.numel(), one.text)
            codes = np.array([number, number, 23], dtype=np.uint16)
            tokens.write(one.key, {"codes.npy": codes, "json": encoded}, 3, one.text)
    return folder


def test_nothing_but_the_spoken_prompt_differs(shards: Path) -> None:
    """Guards against a reference contained in the prompt, another text, and the target voice under another's name."""
    data = VoicePromptDataModule(FORMAT, shards / "audio", shards / "tokens", num_texts=3, other_speaker=2)
    sets = [[prompt for batch in loader for prompt in batch.prompts] for loader in data.test_dataloader()]
    assert data.prompt_set_names == ["own voice", "another voice", "no voice"]
    assert len({prompt.key for prompts in sets for prompt in prompts}) == 3 * 9
    languages, recordings = list(VOICES), numerals(4, 4, 4, "test")
    for place, (own, other, none) in enumerate(zip(*sets, strict=True)):
        speaker, text = divmod(place, 3)
        assert own.text == other.text == none.text
        wanted = f"voice {languages[speaker]}"
        assert own.speaker == other.speaker == none.speaker == wanted, "intervals draw speakers"
        assert (own.told[1], other.told[1], none.told[1]) == (wanted, "", ""), "given away"
        assert own.language == other.language == none.language == languages[speaker]
        assert torch.equal(own.reference.samples_T, other.reference.samples_T)
        assert torch.equal(own.reference.samples_T, none.reference.samples_T)
        third = recordings[4 * speaker + (text + 2) % 4]  # neither the text nor what comes before it
        assert torch.equal(own.reference.samples_T, third.audio.samples_T)
        assert none.voice is None
        assert own.voice.language == own.language and other.voice.language == languages[(speaker + 2) % 3]
        assert own.voice.text == other.voice.text != own.text
        assert own.voice.codes == (4 * speaker + (text + 1) % 4,) * 2 + (23,)
        assert other.voice.codes == (4 * ((speaker + 2) % 3) + (text + 1) % 4,) * 2 + (23,)
    with pytest.raises(ValueError, match="Expected `other_speaker` to lead to another"):
        VoicePromptDataModule(FORMAT, shards / "audio", shards / "tokens", other_speaker=3).test_dataloader()


def test_references_may_be_the_longest_of_other_recordings(shards: Path, tmp_path: Path) -> None:
    """Guards against the similarity to a string of the training's words, to another speaker, or to a clip too short to
    be recognised; and against a speaker without references, whose prompts would be skipped one by one."""
    seconds = {"aa": (2.5, 3.5, 1.9), "bb": (2.0, 0.5, 4.0), "cc": (3.0, 2.2, 2.1)}
    with ShardWriter(tmp_path / "held_out", "audio", {"sample_rate": SAMPLE_RATE, "audio_format": "wav"}) as writer:
        for number in range(3):
            for language, lengths in seconds.items():
                samples = np.full(round(lengths[number] * SAMPLE_RATE), 0.1 * (number + 1), dtype=np.float32)
                soundfile.write(tmp_path / "one.wav", samples, SAMPLE_RATE, subtype="FLOAT")
                about = {"text": "a sentence", "speaker": f"voice {language}", "language": language, "source": "others"}
                files = {"wav": (tmp_path / "one.wav").read_bytes(), "json": json.dumps(about).encode()}
                writer.write(f"{language}_{number}", files, len(samples), "a sentence")
    folders = (shards / "audio", shards / "tokens")
    data = VoicePromptDataModule(
        FORMAT, *folders, num_texts=3, conditions=["own", "none"], reference_folder=tmp_path / "held_out"
    )
    assert data.prompt_set_names == ["own voice", "no voice"]
    sets = [[prompt for batch in loader for prompt in batch.prompts] for loader in data.test_dataloader()]
    chosen = {"aa": (3.5, 2.5, 3.5), "bb": (4.0, 2.0, 4.0), "cc": (3.0, 2.2, 2.1)}  # in turn
    for prompts in sets:
        found = [len(prompt.reference.samples_T) / SAMPLE_RATE for prompt in prompts]
        assert found == pytest.approx([one for language in seconds for one in chosen[language]])
    with ShardWriter(tmp_path / "few", "audio", {"sample_rate": SAMPLE_RATE, "audio_format": "wav"}) as writer:
        writer.write("aa_0", files | {"json": files["json"].replace(b"voice cc", b"voice aa")}, 2 * SAMPLE_RATE, "a")
    data = VoicePromptDataModule(FORMAT, *folders, reference_folder=tmp_path / "few")
    with pytest.raises(ValueError, match=r"Expected recordings of at least 2 s of \['voice bb', 'voice cc'\]"):
        data.test_dataloader()


def test_differences_are_paired_by_text_and_voice(tmp_path: Path) -> None:
    """Guards against means over different prompts if one could not be scored, and intervals that treat the voices of
    one text as independent."""
    rows = [("own voice", "en", "1 2", 0.9), ("own voice", "fr", "1 2", 0.7), ("own voice", "en", "3 4", 0.8),
            ("another voice", "en", "1 2", 0.5), ("another voice", "fr", "1 2", 0.6),
            ("another voice", "en", "3 4", float("nan")), ("no voice", "en", "1 2", 0.4)]  # fmt: skip
    with (tmp_path / "candidates.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt_set", "language", "text", "speaker"])
        writer.writerows(rows)
    found = voice_results(tmp_path / "candidates.csv")
    difference = found["differences"]["own voice minus another"]
    assert difference["all"]["value"] == pytest.approx((0.4 + 0.1) / 2) and difference["all"]["num"] == 2
    assert difference["en"]["value"] == pytest.approx(0.4) and difference["fr"]["value"] == pytest.approx(0.1)
    assert (
        difference["all"]["low"] < -1 and difference["all"]["high"] > 1
    )  # one text, two voices: almost no information
    assert found["similarity"]["own voice"]["value"] == pytest.approx(0.8)
    rng = np.random.default_rng(0)
    effects = {str(text): rng.normal() for text in range(40)}
    wide = clustered({(language, text): value for text, value in effects.items() for language in "abcde"})
    single = clustered({("a", text): value for text, value in effects.items()})
    assert wide["high"] - wide["low"] == pytest.approx(single["high"] - single["low"])


def test_the_script_runs_configs_that_are_there() -> None:
    """Guards against a script whose commands no longer match the configs."""
    script = (REPOSITORY / "studies/two_directions/run.sh").read_text()
    folder = re.search(r"CONFIGS=(\S+)", script)[1]
    commands = re.findall(r"run\.py (\w+) --config (\S+\.yaml)", script.replace("$CONFIGS", folder))
    assert len(commands) == 7
    for subcommand, name in commands:
        assert (REPOSITORY / name) in EXPERIMENTS and subcommand_of(REPOSITORY / name) == subcommand, name
