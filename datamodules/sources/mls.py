"""Multilingual LibriSpeech (Pratap et al., 2020): books read in eight languages, 16 kHz, transcripts in lower case
without punctuation."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch

from datamodules.sources.librispeech import genders
from datamodules.sources.listed import HoldOut, Item, ListedSource, read_lines
from datamodules.sources.official_splits import official_splits
from datamodules.sources.text_style import text_style
from modules.api import Audio
from modules.audio import resampled

SAMPLE_RATE = 16_000  # of the corpus; Opus files decode at other rates
CODES = {
    "english": "en", "german": "de", "dutch": "nl", "spanish": "es", "french": "fr", "italian": "it",
    "portuguese": "pt", "polish": "pl",
}  # fmt: skip

Language = Literal["en", "de", "nl", "es", "fr", "it", "pt", "pl"]
Subset = Literal["train", "dev", "test"]


class MLSSource(ListedSource):
    """`mls_LANGUAGE` or `mls_LANGUAGE_opus`, in each `train`, `dev` and `test`, and in those
    `audio/SPEAKER/BOOK/SPEAKER_BOOK_000000.flac` or `.opus`, and lines `id<TAB>text` in `transcripts.txt`.

    dev is held out, test is the split `test`, train is split as `hold_out` says if dev is not read. Of a language in
    both formats FLAC is read. `metainfo.txt` adds the gender. `limited_supervision` (a selection of train) and
    `mls_lm_*` (texts alone) are not read.

    Args:
        folder: The folder that contains the unpacked `mls_*`. Read on first use.
        languages: Their codes: en, de, nl, es, fr, it, pt, pl; none: all that are there.
        subsets: Of train, dev and test; none: all that are there.
        name, license, require_text, hold_out: As of ListedSource.

    Raises FileNotFoundError on use if the folder, a language or a `transcripts.txt` is not there.
    """

    corpus: ClassVar[str] = "mls"
    published_license: ClassVar[str] = "CC BY 4.0"

    def __init__(
        self,
        folder: Path,
        languages: list[Language] | None = None,
        subsets: list[Subset] | None = None,
        name: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
    ) -> None:
        super().__init__(folder, name, "", license, require_text, hold_out)
        self.languages, self.subsets = languages, subsets

    def items(self) -> Iterator[Item]:
        for code, (root, suffix) in self._roots().items():
            gender_of = genders(root / "metainfo.txt")
            subsets = self.subsets or [one for one in get_args(Subset) if (root / one).is_dir()]
            split_of = official_splits(subsets)
            for subset in subsets:
                part = root / subset
                audio = (part / "audio" if (part / "audio").is_dir() else part).relative_to(self.folder).as_posix()
                for number, line in read_lines(part / "transcripts.txt"):
                    name, _, text = line.partition("\t")
                    speaker, _, rest = name.partition("_")
                    where = f"{audio}/{speaker}/{rest.partition('_')[0]}/{name}{suffix}"
                    bad = "" if name and rest else f"a line of transcripts.txt that is not `id<TAB>text`: line {number}"
                    more = {**gender_of.get(speaker, {}), **text_style(text)}
                    yield Item(
                        name or f"line {number}", where, text, speaker, code, split=split_of[subset],
                        subset=f"{code}_{subset}", more=more, unusable=bad,
                    )  # fmt: skip

    def audio(self, item: Item) -> Audio:
        audio = super().audio(item)
        if audio.sample_rate == SAMPLE_RATE:
            return audio
        return Audio(torch.from_numpy(resampled(audio, SAMPLE_RATE)), SAMPLE_RATE)

    def _roots(self) -> dict[str, tuple[Path, str]]:
        """Folder and ending of the audio files of each language."""
        layout = "mls_LANGUAGE or mls_LANGUAGE_opus, such as mls_polish"
        self.check_folder(layout)
        there = {}
        for language, code in CODES.items():
            for root, suffix in (
                (self.folder / f"mls_{language}", ".flac"),
                (self.folder / f"mls_{language}_opus", ".opus"),
            ):
                if root.is_dir():
                    there.setdefault(code, (root, suffix))
        wanted = list(there) if self.languages is None else self.languages
        if not wanted or set(wanted) - set(there):
            raise FileNotFoundError(
                f"Expected `folder` to hold {layout} ({', '.join(wanted) or 'any'}), but got {self.folder} with "
                f"{', '.join(there) or 'none'}."
            )
        return {code: there[code] for code in wanted}
