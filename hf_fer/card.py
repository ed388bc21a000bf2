"""Model cards: a shared template, each system's own text, and the results that were measured."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_fer.report import markdown_table, remarks, results_table
from hf_fer.shipped import shipped_folder
from hf_fer.task import Task

LOCAL_FIELDS = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "yunet_path", "run_name")

# Of these the last part is told, and of all that begins at the root.
DATA_FIELDS = (
    *("visual_features", "image_folder", "boxes", "image_labels"),
    *("test_dataset", "test_image_folder", "test_boxes", "test_image_labels"),
)


def shareable_recipe(task: Task) -> dict[str, Any]:
    """The recipe without the folders of the machine it ran on."""
    recipe = {name: value for name, value in task.recipe.items() if name not in LOCAL_FIELDS}
    local = [name for name, value in recipe.items() if isinstance(value, str) and Path(value).is_absolute()]
    named = {name: Path(recipe[name]).name for name in (*DATA_FIELDS, *local) if recipe.get(name)}
    return {**recipe, **named, "dataset": Path(task.data_args.dataset).name}


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


def write_card(folder: Path, task: Task, metrics: dict[str, Any], repo_id: str) -> None:
    """
    Write `README.md`.

    Args:
        folder: The model's folder.
        task: What was trained.
        metrics: As in `metrics.json`.
        repo_id: Name under which the card's example loads the model.
    """
    results = {split: metrics[split] for split in ("validation", "test") if metrics[split].get("samples")}
    evaluated = eval_results(task, metrics)
    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag=task.pipeline_tag,
        tags=["hf_fer", task.name()],
        model_name=repo_id.split("/")[-1],
        eval_results=evaluated or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(shipped_folder("model_cards") / "template.md"),
        repo_id=repo_id,
        about=(shipped_folder("model_cards") / f"{task.name()}.md").read_text(encoding="utf-8"),
        example=task.card_example(repo_id),
        results=markdown_table(results_table(results)) if results else "Not evaluated.",
        remarks=remarks(results),
        metrics=metrics,
        recipe=json.dumps(shareable_recipe(task), indent=2, default=str),
    )
    card.save(folder / "README.md")
