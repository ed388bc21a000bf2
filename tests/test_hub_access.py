"""A Hub that cannot be reached, or has no such model or data, is told of in seconds, in every place that asks it."""

import shlex
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import huggingface_hub
import pytest
from hub_server import HubServer
from typer.testing import CliRunner

from hf_fer import cli
from hf_fer.data import hub
from hf_fer.data.hub import read_dataset
from hf_fer.data.loading import DataError
from hf_fer.data.manifest import read_hub_dataset
from hf_fer.experiment import score as results
from hf_fer.experiment.one_run import run
from hf_fer.models.language_id.train.text import TextFormat, read_texts
from hf_fer.models.multimodal_fer import face_multimodal_fer
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.runtime.failures import RunError
from hf_fer.runtime.preparation import check_hub_access
from hf_fer.task.find import parse_task

SECONDS = 5.0


@pytest.fixture(params=["refuses", "does not answer"])
def no_hub(request, monkeypatch) -> Iterator[str]:
    """The address of a Hub that is not there: nothing listens, or what listens says nothing."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    monkeypatch.setattr(face_multimodal_fer, "HUB_TIMEOUT", 0.3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "does not answer":
            listener.listen(50)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        yield address


@pytest.fixture
def some_hub(tmp_path, monkeypatch) -> Iterator[HubServer]:
    """A Hub without a repository."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def model_of(system: str, **fields: str) -> None:
    own = [part for name, value in fields.items() for part in (f"--{name}", value)]
    run(parse_task(["--task", system, "--dataset", "demo", "--use_cpu", "true", *own]))


ASKING = {
    "model of csr": lambda: model_of("csr", stage="2", model_name_or_path="somebody/thing"),
    "model of language_id": lambda: model_of("language_id", model_name_or_path="somebody/thing"),
    "model of multimodal_fer": lambda: model_of("multimodal_fer", model_name_or_path="somebody/thing"),
    "encoder": lambda: model_of("multimodal_fer", audio_backbone="somebody/thing"),
    "clips": lambda: read_hub_dataset("somebody/thing"),
    "texts": lambda: read_texts("somebody/thing", TextFormat()),
}


@pytest.mark.parametrize("asking", ASKING)
def test_no_hub(no_hub, asking):
    began = time.monotonic()
    with pytest.raises((RecipeError, DataError), match=rf"somebody/thing.*{no_hub} cannot be reached.*HF_HUB_OFFLINE"):
        ASKING[asking]()
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("asking", ASKING)
def test_a_name_that_the_hub_does_not_know(some_hub, asking):
    with pytest.raises((RecipeError, DataError), match=r"somebody/thing.*no such (model|dataset)"):
        ASKING[asking]()


def test_yunet_without_a_hub(no_hub):
    began = time.monotonic()
    with pytest.raises(FileNotFoundError, match="yunet_path"):
        face_multimodal_fer.find_yunet(None)
    assert time.monotonic() - began < SECONDS


def test_push_without_a_hub_is_refused_before_training(no_hub, tmp_path):
    args = TrainingArguments(str(tmp_path), push_to_hub=True, hub_token="hf_test", use_cpu=True)
    began = time.monotonic()
    with pytest.raises(RecipeError, match=f"push_to_hub: {no_hub} cannot be reached"):
        check_hub_access(args)
    assert time.monotonic() - began < SECONDS


def test_push_to_a_hub_that_is_there(some_hub, tmp_path):
    check_hub_access(TrainingArguments(str(tmp_path), push_to_hub=True, hub_token=some_hub.token, use_cpu=True))


def test_offline_nothing_is_asked(no_hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.unreachable() is None
    assert hub.trouble("somebody/thing") is None
    with pytest.raises(DataError, match="nor a Hub data set that loads"):
        read_dataset("somebody/thing")


def test_an_upload_that_fails_after_training_says_how_to_do_it_later(monkeypatch, tmp_path):
    def refused(*args: object) -> None:
        raise ConnectionError("no network\nany more")

    monkeypatch.setattr(results, "upload", refused)
    arguments = SimpleNamespace(output_dir=str(tmp_path), hub_token="hf_secret")
    task = SimpleNamespace(training_args=arguments, name=lambda: "csr", shareable=())
    with pytest.raises(RunError, match=r"not uploaded .no network any more") as told:
        results.push(task, "tester/model")
    assert "hf_secret" not in str(told.value)
    monkeypatch.undo()

    found = []
    monkeypatch.setattr(
        "hf_fer.inference.push.push_model", lambda folder, repo_id, private: found.append((folder, repo_id))
    )
    command = shlex.split(str(told.value).partition("later: ")[2])
    assert CliRunner().invoke(cli.app, command[1:]).exit_code == 0
    assert (command[0], found) == ("hf-fer", [(tmp_path, "tester/model")])
