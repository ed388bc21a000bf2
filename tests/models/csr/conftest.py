"""A run of csr's three stages, of which every module gets a copy."""

import shutil
from pathlib import Path

import pytest
from models.csr_runs import train_stages


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory) -> Path:
    return train_stages(tmp_path_factory.mktemp("csr"))


@pytest.fixture(scope="module")
def trained(trained_once, tmp_path_factory) -> Path:
    """A folder with three recipes and what they made, which several tests look at and add to."""
    return Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("csr") / "copy"))
