"""Shared fixtures. The Hugging Face cache of a test run is its own, and nothing is fetched from a hub."""

import gc
import os
import tempfile

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_fer_tests_")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Small models gain nothing from a second thread, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from filelock import FileLock

from hf_fer.models.multimodal_fer.train.demo import make_demo_ravdess

ROOT = Path(__file__).parent.parent

LONGEST = (
    "test_pages.py",
    "test_notebook.py",
    "test_export_weights.py",
    "test_survival.py",
    "test_multimodal_fer_cache.py",
    "test_run.py",
    "test_csr_stages.py",
    "test_csr_task.py",
    "test_distributed.py",
    "test_sharing.py",
    "test_csr_checkpoints.py",
    "test_hyperparameter_search.py",
    "test_models_states.py",
)
"""Modules that take longest, in this order; the others follow in the order of their names."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Brings the longest modules to the front.

    With `-n 2 --dist loadscope --no-loadscope-reorder` each process takes the next module or class when it has done
    its own. A long one at the end would leave the other process idle.
    """
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """
    Keeps the imported modules, about a million objects, out of all later garbage collections.

    The Trainer collects before each training, which takes half a second otherwise.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _few_threads():
    """Runs inside the tests change the number."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a skip that says how to give one."""
    folder = Path(os.environ.get("HF_FER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set HF_FER_DATA")
    return folder


@pytest.fixture(scope="session")
def small_ravdess(tmp_path_factory) -> Path:
    """Synthetic clips of all 24 actors, one of each emotion: 192 files, which all processes of the tests share."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "ravdess.lock"):
        if not (folder / "ravdess").is_dir():
            make_demo_ravdess(folder / "new_ravdess", clips_per_emotion=1).rename(folder / "ravdess")
    return folder / "ravdess"
