"""The Hub stand-in serves what the installed ``huggingface_hub`` and ``transformers`` clients ask of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import warm
from hub_server import HubServer
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from safetensors.numpy import save

REPO = "tester/tiny"

PUSH_AND_LOAD = """
import torch
from transformers import AutoModel, BertConfig, BertModel

config = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
pushed = BertModel(config)
pushed.push_to_hub("tester/tiny")
loaded = AutoModel.from_pretrained("tester/tiny").state_dict()
assert loaded.keys() == pushed.state_dict().keys()
assert all(torch.equal(loaded[name], weights) for name, weights in pushed.state_dict().items())
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A running server, for a client without Xet and online; it read the variables for that when it was imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    """A client of the server, which has the repository ``REPO``."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(REPO)
    return api


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to upload: a text, one in a subfolder, and weights."""
    folder = tmp_path / "upload"
    (folder / "notes").mkdir(parents=True)
    (folder / "config.json").write_text('{"size": 1}')
    (folder / "notes" / "log.txt").write_text("first\n")
    weights = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    (folder / "model.safetensors").write_bytes(save({"weights": weights}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, apart from what the Hub and its client add."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    added = (".gitattributes", ".cache/")
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(added)}


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_uploaded_folder_comes_back_identical(
    hub: HubServer, api: HfApi, folder: Path, tmp_path: Path, repo_type: str
) -> None:
    api.create_repo(REPO, repo_type=repo_type, exist_ok=True)
    commit = api.upload_folder(repo_id=REPO, folder_path=folder, repo_type=repo_type, commit_message="Upload")

    assert hub.commits(REPO, repo_type) == ["initial commit", "Upload"]
    assert hub.repo_files(REPO, repo_type).items() >= contents(folder).items()
    assert {*contents(folder), ".gitattributes"} == set(api.list_repo_files(REPO, repo_type=repo_type))
    assert api.repo_info(REPO, repo_type=repo_type).sha == commit.oid
    snapshot = api.snapshot_download(REPO, repo_type=repo_type, cache_dir=tmp_path / "cache")
    assert contents(Path(snapshot)) == contents(folder)
    copy = api.snapshot_download(REPO, repo_type=repo_type, local_dir=tmp_path / "copy", revision=commit.oid)
    assert contents(Path(copy)) == contents(folder)


def test_weights_and_large_files_go_through_lfs(hub: HubServer, api: HfApi, folder: Path) -> None:
    hub.lfs_threshold = 1000
    (folder / "long.txt").write_text("word " * 1000)
    api.upload_folder(repo_id=REPO, folder_path=folder)

    files = [item for item in api.list_repo_tree(REPO, recursive=True) if isinstance(item, RepoFile)]
    sizes = {file.path: file.lfs.size for file in files if file.lfs}
    assert sizes == {"long.txt": 5000, "model.safetensors": (folder / "model.safetensors").stat().st_size}
    assert [method for method, _ in hub.requests].count("PUT") == 2


def test_tree_of_a_folder(api: HfApi, folder: Path) -> None:
    api.upload_folder(repo_id=REPO, folder_path=folder)

    assert {item.path for item in api.list_repo_tree(REPO)} == {
        ".gitattributes",
        "config.json",
        "model.safetensors",
        "notes",
    }
    assert [item.path for item in api.list_repo_tree(REPO, "notes")] == ["notes/log.txt"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "absent"))


def test_second_upload_is_a_new_commit(hub: HubServer, api: HfApi, folder: Path, tmp_path: Path) -> None:
    first = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="First")
    (folder / "config.json").write_text('{"size": 2}')
    api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="Second")
    api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="Unchanged")

    def download(revision: str) -> str:
        path = api.hf_hub_download(REPO, "config.json", revision=revision, cache_dir=tmp_path)
        return Path(path).read_text()

    assert hub.commits(REPO) == ["initial commit", "First", "Second"]
    assert download("main") == '{"size": 2}'
    assert download(first.oid) == '{"size": 1}'
    assert [method for method, _ in hub.requests].count("PUT") == 1


def test_upload_patterns_and_deletions(hub: HubServer, api: HfApi, folder: Path) -> None:
    api.upload_folder(repo_id=REPO, folder_path=folder, ignore_patterns=["*.safetensors"])
    assert set(hub.repo_files(REPO)) == {".gitattributes", "config.json", "notes/log.txt"}

    (folder / "config.json").unlink()
    api.upload_folder(repo_id=REPO, folder_path=folder, delete_patterns=["*.json"])
    assert set(hub.repo_files(REPO)) == {".gitattributes", "model.safetensors", "notes/log.txt"}

    operations = [CommitOperationDelete("notes/"), CommitOperationAdd("README.md", b"---\n---\n")]
    api.create_commit(REPO, operations, commit_message="Tidy")
    assert set(hub.repo_files(REPO)) == {".gitattributes", "model.safetensors", "README.md"}


def test_commit_on_an_outdated_parent_is_refused(hub: HubServer, api: HfApi) -> None:
    outdated = api.model_info(REPO).sha
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a", parent_commit=outdated)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(repo_id=REPO, path_in_repo="b.txt", path_or_fileobj=b"b", parent_commit=outdated)
    assert "b.txt" not in hub.repo_files(REPO)


def test_creating_a_repository_twice(hub: HubServer, api: HfApi) -> None:
    assert api.create_repo("tiny", exist_ok=True).repo_id == REPO
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert hub.commits(REPO) == ["initial commit"]


@pytest.mark.parametrize("token", ["hf_wrong", False])
def test_wrong_or_missing_token(hub: HubServer, api: HfApi, token: str | bool) -> None:
    assert api.whoami()["name"] == "tester"
    with pytest.raises(HfHubHTTPError) as refusal:
        HfApi(endpoint=hub.url, token=token).create_repo("tester/other")
    assert refusal.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(endpoint=hub.url, token=token).model_info(REPO)


def test_what_is_missing(api: HfApi, tmp_path: Path) -> None:
    assert api.file_exists(REPO, ".gitattributes")
    assert not api.file_exists(REPO, "absent.txt")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(REPO, "absent.txt", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, ".gitattributes", revision="absent", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("tester/absent")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.upload_file(repo_id="tester/absent", path_in_repo="a.txt", path_or_fileobj=b"a")


def test_transformers_model_in_a_subprocess(hub: HubServer, tmp_path: Path) -> None:
    environment = {**os.environ, **hub.environment(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run([warm.python("libraries"), "-c", PUSH_AND_LOAD], env=environment, check=True, timeout=120)

    assert hub.commits(REPO) == ["initial commit", "Upload model"]
    assert {"config.json", "model.safetensors", "README.md"} <= set(hub.repo_files(REPO))
