"""Every Markdown file of the tree: its links, anchors and images, the configs, commands and targets that it names, and
whether the index of docs/ has all pages."""

import re
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from tests.test_architecture import REPOSITORY, project_files

PAGES = project_files(".md")
INDEX = REPOSITORY / "docs/README.md"
# Code may hold brackets that are no links: fences and spans of backticks are blanked, headings keep their words.
FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1[ \t]*$", re.M | re.S)
SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.S)
LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^ {0,3}\[[^\]]+\]:\s+(\S+)|(?:src|href)=\"([^\"]+)\"", re.M
)
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.M)
TASKS = ("fit", "validate", "test", "predict", "prepare", "say")


def links(text: str) -> list[str]:
    """Targets of all links and images outside code."""
    text = SPAN.sub("", FENCE.sub("", text))
    return [next(filter(None, groups)) for groups in LINK.findall(text)]


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading, before a number is added to repeated ones."""
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # of a link, its text
    words = re.sub(r"(?<![`\w])[*_]{1,2}(\S.*?)[*_]{1,2}(?![`\w])", r"\1", words)
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Of all headings, and those set by hand."""
    counts: Counter[str] = Counter()
    found = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for name in map(slug, HEADING.findall(FENCE.sub("", text))):
        found.add(f"{name}-{counts[name]}" if counts[name] else name)
        counts[name] += 1
    return found


@cache
def read(path: Path) -> str:
    return path.read_text("utf-8")


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a page to files that are not there, with that spelling, or to headings that they lack."""
    broken = []
    for target in links(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):  # https:, mailto:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(REPOSITORY):
            broken.append(target)
            continue
        headings = anchors(text if file == page else read(file)) if file.suffix == ".md" else set()
        if anchor and anchor not in headings:
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """Guards against links to moved files and renamed headings, and images that are not there."""
    assert not broken_links(page, read(page))


def test_a_broken_link_is_found() -> None:
    """Guards against a check that accepts everything: what GitHub makes of headings, written by hand."""
    text = """# The `say` command, in 2 steps
## Same
## Same
## [A link](README.md) & more: *x*_y
[1](#the-say-command-in-2-steps) [2](#same-1) [3](#a-link--more-x_y) `[code](nothing.md)` [4](docs/README.md#speaking)
```
# no heading
[code](nothing.md)
```
![5](nothing.png) [6](#no-heading) [7](#same-2) [8](docs/README.md#nowhere) [9](https://example.org/x#y) [10](Makefile)
<img src="nothing.svg"> [11](../outside)
"""
    wanted = ["nothing.png", "#no-heading", "#same-2", "docs/README.md#nowhere", "nothing.svg", "../outside"]
    assert broken_links(REPOSITORY / "README.md", text) == wanted


def test_the_index_has_every_page() -> None:
    """Guards against a page that nobody finds."""
    linked = {(INDEX.parent / target.partition("#")[0]).resolve() for target in links(read(INDEX))}
    pages = {
        *INDEX.parent.glob("*.md"),
        *REPOSITORY.glob("studies/*/README.md"),
        *REPOSITORY.glob("voices/*/README.md"),
    }
    assert not pages - linked - {INDEX}


def expanded(name: str) -> list[str]:
    """`a/{b,c}.yaml` as the shell reads it."""
    parts = [part.split(",") for part in re.split(r"\{([^}]*)\}", name)]
    return ["".join(words) for words in product(*parts)]


def test_pages_name_configs_that_are_there() -> None:
    """Guards against a command on a page whose config was renamed, and one that belongs to another subcommand."""
    texts = {page: read(page) for page in PAGES if page.name != "CHANGELOG.md"}
    named = {(page, one) for page, text in texts.items() for one in re.findall(r"\bconfigs/[\w/{},.-]+?\.yaml\b", text)}
    missing = [(page, one) for page, name in named for one in expanded(name) if not (REPOSITORY / one).is_file()]
    assert len(named) > 60 and not missing
    pattern = rf"run\.py ({'|'.join(TASKS)}) (?:[^\n`]*? )??--config (configs/\S+\.yaml)"
    commands = {(page, *found) for page, text in texts.items() for found in re.findall(pattern, text)}
    assert len(commands) > 40
    for page, task, config in commands:
        comment = read(REPOSITORY / config).split("\n\n")[0]
        tasks = {task, "fit"} if task == "prepare" else {task}  # prepare reads the `data` of a fit
        assert any(f"run.py {one} " in comment for one in tasks), f"{page}: {task} with {config}"


def test_pages_name_targets_that_are_there() -> None:
    """Guards against `make NAME` on a page without that target in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", read(REPOSITORY / "Makefile"), re.M))
    for page in PAGES:
        named = set(re.findall(r"(?:^ {4}|`)(?:PYTHON=\S+ )?make ([a-z][a-z-]*)", read(page), re.M))
        assert named <= targets, page
