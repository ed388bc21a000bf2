"""`predictions.csv` says which file, row or text each answer is about, for every system that writes it."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from transformers import EvalPrediction

from hf_fer.data import manifest
from hf_fer.metrics.scored import Scored
from hf_fer.models.language_id.train.report import Scored as TextsScored
from hf_fer.task.find import parse_task


def answers(data) -> pd.DataFrame:
    rows = data.splits["test"].to_pandas()
    logits = np.eye(len(data.labels))[rows["labels"]]
    return Scored.of(rows, EvalPrediction(logits, rows["labels"].to_numpy())).table(data.labels, 1.0)


@pytest.fixture
def clips(tmp_path):
    """Nine clips of three people, one a split."""
    rows = []
    for number in range(9):
        sound = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16_000)
        split = ("train", "validation", "test")[number // 3]
        rows.append((str(tmp_path / f"{number}.wav"), ["sad", "happy"][number % 2], split, split))
    return pd.DataFrame(rows, columns=["audio", "label", "group", "split"])


def load(dataset, **fields):
    fields = {"task": "multimodal_fer", "modalities": "audio", "dataset": dataset, "use_cpu": True, **fields}
    task = parse_task([word for name, value in fields.items() for word in (f"--{name}", str(value))])
    return task


def test_clips_by_their_file(tmp_path, clips):
    clips.to_csv(tmp_path / "m.csv", index=False)
    table = answers(load(tmp_path / "m.csv", output_dir=tmp_path / "out").load_data())
    assert table["audio"].tolist() == [str(tmp_path / f"{number}.wav") for number in (6, 7, 8)]
    assert table["group"].tolist() == ["test"] * 3


def test_clips_of_the_hub_by_their_row(tmp_path, clips, monkeypatch):
    tables = {
        split: part.drop(columns=["split", "group"]).assign(row=[f"{split} row {n + 1}" for n in range(len(part))])
        for split, part in clips.groupby("split")
    }
    monkeypatch.setattr(manifest, "read_hub", lambda name: tables)
    table = answers(load("somebody/clips", output_dir=tmp_path / "out").load_data())
    assert table["row"].tolist() == ["test row 1", "test row 2", "test row 3"]


def test_texts_by_file_and_row(tmp_path):
    words = ["xin chào bạn", "hello my friend"]
    rows = [
        (f"{words[n % 2]} số {n}", ["vi", "en"][n % 2], ("train", "validation", "test")[n // 4]) for n in range(12)
    ]
    path = tmp_path / "t.csv"
    pd.DataFrame(rows, columns=["text", "label", "split"]).to_csv(path, index=False)
    fields = {"task": "language_id", "dataset": path, "output_dir": tmp_path / "out", "use_cpu": True}
    fields |= {"near_duplicate_threshold": 0.95}
    task = parse_task([word for name, value in fields.items() for word in (f"--{name}", str(value))])
    table = answers(task.load_data())
    assert table["path"].tolist() == [f"{path} row {number}" for number in (9, 10, 11, 12)]
    assert TextsScored is Scored
