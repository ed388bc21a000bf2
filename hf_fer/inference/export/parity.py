"""Compares an export with its model on the same inputs, at several batch sizes and lengths."""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_fer.inference.inputs import Input
from hf_fer.inference.predict import answer
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.export import ExportedModel, Exporter, TensorSpec
from hf_fer.task.predictor import Predictor

BATCH_SIZES = (1, 2, 3, 8)
ROWS = 32
"""Largest number of input rows whose outputs are compared."""
TURNS, CALLS, SECONDS, REST = 3, 10, 3.0, 0.3
"""Latency: turns of each side, timed calls a turn at most, seconds a side before its last call, seconds between."""

Rows = list[dict[str, Tensor]]


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[list[dict[str, Tensor]]]:
    """Record the inputs of the model's calls within the context, by name, in a list."""
    names, calls = list(inspect.signature(model.forward).parameters), []

    def keep(module: Any, args: tuple[Tensor, ...], given: dict[str, Any]) -> None:
        found = {**dict(zip(names, args, strict=False)), **given}
        calls.append({name: value.cpu() for name, value in found.items() if isinstance(value, Tensor)})

    hook = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def input_rows(predictor: Predictor, values: Sequence[Any], exporter: type[Exporter]) -> Rows:
    """
    Inputs that a pipeline gives its model for some examples, one row `(1, ...)` each, in the exporter's order.

    Raises:
        RecipeError: the pipeline can answer none of the inputs.
    """
    rows: Rows = []
    with recorded(predictor.pipe.model) as calls:
        for row in answer(predictor, [Input(str(index), value) for index, value in enumerate(values)], 1):
            for call in calls:
                ordered = {name: call[name] for name in exporter.free_axes if name in call}
                rows += [
                    {name: tensor[place : place + 1] for name, tensor in ordered.items()}
                    for place in range(len(next(iter(ordered.values()))))
                ]
            calls.clear()
            reason = row["error"]
            if len(rows) >= ROWS:
                break
    if not rows:
        raise RecipeError(f"--examples: the pipeline can answer none of them ({reason}).")
    return rows[:ROWS]


def specs_of(rows: Rows, exporter: type[Exporter]) -> dict[str, TensorSpec]:
    """
    Types and shapes of the inputs: the batch axis is free, and so are the axes that the exporter names.

    Raises:
        RecipeError: rows differ in their inputs, or in the size of an axis that is not free.
    """
    specs = {}
    for name, tensor in rows[0].items():
        free = {0} | {axis for axis in exporter.free_axes[name] if any(row[name].shape[axis] > 1 for row in rows)}
        shape = [None if axis in free else size for axis, size in enumerate(tensor.shape)]
        specs[name] = TensorSpec(str(tensor.dtype).removeprefix("torch."), shape)
    try:
        for row in rows:
            if row.keys() != specs.keys():
                raise ValueError(f"some have {sorted(row)}, some {sorted(specs)}")
            for name, spec in specs.items():
                spec.cast(name, row[name])
    except ValueError as error:
        raise RecipeError(f"the model's inputs differ from example to example: {error}.") from error
    return specs


def collate(rows: Rows, specs: dict[str, TensorSpec], padding: dict[str, float]) -> dict[str, Tensor]:
    """Join rows to one batch; free axes are padded to the longest row."""
    batch = {}
    for name in specs:
        longest = [max(sizes) for sizes in zip(*(row[name].shape[1:] for row in rows), strict=True)]
        shape = (len(rows), *longest)
        batch[name] = torch.full(shape, padding.get(name, 0), dtype=rows[0][name].dtype)
        for place, row in enumerate(rows):
            batch[name][(place, *map(slice, row[name].shape[1:]))] = row[name][0]
    return batch


