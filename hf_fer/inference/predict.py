"""`hf_fer.predict`: one row for each input, with its answer or the reason why it has none."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_fer.inference.inputs import Input, groups, number_items, read_sources
from hf_fer.inference.loading import find_model, load_predictor
from hf_fer.runtime.failures import RunError, is_out_of_memory
from hf_fer.task.predictor import Predictor

LOOK_AHEAD = 32
"""Number of batches that are read at once, so that inputs of similar length can share a batch."""


@dataclass(frozen=True)
class Work:
    """
    How all shards of a job are answered, in whichever process.

    Args:
        load: Makes the predictor; takes the `rank` of its process on a machine, 0 unless given.
        batch_size: Inputs that go through the model together; `None` for the system's own number.
        with_target: Whether rows have a column for the true answer.
    """

    load: Callable[..., Predictor]
    batch_size: int | None
    with_target: bool


def predict(
    model: str | Path,
    inputs: Any,
    *,
    probabilities: bool = False,
    timeline: bool = False,
    batch_size: int | None = None,
    options: dict[str, Any] | None = None,
    backend: str | None = None,
) -> Iterator[dict[str, Any]]:
    """
    Predict inputs in order, reading at most a few batches ahead.

    Args:
        model: Folder of a saved model, or its name on the Hub.
        inputs: A list, generator or other iterable of inputs of the system's pipeline; or one path, which may be a
            file, a folder, a table, or (as a string) a Hub data set. For a system of texts, a string is a text.
        probabilities: Whether a row has the probability of every class, as `p_<class>`.
        timeline: Whether a row has `segments`: labels with start and end in the input, such as emotions over time or
            languages of the passages of a text. With `probabilities`, emotions also have `curve`, the probability of
            every class over time.
        batch_size: Number of inputs in a batch; the system's default if `None`.
        options: Arguments of the pipeline's call, such as `{"window_seconds": 2}`.
        backend: Backend that the model must be for: `torch`, or `onnx` or `torch_export` for an export.

    Yields:
        One dictionary per input, in order: `input`, the system's columns, and `error`, the reason why it has no
        answer.

    Raises:
        RecipeError: the model cannot be loaded.
        DataError: the one path cannot be read.
    """
    found_model = find_model(str(model), backend)
    predictor = load_predictor(found_model, probabilities=probabilities, timeline=timeline, options=options)
    kind = type(predictor)
    if isinstance(inputs, Path) or (isinstance(inputs, str) and not kind.takes_texts):
        found: Iterable[Input] = read_sources([str(inputs)], kind)
    else:
        found = number_items([inputs] if isinstance(inputs, str) else inputs, kind)
    size = batch_size or kind.batch_size
    for part in groups(found, size * LOOK_AHEAD):
        yield from answer(predictor, part, size)


def answer(
    predictor: Predictor, inputs: Sequence[Input], batch_size: int, done: Callable[[int], None] = lambda count: None
) -> list[dict[str, Any]]:
    """
    The rows of inputs, in order; inputs of similar length share a batch.

    Args:
        predictor: Predictor with the model loaded.
        inputs: Inputs; an unusable one gets a row with the reason in `error`.
        batch_size: See `predict`.
        done: Called with the number of inputs that were answered since the last call.

    Raises:
        RunError: memory ran out, or the accelerator failed.
    """
    order = sorted(
        (place for place, given in enumerate(inputs) if given.error is None),
        key=lambda place: predictor.length(inputs[place].value),
    )
    rows = {place: {"error": given.error} for place, given in enumerate(inputs) if given.error is not None}
    done(len(rows))
    for chosen in groups(order, predictor.inputs_per_call or batch_size):
        rows |= zip(chosen, _answers(predictor, [inputs[place].value for place in chosen], batch_size), strict=True)
        done(len(chosen))
    return [_whole(predictor, inputs[place], rows[place]) for place in range(len(inputs))]


def _answers(predictor: Predictor, values: list[Any], batch_size: int) -> list[dict[str, Any]]:
    """Rows of one call of the pipeline; if it fails, each half is tried alone, until the bad inputs are isolated."""
    try:
        found = predictor.pipe(values, batch_size=batch_size, **predictor.options)
        return [predictor.row(one) for one in found]
    except Exception as error:  # decoders and models may raise anything for a bad file or text
        if is_out_of_memory(error) or isinstance(error, MemoryError):
            raise RunError(f"Out of memory with {len(values)} inputs together; lower --batch_size.") from error
        if isinstance(error, torch.AcceleratorError):  # the device cannot be used any more
            raise RunError(f"The accelerator failed: {error}") from error
        if len(values) == 1:
            return [{"error": " ".join(str(error).split()) or type(error).__name__}]
    middle = len(values) // 2
    return [row for part in (values[:middle], values[middle:]) for row in _answers(predictor, part, batch_size)]


def _whole(predictor: Predictor, given: Input, row: dict[str, Any]) -> dict[str, Any]:
    names = ("input", *predictor.fields, *(("target",) if given.has_target else ()), "error")
    found = {"input": given.name, "target": given.target, **row}
    return {name: _printable(found.get(name)) for name in names}


def _printable(value: Any) -> Any:
    """Escape bytes of a file's name that are not UTF-8, which a table cannot hold."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
