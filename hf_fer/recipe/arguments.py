"""Recipes: flat JSON files of the fields of three dataclasses, overridden by the command line and checked first."""

import dataclasses
import difflib
import json
import logging
import types
import typing
from argparse import SUPPRESS
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.dataclasses import type_validator
from transformers import HfArgumentParser
from transformers.integrations import integration_utils
from transformers.trainer_utils import HubStrategy

from hf_fer.recipe.fields_page import fields_page
from hf_fer.recipe.paths import without_folders
from hf_fer.recipe.ranges import out_of_range
from hf_fer.recipe.shipped import find_recipe, shipped_recipes

logger = logging.getLogger(__name__)

HALF_PRECISION = ("fp16", "bf16")

# Field -> fields of the recipe that are dropped when the command line gives this one, because both cannot be obeyed.
RULED_OUT = {
    "warmup_steps": ("warmup_ratio",),
    "warmup_ratio": ("warmup_steps",),
    "num_train_epochs": ("max_steps",),
    "max_steps": ("num_train_epochs",),
    "fp16": ("bf16",),
    "bf16": ("fp16",),
}

# Object fields that are replaced whole instead of merged by key: each describes one table.
WHOLE_OBJECTS = ("concepts",)


class RecipeError(ValueError):
    """A recipe or command line that cannot be run; the message says which key and what to write instead."""


