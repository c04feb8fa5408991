"""configs/trainer.yaml: what every command reads before its own configs, and what replaces it."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

import run
from modules.stage_config import changed_config

REPOSITORY = Path(__file__).resolve().parents[3]
RUN = "callbacks.run_checkpoint.RunCheckpoint"
BAR = "callbacks.run_progress_bar.RunProgressBar"
SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"


class ParsingCLI(run.SuiteCLI):
    """The command up to the point where it would read or build anything."""

    def before_instantiate_classes(self) -> None:
        self._dump_config()

    def _parse_ckpt_path(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.fixture
def parse(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)

    def parsed(subcommand: str, name: str, *options: str, **overlay: object) -> Namespace:
        (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
        paths = [str(REPOSITORY / "configs" / name), *(["overlay.yaml"] if overlay else [])]
        cli = ParsingCLI([subcommand, *[word for path in paths for word in ("--config", path)], *options])
        return cli.config[subcommand], cli.config_dump

    return parsed


def test_a_config_changes_one_value_of_a_default_or_switches_it_off(parse):
    """Guards against a default that a config can only replace whole, and against one that is not read."""
    config, _ = parse("fit", "demo/lm.yaml", "--checkpoint.save_top_k", "2", checkpoint={"every_n_train_steps": 7})
    saver = config.checkpoint.init_args
    assert (saver.every_n_train_steps, saver.save_top_k, saver.dirpath) == (7, 2, "runs/demo/lm/checkpoints")
    assert config.trainer.logger.init_args.save_dir == config.trainer.default_root_dir == "runs/demo/lm"
    assert config.trainer.num_sanity_val_steps == 0 and config.trainer.use_distributed_sampler is False
    off = parse("fit", "demo/lm.yaml", "--logger", "null", progress_bar=None, run_layout=None)[0]
    assert off.trainer.logger is False and off.progress_bar is off.run_layout is None
    assert off.learning_rate_monitor is None, "it raises without a logger"
    predict = parse("predict", "demo/tokenise.yaml")[0]
    assert predict.trainer.logger is False and predict.return_predictions is False and predict.checkpoint is None


def test_own_callbacks_and_logger_replace_the_defaults(parse, tmp_path, capsys):
    """Guards against two savers or bars in a run whose config is older than the defaults, against a logger that
    inherits arguments of the default one, and against an option without effect."""
    listed = [{"class_path": SAVER, "init_args": {"dirpath": "own"}}, {"class_path": BAR}]
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}}
    trainer = {"callbacks": listed, "logger": logger}
    config = parse("fit", "demo/lm.yaml", trainer=trainer)[0]
    assert [one.class_path for one in config.trainer.callbacks] == [SAVER, BAR]
    assert config.checkpoint is config.progress_bar is None and config.run_layout is not None
    assert config.trainer.logger.init_args.name == "lightning_logs" and config.trainer.logger.init_args.version is None
    bare = {"enable_progress_bar": False, "enable_checkpointing": False, "callbacks": listed[1:]}
    config = parse("fit", "demo/lm.yaml", trainer=bare)[0]
    assert config.checkpoint is config.progress_bar is None and config.trainer.callbacks == []
    with pytest.raises(SystemExit):
        parse("fit", "demo/lm.yaml", "--checkpoint.every_n_train_steps", "3", trainer=trainer)
    assert "--checkpoint.every_n_train_steps=3" in capsys.readouterr().err


def test_a_run_without_a_stage_resumes_only_its_own_checkpoints(parse):
    """Guards against a fit that starts from another run's checkpoint in the folder that runs without a stage share,
    and against one that no longer resumes from a folder of its own."""
    shared, _ = parse("fit", "demo/lm.yaml", "--stage", "null")
    assert shared.ckpt_path is None and shared.checkpoint.init_args.dirpath == f"{run.NO_STAGE_FOLDER}/checkpoints"
    own = {"callbacks": [{"class_path": SAVER, "init_args": {"dirpath": "own"}}]}
    assert parse("fit", "demo/lm.yaml", "--stage", "null", trainer=own)[0].ckpt_path == "last"


def test_a_stage_compares_a_listed_callback_and_its_key_as_one(parse):
    """Guards against finished stages that are moved aside since the defaults exist."""
    _, new = parse("fit", "demo/lm.yaml")
    saver = new["checkpoint"]
    gone = ("checkpoint", "learning_rate_monitor", "progress_bar", "run_layout", "logger", "checkpoint_io")
    stored = {key: value for key, value in new.items() if key not in gone}
    trainer = stored["trainer"] | {"num_sanity_val_steps": None, "use_distributed_sampler": True, "logger": False}
    listed = stored | {"trainer": trainer | {"callbacks": [saver, {"class_path": BAR}, *trainer["callbacks"]]}}
    assert changed_config(listed, new, dict) == []
    rarer = saver | {"init_args": saver["init_args"] | {"every_n_train_steps": 401}}
    assert changed_config(listed, new | {"checkpoint": rarer}, dict) == ["trainer.callbacks"]
    assert changed_config(listed, new | {"checkpoint": None}, dict) == ["trainer.callbacks"]
    assert changed_config(stored | {"trainer": trainer}, new, dict) == [], "without a saver, from before the defaults"


@pytest.mark.parametrize("subcommand", ["test", "predict"])
def test_a_config_of_a_fit_parses_for_other_commands(parse, subcommand):
    """Guards against a fit's values of its checkpoints that stop a test or predict with the same yaml, and against
    Rich's bar there, which turns every refresh of an evaluation's own bar into a line."""
    config = parse(subcommand, "demo/lm.yaml", checkpoint={"every_n_train_steps": 7})[0]
    assert config.checkpoint is config.learning_rate_monitor is None and config.progress_bar.class_path == BAR


def test_a_run_without_a_stage_has_lightnings_own_folders(parse):
    """Guards against runs that lose each other's files in one folder of all runs without a stage."""
    config = parse("fit", "demo/lm.yaml", stage=None)[0]
    assert config.trainer.logger is config.trainer.default_root_dir is config.checkpoint is config.run_layout is None
    shared = parse("fit", "demo/lm.yaml", "--stage", "null")[0]
    assert shared.checkpoint.init_args.dirpath == "runs/no_stage/checkpoints"


def test_an_option_of_the_default_logger_is_an_error_of_one_line(parse, capsys):
    """Guards against a parser's message that does not say where the logger is."""
    with pytest.raises(SystemExit):
        parse("fit", "demo/lm.yaml", "--trainer.logger.init_args.name", "mine")
    assert "--logger.init_args.name NAME" in capsys.readouterr().err
    assert parse("fit", "demo/lm.yaml", "--logger.init_args.name", "mine")[0].trainer.logger.init_args.name == "mine"


def test_keeping_predictions_is_no_change_of_a_stage():
    """Guards against a finished predict that runs again because predictions are no longer kept by default."""
    stored = {"return_predictions": True, "trainer": {}}
    assert changed_config(stored, stored | {"return_predictions": False}, lambda config: config) == []
