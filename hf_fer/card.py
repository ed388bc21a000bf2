"""Model cards: a shared template, each system's own text, and the results that were measured."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_fer.data.loading import LoadedData
from hf_fer.paths import without_folders
from hf_fer.report import markdown_table, remarks, results_table
from hf_fer.shipped import shipped_folder
from hf_fer.task import Task

LOCAL_FIELDS = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "yunet_path", "run_name")

# Only the last part of these, and of any absolute path, goes into the card.
DATA_FIELDS = (
    *("visual_features", "image_folder", "boxes", "image_labels"),
    *("test_dataset", "test_image_folder", "test_boxes", "test_image_labels"),
)


def shareable_recipe(task: Task) -> dict[str, Any]:
    """The recipe without the folders of the machine it ran on."""
    recipe = {name: value for name, value in task.recipe.items() if name not in LOCAL_FIELDS}
    named = {name: Path(recipe[name]).name for name in DATA_FIELDS if recipe.get(name)}
    return {**without_folders(recipe), **named, "dataset": Path(task.data_args.dataset).name}


def eval_results(task: Task, metrics: dict[str, Any]) -> list[EvalResult]:
    """The measured numbers in the Hub's model-index form."""
    return [
        EvalResult(
            task_type=task.hub_task,
            dataset_type=metrics["data"]["dataset"],
            dataset_name=f"{metrics['data']['dataset']} ({metrics['protocol']})",
            dataset_split=split,
            metric_type=name,
            metric_name=f"{split} {name}",
            metric_value=metrics[split][name],
        )
        for split in ("validation", "test")
        for name in task.metric_names
        if name in metrics[split]
    ]


def how_scored(task: Task, metrics: dict[str, Any]) -> str:
    """What this run did to choose the checkpoint and to score it, and nothing that it did not."""
    runtime, sentences = metrics["runtime"], []
    if "steps" not in runtime:
        sentences.append("This run trained nothing; it scored a model that was there.")
    elif task.training_args.load_best_model_at_end and runtime.get("best_metric") is not None:
        name = task.training_args.metric_for_best_model.removeprefix("eval_")
        sentences.append(f"The checkpoint was chosen on the validation split, by {name}.")
    else:
        sentences.append("The model is that of the last step; none was chosen on a validation split.")
    if metrics["test"].get("samples"):
        sentences.append("This run scored the test split once, at its end.")
    return " ".join(sentences)


def example_name(task: Task, repo_id: str) -> str:
    """What the card's example loads: the repository, or the folder as the recipe has it, without folders above it."""
    output_dir = Path(task.training_args.output_dir)
    if task.training_args.push_to_hub:
        return repo_id
    return f"path/to/{output_dir.name}" if output_dir.is_absolute() else output_dir.as_posix()


def write_card(folder: Path, task: Task, data: LoadedData, metrics: dict[str, Any], repo_id: str) -> None:
    """
    Write `README.md`.

    Args:
        folder: The model's folder, which has its `report/` already.
        task: What was trained or scored.
        data: Of which the task knows licence and limits.
        metrics: As in `metrics.json`.
        repo_id: The model's name.
    """
    facts = task.data_facts(data)
    files = [name for name in task.shareable if Path(folder, "report", name).is_file()]
    results = {split: metrics[split] for split in ("validation", "test") if metrics[split].get("samples")}
    evaluated = eval_results(task, metrics)
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        license=facts.license,
        tags=["hf_fer", task.name()],
        model_name=repo_id.split("/")[-1],
        eval_results=evaluated or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(shipped_folder("model_cards") / "template.md"),
        repo_id=repo_id,
        about=(shipped_folder("model_cards") / f"{task.name()}.md").read_text(encoding="utf-8"),
        limits=facts.limits,
        example=task.card_example(example_name(task, repo_id)),
        how_scored=how_scored(task, metrics),
        files=", ".join(f"`{name}`" for name in files),
        results=markdown_table(results_table(results)) if results else "Not evaluated.",
        remarks=remarks(results),
        metrics=metrics,
        recipe=json.dumps(shareable_recipe(task), indent=2, default=str),
    )
    card.save(folder / "README.md")
