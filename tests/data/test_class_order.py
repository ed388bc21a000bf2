"""A checkpoint's classes are found by name: in another order, or as a part of them where it is evaluated."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from hf_fer.data.remarks import class_order
from hf_fer.models.csr.train.concepts import ConceptData
from hf_fer.models.csr.train.report import class_metrics, order_classes
from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.train.arguments import MultimodalFerDataArguments
from hf_fer.models.multimodal_fer.train.preprocessing import new_processor
from hf_fer.task.find import parse_task

KNOWN = ["sad", "happy", "angry"]


def test_order_of_the_checkpoint():
    assert class_order(sorted(KNOWN), KNOWN, training=True) == KNOWN
    assert class_order(["angry", "sad"], KNOWN, training=False) == KNOWN
    assert class_order(["angry", "sad"], KNOWN, training=True) == ["angry", "sad"]
    assert class_order(["angry", "calm"], KNOWN, training=False) == ["angry", "calm"]
    assert class_order(["angry"], [], training=False) == ["angry"]


def concepts(targets: list, multi_label: bool) -> ConceptData:
    return ConceptData(pd.DataFrame({"targets": targets}), ["c"], ["angry", "happy", "sad"], multi_label)


def test_csr_s_targets_follow_their_names():
    found = order_classes(concepts([0, 1, 2], multi_label=False), KNOWN, training=True)
    assert (found.classes, found.rows["targets"].tolist()) == (KNOWN, [2, 1, 0])
    found = order_classes(concepts([[1.0, 0.5, 0.0]], multi_label=True), KNOWN, training=True)
    assert (found.classes, found.rows["targets"].tolist()) == (KNOWN, [[0.0, 0.5, 1.0]])


def test_csr_scores_a_part_of_the_classes():
    metrics = class_metrics(np.eye(3)[[0, 2, 2, 0]], np.array([0, 2, 2, 0]), KNOWN)
    assert metrics["accuracy"] == 1.0


def test_csr_scores_a_part_of_several_classes():
    found = order_classes(concepts([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], multi_label=True), [*KNOWN, "calm"], False)
    assert found.classes == [*KNOWN, "calm"]
    targets = np.array(found.rows["targets"].tolist())
    assert targets[:, 3].tolist() == [-100, -100]
    logits = np.array([[-1.0, -1.0, 1.0, 9.0], [1.0, 1.0, -1.0, 9.0]])
    metrics = class_metrics(logits, targets, found.classes)
    assert set(metrics["per_class"]) == set(KNOWN)
    assert metrics["macro_f1"] == 1.0
    in_training = order_classes(concepts([[1.0, 0.0, 0.0]], multi_label=True), [*KNOWN, "calm"], True)
    assert in_training.classes == ["angry", "happy", "sad"]


@pytest.mark.parametrize(("labels", "training"), [(["happy", "sad"], False), (["angry", "happy", "sad"], True)])
def test_a_manifest_is_mapped_to_the_classes_of_a_checkpoint(tmp_path, labels, training):
    start, names = tmp_path / "start", dict(enumerate(KNOWN))
    config = MultimodalFerConfig.from_preset("tiny", modalities=["audio"], id2label=names)
    MultimodalFerForEmotionClassification(config).save_pretrained(start)
    new_processor(MultimodalFerDataArguments(face_crop="none")).save_pretrained(start)
    save_file({"weight": torch.zeros(1)}, start / "model.safetensors")  # only the data is read here
    lines = ["audio,label,group,split"]
    for number in range(9):
        samples = torch.randn(16_000, generator=torch.Generator().manual_seed(number)) / 10
        soundfile.write(tmp_path / f"{number}.wav", samples.numpy(), 16_000)
        split = ("train", "validation", "test")[number // 3]
        lines.append(f"{number}.wav,{labels[number % len(labels)]},{split},{split}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    fields = {"task": "multimodal_fer", "dataset": tmp_path / "m.csv", "modalities": "audio", "face_crop": "none"}
    fields |= {"model_name_or_path": start, "do_train": training, "output_dir": tmp_path / "out", "use_cpu": True}
    data = parse_task([word for name, value in fields.items() for word in (f"--{name}", str(value))]).load_data()
    assert data.labels == KNOWN
    # rows 6, 7 and 8 are the test's
    expected = [labels[number % len(labels)] for number in (6, 7, 8)]
    assert data.counts()["test"] == {name: expected.count(name) for name in KNOWN}
    if not training:
        assert any("has 2 of the 3 classes (sad, happy) and no example of angry" in note for note in data.notes)
