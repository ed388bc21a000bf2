"""What a run prints beside its own lines, from a process of its own."""

import logging
import os
import subprocess
import sys
import warnings

import pytest
import transformers
import warm
from runs import ROOT, write_recipe

from hf_fer.runtime.console import quiet

NOISE = ("Writing model shards", "Loading weights", "Saving the dataset", "falling back", "is deprecated", "Retrying")


@pytest.fixture(scope="module")
def finished(small_ravdess, tmp_path_factory):
    """One small run with its bar, gradient checkpointing and two checkpoints, as somebody would start it."""
    folder = tmp_path_factory.mktemp("console")
    small = {"max_train_samples": 4, "max_eval_samples": 8, "disable_tqdm": False, "gradient_checkpointing": True}
    recipe = write_recipe(folder, dataset=str(small_ravdess), **small)
    command = [sys.executable, str(ROOT / "hf_fer" / "run.py"), recipe]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=True
    )


def test_a_run_draws_its_own_bar_and_no_library_s(finished):
    assert "2/2 [" in finished.stderr
    assert not [noise for noise in NOISE if noise in finished.stderr + finished.stdout]


def test_its_results_and_its_end_are_as_before(finished):
    assert "Model: " in finished.stdout
    assert finished.returncode == 0


def test_other_bars_records_and_warnings_stay(capfd, caplog):
    kernels = logging.getLogger("transformers.integrations.hub_kernels")
    with quiet():
        list(transformers.utils.logging.tqdm(range(2), desc="Loading weights"))
        list(transformers.utils.logging.tqdm(range(2), desc="Converting"))
        kernels.warning("`causal_conv1d_fn` is falling back to its reference PyTorch implementation because ...")
        kernels.warning("the kernel cannot be had")
        with pytest.warns(FutureWarning, match="another"):
            warnings.warn("another field is deprecated", FutureWarning, stacklevel=1)
    error = capfd.readouterr().err
    assert "Converting" in error
    assert "Loading weights" not in error
    assert caplog.messages == ["the kernel cannot be had"]


def test_a_record_of_the_hub_is_printed_once():
    code = (
        "import logging; logging.basicConfig(level=logging.WARNING)\n"
        "from hf_fer.runtime.console import quiet\n"
        "from huggingface_hub.utils import logging as hub\n"
        "with quiet(): hub.get_logger('huggingface_hub.utils._http').warning('Retrying in 1s [Retry 1/5].')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [warm.python("hugging_face"), "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stderr.count("Retrying") == 1


def test_everything_is_put_back():
    library = logging.getLogger("huggingface_hub")
    before = library.propagate, list(warnings.filters)
    with quiet():
        assert not library.propagate
    assert (library.propagate, list(warnings.filters)) == before
    assert transformers.utils.logging.set_tqdm_hook(None) is None
