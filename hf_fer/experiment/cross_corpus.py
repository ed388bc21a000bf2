"""Cross-corpus evaluation: train a model on each of several data sets, and score each model on all of them.

hf-fer cross-corpus RECIPE DATASET DATASET ... --output_dir FOLDER [--any_field value ...]

Each model is trained with the splits of its own data set, and scored on the test split (or the validation split where
there is no test split) of every other data set, on the classes that both have. Finished trainings are not repeated.
The results are written to `cross_corpus.csv` and, as a page, to `report.md`.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import PartialState

from hf_fer.experiment.cross_validation import read_metrics
from hf_fer.experiment.one_run import run
from hf_fer.experiment.stages import run_stage
from hf_fer.recipe.arguments import RecipeError
from hf_fer.reporting.report import markdown_table
from hf_fer.runtime.messages import one_message
from hf_fer.task.find import parse_task

MINE = ("--dataset", "--output_dir", "--model_name_or_path", "--do_train")
"""Fields that this command sets itself."""
USAGE = "Give a recipe and at least two data sets: hf-fer cross-corpus RECIPE DATASET DATASET."


def names_of(datasets: list[str]) -> list[str]:
    """
    Names of the data sets, for folders and the table.

    Raises:
        RecipeError: there are fewer than two data sets, or two have the same name.
    """
    names = [Path(dataset).stem or dataset for dataset in datasets]
    if len(datasets) < 2:
        raise RecipeError(USAGE)
    if same := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"Two data sets are called {', '.join(same)}: they would share a folder. Rename one.")
    return names


def score(metrics: dict[str, Any], metric: str) -> dict[str, Any]:
    """A run's score on test, or on validation if there is no test split, with interval and number of samples."""
    split = "test" if metric in metrics["test"] else "validation"
    found = metrics[split]
    if metric not in found:
        raise RecipeError(f"{metrics['data']['dataset']}: has no test and no validation split, so there is no score.")
    low, high = found.get(f"{metric}_ci95", (None, None))
    return {
        **{"split": split, "samples": found["samples"], "metric": metric, "score": found[metric]},
        **{"ci95_low": low, "ci95_high": high},
    }


def evaluate_elsewhere(recipe: str, fields: list[str], trained: Path, dataset: str, folder: Path) -> None:
    """Score a trained model on another data set."""
    words = [recipe, *fields, "--dataset", dataset, "--output_dir", str(folder), "--overwrite_output_dir", "true"]
    words += ["--do_train", "false", "--model_name_or_path", str(trained)]
    task = parse_task(words)
    for name, value in task.foreign_data_fields.items():
        words += [f"--{name}", value]
    run(parse_task(words))


def page(table: pd.DataFrame) -> str:
    """The table in Markdown, with a row for each training set and a column for each data set that was scored."""
    shown = table.assign(
        cell=[
            f"{value:.3f}" + ("" if pd.isna(low) else f" ({low:.3f} to {high:.3f})")
            for value, low, high in zip(table["score"], table["ci95_low"], table["ci95_high"], strict=True)
        ]
    )
    wide = shown.pivot(index="trained_on", columns="scored_on", values="cell").rename_axis(columns=None)
    scored = table.drop_duplicates("scored_on")
    splits = ", ".join(f"{name}: {split}" for name, split in zip(scored["scored_on"], scored["split"], strict=True))
    title = f"# Cross-corpus {table['metric'].iloc[0]}"
    return (
        f"{title}\n\nRows: the training set. Columns: the data set that is scored, with 95% intervals. Off the "
        "diagonal, only classes that both data sets have are scored, so figures in one column may be of different "
        f"classes; `classes` in cross_corpus.csv lists them. Splits that are scored: {splits}.\n\n"
        f"{markdown_table(wide.reset_index())}\n"
    )


def cross_corpus(recipe: str, datasets: list[str], fields: list[str], folder: Path) -> pd.DataFrame:
    """
    Train on each data set and score on all of them.

    Returns:
        One row per pair of data sets: `trained_on`, `scored_on`, `split`, `samples`, `metric`, `score`, `ci95_low`,
        `ci95_high` and `classes`.
    """
    names, rows = names_of(datasets), []
    first = parse_task([recipe, *fields, "--dataset", datasets[0], "--output_dir", str(folder / names[0])])
    metric = first.primary_metric
    for name, dataset in zip(names, datasets, strict=True):
        run_stage(recipe, [*fields, "--dataset", dataset, "--output_dir", str(folder / name)])
    for trained in names:
        for name, dataset in zip(names, datasets, strict=True):
            place = folder / trained
            if name != trained:
                place = folder / f"{trained}_on_{name}"
                evaluate_elsewhere(recipe, fields, folder / trained, dataset, place)
            metrics = read_metrics(place)
            found = score(metrics, metric)
            classes = [label for label, count in metrics["data"]["counts"][found["split"]].items() if count]
            rows.append({"trained_on": trained, "scored_on": name, **found, "classes": " ".join(classes)})
    return pd.DataFrame(rows)


def main(argv: list[str] | None = None) -> int:
    """Command line: a recipe, data sets, then fields; messages and exit status are those of `hf_fer.run`."""
    argv = sys.argv[1:] if argv is None else argv
    first_flag = next((index for index, word in enumerate(argv) if word.startswith("-")), len(argv))
    (recipe, *datasets), words = argv[:first_flag] or [""], argv[first_flag:]
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_dir", default="outputs/cross_corpus")
    asked, fields = parser.parse_known_args(words)
    with one_message():
        if not recipe:
            raise RecipeError(USAGE)
        if taken := [word for word in fields if word.split("=")[0] in MINE]:
            raise RecipeError(f"{', '.join(taken)}: cross-corpus sets these fields itself; leave them out.")
        folder = Path(asked.output_dir)
        table = cross_corpus(recipe, datasets, fields, folder)
        text = page(table)
        if PartialState().is_main_process:
            table.to_csv(folder / "cross_corpus.csv", index=False, float_format="%.4f")
            (folder / "report.md").write_text(text, encoding="utf-8")
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
