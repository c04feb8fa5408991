"""AsteriskSource: the recorded telephone prompts of Debian's asterisk-core-sounds packages, five voices at 16 kHz."""

import gzip
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.sources.debian import download, find_packages, read_deb
from datamodules.sources.folder import unique_keys
from datamodules.sources.listed import Item, ListedSource
from datamodules.sources.source import Recording, Skipped
from modules.api import Audio

SAMPLE_RATE = 16_000  # of G.722
SOUNDS = "usr/share/asterisk/sounds/"
TONES = re.compile(r"silence/.*|beep|beeperr|(a|de)scending-2tone|confbridge-(join|leave)|tt-monkeys")
# A transcript line that contains the next one: `... eliminato vm-then-pound: poi premere cancelletto`.
EMBEDDED_NAME = re.compile(r"(?:^|(?<=[\s.]))([A-Za-z0-9]+(?:[-/_][A-Za-z0-9]+)+):\s")


@dataclass(frozen=True)
class Prompts:
    """Contents of one language's two packages: audio and transcripts by prompt name, and the terms of use."""

    voice: str
    audio: dict[str, bytes]
    transcripts: dict[str, list[str]]
    license: str
    copyright_holder: str
    credits: str
    copyright_file: str


def decode_g722(data: bytes) -> Audio:
    """Decode G.722 at 64 kbit/s (each byte encodes two samples at 16 kHz). Raises ValueError if there are none."""
    import av

    if not data:
        raise ValueError("the file is empty")
    decoder = av.CodecContext.create("g722", "r")
    decoder.sample_rate, decoder.layout = SAMPLE_RATE, "mono"
    chunks = [frame.to_ndarray().reshape(-1) for packet in (av.Packet(data), None) for frame in decoder.decode(packet)]
    samples_T = (
        np.concatenate(chunks).astype(np.float32) / 32768
    )  # numpy: torch's threads cost more than they save here
    return Audio(torch.from_numpy(samples_T), SAMPLE_RATE)


