"""Model cards: a shared template filled with each system's own text and the measured results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_fer.recipe.shipped import shipped_folder
from hf_fer.reporting.report import markdown_table, remarks, results_table


@dataclass(frozen=True)
class Card:
    """
    Content of a model card.

    Args:
        repo_id: The model's name on the Hub, or the name of its folder.
        system: Name of the system.
        about: The system's text: what the model is, what it is for, and its limits.
        metrics: Content of `metrics.json`.
        metric_names: Names of the metrics that go into the Hub's model-index.
        hub_task: The Hub's name of the task.
        pipeline_tag: The Hub's tag of the stock pipeline that gives the model's own numbers, if any.
        license: License of the model where the data determines it; `None` leaves it to the owner.
        limits: Sentences about the limits of the training data.
        example: Python lines that load and use the model.
        how_scored: Sentences on how the run chose and scored the checkpoint.
        files: Names of the report's files that are uploaded with the model.
        pictures: Name of a picture of the report that is uploaded with the model -> its caption.
        widget: Example inputs for the Hub's widget, as its metadata has them.
        recipe: Field -> value, without folders of this machine.
    """

    repo_id: str
    system: str
    about: str
    metrics: dict[str, Any]
    metric_names: tuple[str, ...]
    hub_task: str
    pipeline_tag: str | None
    license: str | None
    limits: str
    example: str
    how_scored: str
    files: list[str]
    pictures: dict[str, str]
    widget: list[dict[str, str]]
    recipe: dict[str, Any]

    def eval_results(self) -> list[EvalResult]:
        """The measured numbers in the form of the Hub's model-index."""
        data = self.metrics["data"]["dataset"]
        return [
            EvalResult(
                task_type=self.hub_task,
                dataset_type=data,
                dataset_name=f"{data} ({self.metrics['protocol']})",
                dataset_split=split,
                metric_type=name,
                metric_name=f"{split} {name}",
                metric_value=self.metrics[split][name],
            )
            for split in ("validation", "test")
            for name in self.metric_names
            if name in self.metrics[split]
        ]

    def co2(self) -> dict[str, Any] | None:
        """The Hub's entry on emissions, in grams of CO2 equivalent; `None` where the run did not estimate them."""
        runtime = self.metrics["runtime"]
        if "co2_g" not in runtime:
            return None
        grams = float(f"{runtime['co2_g']:.3g}")
        return {"emissions": grams, "source": "CodeCarbon", "geographical_location": runtime["co2_country"]}

    def save(self, folder: Path) -> None:
        """Write `README.md` into the model's folder."""
        scored = {split: self.metrics[split] for split in ("validation", "test")}
        results = {split: figures for split, figures in scored.items() if figures.get("samples")}
        card_data = ModelCardData(
            library_name="transformers",
            pipeline_tag=self.pipeline_tag,
            license=self.license,
            tags=["hf_fer", self.system],
            model_name=self.repo_id.split("/")[-1],
            eval_results=self.eval_results() or None,
            co2_eq_emissions=self.co2(),
            widget=self.widget or None,
        )
        card = ModelCard.from_template(
            card_data,
            template_path=str(shipped_folder("model_cards") / "template.md"),
            repo_id=self.repo_id,
            about=self.about,
            limits=self.limits,
            example=self.example,
            how_scored=self.how_scored,
            pictures=self.pictures,
            files=", ".join(f"`{name}`" for name in self.files),
            results=markdown_table(results_table(results)) if results else "Not evaluated.",
            remarks=remarks(results),
            metrics=self.metrics,
            recipe=json.dumps(self.recipe, indent=2, default=str),
        )
        card.save(folder / "README.md")
