"""configs/sweep/search and configs/sweep/paper_protocol*.yaml: the Llasa paper's numbers, the searches that they make
on toys, and what `say --search` chooses. tests/test_paper_tables.py runs the command.

Shapes: T audio samples.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser, Namespace

from modules.api import Prompt, SamplingSettings
from modules.frontend.script import Spoken
from modules.lm.sampling.sampler import KVCacheSampler
from modules.search.driver import run_searches
from modules.search.panel import chosen_index
from modules.search.protocol import SearchAlgorithm
from modules.search.scorer import Scorer
from modules.speech.sentence_search import SentenceSearch, Task
from modules.speech.settings import SEARCHES, SpeakingSettings
from tests.modules.search.algorithms.test_algorithms import codes_of, draw, naive_beams
from tests.modules.search.algorithms.test_algorithms import run as run_on_toys
from tests.test_configs import CONFIGS, REPOSITORY, ParsingCLI, read
from tests.toys.lm_toys import FORMAT, SIZE, toy_network
from tests.toys.search_toys import TreeSampler, toy_prompts
from tests.toys.speaking_toys import END, WORDS, ScriptedSampler, recording, toy_voice

SWEEP = REPOSITORY / "configs/sweep"
SWEEPS = [path for path in sorted(SWEEP.glob("*.yaml")) if "data" in read(path)]
OVERLAYS = sorted((SWEEP / "search").glob("*.yaml"))
# arXiv 2502.04128, sections 3.4 and 4.2.3: 16 beams of 16, every 25 tokens; the partial search for 2 s, 100 tokens.
PAPER = {"num_beams": 16, "num_children": 16, "block_tokens": 25}
PARTIAL = PAPER | {"process_tokens": 100, "samples_per_beam": 1}
LABEL = "(self-judged, as in the paper)"


def settings_of(name: str) -> dict:
    return read(SWEEP / f"{name}.yaml")["sweep"]["init_args"]


def algorithm_of(name: str, max_new_tokens: int) -> SearchAlgorithm:
    """The search of an overlay, built as the command line builds it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--algorithm", type=SearchAlgorithm)
    given = settings_of(f"search/{name}")["algorithm"]
    given["init_args"]["max_new_tokens"] = max_new_tokens
    return parser.instantiate_classes(parser.parse_object({"algorithm": given})).algorithm


# -------------------------------------------------------------------------------------------------------- the numbers


def test_the_overlays_have_the_papers_numbers() -> None:
    """Guards against a search of other widths, blocks or seconds under the paper's name, and one that is judged by what
    steers it."""
    wanted = {
        "prm": ("ProcessBeam", PAPER, "resemblyzer"),
        "prm_orm": ("ProcessBeam", PAPER, "resemblyzer"),
        "partial_prm": ("PartialBeam", PARTIAL, "resemblyzer"),
        "partial_prm_orm": ("PartialBeam", PARTIAL, "resemblyzer"),
        "prm_emotion": ("ProcessBeam", PAPER, "hubert_emotion"),
    }
    assert {path.stem for path in OVERLAYS} == {*wanted, "figure2"}
    for name, (kind, numbers, reward) in wanted.items():
        algorithm = settings_of(f"search/{name}")["algorithm"]
        assert algorithm["class_path"].rpartition(".")[2] == kind
        assert algorithm["init_args"] == numbers | {"reward": reward}, name
    chosen_by = {name: settings_of(f"search/{name}").get("selectors") for name in wanted}
    only_similarity = ["../../verifiers/resemblyzer.yaml"]
    assert chosen_by == {
        "prm": only_similarity,
        "prm_orm": None,
        "partial_prm": only_similarity,
        "partial_prm_orm": None,
        "prm_emotion": None,
    }
    for name, reward, numbers in (("paper_protocol", "SIM", PARTIAL), ("paper_protocol_emotion", "emotion2vec", PAPER)):
        (search,) = settings_of(name)["more_algorithms+"]
        limit = {"max_new_tokens": "${sweep.init_args.algorithm.init_args.max_new_tokens}"}
        assert search["init_args"] == numbers | limit | {"reward": reward} and settings_of(name)["self_judged"] is True
    figure = settings_of("search/figure2")
    widths = {"ProcessBeam": [], "PartialBeam": []}
    for one in figure["more_algorithms+"]:
        widths[one["class_path"].rpartition(".")[2]].append(one["init_args"]["num_beams"])
        assert (one["init_args"]["num_children"], one["init_args"]["block_tokens"]) == (16, 25)
    assert widths == {"ProcessBeam": [1, 2, 4, 8, 16], "PartialBeam": [1, 2, 4, 8, 16]}
    assert figure["algorithm"]["init_args"] == {"num_candidates": 16 * 16}  # the samples of the widest