def read_transcripts(data: bytes, names: Collection[str]) -> dict[str, list[str]]:
    """Parse a file of lines `name: text`: every distinct text of a prompt, by prompt name.

    `;` starts a comment. A text that contains one of `names` and a colon is split there.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()  # the Italian file starts with a byte order mark
    except UnicodeDecodeError:
        lines = data.decode("latin-1").splitlines()
    texts: dict[str, list[str]] = {}
    embedded: dict[str, str] = {}
    for line in lines:
        name, colon, rest = line.partition(":")
        if line.lstrip().startswith(";") or not colon:
            continue
        text, *others = EMBEDDED_NAME.split(" ".join(rest.split()))
        for inner, words in zip(others[::2], others[1::2], strict=True):
            if inner in names:
                embedded[inner] = words.strip()
            else:
                text += f"{inner}: {words}"
        if text.strip() and text.strip() not in texts.setdefault(name.strip(), []):
            texts[name.strip()].append(text.strip())
    for name, text in embedded.items():  # a prompt's own line is more reliable
        if text and not texts.get(name):
            texts[name] = [text]
    return texts


def spoken_text(name: str, transcripts: dict[str, list[str]], language: str) -> str | Skipped:
    """Return the text of the prompt `name`, or why it is not known (a Skipped without key)."""
    if TONES.fullmatch(name):
        return Skipped("", "a tone, noise or silence, not speech")
    texts = transcripts.get(name)
    if texts is None:  # the Italian file has phonetic/C_P for phonetic/c_p
        alike = [key for key in transcripts if key.casefold() == name.casefold()]
        texts = transcripts[alike[0]] if len(alike) == 1 else []
    if not texts:
        return Skipped("", "no transcript")
    if len(texts) > 1:
        return Skipped("", "several transcripts that differ")
    text = texts[0]
    if re.fullmatch(r"\[.*\]|\(.*\)|<.*>", text):
        return Skipped("", "a tone, noise or silence, not speech")
    text = re.sub(r"\s*\[\W*\]\s*", " ", text).strip()  # `at [@]`: the sign is named
    if re.search(r"[\[\](){}<>]", text):
        return Skipped("", "the transcript holds a remark in brackets: which words are spoken is not certain")
    if text.count('"') == 1:
        text = text.replace('"', "")
    if not re.search(r"\w", text):
        return Skipped("", "no transcript")
    if language == "ru" and not re.search(r"[\u0400-\u04ff]", text):
        return Skipped("", "the transcript is not in the language of the recording")
    return text


def read_copyright(text: str, language: str) -> dict[str, str]:
    """Return the paragraph of a machine-readable Debian copyright file for the sounds of `language`, by field."""
    covering: dict[str, str] = {}
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        field = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                fields[field] = fields.get(field, "") + "\n" + line.strip()
            elif ":" in line:
                field, _, value = line.partition(":")
                fields[field] = value.strip()
        if any(fnmatch(f"{language}-sounds", pattern) for pattern in fields.get("Files", "").split()):
            covering = fields  # the last match applies
    return covering


class AsteriskSource(ListedSource):
    """The prompts of `asterisk-core-sounds-{language}-g722` with the transcripts of `asterisk-core-sounds-{language}`.

    16 kHz mono, one voice per language, 24 to 31 minutes each. The packages are downloaded with `apt-get download` into
    `cache`, which needs no root and installs nothing; cached ones are not downloaded again. Tones, silences and prompts
    without a reliable transcript are Skipped. Keys are `en_digits_1` for the English prompt digits/1.

    Args:
        cache: Folder for the packages.
        languages: Subset of en, es, fr, it, ru.
        packages: A folder of .deb files from elsewhere; disables downloading.

    Raises (on use):
        FileNotFoundError: `packages` lacks a package.
        RuntimeError: The packages could not be downloaded (no apt-get, or offline); names the alternatives.
        ValueError: A package is damaged or contains no prompts.
    """

    hold_out = "key"  # as since the first version: published results refer to this split

    def __init__(
        self, cache: Path, languages: Sequence[str] = ("en", "es", "fr", "it", "ru"), packages: Path | None = None
    ) -> None:
        odd = [language for language in languages if not re.fullmatch("[a-z]{2}", language)]
        if odd or not languages or len(set(languages)) != len(languages):
            raise ValueError(f"Expected `languages` to be distinct two-letter codes, but got {list(languages)}.")
        self.cache = Path(cache)
        self.languages = tuple(languages)
        self.packages = None if packages is None else Path(packages)
        self._prompts: dict[str, Prompts] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_prompts": {}}  # of megabytes; another process reads them itself

    def items(self) -> Iterator[Item]:
        for language in self.languages:
            prompts = self._read(language)
            for name in sorted(prompts.audio):
                yield self._item(name, language, prompts)

    def keyed_items(self) -> list[tuple[str, Item]]:
        found: list[tuple[str, Item]] = []
        for language in self.languages:
            items = [item for item in self.items() if item.language == language]
            found += zip(unique_keys([item.name for item in items], f"{language}_"), items, strict=True)
        return found

    def audio(self, item: Item) -> Audio:
        return decode_g722(self._read(item.language).audio[item.name])

    def recording(self, key: str, item: Item) -> Recording | Skipped:
        found = super().recording(key, item)
        if isinstance(found, Skipped):
            return found
        return replace(found, source=f"asterisk-core-sounds-{item.language}", more={})

    def credits(self) -> str:
        """Return speaker and licence for each language, then the packages' complete copyright files."""
        parts = ["Prompts of the Asterisk core sounds (https://www.asterisk.org), decoded from G.722 to PCM.\n"]
        files: list[str] = []
        for language in self.languages:
            prompts = self._read(language)
            parts.append(
                f"asterisk-core-sounds-{language} (voice {prompts.voice}): {prompts.license}, "
                f"copyright {prompts.copyright_holder}\n{prompts.credits}\n"
            )
            if prompts.copyright_file not in files:
                files.append(prompts.copyright_file)
        return "\n".join([*parts, *files])

    def _item(self, name: str, language: str, prompts: Prompts) -> Item:
        text = spoken_text(name, prompts.transcripts, language)
        # The digits make up the training strings of DigitsSource: they are never held out.
        split = "train" if language == "en" and re.fullmatch(r"digits/\d", name) else ""
        labels = {"speaker": prompts.voice, "language": language, "license": prompts.license, "split": split}
        if isinstance(text, Skipped):
            return Item(name, unusable=text.reason, **labels)
        return Item(name, text=text, **labels)

    def _read(self, language: str) -> Prompts:
        if language not in self._prompts:
            self._prompts[language] = read_prompts(*self._package_files(language), language)
        return self._prompts[language]

    def _package_files(self, language: str) -> list[Path]:
        """Return the .deb files of the transcripts and of the sounds."""
        folder = self.packages or self.cache / "packages"
        names = package_names(language)
        found = find_packages(folder, names)
        if len(found) < len(names) and self.packages:
            missing = ", ".join(f"{name}_*.deb" for name in names if name not in found)
            raise FileNotFoundError(f"Expected `packages` to hold {missing}, but got {self.packages} without.")
        if len(found) < len(names):
            wanted = [name for language in self.languages for name in package_names(language)]
            download([name for name in wanted if not find_packages(folder, [name])], folder)
            found = find_packages(folder, names)
        return [found[name] for name in names]


def package_names(language: str) -> list[str]:
    """Names of the Debian packages of the transcripts and of the sounds of a language."""
    return [f"asterisk-core-sounds-{language}", f"asterisk-core-sounds-{language}-g722"]


def read_prompts(transcripts: Path, sounds: Path, language: str) -> Prompts:
    """Read a language's two packages. Raises ValueError if one of them is damaged or incomplete."""
    texts, files = read_deb(transcripts), read_deb(sounds)
    audio = {path.removeprefix(SOUNDS): data for path, data in files.items() if path.startswith(SOUNDS)}
    voices = sorted({path.partition("/")[0] for path in audio})
    audio = {path.partition("/")[2].removesuffix(".g722"): data for path, data in audio.items() if path[-5:] == ".g722"}
    if len(voices) != 1 or not audio:
        raise ValueError(f"Expected `{sounds}` to hold the G.722 prompts of one voice, but got {voices or 'none'}.")
    documents = f"usr/share/doc/asterisk-core-sounds-{language}/"
    try:
        lines = gzip.decompress(texts[f"{documents}core-sounds-{language}.txt.gz"])
        copyright_file = texts[f"{documents}copyright"].decode("utf-8", "replace")
    except (KeyError, OSError, EOFError) as error:
        raise ValueError(
            f"Expected `{transcripts}` to hold transcripts and a copyright file, but got {error}."
        ) from error
    terms = read_copyright(copyright_file, language)
    if not terms.get("License"):
        raise ValueError(f"Expected the copyright file of `{transcripts}` to name a licence, but got none.")
    return Prompts(
        voice=voices[0],
        audio=audio,
        transcripts=read_transcripts(lines, audio.keys()),
        license=terms["License"].splitlines()[0],
        copyright_holder=terms.get("Copyright", "not stated"),
        credits=terms.get("Comment", "").replace("\n.\n", "\n\n"),  # a single dot represents an empty line
        copyright_file=copyright_file,
    )
