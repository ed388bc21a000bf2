"""Builds the model card of a run from its task, data and metrics."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hf_fer.data.facts import DataFacts
from hf_fer.data.loading import LoadedData
from hf_fer.recipe.paths import without_folders
from hf_fer.reporting.card import Card
from hf_fer.task.base import Task
from hf_fer.task.find import card_file

LOCAL_FIELDS = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "run_name")


def shareable_recipe(task: Task) -> dict[str, Any]:
    """The recipe without the folders of this machine."""
    recipe = {name: value for name, value in task.recipe.items() if name not in LOCAL_FIELDS}
    named = {name: Path(recipe[name]).name for name in task.file_fields if recipe.get(name)}
    return {**without_folders(recipe), **named, "dataset": Path(task.data_args.dataset).name}


def how_scored(task: Task, metrics: dict[str, Any]) -> str:
    """Sentences on how this run chose and scored the checkpoint."""
    runtime, sentences = metrics["runtime"], []
    if "steps" not in runtime:
        sentences.append("This run did not train; it scored an existing model.")
    elif task.training_args.load_best_model_at_end and runtime.get("best_metric") is not None:
        name = task.training_args.metric_for_best_model.removeprefix("eval_")
        sentences.append(f"The checkpoint was chosen on the validation split, by {name}.")
    else:
        sentences.append("The model is that of the last step; it was not chosen on a validation split.")
    if metrics["test"].get("samples"):
        sentences.append("This run scored the test split once, at its end.")
    return " ".join(sentences)


def example_name(task: Task, repo_id: str) -> str:
    """Name that the card's example loads: the repository if it is pushed, else the folder without absolute path."""
    output_dir = Path(task.training_args.output_dir)
    if task.training_args.push_to_hub:
        return repo_id
    return f"path/to/{output_dir.name}" if output_dir.is_absolute() else output_dir.as_posix()


def facts_of(task: Task, data: LoadedData) -> DataFacts:
    """Facts about the data; demo data is drawn by this package and has its licence."""
    return DataFacts(license="apache-2.0") if task.data_args.dataset == "demo" else data.facts


def shareable_pictures(task: Task, captions: Mapping[str, str], report: Path) -> dict[str, str]:
    """Pictures of the report that may be uploaded, with their captions; a card links to them relative to itself."""
    return {
        name: caption
        for name, caption in captions.items()
        if name.endswith(".png")
        and any(fnmatch(name, pattern) for pattern in task.shareable)
        and (report / name).is_file()
    }


def write_card(
    folder: Path,
    task: Task,
    data: LoadedData,
    metrics: dict[str, Any],
    repo_id: str,
    captions: Mapping[str, str] | None = None,
) -> None:
    """
    Write `README.md`.

    Args:
        folder: The model's folder, in which `report/` is already written.
        task: Task that was trained or scored.
        data: Data of the run, with licence and limits where they are known.
        metrics: Content of `metrics.json`.
        repo_id: Name of the model.
        captions: File name -> caption of the report's files.
    """
    facts = facts_of(task, data)
    Card(
        repo_id=repo_id,
        system=task.name(),
        about=card_file(task.name()).read_text(encoding="utf-8"),
        metrics=metrics,
        metric_names=task.metric_names,
        hub_task=task.hub_task,
        pipeline_tag=task.pipeline_tag,
        license=facts.license,
        limits=facts.limits,
        example=task.card_example(example_name(task, repo_id)),
        how_scored=how_scored(task, metrics),
        files=[name for name in task.shareable if Path(folder, "report", name).is_file()],
        pictures=shareable_pictures(task, captions or {}, Path(folder, "report")),
        widget=task.widget_texts(data.labels) if task.widget_texts else [],
        recipe=shareable_recipe(task),
    ).save(folder)
