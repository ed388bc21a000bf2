"""Run recipes one after the other, each starting from the output of the one before; finished ones are skipped:

accelerate launch --config_file accelerate_configs/cpu.yaml -m hf_fer.stages training_args/demo/csr_*.json \
    [--any_field value ...]

A stage that was stopped goes on from its newest checkpoint. Fields given here count for every stage, and
`--2.num_train_epochs 10` for the second one alone. `--experiment NAME` puts the whole chain into `outputs/NAME/`.
"""

import hashlib
import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path

from accelerate import PartialState

from hf_fer.data.loading import write_json_atomically
from hf_fer.experiment.one_run import run
from hf_fer.recipe.arguments import RecipeError, read_recipe
from hf_fer.runtime.checkpoints import checkpoint_folders, has_folds
from hf_fer.runtime.messages import one_message
from hf_fer.task.base import Task
from hf_fer.task.find import parse_task

RECORD = "stage.json"
MODEL_FILES = ("model.safetensors", "config.json")
STAGE_FIELD = re.compile(r"--(\d+)\.(.+)")

# What may change between two calls without making another model of the recipe.
PASSING = ("resume_from_checkpoint", "overwrite_output_dir", "disable_tqdm", "report_to", "logging_steps")


def fingerprint(task: Task) -> dict:
    """What a stage's result depends on: its recipe, the files that the recipe names, and the model it starts from."""
    recipe = {name: value for name, value in task.recipe.items() if name not in PASSING}
    start = task.model_args.model_name_or_path
    folders = sorted(Path(start).glob("fold_*")) if has_folds(start) else [Path(start or "")]
    return {
        "recipe": json.loads(json.dumps(recipe, default=str)),
        "data": {name: contents(Path(path)) for name, path in input_paths(task).items()},
        "starts_from": [contents(folder / name) for folder in folders for name in MODEL_FILES],
    }


def input_paths(task: Task) -> dict[str, str]:
    """The `input_fields` that the recipe sets, with their paths; one of a Hub repository is not on this machine."""
    fields = {**vars(task.model_args), **vars(task.data_args)}
    return {name: fields[name] for name in task.input_fields if isinstance(fields[name], str) and fields[name]}


def contents(path: Path) -> str | None:
    """
    A digest of a file's bytes, or of a folder's names, sizes and times of change; `None` where there is neither.

    The bytes of a folder of images would take minutes to read.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        facts = file.stat()
        digest.update(f"{file.relative_to(path).as_posix()}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def progress(task: Task, now: dict) -> str:
    """
    How far the stage has come: "new", "stopped" or "finished".

    Raises:
        RecipeError: what is in its folder is of another recipe, other data or other weights to start from, and
            nothing allows to overwrite it.
    """
    args = task.training_args
    path = Path(args.output_dir, RECORD)
    if not path.is_file():
        if checkpoint_folders(args.output_dir) and not args.overwrite_output_dir:
            raise RecipeError(
                f"{args.output_dir} holds the checkpoints of an earlier run that was not started here: nothing says "
                "of what recipe. Give only the recipes after it, or add --overwrite_output_dir true."
            )
        return "new"
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["of"] == now:
        return record["progress"]
    if args.overwrite_output_dir:
        return "new"
    raise RecipeError(
        f"{args.output_dir} is of another recipe, of other data, or started from another model than there is now. Add "
        "--overwrite_output_dir true to run it again, or set another output_dir in the recipe."
    )


def run_stage(path: str, overrides: list[str]) -> None:
    """One recipe: skipped if it is finished, resumed if it was stopped, else run."""
    state, task = PartialState(), parse_task([path, *overrides])
    if task.training_args.hp_trials:
        raise RecipeError(f"{path}: hp_trials makes no model for a next stage. Search with hf_fer/run.py.")
    if task.training_args.dry_run:
        run(task)
        return
    now = fingerprint(task)
    found = progress(task, now)
    if state.is_main_process:
        print(f"{path}: {'finished before, skipped' if found == 'finished' else 'runs'}.", flush=True)
    if found == "finished":
        return
    if found == "stopped":
        task = parse_task([path, *overrides, "--resume_from_checkpoint", "true"])
    state.wait_for_everyone()
    record = Path(task.training_args.output_dir, RECORD)
    if state.is_main_process:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(record, {"of": now, "progress": "stopped"})
    run(task)
    if state.is_main_process:
        write_json_atomically(record, {"of": now, "progress": "finished"})
    state.wait_for_everyone()


def fields_of(overrides: list[str], number: int) -> list[str]:
    """
    The fields that a stage gets from the command line: `--2.name value` goes to the second stage alone.

    Args:
        overrides: All of them; those of one stage follow those of every stage, so that they stand above these.
        number: Of the stage, from 1.
    """
    shared, own, chosen = [], [], None
    for word in overrides:
        if word.startswith("--"):
            of_stage = STAGE_FIELD.match(word)
            chosen = shared if of_stage is None else own if int(of_stage[1]) == number else []
            word = f"--{of_stage[2]}" if of_stage else word
        chosen.append(word)
    return [*shared, *own]


def check_fields(overrides: list[str], count: int) -> None:
    """Raises `RecipeError` where a field names a stage that there is not, or is of one stage and given to all."""
    for word in overrides:
        of_stage = STAGE_FIELD.match(word)
        if of_stage and not 1 <= int(of_stage[1]) <= count:
            raise RecipeError(f"{word}: there are stages 1 to {count}, in the order of the recipes.")
        if word.split("=")[0] == "--output_dir":
            raise RecipeError(
                "--output_dir would be the same for every stage; set it in the recipes, or give --experiment NAME."
            )


def chain_fields(recipes: list[str], experiment: str) -> list[list[str]]:
    """
    Fields that put the stages of one experiment into `outputs/<experiment>/`, each into a folder of its own.

    A stage that starts from the output of another one starts from that of the experiment.

    Args:
        recipes: Of the stages, in their order.
        experiment: A name without folders.

    Raises:
        RecipeError: the name has folders, or two stages would share one.
    """
    if not experiment or Path(experiment).name != experiment:
        raise RecipeError(f"--experiment {experiment!r}: give a name; its folder is outputs/NAME.")
    moved: dict[Path, str] = {}
    fields = []
    for path in recipes:
        recipe = read_recipe(path)
        before = Path(recipe.get("output_dir", path))
        place = Path("outputs", experiment, before.name).as_posix()
        if place in moved.values():
            raise RecipeError(f"--experiment: two stages would go to {place}; give their recipes other output_dirs.")
        start = moved.get(Path(recipe.get("model_name_or_path") or ""))
        fields.append(["--output_dir", place, "--run_name", f"{experiment}/{before.name}"])
        fields[-1] += ["--model_name_or_path", start] if start else []
        moved[before] = place
    return fields


def main(argv: list[str] | None = None) -> None:
    """Command line: recipes, then fields; messages and exit status are those of `hf_fer.run`."""
    argv = sys.argv[1:] if argv is None else argv
    first_flag = next((index for index, word in enumerate(argv) if word.startswith("-")), len(argv))
    recipes, words = argv[:first_flag], argv[first_flag:]
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--experiment")
    asked, overrides = parser.parse_known_args(words)
    with one_message():
        if not recipes:
            raise RecipeError("Give the recipes of the stages in their order.")
        check_fields(overrides, len(recipes))
        chain = chain_fields(recipes, asked.experiment) if asked.experiment is not None else [[]] * len(recipes)
        for number, (path, fields) in enumerate(zip(recipes, chain, strict=True), start=1):
            run_stage(path, [*fields, *fields_of(overrides, number)])


if __name__ == "__main__":
    main()
