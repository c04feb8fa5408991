"""AsteriskSource and the Debian packages that it reads. No test needs a network: packages are built here."""

import gzip
import re
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.sources import debian
from datamodules.sources.asterisk import AsteriskSource, decode_g722, read_copyright, read_transcripts, spoken_text
from datamodules.sources.debian import read_deb
from datamodules.sources.folder import unique_keys
from datamodules.sources.source import Recording, Skipped
from tests.toys.debian_packages import write_deb

TRANSCRIPTS = """\ufeff; Core sounds: a comment with a colon

hello: Hello  there.\t
dictate/both_help: press * to pause
a/b: first
a_b: second
tone: [ascending tones]
letters/at: at [@]
remark: IAX (note: does not say "2")
tt-monkeys: monkeys
vm-end: It ended vm-then: then pound
nothing: ...
quote: It said so."
twice: one
twice: two
digits/1: one
phonetic/C_P: c
broken: no sound in the file
"""
COPYRIGHT = """Format: http://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2010, A. Voice
Comment: The CREDITS file:
 Recorded by:
 A. Voice
 License: WRONG-1.0
License: CC-BY-SA-3.0

Files: ru-*
Copyright: 2011, B. Voice
License: CC-BY-3.0

License: CC-BY-SA-3.0
 The whole text.
"""


def sine(num_samples: int, frequency: float = 440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * frequency * np.arange(num_samples) / 16_000)).astype(np.float32)


