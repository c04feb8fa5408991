"""python run.py {fit,validate,test,predict} --config FILE.yaml: every experiment of the suite is one such command.
`python run.py prepare --config FILE.yaml` prepares the data of one (modules/command/prepare.py). `python run.py say
TEXT` speaks with a trained model, `python run.py voices` lists the models (modules/command/say.py).

Defaults are read from configs/trainer.yaml; `--config` files and `--key value` options override them and each other, in
their order. `${...}` in a value refers to another key of the config. With a `stage` (modules/stages.py) a finished run
is skipped and an unfinished one resumes. Relative paths start at `--root FOLDER`, by default the repository; an option
may also name a file or folder in the working folder.
"""

import sys

from modules.command.speaking import is_speaking, run

if __name__ == "__main__" and is_speaking(sys.argv[1:]):  # before the imports of training, which take seconds
    sys.exit(run(sys.argv[1:]))

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml
from jsonargparse import Namespace, set_dumper, set_loader
from jsonargparse._optionals import get_omegaconf_loader, omegaconf_apply
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from callbacks.finite_validation import FiniteValidation
from callbacks.parameter_count import ParameterCount
from callbacks.run_checkpoint import SavedBefore
from callbacks.skipped_samples import SkippedSamples
from callbacks.training_end import StopOnInterrupt, TimeLimit, TrainingInterrupted, ended_by_itself
from modules.command.checks import (
    check_checkpoint_path,
    check_model,
    check_subcommand,
    last_checkpoint,
    unreadable,
)
from modules.command.defaults import DEFAULTS, settle
from modules.command.errors import failure
from modules.command.line import (
    CURRENT,
    HiddenTexts,
    admits_text,
    as_yaml,
    dumped,
    enter_root,
    hidden_texts,
    quoted,
    unresolved,
)
from modules.command.messages import plain_message
from modules.command.prepare import prepare
from modules.command.quiet import quieten
from modules.moved_names import current_words, with_current_names
from modules.precision import automatic_precision
from modules.stage_config import CALLBACK_KEYS, as_list
from modules.stages import UNREADABLE, Stage, StageFinished, StageSettings

PARSER_MODE = "omegaconf+"
read_yaml = get_omegaconf_loader(PARSER_MODE)
DESCRIPTION = """Lightning's commands (below), and three more, each with its own --help:
prepare (recordings to shards), say (speak a text), voices (what can speak here)."""
NO_STAGE_FOLDER = "runs/no_stage"  # `${stage.folder}` of a run without a stage


def callbacks_of_every_run(subcommand: str) -> list[Callback]:
    """Callbacks of every run beside those of its config. A stage does not compare them: no config holds them."""
    of_fit = [SavedBefore(), FiniteValidation(), StopOnInterrupt(), ParameterCount()] if subcommand == "fit" else []
    return [*of_fit, SkippedSamples()]