def batches(rows: Rows, specs: dict[str, TensorSpec], padding: dict[str, float]) -> Iterator[dict[str, Tensor]]:
    """Batches of `BATCH_SIZES` examples, each starting at another row, so that lengths differ; short lists repeat."""
    start = 0
    for size in BATCH_SIZES:
        for _ in range(max(len(rows) // size, 2) if size == 1 else 2):
            chosen = [rows[(start + place) % len(rows)] for place in range(size)]
            yield collate(chosen, specs, padding)
            start += size


def compare(
    model: PreTrainedModel, export: ExportedModel, given: Iterator[dict[str, Tensor]], exporter: type[Exporter]
) -> dict[str, Any]:
    """
    Run model and export on the same batches, and compare what the exporter says of their outputs.

    Returns:
        `batches` (their `batch`, `length`, the largest difference of `logits`), `outputs` (name -> largest
        difference of any batch), and `largest_logit`, the largest absolute value of the model's logits.
    """
    found: dict[str, Any] = {"batches": [], "outputs": {}, "largest_logit": 0.0}
    for batch in given:
        with torch.inference_mode():
            known = exporter.compared(model, batch, dict(model(**batch).items()))
        got = exporter.compared(model, batch, dict(export(**batch).items()))
        differences = {name: difference(known[name], got[name]) for name in got}
        for name, value in differences.items():
            found["outputs"][name] = largest(found["outputs"].get(name, 0.0), value)
        found["batches"].append({**size_of(batch, export.inputs), "logits": differences["logits"]})
        found["largest_logit"] = max(found["largest_logit"], known["logits"].abs().max().item())
    return found


def size_of(batch: dict[str, Tensor], specs: dict[str, TensorSpec]) -> dict[str, int | None]:
    """`batch`, and `length` along the first input's free axis; `None` if it has none, as with images."""
    name, spec = next(iter(specs.items()))
    axes = [axis for axis, size in enumerate(spec.shape) if axis and size is None]
    return {"batch": len(batch[name]), "length": batch[name].shape[axes[0]] if axes else None}


def difference(known: Tensor, got: Tensor) -> float:
    """The largest absolute difference; infinite if the shapes differ."""
    if known.shape != got.shape:
        return float("inf")
    return (known.double() - got.double()).abs().max().item()


def largest(first: float, second: float) -> float:
    """The larger of two numbers; NaN if one of them is NaN."""
    return second if second != second or second > first else first


def latency(
    model: Callable[..., Any], export: Callable[..., Any], batch: dict[str, Tensor]
) -> tuple[float, float, int]:
    """
    Milliseconds of the fastest call of model and export; the fastest depends least on other jobs of the machine.

    Args:
        model, export: The two to call, in turns of several calls; the first two calls of each turn are not timed.
        batch: Inputs of each call.

    Returns:
        Milliseconds of the model, milliseconds of the export, and the number of timed calls of each.
    """
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(TURNS):
            for call, kept in zip((model, export), times, strict=True):
                # The threads of torch and of onnxruntime wait actively for a while after a call, and whoever is
                # called next shares the cores with them.
                time.sleep(REST)
                kept += timed(call, batch, CALLS, SECONDS / TURNS)
    before, after = map(min, times)
    return before, after, min(map(len, times))


def timed(call: Callable[..., Any], batch: dict[str, Tensor], calls: int, seconds: float) -> list[float]:
    """Milliseconds of up to so many calls, at least one, after two that are not timed; none begins after `seconds`."""
    times: list[float] = []
    begun = time.perf_counter()
    for count in range(calls + 2):
        start = time.perf_counter()
        call(**batch)
        times.append(1000 * (time.perf_counter() - start))
        if count >= 2 and time.perf_counter() - begun > seconds:
            break
    return times[2:]


def answers(predictor: Predictor, inputs: Sequence[Input]) -> list[dict[str, Any]]:
    """Predictions for inputs, as the rows that `hf-fer predict` writes."""
    return answer(predictor, inputs, predictor.batch_size)


def scores(predictor: Predictor, inputs: Sequence[Input], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Metrics over the rows with a label; empty if no row has one."""
    pairs = [
        (given.target, row)
        for given, row in zip(inputs, rows, strict=True)
        if given.target is not None and row["error"] is None
    ]
    if not pairs:
        return {}
    said, found = zip(*pairs, strict=True)
    return predictor.score(said, found, predictor.labels)


def same_answers(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Number of rows for which model and export give the same class or text, and number of rows with an answer."""
    pairs = [(one, two) for one, two in zip(before, after, strict=True) if one["error"] is None]
    same = sum(
        two["error"] is None and all(one.get(name) == two.get(name) for name in ("label", "text"))
        for one, two in pairs
    )
    return same, len(pairs)
