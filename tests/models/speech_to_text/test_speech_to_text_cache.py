"""The cache of decoded recordings: the same batches, without the files."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from models.speech_to_text.recipes import task_of

from hf_fer.data import loading
from hf_fer.data.augment import EpochClock
from hf_fer.experiment.dry_run import describe
from hf_fer.models.speech_to_text.train import cache, recordings
from hf_fer.models.speech_to_text.train.demo import make_demo


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("recordings"))


@pytest.fixture
def manifest(demo, tmp_path):
    """A copy whose files a test may change."""
    return shutil.copytree(demo.parent, tmp_path / "recordings") / demo.name


def prepared(task):
    """Data as training loads it, and the batch of a few rows of two splits."""
    data = task.load_data()
    processor = task.build_processor(data)
    if caches := task.caches(data, processor):
        data = caches.fill(lambda: None)
    splits, collate = task.with_transforms(data, processor, EpochClock()), task.collator(processor)
    return data, {name: collate([splits[name][index] for index in range(4)]) for name in ("train", "validation")}


@pytest.fixture
def decoded(monkeypatch):
    """Every path that is decoded."""
    paths = []
    for module in (cache, recordings):
        load = module.load_audio
        monkeypatch.setattr(
            module, "load_audio", lambda path, *limits, load=load: paths.append(path) or load(path, *limits)
        )
    return paths


@pytest.mark.parametrize("augment", [False, True])
def test_batches_are_the_same_to_the_bit(manifest, tmp_path, augment):
    """Joined recordings read several files for one example."""
    fields = {"augment": augment, "join_recordings": 1}
    (_, plain), (_, cached) = (
        prepared(task_of(manifest, tmp_path, cache=kind, **fields)) for kind in ("none", "decoded")
    )
    for split, batch in plain.items():
        assert batch.keys() == cached[split].keys()
        for name, tensor in batch.items():
            torch.testing.assert_close(cached[split][name], tensor, rtol=0, atol=0)


def test_each_file_is_decoded_once(manifest, tmp_path, decoded):
    prepared(task_of(manifest, tmp_path, cache="decoded"))
    files = {str(manifest.parent / name) for name in pd.read_csv(manifest)["file_path"]}
    assert set(decoded) == files
    assert len(decoded) <= len(files) + cache.PROBED_FILES
    decoded.clear()
    prepared(task_of(manifest, tmp_path, cache="decoded"))
    assert decoded == []


def test_files_are_not_needed_after_the_first_look(manifest, tmp_path):
    task = task_of(manifest, tmp_path, cache="decoded")
    data = task.load_data()
    shutil.rmtree(manifest.parent)
    split = task.with_transforms(data, task.build_processor(data), EpochClock())["train"]
    assert split[3]["labels"]


def test_a_file_that_changed_is_decoded_again(manifest, tmp_path, decoded):
    data, before = prepared(task_of(manifest, tmp_path, cache="decoded", augment=False))
    first, second = data.splits["train"]["audio"][:2]
    shutil.copy(second, first)
    decoded.clear()
    _, after = prepared(task_of(manifest, tmp_path, cache="decoded", augment=False))
    assert set(decoded) == {first}
    assert not torch.equal(before["train"]["input_features"][0], after["train"]["input_features"][0])


def test_broken_files_are_skipped_as_without_it(manifest, tmp_path):
    rows = pd.read_csv(manifest)
    broken = manifest.parent / rows["file_path"][0]
    broken.write_bytes(b"no sound")
    skipped = [prepared(task_of(manifest, tmp_path, cache=kind))[0].skipped for kind in ("none", "decoded")]
    assert skipped[0] == skipped[1]
    assert [entry["path"] for entry in skipped[1]] == [str(broken)]


def test_another_rate_is_another_cache(manifest, tmp_path):
    shapes = []
    for rate in (16000, 8000):
        data, _ = prepared(task_of(manifest, tmp_path, cache="decoded", sampling_rate=rate))
        path = data.splits["train"]["audio"][0]
        shapes.append(len(data.own.load(path)) / rate)
    np.testing.assert_allclose(shapes[0], shapes[1], atol=0.01)


def test_a_dry_run_says_the_space_and_writes_nothing(manifest, tmp_path, home):
    task = task_of(manifest, tmp_path, cache="decoded", dry_run=True)
    data = task.load_data()
    processor = task.build_processor(data)
    splits = task.with_transforms(data, processor, EpochClock())
    said = describe(task, data, splits, task.build_model(data, processor), processor)
    count = sum(map(len, data.splits.values()))
    assert f"speech_samples of {count} files: about " in said
    assert not list(home.rglob("*.arrow"))