@dataclass
class ModelArguments:
    """Where the model comes from."""

    task: str = field(default="", metadata={"help": "System to train: a folder under hf_fer/models."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint folder or Hub model to start from, or to evaluate."}
    )
    config_overrides: dict | str | None = field(
        default=None, metadata={"help": "JSON object of model configuration fields that override the preset's."}
    )
    freeze: list[str] | None = field(default=None, metadata={"help": "Names of the model parts that stay frozen."})
    unfreeze: dict | str | None = field(
        default=None,
        metadata={"help": "JSON object: model part -> epoch from which it trains; frozen until then."},
    )
    lora: dict | str | None = field(
        default=None, metadata={"help": "JSON object: rank, alpha, dropout, targets, save; see hf_fer.adapters."}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa (default) or eager."})

    def __post_init__(self):
        for name in ("config_overrides", "unfreeze", "lora"):
            setattr(self, name, json_object(name, getattr(self, name)))


@dataclass
class DataArguments:
    """Which data, how it is split, and how many examples may be skipped."""

    dataset: str = field(default="", metadata={"help": "Folder, manifest file, Hub data set, or 'demo'."})
    delimiter: str | None = field(
        default=None, metadata={"help": "Column delimiter of CSV files; detected from the header line if unset."}
    )
    encoding: str = field(
        default="utf-8", metadata={"help": "Encoding of tables and text files; a byte-order mark takes precedence."}
    )
    protocol: str | None = field(
        default=None, metadata={"help": "Protocol by which the data is split; the source's default if unset."}
    )
    fold: int | str | None = field(
        default=0, metadata={"help": "Test fold of a cross-validation protocol, counted from 0, or all."}
    )
    num_folds: int = field(default=5, metadata={"help": "Number of folds that a protocol draws, at least 3."})
    split_seed: int = field(default=0, metadata={"help": "Seed with which splits and subsets are drawn."})
    train_fraction: float = field(
        default=1.0, metadata={"help": "Fraction of the training split to use, drawn stratified, in (0, 1]."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Maximum number of training examples, drawn stratified."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Maximum number of examples in each of the other splits."}
    )
    max_skipped_fraction: float = field(
        default=0.01, metadata={"help": "Fraction of the examples that may be unusable; with more, the run fails."}
    )
    check_workers: int = field(default=4, metadata={"help": "Number of threads that check files before training."})

    def __post_init__(self):
        if self.fold != "all":
            if not str(self.fold).isdecimal():
                raise RecipeError(f"fold must be a number from 0, or 'all', got {self.fold!r}.")
            self.fold = int(self.fold)
        if self.num_folds < 3:
            raise RecipeError(f"num_folds must be at least 3: test, validation and training; got {self.num_folds}.")


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """The Trainer's arguments, with the defaults of this project and the fields that it adds."""

    output_dir: str = field(default="outputs/run", metadata={"help": "Folder for model, checkpoints and report."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Remove the checkpoints and report of an earlier run in output_dir."}
    )
    do_train: bool = field(default=True, metadata={"help": "Train."})
    do_eval: bool = field(default=True, metadata={"help": "Evaluate on the validation split."})
    do_predict: bool = field(default=True, metadata={"help": "Evaluate on the test split."})
    dry_run: bool = field(default=False, metadata={"help": "Print recipe, data, model and memory; train nothing."})
    warmup_ratio: float | None = field(default=None, metadata={"help": "Fraction of the steps that warm up, [0, 1)."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without improvement after which training stops; never if unset."}
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "Smallest change of metric_for_best_model that counts as an improvement."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "true for the newest complete checkpoint in output_dir, or a checkpoint folder."},
    )
    skip_grad_norm: float | None = field(
        default=None, metadata={"help": "Skip every step whose gradient norm before clipping exceeds this value."}
    )
    max_skipped_steps: int = field(
        default=25, metadata={"help": "Number of consecutive skipped steps after which training stops with advice."}
    )
    extra_metrics: list[str] | None = field(
        default=None, metadata={"help": "More metrics of `evaluate`, by name on the Hub or path of a .py file."}
    )
    hp_trials: int = field(
        default=0, metadata={"help": "Number of trials of a hyperparameter search over hp_space; 0 trains once."}
    )
    hp_space: dict | str | None = field(
        default=None, metadata={"help": 'JSON object: field -> list of choices, or {"low", "high", "log", "step"}.'}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints kept, best included."})
    save_top_k: int | None = field(
        default=None,
        metadata={"help": "Keep the k best checkpoints by metric_for_best_model, and the newest, and no others."},
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Evaluate and save the best checkpoint."})
    remove_unused_columns: bool = field(default=False, metadata={"help": SUPPRESS})
    report_to: str = field(default="tensorboard", metadata={"help": "Loggers, comma-separated, or none."})
    hub_strategy: str = field(
        default="end",
        metadata={"help": "end uploads once, after the report; every_save, checkpoint, all_checkpoints at saves too."},
    )

    def __post_init__(self):
        self.hp_space = json_object("hp_space", self.hp_space)
        if self.warmup_ratio is not None:
            if not 0 <= self.warmup_ratio < 1:
                raise RecipeError(f"warmup_ratio must be in [0, 1), got {self.warmup_ratio}.")
            self.warmup_steps = self.warmup_ratio
        if self.skip_grad_norm is not None and not self.skip_grad_norm > 0:
            raise RecipeError(f"skip_grad_norm must be positive, got {self.skip_grad_norm}.")
        if self.max_skipped_steps < 1:
            raise RecipeError(f"max_skipped_steps must be at least 1, got {self.max_skipped_steps}.")
        if self.remove_unused_columns:
            raise RecipeError("remove_unused_columns must stay false: it would remove columns that transforms read.")
        if self.dataloader_num_workers == 0 and self.dataloader_persistent_workers:
            raise RecipeError(
                "dataloader_persistent_workers needs worker processes: set dataloader_num_workers to 1 or more, or "
                "leave it out."
            )
        for name in HALF_PRECISION:
            asked_of_cpu = name == "bf16" and self.use_cpu
            if getattr(self, name) and not torch.accelerator.is_available() and not asked_of_cpu:
                logger.warning("%s needs an accelerator and there is none: training in fp32.", name)
                setattr(self, name, False)
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False
        if isinstance(self.report_to, str):
            self.report_to = self.report_to.split(",")
        check_loggers(self.report_to)
        if not self.do_train:
            self.load_best_model_at_end = False
            self.eval_strategy = "no"
        super().__post_init__()
        # The Trainer must not upload: it would send whole folders, including this object with the token.
        self.upload_strategy, self.hub_strategy = self.hub_strategy, HubStrategy.END

    def __getstate__(self) -> dict[str, Any]:
        """State that `training_args.bin` holds: without the Hub token, absolute paths reduced to file names."""
        return {name: without_folders(value) for name, value in {**self.__dict__, "hub_token": None}.items()}

    @property
    def resume(self) -> bool | str:
        """False, True for the newest checkpoint in `output_dir`, or a checkpoint folder."""
        value = self.resume_from_checkpoint
        return {"true": True, "false": False}.get(str(value).lower(), value or False)


def check_loggers(names: list[str]) -> None:
    """Raises `RecipeError` where a logger of `report_to` is unknown or not installed."""
    installed = integration_utils.get_available_reporting_integrations()
    for name in names:
        check_choice("report_to", name, [*integration_utils.INTEGRATION_TO_CALLBACK, "none", "all"])
        if name not in (*installed, "none", "all", "flyte"):
            raise RecipeError(
                f"report_to {name!r} is not installed: install it, or give --report_to "
                f"{', '.join(sorted(installed)) or 'none'}."
            )


def json_object(name: str, value: dict | str | None) -> dict[str, Any]:
    """
    Parse a field that is a JSON object: a dictionary in a recipe, JSON text on the command line.

    Raises:
        RecipeError: the text is not JSON, or the value is not an object.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise RecipeError(f"--{name} is not JSON ({error}). Write it like '{{\"key\": 1}}'.") from error
    if value is not None and not isinstance(value, dict):
        raise RecipeError(f"{name} must be a JSON object, got {value!r}.")
    return value or {}


def recipe_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Sorted names of the fields in which two recipes differ; `before` was read from JSON."""
    now = json.loads(json.dumps(now, default=str))
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the closest valid name, or the empty string where none is close."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def check_choice(what: str, value: str, valid: Iterable[str]) -> None:
    """
    Check that a name is valid.

    Raises:
        RecipeError: it is not; the message has the closest and all valid names.
    """
    valid = sorted(valid)
    if value not in valid:
        raise RecipeError(f"Unknown {what} {value!r}{nearest(value, valid) or '.'} Valid: {', '.join(valid)}.")


def read_recipe(path: str | Path) -> dict[str, Any]:
    """
    Read a recipe file, or a recipe that comes with the package by its name.

    Raises:
        RecipeError: it does not exist, is not one JSON object, or repeats a key.
    """
    path = find_recipe(str(path))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise RecipeError(f"{path}: {', '.join(sorted(repeated))} is given twice.")
        return dict(pairs)

    if not path.is_file():
        known = shipped_recipes()
        raise RecipeError(
            f"{path}: recipe not found{nearest(str(path.with_suffix('')), known)} Give a file, or a recipe that comes "
            f"with hf_fer: {', '.join(known)}."
        )
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path}: not valid JSON, line {error.lineno}: {error.msg}.") from error
    if not isinstance(recipe, dict):
        raise RecipeError(f"{path}: a recipe is one JSON object.")
    return recipe


def _field_types(dataclass_types: Iterable[type]) -> dict[str, Any]:
    types_by_name = {}
    for dataclass_type in dataclass_types:
        hints = typing.get_type_hints(dataclass_type)
        types_by_name |= {item.name: hints[item.name] for item in dataclasses.fields(dataclass_type) if item.init}
    return types_by_name


def _accepts_float(hint: Any) -> bool:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return float in (typing.get_args(hint) if is_union else (hint,))


def check_recipe(recipe: dict[str, Any], dataclass_types: Iterable[type], source: str) -> dict[str, Any]:
    """
    Check the keys and types of a recipe.

    Returns:
        The recipe, with integers converted to `float` where the field accepts one.

    Raises:
        RecipeError: a key is unknown (the message has the closest valid one) or a value has the wrong type.
    """
    hints = _field_types(dataclass_types)
    checked = {}
    for key, value in recipe.items():
        if key not in hints:
            raise RecipeError(f"{source}: unknown key {key!r}{nearest(key, hints)}")
        if key == "resume_from_checkpoint" and isinstance(value, bool):
            value = str(value).lower()
        if _accepts_float(hints[key]) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        try:
            type_validator(key, value, hints[key])
        except TypeError as error:
            raise RecipeError(f"{source}: {key!r} has the wrong type: {error}") from error
        checked[key] = value
    return checked


class _Parser(HfArgumentParser):
    def format_help(self) -> str:
        return f"{self.format_usage()}\n{self.description}\n\n{fields_page(self.dataclass_types, self._defaults)}\n"

    def error(self, message: str) -> typing.NoReturn:
        raise RecipeError(message)


def make_parser(dataclass_types: Iterable[type], recipe: dict[str, Any]) -> HfArgumentParser:
    """A command-line parser whose defaults are the recipe's values."""
    parser = _Parser(
        dataclass_types,
        prog="run.py",
        usage="run.py RECIPE.json [--any_field value ...]",
        description="Trains, evaluates and saves one model. Every field of a recipe can be given here.",
        allow_abbrev=False,
    )
    parser.set_defaults(**recipe)
    for action in parser._actions:
        if action.dest in recipe:
            action.required = False
    return parser


def read_command_line(dataclass_types: Iterable[type], argv: list[str]) -> dict[str, Any]:
    """
    The fields given on a command line, each converted to its type.

    Raises:
        RecipeError: an argument is unknown (the message has the closest valid one) or a value has the wrong type.
    """
    parser = make_parser(dataclass_types, {})
    for action in parser._actions:
        action.required, action.default = False, SUPPRESS
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
        hint = nearest(name, _field_types(dataclass_types))
        raise RecipeError(f"command line: unknown argument {unknown[0]!r}{hint}")
    return vars(namespace)


def object_fields(dataclass_types: Iterable[type]) -> set[str]:
    """Names of the fields that are JSON objects."""
    hints = _field_types(dataclass_types)
    return {name for name, hint in hints.items() if dict in (typing.get_args(hint) or (hint,))}


def overlaid(recipe: dict[str, Any], later: dict[str, Any], objects: Collection[str]) -> dict[str, Any]:
    """
    Overlay later fields, those of the command line for example, on a recipe; the later value wins.

    Args:
        recipe: Field -> value; it is not modified.
        later: Fields that take precedence. A JSON object is merged into the recipe's, nested objects recursively;
            `null` removes the recipe's object. A field that excludes another removes it from the recipe.
        objects: Names of the fields that are JSON objects.

    Raises:
        RecipeError: two fields that exclude each other were given together.
    """
    check_rivals(recipe)
    check_rivals(later)
    result = dict(recipe)
    for name, value in later.items():
        for rival in RULED_OUT.get(name, ()) if in_force(value) else ():
            if rival not in later:
                result.pop(rival, None)
        result[name] = _with_object(name, recipe.get(name), value) if name in objects else value
    if later.get("dataloader_num_workers") == 0:
        for name in {"dataloader_persistent_workers", "dataloader_prefetch_factor"} - later.keys():
            result.pop(name, None)
    return result


def in_force(value: Any) -> bool:
    """Whether a field's value has an effect; null, false and -1 have none."""
    return value is not None and value is not False and value != -1


def check_rivals(fields: Collection[str]) -> None:
    """Raises `RecipeError` where a recipe, command line or search space has both `warmup_ratio` and `warmup_steps`."""
    if {"warmup_ratio", "warmup_steps"} <= set(fields):
        raise RecipeError("warmup_ratio and warmup_steps both set the length of the warm-up: give one of them.")


def _with_object(name: str, before: Any, later: Any) -> Any:
    """Merge one object field; `before` and `later` are objects or their JSON text."""
    before, later = _from_json(before), _from_json(later)
    if name in WHOLE_OBJECTS or not isinstance(before, dict) or not isinstance(later, dict):
        return later
    # Each dimension of a search space is replaced whole: an old `low` must not be combined with a new `high`.
    return {**before, **later} if name == "hp_space" else merged(before, later)


def _from_json(value: Any) -> Any:
    """Parse a JSON text. Other text is returned as it is: it may name a file, or the field's own check refuses it."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


def merged(before: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Merge `later` into a copy of `before`, nested objects recursively."""
    result = dict(before)
    for key, value in later.items():
        both = isinstance(value, dict) and isinstance(before.get(key), dict)
        result[key] = merged(before[key], value) if both else value
    return result


def parse(
    dataclass_types: tuple[type, type, type], recipe: dict[str, Any], source: str, argv: list[str]
) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
    """
    Parse a recipe and the command line that overrides it.

    Returns:
        The three dataclasses, and the resolved recipe: every field that is not at its default, and `fp16` and `bf16`
        wherever they are given, because Accelerate's configuration file may set them differently.

    Raises:
        RecipeError: a field is unknown, has the wrong type or is refused by a dataclass.
    """
    checked = check_recipe(recipe, dataclass_types, source)
    given = read_command_line(dataclass_types, argv)
    written = overlaid(checked, given, object_fields(dataclass_types))
    namespace = make_parser(dataclass_types, written).parse_args([])
    for name, value in vars(namespace).items():
        problem = out_of_range(name, value)
        if problem:
            raise RecipeError(problem)
    defaults = vars(make_parser(dataclass_types, {}).parse_args([]))
    resolved = {
        name: value
        for name, value in vars(namespace).items()
        if value != defaults[name] or (name in HALF_PRECISION and name in written)
    }
    resolved.pop("hub_token", None)
    try:
        parsed = tuple(
            dataclass_type(**{name: getattr(namespace, name) for name in _field_types([dataclass_type])})
            for dataclass_type in dataclass_types
        )
    except RecipeError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{source}: {error}") from error
    for half in HALF_PRECISION:
        # TrainingArguments take mixed precision from Accelerate's file even where the recipe says false.
        if written.get(half) is False and parsed[2].mixed_precision == half:
            parsed[2].mixed_precision = "no"
    return parsed, resolved