class SuiteParser(LightningArgumentParser):
    """Lightning's parser with the suite's defaults, `${...}` from the top level of the config file, texts that are not
    read as YAML (modules/command/line.py) and one-line errors. jsonargparse creates one for the command, one for each
    subcommand and one for each class that a config names."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Namespace:
        outermost = CURRENT.get() is None
        set_dumper("yaml", dumped)
        set_loader(PARSER_MODE, lambda text: with_current_names(read_yaml(text)), (yaml.YAMLError,))
        with hidden_texts() as texts:
            try:
                args = current_words(texts.hide_options(sys.argv[1:] if args is None else args))
            except ValueError as error:
                self.error(str(error), error)
            if outermost:
                self._refuse_old_address(args)
                args = [f"--config={DEFAULTS}", *args]
            elif not hasattr(self, "subcommand"):  # the parser of a class
                args = list(map(as_yaml, args))
            namespace = super().parse_args(args, *rest, **kwargs)
            if hasattr(self, "subcommand"):
                try:
                    settle(namespace, args, self.subcommand)
                except ValueError as error:
                    self.error(str(error), error)
                printed, texts.printed = texts.printed, False
                namespace = texts.hide(self._resolved(namespace), resolved=True)
                texts.printed = printed
            return texts.show(namespace) if outermost else namespace

    def _shown_unless_text(self, name: str, value: Any, texts: HiddenTexts) -> Any:
        """The value of a class's argument; a hidden text is restored if the argument is no string (`speaker: int`)."""
        action = next((one for one in self._actions if one.dest == name), None)
        hint = getattr(action, "_typehint", None) or getattr(action, "type", None)
        return value if not isinstance(value, str) or admits_text(hint) else texts.show_text(value)

    def _refuse_old_address(self, args: Sequence[str]) -> None:
        """Refuse `--trainer.callbacks.folder`, formerly a command's output folder: it sets the last listed callback."""
        listed = False
        for word in args:
            listed |= re.match(r"--trainer\.callbacks(\+?=|\+?$)", word) is not None
            if not listed and re.match(r"--trainer\.callbacks\.(init_args\.)?folder\b", word):
                self.error(f"Expected `--KEY.folder`, but got {word}. KEY is one of {', '.join(CALLBACK_KEYS)}.")

    def parse_object(self, obj: Any, namespace: Namespace | None = None, *rest: Any, **kwargs: Any) -> Namespace:
        outermost = CURRENT.get() is None
        with hidden_texts() as texts:
            obj = texts.hide(with_current_names(obj), resolved=outermost)
            namespace = texts.hide(namespace, resolved=outermost)
            if not outermost and not hasattr(self, "subcommand"):  # the parser of a class
                obj = {
                    name: self._shown_unless_text(name, value, texts) for name, value in vars(Namespace(obj)).items()
                }
            namespace = super().parse_object(obj, namespace, *rest, **kwargs)
            return texts.show(namespace) if outermost else namespace

    def dump(self, *args: Any, **kwargs: Any) -> str:
        text, texts = super().dump(*args, **kwargs), CURRENT.get()
        return texts.show_text(text, quoted) if texts is not None and texts.printed else text

    def save(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        with hidden_texts() as texts:
            texts.printed = True
            super().save(texts.hide(namespace, resolved=True), *args, **kwargs)

    def _resolved(self, namespace: Namespace) -> Namespace:
        """The config of a subcommand with its `${...}` resolved."""
        # `${times:2000,${trainer.accumulate_grad_batches}}`: for numbers that Lightning counts in micro-batches.
        OmegaConf.register_resolver("times", lambda first, second: first * second, replace=True)
        settings = self._without_stage(namespace)
        # jsonargparse itself resolves later, in the command's config, where the keys of a file are below `fit.`.
        try:
            namespace = omegaconf_apply(self, namespace)
        except OmegaConfBaseException as error:
            self.error(unresolved(error), error)
        if settings is None:
            namespace["stage"] = None
        return namespace

    def _without_stage(self, namespace: Namespace) -> Any:
        """The `stage` group, or None for a run without a stage: a dry run, `--stage null`, a config without one. Its
        `${stage.folder}` is a folder that such runs share, so a fit does not resume from a checkpoint there."""
        settings = namespace.get("stage")
        is_dry = settings is not None and namespace.get("trainer.fast_dev_run")
        if settings is not None and (self.subcommand == "validate" or not is_dry):
            # A validation uses the folder of the stage whose weights it reads, and writes no marker.
            return None if self.subcommand == "validate" else settings
        folder = f"{settings.get('init_args', settings)['folder']}.fast_dev_run" if is_dry else NO_STAGE_FOLDER
        namespace["stage"] = Namespace(folder=folder, inputs=[], outputs=[])
        savers = str([namespace.get("trainer.callbacks"), namespace.get("checkpoint")])
        if self.subcommand == "fit" and namespace.get("ckpt_path") == "last" and (is_dry or "${stage." in savers):
            namespace["ckpt_path"] = None
        return None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with status 2 and print only the message: the usage of a Trainer fills a screen."""
        if (texts := CURRENT.get()) is not None:
            message = texts.show_text(message)
        message = plain_message(message, self._option_string_actions, CALLBACK_KEYS)
        if not self.exit_on_error:
            raise ValueError(message) from ex
        print(f"error: {message}\n(`{self.prog.replace('[options] ', '')} --help` lists the options)", file=sys.stderr)
        sys.exit(2)


class SuiteCLI(LightningCLI):
    """The suite's LightningCLI; configs name model and data by class_path."""

    def __init__(self, args: list[str] | None = None) -> None:
        self.stage: Stage | None = None
        try:
            super().__init__(
                LightningModule,
                LightningDataModule,
                save_config_kwargs={"overwrite": True},
                seed_everything_default=0,  # a random seed would change the stage's config in every run
                parser_kwargs={"parser_mode": PARSER_MODE, "description": DESCRIPTION},
                parser_class=SuiteParser,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                args=args,
            )
        finally:
            if self.stage is not None:
                self.stage.release()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--num_threads", type=int | None, default=None, help="CPU threads of torch; null: all.")
        parser.add_argument("--flush_denormals", type=bool, default=True, help="Treat denormal floats as zero (CPU).")
        help = "auto: bf16-mixed where this machine computes it faster, else 32-true, in place of trainer.precision."
        parser.add_argument("--precision", type=Literal["auto"] | None, default=None, help=help)
        parser.add_argument("--stage", type=StageSettings | None, default=None)
        for key in CALLBACK_KEYS:
            parser.add_subclass_arguments(Callback, key, required=False, help=f"The callback at `{key}`.")
        parser.add_subclass_arguments(Logger, "logger", required=False, help="Used where `trainer.logger` is null.")
        parser.add_subclass_arguments(
            CheckpointIO, "checkpoint_io", required=False, help="Unless `trainer.plugins` or the strategy has one."
        )
        # Model and data need the same vocabulary. The link is ignored for a class without the argument.
        parser.link_arguments("data.init_args.prompt_format", "model.init_args.prompt_format")

    def _parse_ckpt_path(self) -> None:
        """Lightning's method, by which the checkpoint's hyper-parameters override the config's, between checks. Raises
        ValueError for a file or folder that this command cannot read, and for a checkpoint of another model."""
        config = self.config[self.config.subcommand]
        path, model = config.get("ckpt_path"), config.get("model.class_path")
        callbacks = as_list(config.get("trainer.callbacks"))
        check_subcommand(
            self.config.subcommand, config.get("data.class_path"), model, [*callbacks, *vars(config).values()]
        )
        savers = [*callbacks, *as_list(config.get("checkpoint"))]
        saved = [(one.get("init_args") or {}).get("dirpath") for one in savers]
        check_checkpoint_path(path, [Path(folder) for folder in saved if folder])
        if path and Path(path).is_file():
            try:
                torch.load(path, weights_only=True, mmap=True).get("hyper_parameters")
            except UNREADABLE as error:
                if isinstance(error, OSError):
                    raise  # not readable for this user
                raise unreadable(path, error) from error
        super()._parse_ckpt_path()
        check_model(path, model, self.config[self.config.subcommand].get("model.class_path"))

    def before_instantiate_classes(self) -> None:
        if (num_threads := self._get(self.config, "num_threads")) is not None:
            torch.set_num_threads(num_threads)
        torch.set_flush_denormal(self._get(self.config, "flush_denormals"))
        settings = self._get(self.config, "stage")
        if settings is not None:
            self._dump_config()
            settings = StageSettings(**settings.as_dict())
            self.stage = Stage(settings, self.subcommand, self.config_dump, self._read_stored_config)
            if rank_zero_only.rank == 0:
                print(self.stage.begin(), flush=True)
            else:
                self.stage.follow()
        if self._get(self.config, "precision") == "auto":
            self._set_automatic_precision()

    def _set_automatic_precision(self) -> None:
        """Set `trainer.precision` by what this machine can. The stage's marker, written before, holds the word auto."""
        trainer = self._get(self.config, "trainer")
        given = trainer.get("precision")
        trainer["precision"], reason = automatic_precision(str(trainer.get("accelerator")))
        replaced = "" if given in (None, trainer["precision"]) else f", in place of the config's {given}"
        if rank_zero_only.rank == 0:
            print(f"precision auto: {trainer['precision']} ({reason}){replaced}", flush=True)

    def _read_stored_config(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """A marker's config with the current defaults for missing arguments. Raises for a key or a class that no longer
        exists."""
        parser = self._parser(self.subcommand)
        parser.exit_on_error = False
        try:
            namespace = parser.parse_object(dict(config))
            text = parser.dump(namespace, skip_link_targets=False, skip_none=False, format="yaml")
        finally:
            parser.exit_on_error = True
        return yaml.safe_load(text)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the callbacks and the `CheckpointIO` that have keys of their own, and those of every run."""
        given = self._get(self.config_init, "trainer", default={})
        callbacks = as_list(given.get("callbacks"))
        for key in CALLBACK_KEYS:
            one = self._get(self.config_init, key)
            if one is not None and type(one) not in map(type, callbacks):
                callbacks = [*callbacks, one]
            elif one is not None and rank_zero_only.rank == 0:
                print(f"{key}: left out, since `trainer.callbacks` holds a {type(one).__name__}", flush=True)
        if self.subcommand == "fit" and given.get("max_time") is not None:
            callbacks = [*callbacks, TimeLimit(given["max_time"])]
            kwargs["max_time"] = None
        kwargs["callbacks"] = callbacks
        checkpoint_io, plugins = self._get(self.config_init, "checkpoint_io"), as_list(given.get("plugins"))
        has_own = getattr(given.get("strategy"), "_checkpoint_io", None) is not None
        if checkpoint_io is not None and not has_own and not any(isinstance(one, CheckpointIO) for one in plugins):
            kwargs["plugins"] = [*plugins, checkpoint_io]
        if self.subcommand == "validate":
            self.save_config_callback = None  # it would replace the config.yaml of the fit
        named = set(map(type, callbacks))  # the config's replace ours
        own = [one for one in callbacks_of_every_run(self.subcommand) if type(one) not in named]
        self.trainer_defaults = {"callbacks": own}
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except TrainingInterrupted as interruption:
            if self.stage is not None and rank_zero_only.rank == 0:
                print(self.stage.pause(str(interruption)), flush=True)
            raise
        if self.stage is not None and rank_zero_only.rank == 0:
            ended = subcommand != "fit" or ended_by_itself(self.trainer)
            why = f"stopped at step {self.trainer.global_step} before the training's end"
            print(self.stage.finish() if ended else self.stage.pause(why), flush=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SuiteCLI":
        """Return itself. EMAWeightAveraging copies the module, whose optimizer factories refer to this object; the copy
        needs no second Trainer, and the stage's lock cannot be copied."""
        return self

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Replace `ckpt_path: last` by the complete checkpoint of the largest step, for a fit without one by None.
        Raises ValueError if another subcommand finds none."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if kwargs.get("ckpt_path") == "last":
            savers = [saver for saver in self.trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
            folders = [saver.dirpath for saver in savers if not saver.save_weights_only]
            if subcommand != "fit" or (folders and all(folders)):
                kwargs["ckpt_path"] = last_checkpoint(subcommand, [Path(folder) for folder in folders if folder])
                if rank_zero_only.rank == 0:
                    source = kwargs["ckpt_path"] or "the first step: no checkpoint yet"
                    if kwargs["ckpt_path"] or self.stage is None or self.stage.marker.seconds:  # a new stage says so
                        print(f"{subcommand} starts from {source}", flush=True)
        if subcommand == "fit" and kwargs.get("ckpt_path") is not None and Path(kwargs["ckpt_path"]).exists():
            self.trainer.ckpt_path = kwargs.pop("ckpt_path")  # known to `setup`; Lightning sets a given one later
        return kwargs


class PrepareCLI(SuiteCLI):
    """Reads configs as `fit` does, and builds nothing but the data: a config needs no model."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self.trainer_class, "trainer")  # `${trainer...}` of a config
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=True, required=False)
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        self._subcommand_parsers["fit"].prog = "run.py prepare"

    def instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.settings = config.get("stage")
        self.datamodule = self._parser(self.subcommand).instantiate(Namespace(data=config.data)).data

    def _nothing(self, *rest: Any) -> None:
        """What only a run with a Trainer needs."""

    _parse_ckpt_path = _set_seed = before_instantiate_classes = _run_subcommand = _nothing


def main(args: list[str] | None = None) -> None:
    """Run one command. Raises SystemExit after a message (modules/command/errors.py): with status 2 for an error that
    the user can correct, 1 for a crash in the user's own code."""
    if args and is_speaking(args):
        raise SystemExit(run(args))
    quieten()
    words = sys.argv[1:] if args is None else args
    try:
        if words[:1] == ["prepare"]:
            sys.argv[1:] = []  # Lightning warns of other arguments than these
            raise SystemExit(prepare(words[1:], PrepareCLI))
        SuiteCLI(args)
    except StageFinished as finished:
        if rank_zero_only.rank == 0:
            print(finished, flush=True)
    except TrainingInterrupted as interruption:
        raise SystemExit(130) from interruption  # a shell's status for SIGINT
    except Exception as error:
        told = failure(error)
        if told is None or os.environ.get("LOGLEVEL", "").upper() == "DEBUG":
            raise
        print(told.text, file=sys.stderr)
        raise SystemExit(told.status) from error


if __name__ == "__main__":
    enter_root()
    main()