def facts_named(values: list, folder: Path) -> set[str]:
    parts = [read(folder / one) if isinstance(one, str) else one for one in values]
    return {one["init_args"]["name"] for one in parts if "name" in one.get("init_args", {})}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_published_sweep_has_what_the_overlays_name(path: Path) -> None:
    """Guards against an overlay "for any sweep" that steers by a verifier that the sweep lacks, or that judges."""
    sweep = read(path)["sweep"]["init_args"]
    selecting, judging = (facts_named(sweep[role], path.parent) for role in ("selectors", "judges"))
    assert "resemblyzer" in selecting - judging and sweep["algorithm"]["init_args"]["max_new_tokens"] > 100
    assert {"esd": "emotion2vec"}.get(path.stem, "SIM") in judging
    assert path.stem != "esd" or "hubert_emotion" in selecting - judging


def test_overlays_merge_into_a_sweep(monkeypatch) -> None:
    """Guards against an overlay that replaces what it should extend, a limit that is not the sweep's, numbers of an
    earlier overlay that stay, and a verifier's path that starts elsewhere."""
    monkeypatch.setattr("sys.argv", ["run.py"])

    def merged(*names: str, options: tuple[str, ...] = ()) -> Namespace:
        paths = [str(SWEEP / f"{name}.yaml") for name in names]
        command = ["test", *[word for path in paths for word in ("--config", path)], *options]
        return ParsingCLI(command).config.test.sweep.init_args

    table_5 = ("librispeech_continuation", "search/prm_orm", "paper_protocol")
    sweep = merged(*table_5, options=("--sweep.algorithm.reward", "SIM"))
    assert sweep.algorithm.init_args.as_dict() == PAPER | {"reward": "SIM", "max_new_tokens": 1000}
    assert [one.init_args.reward for one in sweep.more_algorithms] == ["SIM"] and sweep.self_judged
    sweep = merged("esd", "search/prm", "search/figure2", "paper_protocol_emotion")
    searches = [sweep.algorithm, *sweep.more_algorithms]
    assert [one.init_args.get("reward") for one in searches] == [None] + ["resemblyzer"] * 10 + ["emotion2vec"]
    assert {int(one.init_args.max_new_tokens) for one in searches} == {1000}
    reverse = merged("esd", "paper_protocol_emotion", "search/figure2").more_algorithms
    assert [one.init_args.reward for one in reverse] == ["emotion2vec"] + ["resemblyzer"] * 10
    assert sweep.algorithm.init_args.as_dict() == {"num_candidates": 256, "max_new_tokens": 1000}
    assert (sweep.prompts_per_group, sweep.self_judged, len(sweep.judges)) == (1, True, 1)
    assert [one.init_args.name for one in sweep.selectors] == ["resemblyzer"]  # of prm.yaml


# ----------------------------------------------------------------------------------------------------- the searches


