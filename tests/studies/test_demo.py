"""studies/demo/collect.py: the numbers of the results page are those of the runs."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "studies/demo/collect.py"
COLUMNS = (
    "algorithm,selector,judge,n,score,low,high,num_prompts,num_unjudged,num_runaways,score_judged_only,prompt_set,flops"
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("collect_results", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_runs(run: Path) -> None:
    (run / "codec").mkdir(parents=True)
    (run / "codec" / "stage_fit.json").write_text(json.dumps({"finished": True, "seconds": 61.26, "peak_gb": 1.234}))
    (run / "lm").mkdir()
    (run / "lm" / "stage_fit.json").write_text(json.dumps({"finished": False, "seconds": 1, "peak_gb": 1}))
    point = {"value": 0.5, "low": 0.4, "high": 0.6, "num": 25, "num_unjudged": 0}
    row = dict.fromkeys(("wer", "stoi", "pesq_nb", "pesq_wb", "bit_rate"), point)
    nothing = {key: {"value": None, "low": None, "high": None, "num": 0, "num_unjudged": 25} for key in row}
    (run / "codec_evaluation").mkdir()
    table = {"systems": {"codec": row, "Opus 6k": nothing}}
    (run / "codec_evaluation" / "codec_evaluation.json").write_text(json.dumps(table))
    (run / "report").mkdir()
    with (run / "report" / "curve.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS.split(","))
        for prompt_set in ("4 digits", "6 to 8 digits"):
            for n, score in ((1, 0.9), (16, 0.99)):
                for judge in ("whisper", "speaker"):
                    own = score if judge == "whisper" else 0.1
                    interval = (own, own - 0.05, own + 0.01)
                    line = ["best_of_n", "pocketsphinx", judge, n, *interval, 32, 0, 0, own, prompt_set, 1.0]
                    writer.writerow(line)


def test_numbers_arrive_where_the_page_looks(script, tmp_path):
    """Guards against a score shown as an error, interval ends that are not reversed, and unfinished stages."""
    write_runs(tmp_path / "demo")
    found = script.gather(tmp_path / "demo", tmp_path / "results")
    error = found["lm"]["digit_error"]
    assert {key: round(value, 6) for key, value in error["n1"].items()} == {
        "value": 0.1, "low": 0.09, "high": 0.15, "num": 32,
    }  # fmt: skip
    assert error["best_of_16"]["value"] == pytest.approx(0.01)
    assert found["stages"]["codec"]["seconds"]["value"] == 61.3
    assert "lm" not in found["stages"]
    assert found["codec"]["wer"] == {"value": 0.5, "low": 0.4, "high": 0.6, "num": 25}
    assert "codec_45min" not in found
    page = script.markdown(found)
    assert "0.100 [0.090, 0.150]" in page
    assert "| Opus 6k |" in page, "a system that nothing could judge is a dash, not a crash"
    script.draw(tmp_path / "demo" / "report" / "curve.csv", tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_is_read_per_step(script, tmp_path):
    """Guards against the mean of a part that runs twice a step, and against a part of the other module's step."""
    report = tmp_path / "fit-codec.txt"
    report.write_text(
        "FIT Profiler Report\n\n"
        "|  Action  |  Mean duration (s)  |  Num calls  |  Total time (s)  |  Percentage %  |\n"
        "|  Total  |  -  |  100  |  9.0  |  100 %  |\n"
        "|  run_training_batch  |  0.4  |  10  |  4.0  |  44  |\n"
        "|  [Strategy]SingleDeviceStrategy.backward  |  0.1  |  20  |  2.0  |  22  |\n"
        "|  codec: generator  |  0.1  |  10  |  1.0  |  11  |\n"
        "|  codec: backward  |  0.1  |  20  |  2.0  |  22  |\n"
    )
    assert script.step_profile(report) == {"step": 400.0, "generator, forward": 100.0, "generator, backward": 200.0}
