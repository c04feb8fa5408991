"""Licences of the model that a training started from."""

import json
from pathlib import Path

import pytest

from modules.lm.licences import LLASA_CODES, LLASA_LICENCE, licences_of_model


@pytest.mark.parametrize(
    ("of_data", "card", "expected"),
    [
        (None, "", [LLASA_LICENCE]),
        (None, "license: mit", ["mit"]),
        ([], "", []),
        (["CC0-1.0"], "", ["CC0-1.0"]),
        (["CC0-1.0"], "license: cc-by-nc-4.0", ["CC0-1.0", "cc-by-nc-4.0"]),
        (["CC BY-NC 4.0"], "license: cc-by-nc-4.0", ["CC BY-NC 4.0"]),
        (["for research only"], "license: other\nlicense_name: non-commercial", ["for research only"]),
        (["MIT"], "license: other\nlicense_name: non-commercial", ["MIT", "non-commercial"]),
    ],
)
def test_an_export_passes_on_its_own_licences(
    of_data: list[str] | None, card: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against the released models' licence for one that was trained here from scratch with the same codes, and
    against a licence of the data or of the origin that a second training loses."""
    monkeypatch.setattr("modules.lm.licences.HuggingFaceTokenizer.num_codes", LLASA_CODES)
    (tmp_path / "README.md").write_text(f"---\n{card}\nlibrary_name: transformers\n---\n")
    if of_data is not None:
        (tmp_path / "voice.json").write_text(json.dumps({"format": 1, "training": {"licenses": of_data}}))
    assert licences_of_model(str(tmp_path)) == expected
