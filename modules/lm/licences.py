"""What an exported model says about licences, of its training data and of the model it started from: whether they
allow commercial use."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.hub import is_hub_name
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer

# The names of licences and the words of their texts: CC BY-NC, "non-commercial", "for research only".
NON_COMMERCIAL = re.compile(
    r"(?<![a-z])nc(?![a-z])|no[nt]?[-_ ]*(for[-_ ])?commercial|(research|academic)[-_ ]([a-z]+[-_ ])?only"
    r"|only[-_ ]for[-_ ](research|academic)|for[-_ ](research|academic|non-profit)",
    re.IGNORECASE,
)
# Those that the model hub has an identifier for.
KNOWN = re.compile(r"cc-by-nc-([234]\.0)|cc-by-nc-nd-([34]\.0)|cc-by-nc-sa-([234]\.0)")

LLASA_LICENCE, LLASA_CODES = "cc-by-nc-4.0", 65_536  # of the released Llasas
VOICE_FILE = "voice.json"  # in exports of ours alone (modules/lm/voice_file.py)


def card_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a model card: the YAML between the first two lines of dashes; {} if there is none."""
    import yaml

    path = folder / "README.md"
    found = re.match(r"---\s*\n(.*?)\n---", path.read_text(errors="replace"), re.DOTALL) if path.is_file() else None
    try:
        content = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def licences_of_model(source: str, revision: str | None = None) -> list[str]:
    """Licences of a language model: of an export of ours those of its data and of its card, which has that of its
    origin; of others those of the card, or else the released Llasas' for a model of their codes. `source`: a folder, or
    a name on the hub, which is asked for these files."""
    folder = Path(source)
    if not folder.is_dir():
        if not is_hub_name(source):
            return []
        from huggingface_hub import hf_hub_download

        for name in ("README.md", VOICE_FILE):
            with contextlib.suppress(OSError, ValueError):  # offline, or without one
                folder = Path(hf_hub_download(source, name, revision=revision)).parent
    card = card_metadata(folder)
    if (folder / VOICE_FILE).is_file():
        return _licences_of_export(card, folder / VOICE_FILE)
    if stated := listed(card.get("license")):
        return list(stated)
    try:
        return [LLASA_LICENCE] if HuggingFaceTokenizer(source, revision).num_codes == LLASA_CODES else []
    except (OSError, ValueError):
        return []


def _licences_of_export(card: Mapping[str, Any], path: Path) -> list[str]:
    """Those of the data, in its voice.json, and what the card states beyond them."""
    try:
        training = json.loads(path.read_text(encoding="utf-8")).get("training") or {}
        of_data = listed(training.get("licenses"))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"Expected `{path}` to describe a voice, but got {error!r}: export it again.") from error
    stated = listed(card.get("license"))
    if stated == ("other",):  # several, of which the card's text tells
        stated = () if any(map(forbids_commerce, of_data)) else listed(card.get("license_name"))
    known = set(map(_identifier, of_data))
    return [*of_data, *(one for one in stated if _identifier(one) not in known)]


def _identifier(license: str) -> str:
    """As the hub writes a licence's name."""
    return re.sub(r"[-_ ]+", "-", license.strip().lower())


def listed(value: Any) -> tuple[str, ...]:
    """A value of a card's metadata as a list: it may also be one item, or missing."""
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),) if value else ()


def forbids_commerce(license: str) -> bool:
    """Whether a licence, by its name, allows no commercial use."""
    return NON_COMMERCIAL.search(license) is not None


def hub_metadata(licenses: Sequence[str]) -> str:
    """Lines of a model card's metadata for training data with licences that allow no commercial use: the licence's
    identifier on the hub if there is one such licence and the hub has it. Empty if all others."""
    found = [one for one in licenses if forbids_commerce(one)]
    if not found:
        return ""
    names = set(map(_identifier, found))
    if len(names) == 1 and KNOWN.fullmatch(name := names.pop()):
        return f"license: {name}\n"
    return "license: other\nlicense_name: non-commercial\n"


def licence_sentence(licenses: Sequence[str], hours: Mapping[str, float], model_licenses: Sequence[str] = ()) -> str:
    """What the licences of the training data, and of the model that it started from, forbid, with the data's hours
    where they are known; "" if none forbids commercial use."""
    found = sorted(one for one in licenses if forbids_commerce(one))
    of_model = sorted(one for one in model_licenses if forbids_commerce(one))
    if of_model and not found:
        return (
            f"The model that its training started from is licensed under {' and '.join(of_model)}, which allows no "
            "commercial use: this model must not be used commercially."
        )
    if not found:
        return ""
    known = sum(hours.get(one, 0.0) for one in found)
    part = "A part of the speech that it was trained on is"
    if known:
        part = f"{readable(known)} of the {readable(sum(hours.values()))} of speech that it was trained on are"
    allows = "allows" if len(found) == 1 else "allow"
    return (
        f"{part} licensed under {' and '.join(found)}, which {allows} no commercial use: this model must not be used "
        "commercially."
    )


def readable(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.0f} hours" if hours >= 100 else f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes"
