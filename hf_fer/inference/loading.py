"""Finds the system of a saved model, and loads the model in the system's pipeline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from hf_fer.data.hub import trouble
from hf_fer.data.loading import file_facts
from hf_fer.inference.export.folder import is_export, load_export, read_manifest
from hf_fer.inference.export.graphs import FORMATS
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.task.predictor import Predictor, predictors
from hf_fer.weights.starting_points import check_folder, load_model, read

TORCH_BACKEND = "torch"
BACKENDS = (TORCH_BACKEND, *FORMATS)
"""`torch` for saved models, and the formats of exports."""
FIELD = "model_name_or_path: "
PARTS = {"processor": AutoProcessor, "tokenizer": AutoTokenizer, "feature_extractor": AutoFeatureExtractor}
"""Argument of `pipeline` -> Auto class of what a pipeline needs beside its model."""


@dataclass(frozen=True)
class FoundModel:
    """
    A saved model whose system is known; it is not loaded yet.

    Args:
        path: Folder of the model, or its name on the Hub.
        predictor: Predictor class of its system.
        labels: Class names in index order.
        facts: File facts, digests or Hub commit, which identify the model.
        is_export: Whether it was written by `hf-fer export`.
    """

    path: str
    predictor: type[Predictor]
    labels: list[str]
    facts: Any
    is_export: bool = False


def find_model(path: str, backend: str | None = None) -> FoundModel:
    """
    Find a model's system by the pipeline that its `config.json` names, or by its model type.

    Args:
        path: Folder of a saved model or of an export, or a model's name on the Hub.
        backend: One of `BACKENDS` that the model must be for; any if `None`.

    Raises:
        RecipeError: there is no such model, it is incomplete or for another backend, or no system has a pipeline for
            it.
    """
    if backend is not None:
        check_choice("--backend", backend, list(BACKENDS))
    try:
        found = _find_export(path, backend) if is_export(path) else _find(path)
        if backend not in (None, TORCH_BACKEND) and not found.is_export:
            raise RecipeError(f"{path} is no export: make one with `hf-fer export {path} --format {backend}`.")
        return found
    except RecipeError as error:
        raise RecipeError(str(error).removeprefix(FIELD)) from error


def _find_export(path: str, backend: str | None) -> FoundModel:
    manifest = read_manifest(Path(path))
    if backend not in (None, manifest.form):
        raise RecipeError(f"{path} is an export for {manifest.form}, not for {backend}.")
    names = read(AutoConfig.from_pretrained, path).id2label
    facts = sorted(manifest.files.items())
    predictor = predictors()[manifest.pipeline_task]
    return FoundModel(path, predictor, [names[index] for index in sorted(names)], facts, is_export=True)


def _find(path: str) -> FoundModel:
    local = Path(path).is_dir()
    if Path(path).exists() and not local:
        raise RecipeError(f"{path} is a file: give the folder of a saved model, or the name of one on the Hub.")
    if not local and (reason := trouble(path)):
        raise RecipeError(f"{path}: neither a folder nor a model on the Hub ({reason}).")
    written, _ = read(PretrainedConfig.get_config_dict, path)
    predictor = _predictor_of(written, path)
    others = [known.model_type for known in predictors().values() if known.model_type]
    check_folder(path, predictor.model_type, others)
    names = read(AutoConfig.from_pretrained, path).id2label
    if local:
        files = sorted(file for file in Path(path).iterdir() if file.suffix in (".json", ".safetensors", ".model"))
        facts = [file_facts(file) for file in files]
    else:
        facts = [path, written.get("_commit_hash")]
    return FoundModel(path, predictor, [names[index] for index in sorted(names)], facts)


def _predictor_of(written: dict[str, Any], path: str) -> type[Predictor]:
    known = predictors()
    named = next((known[name] for name in written.get("custom_pipelines") or {} if name in known), None)
    if named:
        return named
    model_type, kinds = written.get("model_type"), written.get("architectures") or []
    for task, predictor in known.items():
        fits = {auto for kind in kinds for auto in _models_of(task) if kind in _class_names(auto)}
        if predictor.model_type == model_type or (predictor.model_type is None and fits):
            return predictor
    raise RecipeError(
        f"{path}: no system has a pipeline for {model_type} ({', '.join(kinds) or 'no architecture'}). Give a model "
        f"that this package trained, or one for one of its pipelines: {', '.join(sorted(known))}."
    )


def _models_of(task: str) -> tuple[type, ...]:
    return PIPELINE_REGISTRY.supported_tasks[task]["pt"]


def _class_names(auto: type) -> set[str]:
    names = auto._model_mapping._model_mapping.values()
    return {name for entry in names for name in (entry if isinstance(entry, tuple) else (entry,))}


def load_predictor(
    found: FoundModel,
    *,
    rank: int = 0,
    probabilities: bool = False,
    timeline: bool = False,
    options: dict[str, Any] | None = None,
    on: torch.device | None = None,
) -> Predictor:
    """
    Load a model in its pipeline, on the accelerator of the process's rank, or on the CPU without accelerators.

    Args:
        found: The model. An export computes on the CPU.
        rank: Rank of this process, from 0.
        on: Device in place of the rank's.
        probabilities, timeline, options: See `hf_fer.predict`.

    Raises:
        RecipeError: weights or the processor are missing or damaged, or the pipeline does not have an option.
    """
    task = found.predictor.pipeline_task
    if timeline and found.predictor.timeline_options is None:
        raise RecipeError(f"--timeline: answers of {task} have no segments; leave it out.")
    pipeline_class = PIPELINE_REGISTRY.supported_tasks[task]["impl"]
    wanted = {part: auto for part, auto in PARTS.items() if getattr(pipeline_class, f"_load_{part}")}
    try:
        if found.is_export:
            model = load_export(Path(found.path))
            place = model.device
        else:
            model, place = load_model(_models_of(task)[0], found.path), on or device(rank)
        parts = {part: read(auto.from_pretrained, found.path) for part, auto in wanted.items()}
        pipe = read(lambda path: pipeline(task, model=model, device=place, **parts), found.path)
        predictor = found.predictor(pipe, probabilities=probabilities, timeline=timeline, options=options)
    except RecipeError as error:
        raise RecipeError(str(error).removeprefix(FIELD)) from error
    try:
        pipe._sanitize_parameters(**predictor.options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"--option: {error}") from error
    return predictor


def device(rank: int) -> torch.device:
    """Device of the process with this rank."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return torch.device("cpu")
    return torch.device(kind.type, rank % max(torch.accelerator.device_count(), 1))