@pytest.mark.parametrize("name", ["prm", "partial_prm", "partial_prm_orm"])
def test_an_overlay_is_the_search_of_the_paper(name: str, monkeypatch) -> None:
    """Guards against an overlay whose numbers reach the search in another place: 16 beams of 16 children every 25
    codes, for 100 codes or to the end, in plain loops."""

    def next_code(self, codes: list[int], seed: int) -> int | None:
        bits = hash((seed, len(codes), codes[-1] if codes else -1))
        return None if bits // 16 % 1000 < 4 else bits % 16  # a tenth of the toy's own chance to end

    monkeypatch.setattr(TreeSampler, "next_code", next_code)  # of the search and of the loops
    (trace,) = run_on_toys(replace(algorithm_of(name, 150), reward="reward"), toy_prompts(1))
    beams = naive_beams(trace.prompt, 16, 16, 25, 150 if name == "prm" else 100)
    expected = [codes for codes, ended, _ in beams if ended or name == "prm"]
    expected += [draw(codes, seed, 150)[0] for codes, ended, seed in beams if not ended and name != "prm"]
    assert codes_of(trace) == expected and len(expected) == 16
    assert any(len(codes) > 100 for codes in expected)


@pytest.mark.parametrize("name", [one for one in SEARCHES if one != "best_of_n"])
def test_say_chooses_what_the_sweep_chooses(name: str, tmp_path: Path) -> None:
    """Guards against two searches of one name: `say --search NAME --best-of 16` and the overlay, on the same seed."""
    text = "one two three four five six seven eight nine ten one two three four five six seven eight"

    def said(prompt: Prompt, seed: int) -> list[str]:
        others = [WORDS[1 + (seed >> 2 * place) % 10] for place in range(18)]
        return [other if (seed >> place) % 3 == 0 else word
                for place, (word, other) in enumerate(zip(text.split(), others, strict=True))] + [END]  # fmt: skip

    reference = recording(tmp_path / "me.wav", ["red"] * 6)
    voice = toy_voice(said, max_tokens=4000)
    spoken = {"search": name, "best_of": 16, "reference": reference, "reference_text": "red red red red red red"}
    (sentence,) = voice.say(text, **spoken).record["sentences"]
    assert (sentence["num_redraws"], len(sentence["candidates"])) == (0, 16)
    (prompt,) = voice.model.own.batches[0]
    wanted = SpeakingSettings(**spoken).algorithm(16, 400, 50.0, "resemblyzer")
    assert wanted == algorithm_of(name, 400)
    speaker, transcript = voice.listeners.speaker, voice.listeners.transcript("en")
    steered = replace(algorithm_of(name, 4000), reward=speaker.facts.name)
    how = (ScriptedSampler(said), Scorer(voice.codec, 1), [speaker, transcript], 0)
    (trace,) = run_searches([prompt], steered, *how)
    chosen_by = speaker if settings_of(f"search/{name}").get("selectors") else transcript
    best = trace.candidates[chosen_index(trace.candidates, chosen_by.facts.name)]
    chosen = sentence["candidates"][sentence["chosen"]]
    scores = {one.seed: one.scores for one in trace.candidates}
    assert {one["seed"] for one in sentence["candidates"]} == set(scores)
    # Candidates of equal first score: `say` goes on to the other verifier, the sweep takes the first.
    assert chosen["scores"][chosen_by.facts.name] == pytest.approx(best.scores[chosen_by.facts.name])
    assert len({round(one[chosen_by.facts.name], 6) for one in scores.values()}) > 1


def test_a_sentence_of_one_search_is_not_kept_for_another(tmp_path: Path) -> None:
    """Guards against partial_prm_orm that goes on with what partial_prm chose: their candidates are the same."""
    task = Task(Spoken("one two", "one two", 0), Prompt("key", "one two"), 400, tmp_path)
    settings = [SpeakingSettings(search=name, reference=Path("me.wav")) for name in SEARCHES[1:]]
    assert len({SentenceSearch(toy_voice(), one).part_of(task).name for one in settings}) == 3


# ------------------------------------------------------------------------------------------------------- the memory

DOCS = (REPOSITORY / "docs/sweeps.md").read_text()


