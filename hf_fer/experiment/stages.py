"""Run recipes one after the other, each starting from the output of the previous one; finished ones are skipped:

accelerate launch --config_file accelerate_configs/cpu.yaml -m hf_fer.stages training_args/demo/csr_*.json \
    [--any_field value ...]

A stage that was stopped resumes from its newest checkpoint. Fields given here apply to every stage, and
`--2.num_train_epochs 10` only to the second one. `--experiment NAME` puts all stages into `outputs/NAME/`.
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

# Fields that may change between two calls without changing the model that the recipe makes.
PASSING = ("resume_from_checkpoint", "overwrite_output_dir", "disable_tqdm", "report_to", "logging_steps")


def fingerprint(task: Task) -> dict:
    """Everything that a stage's result depends on: recipe, files that the recipe names, model that it starts from."""
    recipe = {name: value for name, value in task.recipe.items() if name not in PASSING}
    start = task.model_args.model_name_or_path
    folders = sorted(Path(start).glob("fold_*")) if has_folds(start) else [Path(start or "")]
    return {
        "recipe": json.loads(json.dumps(recipe, default=str)),
        "data": {name: contents(Path(path)) for name, path in input_paths(task).items()},
        "starts_from": [contents(folder / name) for folder in folders for name in MODEL_FILES],
    }


def input_paths(task: Task) -> dict[str, str]:
    """Field -> path of the `input_fields` that the recipe sets; a Hub repository is not a path on this machine."""
    fields = {**vars(task.model_args), **vars(task.data_args)}
    return {name: fields[name] for name in task.input_fields if isinstance(fields[name], str) and fields[name]}


def contents(path: Path) -> str | None:
    """
    Digest of a file's bytes, or of a folder's file names, sizes and modification times; `None` where neither exists.

    Reading the bytes of a folder of images would take minutes.
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
    State of a stage: "new", "stopped" or "finished".

    Raises:
        RecipeError: its folder has the output of another recipe, other data or other starting weights, and the recipe
            does not say to overwrite it.
    """
    args = task.training_args
    path = Path(args.output_dir, RECORD)
    if not path.is_file():
        if checkpoint_folders(args.output_dir) and not args.overwrite_output_dir:
            raise RecipeError(
                f"{args.output_dir} holds the checkpoints of a run that was not started as a stage, so its recipe is "
                "unknown. Give only the recipes after it, or add --overwrite_output_dir true."
            )
        return "new"
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["of"] == now:
        return record["progress"]
    if args.overwrite_output_dir:
        return "new"
    raise RecipeError(
        f"{args.output_dir} is the output of another recipe, of other data, or of another model to start from. Add "
        "--overwrite_output_dir true to run it again, or set another output_dir in the recipe."
    )


def run_stage(path: str, overrides: list[str]) -> None:
    """Run one recipe, resume it if it was stopped, or skip it if it is finished."""
    state, task = PartialState(), parse_task([path, *overrides])
    if task.training_args.hp_trials:
        raise RecipeError(f"{path}: hp_trials saves no model for a next stage. Search with hf_fer/run.py.")
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
    The fields of the command line that apply to a stage; `--2.name value` applies only to the second one.

    Args:
        overrides: Words of the command line after the recipes.
        number: Number of the stage, from 1.

    Returns:
        Fields of every stage, then those of this stage alone, so that the latter take precedence.
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
    """Raises `RecipeError` where a field names a stage that does not exist, or `--output_dir` is given for all."""
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
    Fields for each stage that put an experiment into `outputs/<experiment>/`, each stage into its own folder.

    A stage that starts from the output of an earlier stage starts from the output of that stage in the experiment.

    Args:
        recipes: Recipes of the stages, in order.
        experiment: Name without folders.

    Raises:
        RecipeError: the name has folders, or two stages would share a folder.
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
