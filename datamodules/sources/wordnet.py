"""WordNetSentences: the example sentences and the definitions of WordNet 3.0, from Debian's package wordnet-base."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datamodules.sources.debian import download, find_packages, read_deb

PACKAGE = "wordnet-base"
FOLDER = "usr/share/wordnet"  # in the package, and below / where it is installed
PARTS = ("noun", "verb", "adj", "adv")
NUM_WORDS = (3, 14)
GLOSS = re.compile(r"^(\d{8}) [^|\n]*\| (.*)$", re.MULTILINE)
EXAMPLE = re.compile(r'"([^"]+)"')
REMARK = re.compile(r"\([^()]*\)")
PLAIN = re.compile(r"[A-Za-z][A-Za-z' ,.;:?!-]*")
ARCHAIC = "thou thee thy thine thyself ye hath doth dost hast wilt shalt unto whither whence wherefore tis twas"
COARSE = (
    "arse arsehole ass asshole bastard bitch bugger bullshit chink cock coon crap cunt damn dago dick dyke fag faggot "
    "fart fuck fucker fucking goddam goddamn gook honky jap kike kraut nigger negro nigga paki piss pissed prick pussy "
    "queer retard shit shitty slut spic tits turd twat wank wanker whore wog wop rape raped rapist"
)
UNWANTED = re.compile(rf"\b(?:{'|'.join(f'{COARSE} {ARCHAIC}'.split())})\b", re.IGNORECASE)


@dataclass(frozen=True)
class WordNetSentences:
    """Texts of 3 to 14 words in letters and plain punctuation, without coarse and archaic words.

    The data are those of `packages` or `cache`, else those installed on this machine, else they are downloaded into
    `cache` with `apt-get download`, which needs no root and installs nothing.

    Args:
        kind: examples: about 40,400 quoted in the glosses. definitions: about 108,600 phrases.
        cache: Folder for the package.
        packages: A folder with the .deb file from elsewhere; disables the other places.

    Raises (on use):
        FileNotFoundError: `packages` lacks the package.
        RuntimeError: The package could not be downloaded (no apt-get, or offline); names the alternatives.
        ValueError: The package is damaged.
    """

    kind: Literal["examples", "definitions"] = "examples"
    cache: Path = field(default=Path("cache/wordnet"), repr=False)
    packages: Path | None = field(default=None, repr=False)

    @property
    def license(self) -> str:
        return "WordNet 3.0 licence"

    def sentences(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        texts_of = examples if self.kind == "examples" else definitions
        for part, data in self._read().items():
            for offset, gloss in GLOSS.findall(data):
                for number, text in enumerate(texts_of(gloss)):
                    if is_wanted(text) and text not in seen:
                        seen.add(text)
                        yield f"wordnet-{self.kind[:-1]}-{part}-{offset}-{number}", text

    def credits(self) -> str:
        """WordNet's licence, as its files begin."""
        lines = self._read()["noun"].splitlines()
        terms = [line.lstrip(" 0123456789").rstrip() for line in lines[:40] if line.startswith("  ")]
        return "\n".join([f"Text: {self.kind} of WordNet 3.0 (https://wordnet.princeton.edu).", *terms])

    def _read(self) -> dict[str, str]:
        """The data files by part of speech."""
        folder = self.packages or self.cache
        found = find_packages(folder, [PACKAGE])
        installed = Path("/", FOLDER)
        if not found and self.packages:
            raise FileNotFoundError(f"Expected `packages` to hold {PACKAGE}_*.deb, but got {self.packages} without.")
        if not found and all((installed / f"data.{part}").is_file() for part in PARTS):
            return {part: (installed / f"data.{part}").read_text("ascii", "replace") for part in PARTS}
        if not found:
            download([PACKAGE], folder)
            found = find_packages(folder, [PACKAGE])
        files = read_deb(found[PACKAGE])
        try:
            return {part: files[f"{FOLDER}/data.{part}"].decode("ascii", "replace") for part in PARTS}
        except KeyError as error:
            raise ValueError(f"Expected `{found[PACKAGE]}` to hold WordNet's data, but got none at {error}.") from error


def examples(gloss: str) -> list[str]:
    """The quoted examples of a gloss."""
    return [" ".join(text.split()) for text in EXAMPLE.findall(gloss)]


def definitions(gloss: str) -> list[str]:
    """The definition of a gloss, without remarks in brackets; one of several meanings gives several."""
    text = REMARK.sub(" ", gloss.partition('"')[0])
    return [" ".join(part.split()) for part in text.split(";")]


def is_wanted(text: str) -> bool:
    """Whether a text has the length, the characters and the words to be spoken."""
    fewest, most = NUM_WORDS
    return fewest <= text.count(" ") + 1 <= most and bool(PLAIN.fullmatch(text)) and not UNWANTED.search(text)