def encode_g722(audio: np.ndarray) -> bytes:
    import av

    encoder = av.CodecContext.create("g722", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 16_000, "mono", "s16"
    data = b""
    for start in range(0, len(audio), 320):
        samples = (audio[start : start + 320] * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16_000
        data += b"".join(bytes(packet) for packet in encoder.encode(frame))
    return data + b"".join(bytes(packet) for packet in encoder.encode(None))


def write_packages(folder: Path, language: str = "en", compression: str = "xz") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"asterisk-core-sounds-{language}"
    documents = {
        f"usr/share/doc/{name}/core-sounds-{language}.txt.gz": gzip.compress(TRANSCRIPTS.encode()),
        f"usr/share/doc/{name}/copyright": COPYRIGHT.encode(),
    }
    prompts = "hello dictate/both_help a/b a_b tone letters/at remark tt-monkeys vm-end vm-then nothing quote twice"
    sound = encode_g722(sine(1600))
    sounds = dict.fromkeys([*prompts.split(), "digits/1", "phonetic/c_p", "silence/3", "unknown"], sound)
    sounds["broken"] = b""
    voice = f"usr/share/asterisk/sounds/{language}_US_f_Voice"
    write_deb(folder / f"{name}_1.0_all.deb", documents, compression)
    write_deb(folder / f"{name}-g722_1.0_all.deb", {f"{voice}/{k}.g722": v for k, v in sounds.items()}, compression)


@pytest.fixture
def asterisk(tmp_path: Path) -> AsteriskSource:
    write_packages(tmp_path / "packages")
    return AsteriskSource(tmp_path / "cache", ["en"], tmp_path / "packages")


def by_key(items) -> dict[str, Recording | Skipped]:
    listed = list(items)
    keyed = {item.key: item for item in listed}
    assert len(keyed) == len(listed), "keys are not unique"
    return keyed


def test_deb_unpacks_as_dpkg_does(tmp_path):
    """Guards our ar reader (padding of odd members, names with a slash) against the reference implementation."""
    files = {"usr/a": b"1", "usr/deep/b.txt": b"22" * 999}
    for compression in ("xz", "gz"):
        write_deb(tmp_path / "x.deb", files, compression)
        assert read_deb(tmp_path / "x.deb") == files
    if shutil.which("ar"):
        members = subprocess.run(["ar", "t", tmp_path / "x.deb"], capture_output=True, text=True, check=True).stdout
        assert members.split() == ["debian-binary", "control.tar.xz", "data.tar.gz"]


def test_damaged_packages_are_named(tmp_path):
    """A truncated download must not pass as a short corpus; a zst package gives an error with a remedy."""
    path = tmp_path / "x.deb"
    write_deb(path, {"usr/a": bytes(range(256)) * 99})
    whole = path.read_bytes()
    for data in (b"", b"no package", whole[:100], whole[: len(whole) * 3 // 4], whole[:68] + b"x" * 200):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"Expected `.*x\.deb` to be"):
            read_deb(path)
    if "zst" not in tarfile.TarFile.OPEN_METH:
        path.write_bytes(whole.replace(b"data.tar.xz/ ", b"data.tar.zst "))
        with pytest.raises(ValueError, match=r"got data\.tar\.zst, which this Python cannot read"):
            read_deb(path)


def test_prompts_and_what_is_skipped(asterisk):
    """Wrong labels are worse than fewer: tones, remarks and contradictions must not reach training."""
    items = by_key(asterisk.recordings())
    assert asterisk.num_recordings == len(items) == 18
    texts = {key: item.text for key, item in items.items() if isinstance(item, Recording)}
    key_1, key_2 = unique_keys(["a/b", "a_b"], "en_")
    assert texts == {
        "en_hello": "Hello there.",
        "en_dictate_both_help": "press * to pause",
        key_1: "first",
        key_2: "second",
        "en_letters_at": "at",
        "en_vm-end": "It ended",
        "en_vm-then": "then pound",
        "en_quote": "It said so.",
        "en_digits_1": "one",
        "en_phonetic_c_p": "c",
    }
    reasons = {key: item.reason for key, item in items.items() if isinstance(item, Skipped)}
    tone = "a tone, noise or silence, not speech"
    assert reasons.pop("en_remark").startswith("the transcript holds a remark")
    assert reasons == {
        "en_tone": tone,
        "en_tt-monkeys": tone,
        "en_silence_3": tone,
        "en_nothing": "no transcript",
        "en_unknown": "no transcript",
        "en_twice": "several transcripts that differ",
        "en_broken": "unreadable: the file is empty",
    }
    assert not any(set("./ ") & set(key) for key in items)


def test_recording_has_licence_and_credits(asterisk):
    """Licence and credits come from the paragraph that covers the language, not from the first similar line."""
    hello = by_key(asterisk.recordings())["en_hello"]
    assert (hello.speaker, hello.language, hello.license) == ("en_US_f_Voice", "en", "CC-BY-SA-3.0")
    assert read_copyright(COPYRIGHT, "ru")["License"] == "CC-BY-3.0"
    assert "A. Voice" in asterisk.credits() and "The whole text." in asterisk.credits()
    assert by_key(asterisk.recordings())["en_digits_1"].split == "train" and hello.split == ""


def test_g722_decodes_to_the_sound():
    """Guards rate, scale and byte order: the decoded sine is the sine, apart from the codec's delay and noise."""
    original = sine(8000)
    decoded = decode_g722(encode_g722(original))
    assert decoded.sample_rate == 16_000 and decoded.samples_T.dtype == torch.float32
    errors = [
        np.abs(decoded.samples_T.numpy()[delay + 800 : delay + 7000] - original[800:7000]).mean() for delay in range(40)
    ]
    assert min(errors) < 0.01


def test_transcripts_in_latin_1_and_russian_script():
    """Guards against a file that is not UTF-8 stopping the run, and against English texts for Russian sounds."""
    assert read_transcripts("a: \xe9t\xe9".encode("latin-1"), ["a"]) == {"a": ["\xe9t\xe9"]}
    assert read_transcripts(b"\xef\xbb\xbfa: first\n", ["a"]) == {"a": ["first"]}  # a byte order mark is not a letter
    assert isinstance(spoken_text("a", {"a": ["at"]}, "ru"), Skipped)
    assert spoken_text("a", {"a": ["\u0434\u0430"]}, "ru") == "\u0434\u0430"


def fake_apt(folder: Path, script: str, monkeypatch) -> None:
    folder.mkdir()
    (folder / "apt-get").write_text(f"#!/bin/bash\n{script}\n")
    (folder / "apt-get").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_fetches_once_and_then_works_offline(tmp_path, monkeypatch):
    """Guards against apt's state outside the cache (no root) or shared between calls, and a second run that needs a
    network."""
    write_packages(tmp_path / "mirror")
    copy = f'for name in "$@"; do cp {tmp_path}/mirror/${{name}}_*.deb . 2>/dev/null; done; true'
    fake_apt(tmp_path / "bin", f'echo "$@" >> {tmp_path}/log\n{copy}', monkeypatch)
    cache = tmp_path / "cache"
    source = AsteriskSource(cache, ["en"])
    assert not cache.exists()  # the constructor accesses nothing
    assert source.num_recordings == 18
    update, fetch = (tmp_path / "log").read_text().splitlines()
    assert update.endswith("update") and fetch.endswith("download asterisk-core-sounds-en asterisk-core-sounds-en-g722")
    states = re.findall(rf"-oDir::(?:State::Lists|Cache)=({cache}/packages/[^/]+)/(?:lists|cache)", f"{update} {fetch}")
    assert len(states) == 4 and len(set(states)) == 1 and not Path(states[0]).exists()
    fake_apt(tmp_path / "offline", "exit 100", monkeypatch)
    assert AsteriskSource(cache, ["en"]).num_recordings == 18
    assert {path.name for path in (cache / "packages").iterdir()} == {
        path.name for path in (tmp_path / "mirror").iterdir()
    }


def test_errors_name_the_alternatives(tmp_path, monkeypatch):
    """Offline, without apt, or with an incomplete folder the error must name the alternatives."""
    fake_apt(tmp_path / "bin", 'echo "E: Could not resolve deb.debian.org" >&2; exit 100', monkeypatch)
    with pytest.raises(RuntimeError, match=r"Could not resolve.*apt-get download asterisk.*`packages`.*FolderSource"):
        list(AsteriskSource(tmp_path / "cache", ["en"]).recordings())
    assert not list((tmp_path / "cache/packages").iterdir())
    # Offline, apt-get update succeeds with warnings: the error must include the reason.
    script = 'if [[ "$*" == *update ]]; then echo "W: no route" >&2; else echo "E: no such package" >&2; exit 100; fi'
    fake_apt(tmp_path / "warning", script, monkeypatch)
    with pytest.raises(RuntimeError, match=r"`apt-get download`.*no route.*no such package.*FolderSource"):
        list(AsteriskSource(tmp_path / "cache", ["en"]).recordings())
    fake_apt(tmp_path / "silent", "exit 0", monkeypatch)
    with pytest.raises(RuntimeError, match=r"got nothing.*FolderSource"):
        list(AsteriskSource(tmp_path / "cache", ["en"]).recordings())
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"got none\..*`packages`.*FolderSource"):
        list(AsteriskSource(tmp_path / "cache", ["en"]).recordings())
    write_packages(tmp_path / "packages")
    with pytest.raises(FileNotFoundError, match=r"asterisk-core-sounds-fr_\*\.deb"):
        list(AsteriskSource(tmp_path / "cache", ["en", "fr"], tmp_path / "packages").recordings())
    for languages in ([], ["en", "en"], ["../x"]):
        with pytest.raises(ValueError, match="Expected `languages`"):
            AsteriskSource(tmp_path / "cache", languages)


def test_keys_stay_apart_and_do_not_depend_on_order():
    """Guards against two prompts in one shard entry, including where file names are case-insensitive."""
    names = ["a/b", "a_b", "A_b", "c d.e", "c"]
    keys = dict(zip(names, unique_keys(names, "en_"), strict=True))
    assert len({key.casefold() for key in keys.values()}) == 5
    assert keys["c"] == "en_c" and keys["c d.e"] == "en_c_d_e" and keys["a/b"].startswith("en_a_b_")
    assert unique_keys(names[::-1], "en_") == [keys[name] for name in names[::-1]]


@pytest.fixture(scope="module")
def real_prompts() -> dict[str, Recording | Skipped]:
    """All prompts of the demo's cache, downloaded into it if apt-get works (54 MB)."""
    try:
        return by_key(AsteriskSource(Path(__file__).parents[3] / "cache/asterisk").recordings())
    except RuntimeError as error:
        pytest.skip(f"the recorded prompts are not in cache/asterisk and cannot be fetched: {error}")


def test_the_real_prompts(real_prompts):
    """Guards the handling of the transcripts' oddities on the real packages: all digits, and enough of every voice."""
    recordings = [item for item in real_prompts.values() if isinstance(item, Recording)]
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert [real_prompts[f"en_digits_{digit}"].text for digit in range(10)] == words
    for language in ("en", "es", "fr", "it", "ru"):
        chosen = [item for item in recordings if item.language == language]
        assert sum(item.audio.seconds for item in chosen) > 15 * 60
        assert {item.license for item in chosen} == {"CC-BY-3.0" if language in ("it", "ru") else "CC-BY-SA-3.0"}
    assert not any(mark in item.text for item in recordings for mark in "[](){}<>")