def cache_bytes(num_layers: int, num_heads: int, head_size: int, bytes_each: int) -> int:
    return num_layers * 2 * num_heads * head_size * bytes_each


def test_forks_hold_what_the_computation_says() -> None:
    """Guards against children that copy their prompt's cache, or keep the whole batch's: 256 forks fit only without."""
    sampler = KVCacheSampler(toy_network(), FORMAT, SamplingSettings())
    (root,) = sampler.start([Prompt("a", "a prompt of some length")])
    parents = sampler.extend([root], 64, 3, list(range(64)))[:4]
    children = sampler.extend(parents, 16, 3, list(range(64)))
    alive = [one for one in children if not one.stopped]
    stores = {one.state.tail_A2KSD.untyped_storage().data_ptr(): one.state.tail_A2KSD for one in alive}
    held = sum(tail.untyped_storage().nbytes() for tail in stores.values())
    size = cache_bytes(SIZE.num_layers, SIZE.num_key_value_heads, SIZE.hidden_size // SIZE.num_heads, 4)
    assert held == size * sum(one.codes_S.numel() for one in alive) and len(alive) > 16
    assert len({one.state.root_A2KSD.untyped_storage().data_ptr() for one in alive}) == 1


def test_the_computed_memory_is_that_of_the_overlays() -> None:
    """Guards against overlays that do not fit one GPU of 80 GB, and documented numbers that nobody can recompute."""
    shapes = {"1B": (16, 8, 64), "3B": (28, 8, 128), "8B": (32, 8, 128)}
    each = {name: cache_bytes(*shape, 2) for name, shape in shapes.items()}
    assert each["1B"] == 32_768 and f"{each['1B'] * 256 * 2048 / 1e9:.1f} GB" in DOCS
    rows = {line.split("|")[1].strip(): line for line in DOCS.splitlines() if line.startswith("| Llasa-")}
    assert set(rows) == {f"Llasa-{name}" for name in shapes}
    for name, line in rows.items():
        size = each[name.removeprefix("Llasa-")]
        # 16 beams, their 256 children, and the 64 rows that are decoded together, of whole samples and of 2 s; then the
        # 16 whole samples, and the rows again.
        whole, start = (336 * size * tokens / 1e9 for tokens in (1500, 100))
        finishing = (16 + 64) * size * 1500 / 1e9
        assert [cell.strip() for cell in line.split("|")[2:-1]] == [
            f"{size:,}", f"{whole:.1f}", f"{2 * whole:.1f}", f"{max(start, finishing):.1f}"
        ]  # fmt: skip
    other = 25  # weights in float32, codec, Whisper-large, HuBERT-large and WavLM-large, generously
    for name in ("prm", "prm_orm", "prm_emotion", "figure2"):
        assert settings_of(f"search/{name}")["prompts_per_group"] * 2 * 336 * each["1B"] * 1500 / 1e9 + other < 80
    for name in ("partial_prm", "partial_prm_orm"):
        group = settings_of(f"search/{name}")["prompts_per_group"]
        beams, samples = (group * count * 2 * each["1B"] * tokens for count, tokens in ((272, 100), (32, 1500)))
        assert (max(beams, samples) + 64 * 2 * each["1B"] * 1500) / 1e9 + other < 80


def test_no_command_of_the_docs_names_a_file_that_is_not_there() -> None:
    """Guards against commands of the docs and of the overlays' first lines that no longer run."""
    texts = [path.read_text() for path in CONFIGS if path.parent in (SWEEP, SWEEP / "search")]
    texts += [(REPOSITORY / f"docs/{name}.md").read_text() for name in ("sweeps", "published_test_sets")]
    named = {name for text in texts for name in re.findall(r"--config (configs/\S+\.yaml)", text)}
    assert named >= {f"configs/sweep/search/{path.name}" for path in OVERLAYS}
    assert not [name for name in named if not (REPOSITORY / name).is_file()]
