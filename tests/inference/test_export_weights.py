"""Half precision and 8-bit integers: in every system the weights are stored so, and the answers stay the model's."""

import json
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto

import hf_fer
from hf_fer.inference.export.folder import load_export
from hf_fer.inference.export.job import Settings, export_model
from hf_fer.inference.loading import find_model, load_predictor

SYSTEMS = ("multimodal_fer", "csr", "language_id", "speech_to_text")
STORED = {"fp16": TensorProto.FLOAT16, "int8": TensorProto.INT8}


@pytest.fixture(scope="module", params=[(name, dtype) for name in SYSTEMS for dtype in STORED], ids="-".join)
def exported(request, systems, tmp_path_factory):
    """A system, the type of weights, the export's folder and its report."""
    name, dtype = request.param
    folder = tmp_path_factory.mktemp(f"{name}_{dtype}") / "export"
    report = export_model(Settings(str(systems[name].model), str(folder), "onnx", dtype))
    return systems[name], dtype, folder, report


def weights(folder: Path) -> Counter:
    """Type -> number of values that are stored in it."""
    found: Counter = Counter()
    for tensor in onnx.load(folder / "model.onnx").graph.initializer:
        found[tensor.data_type] += max(1, torch.tensor(list(tensor.dims)).prod().item())
    return found


def test_the_graph_stores_such_weights_and_takes_floats(exported):
    _, dtype, folder, report = exported
    stored = weights(folder)
    if dtype == "fp16":
        assert stored[TensorProto.FLOAT16] > 10 * stored[TensorProto.FLOAT]
    else:
        assert stored[TensorProto.INT8] > 0
    graph = onnx.load(folder / "model.onnx").graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert kinds <= {TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
    assert report.dtype == dtype
    assert json.loads((folder / "export.json").read_text(encoding="utf-8"))["dtype"] == dtype


def test_answers_are_within_the_tolerance_and_not_exactly_the_models(exported):
    _, dtype, _, report = exported
    assert 0 < report.difference <= report.allowed
    if dtype == "int8":  # products of 8 bits overflow on many processors: 0.25 of the largest logit
        assert report.difference < 0.06
    assert not report.reasons()
    assert {one["batch"] for one in report.differences["batches"]} == {1, 2, 3, 8}


def test_predict_gives_the_models_scores_up_to_the_rounding(exported):
    system, dtype, folder, _ = exported
    known, got = (list(hf_fer.predict(path, system.files[:3])) for path in (system.model, folder))
    for one, two in zip(known, got, strict=True):
        assert two["error"] is None
        assert two["score"] == pytest.approx(one["score"], abs=0.01 if dtype == "fp16" else 0.1)


@pytest.mark.parametrize("name", ["language_id", "csr"])
def test_half_precision_as_torch_export(systems, tmp_path, name):
    report = export_model(Settings(str(systems[name].model), str(tmp_path / "export"), "torch_export", "fp16"))
    assert 0 < report.difference <= report.allowed
    program = torch.export.load(tmp_path / "export" / "model.pt2")
    floats = {value.dtype for value in program.state_dict.values() if value.is_floating_point()}
    assert torch.float16 in floats
    assert report.bytes["after"] > 0


def test_an_export_in_integers_that_differs_too_much_is_refused(systems, tmp_path):
    settings = Settings(str(systems["csr"].model), str(tmp_path / "export"), "onnx", "int8", max_difference=1e-9)
    with pytest.raises(Exception, match="logits differ by"):
        export_model(settings)
    assert not list(tmp_path.iterdir())


def test_the_model_itself_stays_in_float32(exported):
    system, _, folder, _ = exported
    model = load_predictor(find_model(str(system.model))).pipe.model
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert load_export(folder).dtype == torch.float32
