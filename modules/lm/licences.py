"""What an exported model says about the licences of its training data: whether they allow commercial use."""

import re
from collections.abc import Mapping, Sequence

# The names of licences and the words of their texts: CC BY-NC, "non-commercial", "for research only".
NON_COMMERCIAL = re.compile(
    r"(?<![a-z])nc(?![a-z])|no[nt]?[-_ ]*(for[-_ ])?commercial|(research|academic)[-_ ]([a-z]+[-_ ])?only"
    r"|only[-_ ]for[-_ ](research|academic)|for[-_ ](research|academic|non-profit)",
    re.IGNORECASE,
)
# Those that the model hub has an identifier for.
KNOWN = re.compile(r"cc-by-nc-([234]\.0)|cc-by-nc-nd-([34]\.0)|cc-by-nc-sa-([234]\.0)")


def forbids_commerce(license: str) -> bool:
    """Whether a licence, by its name, allows no commercial use."""
    return NON_COMMERCIAL.search(license) is not None


def hub_metadata(licenses: Sequence[str]) -> str:
    """Lines of a model card's metadata for training data with licences that allow no commercial use: the licence's
    identifier on the hub if there is one such licence and the hub has it. Empty if all others."""
    found = [one for one in licenses if forbids_commerce(one)]
    if not found:
        return ""
    names = {re.sub(r"[-_ ]+", "-", one.strip().lower()) for one in found}
    if len(names) == 1 and KNOWN.fullmatch(name := names.pop()):
        return f"license: {name}\n"
    return "license: other\nlicense_name: non-commercial\n"


def licence_sentence(licenses: Sequence[str], hours: Mapping[str, float]) -> str:
    """What the training data's licences forbid, with their hours where they are known; "" if none forbids commercial
    use."""
    found = sorted(one for one in licenses if forbids_commerce(one))
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
