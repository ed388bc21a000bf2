"""Exports a saved model to a folder with a graph, a processor and a report."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import pipeline

from hf_fer.data.loading import DataError, write_json_atomically
from hf_fer.inference.export import parity
from hf_fer.inference.export.folder import KEPT, Manifest, is_export, load_export
from hf_fer.inference.export.graphs import DTYPES, FORMATS, ONNX, quantise, trace, write_graph
from hf_fer.inference.export.report import TOLERANCES, Report
from hf_fer.inference.export.validation import validation_inputs
from hf_fer.inference.inputs import Input, read_sources
from hf_fer.inference.loading import PARTS, FoundModel, find_model, load_predictor
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.runtime.failures import RunError
from hf_fer.task.export import ExportedModel, Exporter, exporters
from hf_fer.task.predictor import Predictor

MADE_UP = 6
"""Number of synthetic inputs that are drawn if no examples are given."""
CONFIG = "config.json"


@dataclass(frozen=True)
class Settings:
    """
    Options of one call of `hf-fer export`.

    Args:
        model: A saved model's folder, or its name on the Hub.
        output: Folder to create.
        form: Format of the graph, a key of `graphs.FORMATS`.
        dtype: Type of the weights, one of `graphs.DTYPES`.
        examples: Table, folder or file of inputs to compare on; noise if `None`.
        recipe: Recipe of the model's training; inputs are then its validation split.
        max_metric_drop: Largest accepted loss of a metric on examples with a label.
        max_difference: Largest accepted difference of logits, as a share of the largest logit; if `None`, that of
            `TOLERANCES` for the type of the weights.
        allow_loss: Whether to write an export that is not good enough, with a mark.
    """

    model: str
    output: str
    form: str
    dtype: str = "fp32"
    examples: str | None = None
    recipe: str | None = None
    max_metric_drop: float = 0.01
    max_difference: float | None = None
    allow_loss: bool = False

    def __post_init__(self):
        check_choice("--format", self.form, list(FORMATS))
        check_choice("--dtype", self.dtype, list(DTYPES))
        for name in ("max_metric_drop", "max_difference"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise RecipeError(f"--{name} must be 0 or more, got {value}.")
        if self.examples is not None and self.recipe is not None:
            raise RecipeError("Give --examples or --recipe, not both.")
        if self.dtype == "int8" and self.form != ONNX:
            raise RecipeError(f"--dtype int8 is available with --format {ONNX} only.")

    @property
    def tolerance(self) -> float:
        """Allowed difference of logits, as a share of the largest logit."""
        return TOLERANCES[self.dtype] if self.max_difference is None else self.max_difference


def export_model(settings: Settings) -> Report:
    """
    Write an export and its report; the folder appears once it is complete and good enough.

    Raises:
        RecipeError, DataError: model, examples or output cannot be used, or the model cannot be exported.
        RunError: the export is not good enough, and `allow_loss` is not set.
    """
    output = Path(settings.output)
    if output.exists():
        raise RecipeError(f"{output} exists already; give another --output, or remove it.")
    if is_export(settings.model):
        raise RecipeError(f"{settings.model} is an export; give the folder of the model that it was made from.")
    found = find_model(settings.model)
    predictor = load_predictor(found, on=torch.device("cpu"))
    exporter = exporters().get(found.predictor.pipeline_task)
    if exporter is None:
        raise RecipeError(f"{settings.model}: its system has no exporter (train/export.py).")
    inputs, words = examples_of(settings, predictor, exporter)
    with new_folder(output) as folder:
        specs, rows = write_export(settings, predictor, exporter, inputs, folder)
        export = load_export(folder, specs)
        report = measure(settings, found, predictor, exporter, export, inputs, rows)
        report.examples = words
        reasons = report.reasons()
        if reasons and not settings.allow_loss:
            raise RunError(
                f"{output} was not written: {' '.join(reasons)} Compared on {words}; --allow_loss writes it anyway, "
                "and marks it."
            )
        report.accepted = reasons
        report.write(folder)
        Manifest(specs.pipeline_task, specs.form, specs.dtype, specs.inputs, specs.outputs, reasons).write(folder)
    return report


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `output` at the end, or removed if an error occurs."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        folder.chmod(0o755)
        yield folder
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def examples_of(settings: Settings, predictor: Predictor, exporter: type[Exporter]) -> tuple[list[Input], str]:
    """Inputs for the comparison, and a description of them; raises `DataError` if there are none."""
    if settings.recipe is not None:
        return validation_inputs(settings.recipe, settings.model, type(predictor))
    if settings.examples is None:
        draw = torch.Generator().manual_seed(0)
        values = [exporter.made_up(predictor.pipe, number, draw) for number in range(MADE_UP)]
        words = (
            f"{MADE_UP} inputs of noise, because neither --recipe nor --examples was given: real ones may differ more"
        )
        return [Input(str(number), value) for number, value in enumerate(values, 1)], words
    inputs = [given for given in read_sources([settings.examples], type(predictor)) if given.error is None]
    if not inputs:
        raise DataError(f"{settings.examples}: has no usable input.")
    known = sum(given.target is not None for given in inputs)
    return inputs, f"{len(inputs)} inputs of {Path(settings.examples).name}, {known} of them with their true answer"


def write_export(
    settings: Settings, predictor: Predictor, exporter: type[Exporter], inputs: list[Input], folder: Path
) -> tuple[Manifest, parity.Rows]:
    """Write graph, configuration, processor and kept weights; returns the manifest and the model's inputs in rows."""
    pipe = predictor.pipe
    rows = parity.input_rows(predictor, [given.value for given in inputs], exporter)
    specs = parity.specs_of(rows, exporter)
    chosen = [rows[place % len(rows)] for place in range(3)]
    example = parity.collate([*chosen[:2], longest(rows)], specs, exporter.padding(pipe))
    program, outputs = trace(pipe.model, example, specs, half=settings.dtype == "fp16")
    write_graph(program, (list(specs), outputs), folder, settings.form)
    if settings.dtype == "int8":
        quantise(folder)
    save_parts(pipe, folder)
    if weights := exporter.kept_weights(pipe.model):
        save_file(weights, folder / KEPT)
    return Manifest(exporter.pipeline_task, settings.form, settings.dtype, specs, outputs), rows


