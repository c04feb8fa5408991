"""WenetSpeech4TTS (Ma et al., 2024): Mandarin from the web, in three nested tiers of quality."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from datamodules.sources.listed import HoldOut, Item, ListedSource, read_lines
from datamodules.sources.published_scores import score
from datamodules.sources.text_style import text_style

Tier = Literal["Premium", "Standard", "Basic"]


class WenetSpeech4TTSSource(ListedSource):
    """`TIER/WenetSpeech4TTS_TIER_0/wavs/ID.wav`, with `id<TAB>text` in the first line of `txts/ID.txt` beside `wavs`;
    lines `id ../TIER/.../ID.wav` in `filelists/TIER_filelist.lst`.

    The list of Standard contains Premium, that of Basic both; a recording is read once. `tier` in the json is the
    folder that it is in. `DNSMOS_P808Scores/TIER_DNSMOS.lst` gives the score `dnsmos_p808`. Speakers are not labelled.

    Args:
        folder: Folder of the repository, its archives unpacked in their folders. Read on first use.
        tier: The list to read. Premium: DNSMOS of 4.0 or more; Standard: 3.8; Basic: 3.6.
        name, license, require_text, hold_out: As of ListedSource.

    Raises FileNotFoundError on use if the folder or the list is not there.
    """

    corpus: ClassVar[str] = "wenetspeech4tts"
    published_license: ClassVar[str] = "CC BY 4.0"
    published_language: ClassVar[str] = "zh"

    def __init__(
        self,
        folder: Path,
        tier: Tier = "Basic",
        name: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
    ) -> None:
        super().__init__(folder, name, "", license, require_text, hold_out)
        self.tier = tier

    def items(self) -> Iterator[Item]:
        listing = f"{self.tier}_filelist.lst"
        self.check_folder(f"`filelists/{listing}` and folders such as Premium")
        scores = self._scores()
        seen: set[str] = set()
        for number, line in read_lines(self.folder / "filelists" / listing):
            name, path = (*line.split(maxsplit=1), "")[:2]
            where = PurePosixPath(path.strip().removeprefix("../"))
            if name in seen:
                continue
            seen.add(name)
            if not path or where.is_absolute() or ".." in where.parts:
                yield Item(f"line {number}", unusable=f"a line of {listing} that is not `id ../path`: line {number}")
                continue
            text = self._text(where)
            more = {"tier": where.parts[0], **text_style(text)}
            yield Item(name, str(where), text, scores=scores.get(name, {}), more=more)

    def _text(self, where: PurePosixPath) -> str:
        """The text beside a recording, "" if there is none."""
        path = self.folder / where.parent.parent / "txts" / f"{where.stem}.txt"
        if not path.is_file():
            return ""
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            return stream.readline().partition("\t")[2]  # the second line holds times

    def _scores(self) -> dict[str, dict[str, float]]:
        """Published scores of each recording, from the lists that are there."""
        scores: dict[str, dict[str, float]] = {}
        for path in sorted((self.folder / "DNSMOS_P808Scores").glob("*_DNSMOS.lst")):
            for _, line in read_lines(path):
                name, number = (*line.split(maxsplit=1), "")[:2]
                scores[name] = score("dnsmos_p808", number)
        return scores
