"""Project rules checked on the syntax trees: imports between folders, sizes, names, no work at import time."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
OURS = ("modules", "datamodules", "callbacks", "run", "tests", "benchmarks", "scripts", "studies")
LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")
GROUND = tuple(
    f"modules.{name}"
    for name in (
        "api", "atomic_file", "audio", "batches", "checkpoint_files", "described", "hub", "members", "moved_names",
        "pitch", "precision", "provenance", "recognition", "schedule", "settings", "statistics", "step_logging",
        "threads", "tokens",
    )
)  # fmt: skip

# Files, and the project folders (and lightning) that they may import besides their own: the first matching pattern
# applies.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    r"run\.py": ("lightning", "modules", "datamodules", "callbacks"),
    r"modules/step_logging\.py": ("lightning",),
    r"modules/(atomic_file|checkpoint_files|hub|moved_names|precision|schedule)\.py": (),
    r"modules/(settings|statistics|threads|tokens)\.py": (),
    r"modules/api\.py": ("modules.tokens",),
    r"modules/(batches|recognition)\.py": ("modules.api",),
    r"modules/described\.py": ("modules.moved_names",),
    r"modules/audio\.py": ("modules.api", "modules.atomic_file"),
    r"modules/stage\w*\.py": ("modules.atomic_file", "modules.moved_names", "modules.stage_config"),
    r"modules/command/.*": (
        "lightning", *GROUND, "modules.stages", "modules.stage_config", "modules.command", "modules.frontend",
        "modules.speech",
    ),
    r"modules/speech/.*": (*GROUND, "modules.codec", "modules.frontend", "modules.lm", "modules.search",
        "modules.speech", "modules.stages", "modules.verifiers", "datamodules.shards",
    ),
    r"modules/frontend/.*": (*GROUND, "modules.frontend"),
    r"callbacks/.*": (
        "lightning", "callbacks", *GROUND, "modules.metrics", "modules.search", "modules.verifiers",
        "modules.evaluation", "modules.report", "modules.stages", "datamodules.shards",
    ),
    r"datamodules/shards/.*": (*GROUND, "datamodules", "modules.report.corpus_page"),
    r"datamodules/sources/.*": (*GROUND, "datamodules", "modules.frontend"),
    r"datamodules/.*": ("lightning", *GROUND, "datamodules"),
    r"modules/\w+_module\.py": ("lightning", *GROUND, "modules.metrics", "modules.codec", "modules.lm"),
    r"modules/evaluation/.*": (
        *GROUND, "modules.metrics", "modules.codec", "modules.verifiers", "modules.evaluation",
        "modules.search.scorer",
    ),
    r"modules/report/.*": (
        *GROUND, "modules.search.analysis", "modules.search.protocol", "modules.evaluation", "modules.report",
    ),
    r"modules/search/analysis/.*": (
        *GROUND, *(f"modules.search.{name}" for name in ("analysis", "protocol", "costs", "panel", "identity")),
    ),
    r"modules/search/.*": (*GROUND, "modules.search"),
    r"modules/verifiers/.*": (*GROUND, "modules.verifiers"),
    r"modules/codec/.*": (*GROUND, "modules.codec"),
    r"modules/lm/text/.*": (*GROUND, "modules.frontend", "modules.lm"),
    r"modules/lm/.*": (*GROUND, "modules.lm"),
    r"modules/.*": GROUND,
    r"tests/.*": ("lightning", *OURS),
    r".*": ("lightning", *(place for place in OURS if place != "run")),  # benchmarks, scripts, studies
}  # fmt: skip

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_CLASS_LINES = 400, 80, 300
FORBIDDEN_NAMES = ("utils", "helpers")
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|root|home|Users|mnt|scratch|workspace|tmp)/\w")
CALLS_AT_IMPORT = (ast.For, ast.While, ast.With)


def project_files(*suffixes: str) -> list[Path]:
    """Every file of the project that git tracks or would track, in order."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [REPOSITORY / name for name in sorted(set(names)) if name.endswith(suffixes)]
    return [path for path in paths if path.is_file()]


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, at any level; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{prefix}.{alias.name}" if node.module else prefix) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def import_violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Imports of `path` (relative to the repository's root) that violate the table."""
    allowed = next(places for pattern, places in MAY_IMPORT.items() if re.fullmatch(pattern, path))
    for line, name in imported_names(tree):
        if name.startswith("."):
            yield f"{path}:{line}: relative import {name}"
        elif any(within(name, package) for package in LIGHTNING):
            if "lightning" not in allowed:
                yield f"{path}:{line}: imports {name}"
        elif any(within(name, place) for place in OURS) and not any(within(name, place) for place in allowed):
            yield f"{path}:{line}: imports {name}"