def longest(rows: parity.Rows) -> dict[str, Any]:
    """The row with the most values."""
    return max(rows, key=lambda row: sum(tensor.numel() for tensor in row.values()))


def save_parts(pipe: Any, folder: Path) -> None:
    """Save the configuration and the processor; `auto_map` names the code of these two, and not the model's."""
    pipe.model.config.save_pretrained(folder)
    for part in PARTS:
        if getattr(type(pipe), f"_load_{part}"):
            getattr(pipe, part).save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    own = {name: code for name, code in config.get("auto_map", {}).items() if not name.startswith("AutoModel")}
    write_json_atomically(folder / CONFIG, {**config, "auto_map": own} if "auto_map" in config else config, indent=2)


def measure(
    settings: Settings,
    found: FoundModel,
    predictor: Predictor,
    exporter: type[Exporter],
    export: ExportedModel,
    inputs: list[Input],
    rows: parity.Rows,
) -> Report:
    """Compare the export with the model; the caller fills in the report's `examples`."""
    pipe = predictor.pipe
    padding = exporter.padding(pipe)
    differences = parity.compare(pipe.model, export, parity.batches(rows, export.inputs, padding), exporter)
    other = type(predictor)(with_model(pipe, export))
    before, after = parity.answers(predictor, inputs), parity.answers(other, inputs)
    batch = parity.collate(rows[:1], export.inputs, padding)
    before_ms, after_ms, runs = parity.latency(pipe.model, export, batch)
    folder = Path(export.name_or_path)
    weights = sum(value.numel() * value.element_size() for value in pipe.model.state_dict().values())
    return Report(
        model=Path(settings.model).name,
        pipeline_task=found.predictor.pipeline_task,
        form=settings.form,
        dtype=settings.dtype,
        examples="",
        differences=differences,
        tolerance=settings.tolerance,
        max_metric_drop=settings.max_metric_drop,
        same_answers=parity.same_answers(before, after),
        metrics=compared_metrics(
            exporter, parity.scores(predictor, inputs, before), parity.scores(other, inputs, after)
        ),
        bytes={"before": weights, "after": sum(file.stat().st_size for file in folder.glob("model.*"))},
        latency={
            **parity.size_of(batch, export.inputs),
            "before_ms": before_ms,
            "after_ms": after_ms,
            "runs": runs,
            "threads": torch.get_num_threads(),
        },
    )


def with_model(pipe: Any, export: ExportedModel) -> Any:
    """A copy of a pipeline that uses another model."""
    parts = {part: getattr(pipe, part) for part in PARTS if getattr(type(pipe), f"_load_{part}")}
    return pipeline(pipe.task, model=export, device=export.device, **parts)


def compared_metrics(
    exporter: type[Exporter], before: dict[str, Any], after: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Metrics that must not get worse, before and after; empty if no example has a label."""
    found = {}
    for name, is_lower_better in exporter.metrics.items():
        if name in before:
            loss = before[name] - after.get(name, float("nan"))
            found[name] = {
                "before": before[name],
                "after": after.get(name, float("nan")),
                "loss": -loss if is_lower_better else loss,
            }
    return found
