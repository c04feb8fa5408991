"""Build backend: setuptools, for editable installs only. Names as general as `modules` do not belong in site-packages,
and configs are read from the repository."""

from typing import Any, NoReturn

from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
)

__all__ = ["build_editable", "build_wheel", "get_requires_for_build_editable", "prepare_metadata_for_build_editable"]


def build_wheel(*args: Any, **kwargs: Any) -> NoReturn:
    raise SystemExit("error: llasa-suite runs from its repository: only `pip install -e .` installs it.")


build_sdist = get_requires_for_build_wheel = prepare_metadata_for_build_wheel = build_wheel
