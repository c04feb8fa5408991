"""The listening page, read as a browser reads it: clips, order, blindness; and the commands from speech to scores."""

import base64
import csv
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import run
from modules.report import ratings
from modules.report.listening_page import (
    RUBRICS,
    TEXTS,
    ListeningText,
    gathered,
    key_table,
    listening_page,
    main,
    read_rubrics,
    read_texts,
)
from tests.conftest import REPOSITORY
from tests.toys.tiny_llama import tiny_llama

RATE = 8000
LISTED = [
    *(ListeningText(f"verse_{number}", "zh", "Poetry", f"诗句{number}") for number in range(4)),
    *(ListeningText(f"query_{number}", "en", "Questions", f'"Is it <{number}>?"') for number in range(4)),
]
TABLE = {one.key: one for one in LISTED}
LEVELS = {(one.language, one.text_class): {3: "good & true", 2: "so so", 1: "bad"} for one in LISTED}
NAMES = ("strong_model", "weak_model")


class Page(HTMLParser):
    """Articles by id: their class's heading, text, audio and radio buttons."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.articles: dict[str, dict] = {}
        self.links: list[str] = []
        self._open = ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [value for name, value in given.items() if name in ("href", "src")]
        if tag == "article":
            self.articles[given["id"]] = {"class": self.headings[-1], "text": "", "scores": []}
        elif tag == "audio":
            kind, _, content = given["src"].partition(";base64,")
            assert kind == "data:audio/flac"
            list(self.articles.values())[-1]["audio"] = base64.b64decode(content)
        elif tag == "input" and given.get("type") == "radio":
            assert given["name"] == list(self.articles)[-1]
            self.articles[given["name"]]["scores"].append(given["value"])
        self._open = "said" if given.get("class") == "said" else tag

    def handle_data(self, data):
        if self._open == "h2":
            self.headings.append(data.strip())
        if self._open == "said":
            list(self.articles.values())[-1]["text"] += data
        self._open = ""


def speak(
    folder: Path, texts: Sequence[ListeningText] = LISTED, model_hash: str = "", seed: int = 0, num_samples: int = RATE
) -> Path:
    """Finished speech in SpeechWriter's form: noise that differs by folder, text and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, one in enumerate(texts):
        generator = np.random.default_rng([len(folder.name), place, seed])
        name = f"{one.key}-{folder.name}-{seed}"
        soundfile.write(folder / f"{name}.wav", generator.uniform(-0.5, 0.5, num_samples), RATE, subtype="PCM_16")
        record = {"prompt_key": one.key, "text": one.text, "wav": f"{name}.wav", "hash": f"hash of {name}"}
        about = record | {"seed": seed, "model_hash": model_hash or f"weights of {folder.name}"}
        (folder / f"{name}.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("spoken")
    folders = [speak(root / name) for name in NAMES]
    for folder in folders:
        speak(folder, LISTED[:1], seed=1)
    return folders


def test_every_clip_has_its_text_its_samples_and_three_scores(folders: list[Path]) -> None:
    """Guards against audio under another text or class, clips that are lost or stand twice, and lossy audio."""
    found = gathered(folders, TABLE)
    page = Page(listening_page(found, TABLE, LEVELS, 0, "A test"))
    assert len(found.rows) == len(page.articles) == 2 * (len(LISTED) + 1) and not found.left_out
    assert page.headings == ["Poetry", "Questions"]
    for row in found.rows:
        article = page.articles[row.clip]
        assert (article["text"], article["class"]) == (TABLE[row.key].text, TABLE[row.key].text_class)
        assert article["scores"] == ["1", "2", "3"]
        (path,) = (folder / row.wav for folder in folders if folder.name == row.model)
        expected_T, _ = soundfile.read(path, dtype="int16")
        samples_T, rate = soundfile.read(io.BytesIO(article["audio"]), dtype="int16")
        assert rate == RATE and samples_T.tolist() == expected_T.tolist()
    assert all(link.startswith(("data:audio/flac", "#class-")) for link in page.links), "the page makes a request"


def test_the_order_is_shuffled_by_the_seed_alone(folders: list[Path]) -> None:
    """Guards against an order that shows the model, that changes between two calls, or a seed without effect."""
    found = gathered(folders, TABLE)
    content = listening_page(found, TABLE, LEVELS, 0, "A test")
    assert content == listening_page(gathered(folders[::-1], TABLE), TABLE, LEVELS, 0, "A test")
    model_of = {row.clip: row.model for row in found.rows}
    orders = []
    for seed in range(12):
        page = Page(listening_page(found, TABLE, LEVELS, seed, "A test"))
        classes = [article["class"] for article in page.articles.values()]
        assert classes == sorted(classes) and page.articles.keys() == model_of.keys()
        orders.append(list(page.articles))
    assert len({tuple(order) for order in orders}) == 12
    first = {model_of[order[0]] for order in orders}
    last = {model_of[order[-1]] for order in orders}
    assert first == last == set(NAMES)


def test_the_page_names_no_model(folders: list[Path]) -> None:
    """Guards against a listener who can read, beside a clip, in a file's name or in its metadata, whose it is."""
    found = gathered(folders, TABLE)
    content = listening_page(found, TABLE, LEVELS, 0, "A test")
    told = re.sub(r"base64,[A-Za-z0-9+/=]+", "", content) + "".join(
        article["audio"].decode("latin-1") for article in Page(content).articles.values()
    )
    secrets = {*NAMES, *(str(folder) for folder in folders), *(Path(row.wav).stem for row in found.rows)}
    secrets |= {json.loads(path.read_text())[name] for folder in folders for path in folder.glob("*.json")
                for name in ("hash", "model_hash", "prompt_key")}  # fmt: skip
    assert not [secret for secret in secrets if secret in told]
    assert "synthetic speech" in told, "metadata would not be seen"
    key = list(csv.DictReader(io.StringIO(key_table(found.rows))))
    wanted = {(row["clip"], row["model"], row["key"], row["text_class"]) for row in key}
    assert wanted == {(row.clip, row.model, row.key, row.text_class) for row in found.rows}
    assert len(wanted) == len(found.rows)


def test_what_cannot_be_compared_is_left_out_and_named(folders: list[Path], tmp_path: Path) -> None:
    """Guards against models compared on different texts, and one damaged file that ends everything."""
    other = speak(tmp_path / "other", LISTED[:5])
    (other / "broken.json").write_text("{")
    (other / "verse_1-other-0.wav").unlink()
    (other / "verse_2-other-0.wav").write_bytes(b"no audio")
    speak(other, [ListeningText("verse_3", "zh", "Poetry", "another text")], model_hash="weights of other")
    found = gathered([folders[1], other], TABLE)
    assert {row.key for row in found.rows} == {"verse_0", "query_0"} and len(found.rows) == 4
    reasons = " ".join(found.left_out)
    assert len(found.left_out) == 4 + 7  # four of the folder, seven of the other's that it lacks
    for part in (
        "broken.json",
        "verse_1-other-0.json",
        "verse_2-other-0.json",
        "another text",
        "other lacks this text",
    ):
        assert part in reasons
    for wrong, complaint in (
        ([folders[0], folders[0]], "different names"),
        ([folders[0], speak(tmp_path / "more", [LISTED[0]], model_hash="a"), tmp_path / "empty"], "got none. Left out"),
    ):
        with pytest.raises(ValueError, match=complaint):
            gathered(wrong, TABLE)
    speak(tmp_path / "more", [LISTED[1]], model_hash="b", seed=1)
    with pytest.raises(ValueError, match=r"one model's speech in .*more"):
        gathered([folders[0], tmp_path / "more"], TABLE)
    twin = tmp_path / "twin"
    twin.mkdir()
    for path in folders[0].iterdir():
        (twin / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="different speech in every folder"):
        gathered([folders[0], twin], TABLE)
    with pytest.raises(ValueError, match=r"Expected a rubric .*Questions"):
        listening_page(found, TABLE, {("zh", "Poetry"): LEVELS["zh", "Poetry"]}, 0, "A test")


def test_speech_that_ended_at_once_is_heard_as_silence(tmp_path: Path) -> None:
    """Guards against an empty clip, the worst there is, that drops out because nobody can play it."""
    found = gathered([speak(tmp_path / "mute", LISTED[:1], num_samples=0)], TABLE)
    page = Page(listening_page(found, TABLE, LEVELS, 0, "A test"))
    (article,) = page.articles.values()
    samples_T, rate = soundfile.read(io.BytesIO(article["audio"]))
    assert len(samples_T) == rate / 2 and not samples_T.any()


def test_the_texts_at_hand_are_those_of_the_documentation() -> None:
    """Guards against a class without texts or rubric, and a text that stands twice."""
    texts, rubrics = read_texts(TEXTS), read_rubrics(RUBRICS)
    classes = {(one.language, one.text_class) for one in texts.values()}
    assert classes == rubrics.keys() and len({one.text for one in texts.values()}) == len(texts) == 84
    assert sorted(language for language, _ in classes) == ["en"] * 7 + ["zh"] * 7
    is_chinese = {key: bool(re.search("[\u4e00-\u9fff]", one.text)) for key, one in texts.items()}
    assert all(is_chinese[key] == (one.language == "zh") for key, one in texts.items())
    assert all(len(set(levels.values())) == 3 and all(levels.values()) for levels in rubrics.values())
    page = (REPOSITORY / "docs/published_test_sets.md").read_text().split()
    assert not [name for _, name in classes if name not in " ".join(page)]


TINY = """
trainer: {accelerator: cpu}
data: {init_args: {prompt_format: {init_args: {codebook_size: 16}}}}
speech:
  init_args:
    codec: {class_path: tests.toys.search_toys.ToyCodec}
    algorithm: {init_args: {max_new_tokens: 6}}
"""


def test_the_commands_lead_from_models_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Guards against commands of docs/published_test_sets.md that do not fit each other: two models, the page
    of their speech, and the scores of a listener who prefers one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.setattr("sys.argv", ["run.py"])
    (tmp_path / "tiny.yaml").write_text(TINY)
    lines = TEXTS.read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join([lines[0], lines[1], lines[-1]]) + "\n")
    for seed, name in enumerate(("Llasa-1B", "Llasa-3B")):
        torch.manual_seed(seed)
        tiny_llama(tmp_path / "hub" / name)
        command = ["predict", "--config", str(REPOSITORY / "configs/llasa/text_understanding.yaml")]
        own = ["--model.init_args.pretrained.source", f"hub/{name}", "--config", "tiny.yaml"]
        run.main([*command, *own, "--data.init_args.text_file", "few.csv"])
    folder = Path("runs/llasa/text_understanding")
    main([*map(str, sorted((folder / "hub").iterdir())), "--output", str(folder), "--texts", "few.csv"])
    page = Page((folder / "listen.html").read_text())
    key = ratings.read_key(folder / "key.csv")
    assert key.keys() == page.articles.keys() and len(key) == 4
    assert {row.model for row in key.values()} == {"Llasa-1B", "Llasa-3B"} and {row.seed for row in key.values()} == {0}
    scores = {"Llasa-1B": 1, "Llasa-3B": 3}
    rated = [f'"Anna",{clip},{scores[key[clip].model]}' for clip in page.articles]
    (tmp_path / "ratings-Anna.csv").write_text("\n".join(["listener,clip,score", *rated, ""]))
    ratings.main(["ratings-Anna.csv", "--key", str(folder / "key.csv"), "--output", str(folder)])
    table = list(csv.DictReader((folder / "scores.csv").open()))
    assert {(row["text_class"], row["model"]): float(row["mean"]) for row in table} == {
        (name, model): score for name in ("Emotion", "Syntactic complexities", "all classes")
        for model, score in scores.items()
    }  # fmt: skip
    assert "1 files, 1 listeners, 4 ratings used" in capsys.readouterr().out
    assert (folder / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_only_the_model_differs(tmp_path: Path) -> None:
    """Guards against takes of one model alone, and models that are compared at other temperatures or voices."""
    folders = [speak(tmp_path / name) for name in NAMES]
    speak(folders[1], LISTED[:2], seed=1)
    found = gathered(folders, TABLE)
    assert {row.seed for row in found.rows} == {0} and len(found.left_out) == 2
    path = next(folders[1].glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling": {"temperature": 0.5}}))
    with pytest.raises(ValueError, match="`sampling`"):
        gathered(folders, TABLE)
