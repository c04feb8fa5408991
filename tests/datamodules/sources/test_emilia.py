"""EmiliaSource on both layouts."""

import gzip
import json
from pathlib import Path

import pytest

from datamodules.sources.emilia import EmiliaSource
from tests.toys.miniatures import write_text
from tests.toys.tar_miniatures import found_inside, members_of, tone, write_tar


def about(name: str, text: str, speaker: str, language: str = "en", **more) -> dict:
    wav = f"{name[:9]}/{name[:16]}/mp3/{name}.mp3"
    scored = {"id": name, "wav": wav, "text": text, "duration": 0.1, "speaker": speaker, "language": language}
    return {**scored, "dnsmos": 3.2927, **more}


def mp3(seconds: float = 0.1) -> bytes:
    return tone(seconds, 24_000, "MP3")


NAMES = "EN_B00000_S00000_W000000", "EN_-3_b-x_Y8zA_W000001", "DE_B00001_S00002_W000003"


def write_emilia(tmp_path: Path) -> None:
    one, two, three = NAMES
    files = [(f"{one}.mp3", mp3()), (f"{one}.json", json.dumps(about(one, " You can help.", "EN_B00000_S00000")))]
    write_tar(tmp_path / "Emilia/EN/EN-B000000.tar", files)
    files = [(f"{three}.json", json.dumps(about(three, " Ja.", "DE_B00001_S00002", "de"))), (f"{three}.mp3", mp3())]
    write_tar(tmp_path / "Emilia/DE/DE-B000000.tar", files)
    files = [(f"{two}.mp3", mp3()), (f"{two}.json", json.dumps(about(two, " Hi.", "EN_-3_b-x_Y8zA_SPEAKER_03")))]
    write_tar(tmp_path / "Emilia-YODAS/EN/EN-B000000.tar", files)


def test_emilia_as_published(tmp_path: Path):
    """Guards the two licences of one download, the space before a text, `wav` that names no member, ids of YouTube with
    `_` and `-` that say nothing of the speaker, and dnsmos."""
    one, two, three = NAMES
    write_emilia(tmp_path)
    source = EmiliaSource(tmp_path)
    found = found_inside(source)
    assert {name: item.text for name, item in found.kept.items()} == {one: "You can help.", two: "Hi.", three: "Ja."}
    licenses = {name: item.license for name, item in found.kept.items()}
    assert licenses == {one: "CC BY-NC 4.0", three: "CC BY-NC 4.0", two: "CC BY 4.0"}
    assert found.speakers == {"EN_B00000_S00000", "DE_B00001_S00002", "EN_-3_b-x_Y8zA_SPEAKER_03"}
    assert {item.language for item in found.kept.values()} == {"en", "de"}
    assert found.kept[two].key == f"emilia_YODAS_{two}" and found.kept[one].key == f"emilia_{one}"
    assert found.kept[one].scores == {"dnsmos": 3.2927} and found.skips == {}
    assert found.hours == pytest.approx(0.3 / 3600, rel=1e-3) and set(found.splits.values()) == {""}
    assert "CC BY-NC 4.0 (Emilia), CC BY 4.0 (Emilia-YODAS)" in source.credits()
    assert all(member.bytes_at for member in members_of(source).values())
    alone = found_inside(EmiliaSource(tmp_path / "Emilia-YODAS", files="EN/*"))
    assert [item.license for item in alone.kept.values()] == ["CC BY 4.0"]
    write_tar(
        tmp_path / "Emilia/FR/FR_B00000.tar.gz", write_first_layout(tmp_path / "Emilia", "FR_B00000", "FR"), "w:gz"
    )
    assert (
        len(found_inside(EmiliaSource(tmp_path, in_place=False)).kept) == 3 + 2
    )  # one release does not hide the other
    stated = found_inside(EmiliaSource(tmp_path, license="by agreement", in_place=False))
    assert {item.license for item in stated.kept.values()} == {"by agreement"}


def write_first_layout(root: Path, batch: str = "EN_B00000", language: str = "EN") -> list[tuple[str, bytes]]:
    """A list of three recordings, of which the archive has two, and one that is not listed; returns its files."""
    names = [f"{batch}_S0000{number}_W00000{number}" for number in range(4)]
    records = [about(name, f" Text {number}.", f"{batch}_S{number}") for number, name in enumerate(names)]
    listed = "".join(f"{json.dumps(record)}\n" for record in records[:3])
    write_text(root / f"{language}/{batch}.jsonl", listed + json.dumps(records[0]) + "\n{broken\n")
    return [(records[number]["wav"], mp3()) for number in (3, 1, 0)]


@pytest.mark.parametrize("archive", ["tar.gz", "parts", "tar", "unpacked"])
def test_the_first_layout(tmp_path: Path, archive: str):
    """Guards gzip, parts to be joined in order of their numbers, listed mp3 that are missing, and a repeated line."""
    files = write_first_layout(tmp_path)
    stem = tmp_path / "EN/EN_B00000"
    if archive == "tar.gz":
        write_tar(Path(f"{stem}.tar.gz"), files, "w:gz")
    elif archive == "parts":
        write_tar(tmp_path / "joined", files, "w:gz")
        content = (tmp_path / "joined").read_bytes()
        size = -(-len(content) // 12)  # the tenth part precedes the second by name
        for number in range(12):
            Path(f"{stem}.tar.gz.{number}").write_bytes(content[number * size : (number + 1) * size])
    elif archive == "tar":
        write_tar(Path(f"{stem}.tar"), [(f"./{name}", content) for name, content in files])
    else:
        for name, content in files:
            write_text(tmp_path / "EN" / name, content)
    source = EmiliaSource(tmp_path, in_place=archive in ("tar", "unpacked"))
    assert [item.path for item in source.items()] == ["EN/EN_B00000.jsonl"]
    found = found_inside(source)
    texts = {name: item.text for name, item in found.kept.items()}
    assert texts == {"EN_B00000_S00000_W000000": "Text 0.", "EN_B00000_S00001_W000001": "Text 1."}
    assert found.speakers == {"EN_B00000_S0", "EN_B00000_S1"} and set(found.splits.values()) == {""}
    assert found.hours == pytest.approx(0.2 / 3600, rel=1e-3)
    assert {item.license for item in found.kept.values()} == {"CC BY-NC 4.0"}
    unlisted = {} if archive == "unpacked" else {"an mp3 that is not in the list": 1}
    assert found.skips == {
        "a listed mp3 is missing": 1, "a line that names no audio file, or one for the second time": 1, "not json": 1,
        **unlisted,
    }  # fmt: skip
    member = members_of(source)["EN_B00000_S00001_W000001"]
    assert bool(member.bytes_at) == (archive == "tar") and bool(member.content) == (archive in ("tar.gz", "parts"))


def test_gzip_of_the_first_layout_is_refused_in_place(tmp_path: Path):
    """Guards against offsets into a gzip stream; the hint leads on."""
    write_tar(tmp_path / "EN/EN_B00000.tar.gz", write_first_layout(tmp_path), "w:gz")
    with pytest.raises(ValueError, match=r"EN_B00000\.tar\.gz .*Set `in_place` to false.*gunzip"):
        list(EmiliaSource(tmp_path).items())
    content = gzip.decompress((tmp_path / "EN/EN_B00000.tar.gz").read_bytes())
    (tmp_path / "EN/EN_B00000.tar").write_bytes(content)  # what the hint says
    assert len(found_inside(EmiliaSource(tmp_path)).kept) == 2