def budget_violations(path: str, source: str, tree: ast.AST) -> Iterator[str]:
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{path}: {num_lines} lines of {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            budget = MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > budget:
                yield f"{path}:{node.lineno}: {node.name} has {size} lines of {budget}"


def statement_violations(path: str, tree: ast.Module) -> Iterator[str]:
    """Work at import time: a bare call or a loop at the top of a module."""
    for node in tree.body:
        bare_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if bare_call or isinstance(node, CALLS_AT_IMPORT):
            yield f"{path}:{node.lineno}: work at import time: {ast.unparse(node).splitlines()[0]}"


def violations(path: str, source: str) -> list[str]:
    """Violations of the rules in one Python file; `path` is relative to the repository's root."""
    tree = ast.parse(source)
    found = [*import_violations(path, tree), *budget_violations(path, source, tree)]
    if not path.startswith("tests/"):  # conftest.py sets the environment before the first import
        found += statement_violations(path, tree)
    if Path(path).stem in FORBIDDEN_NAMES or set(Path(path).parts) & set(FORBIDDEN_NAMES):
        found.append(f"{path}: a name that says nothing")
    return found + machine_paths(path, source)


def machine_paths(path: str, source: str) -> list[str]:
    lines = enumerate(source.splitlines(), 1)
    return [f"{path}:{number}: a path of one machine: {line}" for number, line in lines if MACHINE_PATH.search(line)]


def test_every_python_file_keeps_the_rules() -> None:
    """Guards against folders that grow together: a search that imports the LM, data that imports the model."""
    files = project_files(".py")
    assert len(files) > 20
    found = [line for path in files for line in violations(str(path.relative_to(REPOSITORY)), path.read_text())]
    assert not found, "\n" + "\n".join(found)


def test_no_other_file_names_a_path_of_one_machine() -> None:
    """Guards against configs, scripts and pages that only work on the author's machine."""
    files = project_files(".yaml", ".yml", ".sh", ".sbatch", ".md", ".toml", ".txt", ".json", "Makefile", ".ci/run")
    found = [line for path in files for line in machine_paths(str(path.relative_to(REPOSITORY)), path.read_text())]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("callbacks/a.py", "from modules.lm.sampling.sampler import LMSampler", "imports modules.lm"),
        ("callbacks/a.py", "from modules import lm_module", "imports modules.lm_module"),
        ("callbacks/a.py", "from datamodules.audio import AudioDataModule", "imports datamodules.audio"),
        ("callbacks/a.py", "def f():\n    import modules.codec.parts.vocos_decoder", "imports modules.codec"),
        ("callbacks/a.py", "import importlib\nx = lambda: importlib.import_module('modules.lm')", "imports modules.lm"),
        ("datamodules/a.py", "from modules.lm.text.prompt_format import PlainPromptFormat", "imports modules.lm"),
        ("datamodules/sources/a.py", "import modules.search.driver", "imports modules.search"),
        ("datamodules/sources/a.py", "from modules.verifiers.audio import checked", "imports modules.verifiers"),
        ("datamodules/a.py", "from modules.frontend.phonemes import spoken_words", "imports modules.frontend"),
        ("modules/lm_module.py", "from modules.search import driver", "imports modules.search"),
        ("modules/lm_module.py", "from modules.codec_module import CodecModule", "imports modules.codec_module"),
        ("modules/search/a.py", "from modules.verifiers.speaker import SpeakerVerifier", "imports modules.verifiers"),
        ("modules/search/a.py", "import lightning", "imports lightning"),
        ("modules/verifiers/a.py", "from modules.search.panel import Panel", "imports modules.search"),
        ("modules/evaluation/a.py", "from lightning.pytorch import Trainer", "imports lightning"),
        ("modules/report/a.py", "from modules.search.scorer import score_tasks", "imports modules.search.scorer"),
        ("modules/search/analysis/a.py", "import modules.search.sweep", "imports modules.search.sweep"),
        ("modules/codec/a.py", "from lightning.pytorch import LightningModule", "imports lightning"),
        ("modules/codec/a.py", "import modules.lm.attention", "imports modules.lm"),
        ("modules/lm/a.py", "from modules.codec.parts.vocos_decoder import Decoder", "imports modules.codec"),
        ("modules/api.py", "from modules.metrics import Something", "imports modules.metrics"),
        ("modules/tokens.py", "import modules.api", "imports modules.api"),
        ("modules/metrics.py", "import modules.verifiers", "imports modules.verifiers"),
        ("benchmarks/a.py", "import run", "imports run"),
        ("callbacks/a.py", "from run import main", "imports run"),
        ("modules/lm/a.py", "from . import attention", "relative import"),
        ("modules/lm/a.py", "from .attention import Mask", "relative import"),
        ("modules/lm/a.py", "import torch\ntorch.set_num_threads(1)", "work at import time"),
        ("modules/lm/a.py", "for number in range(3):\n    x = number", "work at import time"),
        ("modules/lm/utils.py", "x = 1", "a name that says nothing"),
        ("modules/helpers/a.py", "x = 1", "a name that says nothing"),
        ("modules/lm/a.py", "path = '/" + "home/someone/data'", "a path of one machine"),
        ("modules/lm/a.py", "x = 1\n" * 401, "401 lines of 400"),
        ("modules/lm/a.py", "def f():\n" + "    x = 1\n" * 80, "f has 81 lines of 80"),
        ("modules/lm/a.py", "class A:\n" + "    x = 1\n" * 300, "A has 301 lines of 300"),
    ],
)
def test_a_violation_is_found(path: str, source: str, expected: str) -> None:
    """Guards against a checker that accepts everything."""
    assert any(expected in line for line in violations(path, source)), violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("run.py", "import lightning\nfrom modules.api import Codec\nfrom modules.stages import Stage"),
        ("callbacks/a.py", "from lightning.pytorch import Callback\nfrom datamodules.shards.shards import ShardIndex"),
        ("callbacks/a.py", "from modules.search.driver import drive\nfrom modules.verifiers import health"),
        (
            "datamodules/audio.py",
            "from datamodules.sources.source import Source\nfrom modules.tokens import TokenSpace",
        ),
        ("datamodules/sources/a.py", "from modules.frontend.phonemes import spoken_words"),
        (
            "modules/lm_module.py",
            "import lightning\nfrom modules.lm.loss import chunked\nfrom modules.metrics import Rate",
        ),
        ("modules/verifiers/a.py", "import torchmetrics\nfrom modules.api import Verifier"),
        ("modules/lm/a.py", "import lightning_utilities\nfrom modules.lm.attention import Mask"),
        ("tests/test_a.py", "import run\nfrom modules.lm_module import LMModule"),
        ("modules/lm/a.py", "x = 1\n" * 400),
        ("modules/lm/a.py", "url = 'https://example.org/" + "home/x'"),
        ("scripts/a.py", "def main(): ...\nif __name__ == '__main__':\n    main()"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    """Guards against a checker that rejects what the table allows."""
    assert violations(path, source) == []
