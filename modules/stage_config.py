"""Compares the config in a stage's marker with the current one: which differences change the result of a run.

Output folders, speed and what a run prints are not compared. The size of a step (`batch_size`,
`accumulate_grad_batches`) is, and so is the precision, unless the new config says `precision: auto`: a run begun on one
machine goes on with another one's precision.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from modules.moved_names import with_current_names

# Keys that are not compared: of the config, and of its trainer.
TOP_LEVEL = {"stage", "config", "num_threads", "verbose", "logger", "checkpoint_io", "return_predictions"}
STORED_IF_SET = {"precision"}  # null is the config of a version without the key
TRAINER = {
    # hardware
    *("accelerator", "devices", "num_nodes", "strategy", "benchmark", "use_distributed_sampler"),
    # logging and display
    *("logger", "log_every_n_steps", "enable_progress_bar", "enable_model_summary", "profiler", "default_root_dir"),
    *("enable_autolog_hparams", "model_registry", "barebones"),
    # time limits: a run that they end is unfinished, and the next call resumes it
    "max_time",
    # checks that can only stop the run, and dry runs
    *("fast_dev_run", "detect_anomaly", "num_sanity_val_steps"),
}
# Callbacks that are not compared (they print, log or end a run), by the last part of their class path.
CALLBACKS = {
    *("ProgressBar", "TQDMProgressBar", "RichProgressBar", "RunProgressBar"),
    *("ModelSummary", "RichModelSummary", "RunLayout"),
    *("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor", "Throughput", "TrainingSpeech"),
    *("Timer", "TerminateAtOnce", "FiniteValidation"),
}
# Keys of a config with one callback each, so that options set its arguments whatever `trainer.callbacks` lists. They
# are compared as members of that list, where older configs have them; one of the same class in the list replaces it.
# Those of the first line have defaults (configs/trainer.yaml).
CALLBACK_KEYS = (
    *("checkpoint", "learning_rate_monitor", "progress_bar", "run_layout"),
    *("sweep", "speech", "spoken_texts", "understanding", "codec_evaluation", "resynthesis", "tokens", "report"),
)
# Arguments that are not compared in any class: the order of rows does not depend on the loader's processes, nor
# a result on where its page stands; a fused optimizer is the same one, faster.
ARGUMENTS = {"num_workers", "report_folder", "fused"}


def changed_config(
    stored: Mapping[str, Any], new: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> list[str]:
    """Dotted names of the values by which the results of two resolved configs may differ.

    A key that `stored` lacks is no change if `new` has its default: `read` parses a config with the current code, which
    gives every missing argument the default of its class, at any depth. A key of `stored` that no longer exists is no
    change if its value was null or false, nor is the default saver of checkpoints, if `stored` is older and has none.
    """
    stored = with_current_names(stored)
    listed = as_list((stored.get("trainer") or {}).get("callbacks"))
    if "checkpoint" not in stored and not {"ModelCheckpoint", "RunCheckpoint"} & set(map(_class_name, listed)):
        new = {**new, "checkpoint": None}
    if new.get("precision") == "auto":
        stored, new = _any_precision(stored), _any_precision(new)
    stored, new = _result_part(stored), _result_part(new)
    if stored != new:
        for candidate in (stored, _without_gone(stored, new)):
            try:
                return changed_keys(_result_part(read(candidate)), new)
            except (ValueError, TypeError, KeyError, AttributeError, ImportError):
                continue  # a key or a class of it no longer exists
    return changed_keys(stored, new)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values in which two nested configs differ."""
    changed: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after or (key in old) != (key in new):
            changed.append(prefix + key)
    return changed


def _any_precision(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "precision": None, "trainer": {**(config.get("trainer") or {}), "precision": None}}


def _result_part(config: Mapping[str, Any]) -> dict[str, Any]:
    keyed = [config[key] for key in CALLBACK_KEYS if config.get(key) is not None]
    dropped = {*TOP_LEVEL, *CALLBACK_KEYS}
    dropped |= {key for key in STORED_IF_SET if config.get(key) is None}
    part = {key: _without_arguments(value) for key, value in config.items() if key not in dropped}
    if isinstance(trainer := part.get("trainer"), Mapping):
        trainer = {key: value for key, value in trainer.items() if key not in TRAINER}
        callbacks = as_list(trainer.get("callbacks"))
        listed = set(map(_class_name, callbacks))
        callbacks = callbacks + [_without_arguments(one) for one in keyed if _class_name(one) not in listed]
        callbacks = [one for one in callbacks if _class_name(one) not in CALLBACKS]
        callbacks.sort(key=lambda one: (_class_name(one), json.dumps(one, sort_keys=True, default=str)))
        plugins = [one for one in as_list(trainer.get("plugins")) if "Precision" in _class_name(one)]
        part["trainer"] = trainer | {"callbacks": callbacks, "plugins": plugins}
    return part


def _without_arguments(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_arguments(item) for key, item in value.items() if key not in ARGUMENTS}
    return [_without_arguments(item) for item in value] if isinstance(value, list) else value


def _without_gone(stored: Any, new: Any) -> Any:
    """`stored` without null or false values of keys that `new`, which has every argument of its classes, lacks."""
    if isinstance(stored, Mapping) and isinstance(new, Mapping):
        if stored.get("class_path") != new.get("class_path"):
            return stored
        known = {key: value for key, value in stored.items() if key in new or not (value is None or value is False)}
        return {key: _without_gone(value, new.get(key)) for key, value in known.items()}
    if isinstance(stored, list) and isinstance(new, list) and len(stored) == len(new):
        return [_without_gone(*pair) for pair in zip(stored, new, strict=True)]
    return stored


def as_list(value: Any) -> list[Any]:
    """A config's value as a list: it may also be one item, or null."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _class_name(value: Any) -> str:
    path = value.get("class_path", "") if isinstance(value, Mapping) else value
    return str(path).rpartition(".")[2]
