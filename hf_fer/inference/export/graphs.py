"""Traces a model to a graph, converts its weights to half precision or 8-bit integers, and runs graphs."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel

from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.export import Runtime, TensorSpec

ONNX, TORCH = "onnx", "torch_export"
FORMATS = {ONNX: "model.onnx", TORCH: "model.pt2"}
"""Format of an export -> name of its graph file."""
DTYPES = ("fp32", "fp16", "int8")
LARGE = 3 * 2**29
"""Bytes of weights above which ONNX keeps them in a second file; a Protobuf message has at most 2 GiB."""
QUANTISED = ("MatMul", "Gemm", "Gather")
"""Operators whose weights are quantised. Convolutions are not: onnxruntime's integer ones are slow."""
EXTRA = "it needs the extra `onnx`: pip install 'hf_fer[onnx]'."


class Graph(nn.Module):
    """
    Wraps a model so that `forward` takes and returns tensors in a fixed order.

    Args:
        model: Model, converted to the type in which the graph computes.
        inputs: Names of the model's inputs.
        outputs: Names of the model's outputs; those of floating point are returned as float32.
    """

    def __init__(self, model: PreTrainedModel, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs = outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = zip(self.inputs, tensors, strict=True)
        found = self.model(**{name: self._cast(tensor, self.model.dtype) for name, tensor in given})
        return tuple(self._cast(found[name], torch.float32) for name in self.outputs)

    @staticmethod
    def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor


def trace(
    model: PreTrainedModel, example: dict[str, Tensor], specs: dict[str, TensorSpec], *, half: bool
) -> tuple[torch.export.ExportedProgram, list[str]]:
    """
    Trace a model to a program with free batch and length axes; the model itself does not change.

    Args:
        model: Model on the CPU.
        example: Example inputs; each free axis has a size of 2 or more.
        specs: Types and shapes of the inputs.
        half: Whether the graph's weights are float16.

    Returns:
        The program, and the names of its outputs.

    Raises:
        RecipeError: the model has a step that cannot be traced.
    """
    with torch.no_grad():
        outputs = [name for name, value in model(**example).items() if isinstance(value, Tensor)]
    copied = copy.deepcopy(model).eval()
    # In some of these models the fused attention of torch 2.14 cannot be traced.
    copied.set_attn_implementation("eager")
    graph = Graph(copied.half() if half else copied, list(example), outputs)
    axes = tuple(
        {axis: Dim.DYNAMIC for axis, size in enumerate(spec.shape) if size is None} for spec in specs.values()
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(graph, tuple(example.values()), dynamic_shapes=(axes,)), outputs
        except Exception as error:  # the tracer raises many types
            raise RecipeError(f"{type(model).__name__} cannot be traced ({first_line(error)}).") from error


def write_graph(
    program: torch.export.ExportedProgram, names: tuple[Sequence[str], Sequence[str]], folder: Path, form: str
) -> None:
    """
    Write a program as a graph file.

    Args:
        program: Program from `trace`.
        names: Names of the inputs, and names of the outputs.
        folder: Folder to write to.
        form: Format, a key of `FORMATS`.

    Raises:
        RecipeError: the extra `onnx` is not installed, or ONNX has no operator for a step of the model.
    """
    path = folder / FORMATS[form]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == TORCH:
            torch.export.save(program, path)
            return
        try:
            import onnxscript  # noqa: F401 - torch.onnx reports a missing onnxscript less clearly
        except ImportError as error:
            raise RecipeError(f"--format onnx: {EXTRA} ({error})") from error
        size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
        try:
            written = torch.onnx.export(program, input_names=names[0], output_names=names[1], verbose=False)
        except Exception as error:  # the converter raises many types
            raise RecipeError(f"the model cannot be written as ONNX ({first_line(error)}).") from error
        written.save(path, external_data=size > LARGE)


def quantise(folder: Path) -> None:
    """
    Quantise the weights of an ONNX export to 8-bit integers in place; activations are quantised at each call.

    Weights use 7 of the 8 bits, so that products do not overflow on x86 without VNNI (`reduce_range` of onnxruntime).

    Raises:
        RecipeError: the graph has no operator that can be quantised, or the extra `onnx` is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise RecipeError(f"--dtype int8: {EXTRA} ({error})") from error
    path, whole = folder / FORMATS[ONNX], folder / "whole.onnx"
    names = [path, folder / f"{path.name}.data"]
    is_large = names[1].exists()
    model = onnx.load(path)
    if not any(node.op_type in QUANTISED for node in model.graph.node):
        raise RecipeError(f"--dtype int8: the graph has none of {', '.join(QUANTISED)}, so it would not get smaller.")
    del model.graph.value_info[:]  # shapes of tensors that are replaced
    onnx.save(model, whole, save_as_external_data=is_large, location=f"{whole.name}.data")
    for name in names:
        name.unlink(missing_ok=True)
    quantize_dynamic(
        whole,
        path,
        op_types_to_quantize=list(QUANTISED),
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Products of 8 bits saturate in 16 on x86 without VNNI, which many processors lack; those of 7 do not.
        reduce_range=True,
        use_external_data_format=is_large,
    )
    for name in (whole, folder / f"{whole.name}.data"):
        name.unlink(missing_ok=True)


def load_graph(folder: Path, form: str, inputs: Sequence[str], outputs: Sequence[str]) -> Runtime:
    """
    Load an export's graph on the CPU, with as many threads as torch uses.

    Raises:
        RecipeError: onnxruntime is not installed, or the file cannot be loaded.
    """
    return (_onnx_runtime if form == ONNX else _torch_runtime)(folder / FORMATS[form], inputs, outputs)


def _onnx_runtime(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Runtime:
    try:
        import onnxruntime
    except ImportError as error:
        raise RecipeError(f"{path.parent}: {EXTRA} ({error})") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises many types
        raise RecipeError(f"{path}: onnxruntime cannot load it ({first_line(error)}).") from error

    def run(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        given = {known.name: tensors[known.name].numpy() for known in session.get_inputs()}
        return dict(zip(outputs, map(torch.from_numpy, session.run(list(outputs), given)), strict=True))

    return run


def _torch_runtime(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Runtime:
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # the library raises many types
        raise RecipeError(f"{path}: torch cannot load it ({first_line(error)}).") from error

    def run(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(outputs, module(*(tensors[name] for name in inputs)), strict=True))

    return run


def first_line(error: Exception) -> str:
    """The first line of an error message."""
    lines: list[Any] = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].split())[:300]
