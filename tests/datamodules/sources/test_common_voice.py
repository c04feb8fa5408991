"""CommonVoiceSource on miniatures of a current and an old release."""

from pathlib import Path

import pytest

from datamodules.sources.common_voice import CommonVoiceSource
from tests.toys.miniatures import found_in, write_text, write_tone

COLUMNS = [
    *("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age", "gender"),
    *("accents", "variant", "locale", "segment"),
]
OLD_COLUMNS = [
    "client_id",
    "path",
    "sentence",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accent",
    "locale",
    "segment",
]
PEOPLE = {one: one * 128 for one in "abcdef"}  # client_id is a long hash


def table(rows: list[dict[str, str]], columns: list[str] = COLUMNS) -> str:
    lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    return "\n".join("\t".join(line) for line in lines)


def clip(number: int, person: str, sentence: str, **more: str) -> dict[str, str]:
    path = f"common_voice_xx_{number}.mp3"
    return {"client_id": PEOPLE[person], "path": path, "sentence": sentence, "locale": "xx", **more}


def write_language(root: Path, lists: dict[str, list[dict[str, str]]], columns: list[str] = COLUMNS) -> None:
    for name, rows in lists.items():
        write_text(root / f"{name}.tsv", table(rows, columns) + "\n")
        for row in rows:
            write_tone(root / "clips" / row["path"], 32_000, format="MP3")


def write_corpus(tmp_path: Path) -> Path:
    """Validated holds train, dev and test, and more: clips of dev's speaker, of test's sentence, empty, cut, absent."""
    train = [
        clip(1, "a", 'He said "no.', gender="male_masculine", accents="a|b"),
        clip(2, "a", "HELLO WORLD"),
    ]
    dev, test = [clip(3, "b", "A dev sentence.")], [clip(4, "c", "Shall we?", up_votes="2")]
    others = [
        clip(5, "b", "Another one of that speaker."),
        clip(6, "d", "shall  we"),
        clip(7, "d", "A new sentence."),
        clip(8, "e", "An empty clip."),
        clip(9, "e", "A cut clip."),
        clip(10, "e", "A clip that is not there."),
        clip(11, "f", "L" * 140_000),
    ]
    root = tmp_path / "cv-corpus-24.0"
    write_language(root / "xx", {"train": train, "dev": dev, "test": test, "validated": train + dev + test + others})
    clips = root / "xx/clips"
    (clips / "common_voice_xx_8.mp3").write_bytes(b"")
    write_tone(clips / "common_voice_xx_9.mp3", 32_000, 1.0, format="MP3")
    whole = (clips / "common_voice_xx_9.mp3").read_bytes()
    (clips / "common_voice_xx_9.mp3").write_bytes(whole[: len(whole) // 2])
    (clips / "common_voice_xx_10.mp3").unlink()
    seconds = {number: 1000 if number == 9 else 100 for number in range(1, 12)}
    lines = [f"common_voice_xx_{number}.mp3\t{length}" for number, length in seconds.items()]
    write_text(root / "xx/clip_durations.tsv", "\n".join(["clip\tduration[ms]", *lines]))
    with (root / "xx/validated.tsv").open("ab") as stream:
        stream.write(f"{PEOPLE['f']}\tcommon_voice_xx_12.mp3\n".encode())
        stream.write("\t".join([PEOPLE["f"], "common_voice_xx_7b.mp3", "", "Caf\xe9"]).encode("latin-1") + b"\n")
    return root


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path)


def test_common_voice_as_published(corpus: Path):
    """Guards quotes that swallow lines, and the official splits."""
    found = found_in(CommonVoiceSource(corpus))
    splits = {"common_voice_xx_1": "train", "common_voice_xx_2": "train"}
    assert found.splits == splits | {"common_voice_xx_3": "held_out", "common_voice_xx_4": "test"}
    assert found.skips == {} and found.speakers == {PEOPLE[one] for one in "abc"}
    assert found.hours == pytest.approx(0.4 / 3600, rel=0.05)
    one = found.kept["common_voice_xx_1"]
    assert one.text == 'He said "no.' and one.language == "xx" and one.license == "CC0-1.0"
    facts = {"gender": "male_masculine", "accents": "a|b", "published_seconds": 0.1}
    assert one.more == {"id": "common_voice_xx_1", **facts} and one.audio.sample_rate == 32_000
    assert one.key == "common_voice_xx_common_voice_xx_1"
    assert found.kept["common_voice_xx_2"].more["text_style"] == "upper"


def test_validated_without_what_dev_and_test_hold(corpus: Path):
    """Guards against speakers and sentences of dev and test in train, clips that lists name twice, damaged clips, long
    lines and bad ones."""
    found = found_in(CommonVoiceSource(corpus, lists=["train", "validated"]))
    names = {"train": (1, 2, 7, 11), "held_out": (3,), "test": (4,)}
    assert found.splits == {f"common_voice_xx_{number}": split for split in names for number in names[split]}
    assert found.skips == {
        "its speaker or sentence is in dev or test": 2,
        "unreadable": 2,
        "shorter than clip_durations.tsv says": 1,
        "a line of validated.tsv that does not have its columns": 1,
        "the text is not UTF-8": 1,
    }
    assert len(found.kept["common_voice_xx_11"].text) == 140_000  # above csv's limit of a field


def test_an_old_release_and_one_without_dev(tmp_path: Path):
    """Guards the columns of older releases, and languages where nothing would be held out."""
    row = {"client_id": "g", "path": "common_voice_fy-NL_1.mp3", "sentence": "Goeie.", "accent": "Wâldfrysk"}
    write_language(
        tmp_path / "fy-NL", {"train": [row], "test": [row | {"client_id": "h", "path": "b.mp3"}]}, OLD_COLUMNS
    )
    source = CommonVoiceSource(tmp_path, ["fy-NL"], lists=["train"])
    assert found_in(source).skips == {"its speaker or sentence is in dev or test": 1}
    (tmp_path / "fy-NL/test.tsv").unlink()
    one = found_in(source).kept["common_voice_fy-NL_1"]
    assert one.split == "" and one.more["accents"] == "Wâldfrysk" and one.language == "fy-NL"
    with pytest.raises(FileNotFoundError, match=r"\(de\), but got .* with fy-NL"):
        list(CommonVoiceSource(tmp_path, ["de"]).items())
    write_text(tmp_path / "fy-NL/train.tsv", "id\ttext\n")
    with pytest.raises(ValueError, match="the columns client_id, path, sentence"):
        list(source.items())
