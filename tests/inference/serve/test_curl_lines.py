"""Every line with curl on the pages, run as it stands by curl itself against a server with a model of each system."""

import json
import os
import shutil
import subprocess

import pytest
from inference.serve.conftest import LIMITS, running
from media import talking_clip
from pages import commands

LINES = [command for command in commands() if command.text.startswith("curl ")]
ADDRESS = "localhost:8000"
TOKEN = "TOKEN"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is installed")


@pytest.fixture(scope="module")
def guarded(hosts, server):
    """A server with the pages' token."""
    with running(hosts, LIMITS, token=TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def folder(systems, tmp_path_factory):
    """Files under the names of the pages."""
    found = tmp_path_factory.mktemp("curl")
    talking_clip(found / "clip.mp4")
    talking_clip(found / "talk.mp4", seconds=5.0)
    shutil.copyfile(systems["csr"].files[0], found / "image.png")
    shutil.copyfile(systems["speech_to_text"].files[0], found / "talk.wav")
    return found


@pytest.mark.parametrize("command", LINES, ids=lambda command: command.text[:70])
def test_a_line_is_answered(command, server, guarded, folder):
    chosen = guarded if TOKEN in command.text else server
    assert command.text.count(ADDRESS) == 1
    text = command.text.replace(ADDRESS, f"localhost:{chosen.port}")
    environment = {**os.environ, "CURL_HOME": str(folder), "no_proxy": "localhost"}
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    if "-o talk.srt" in text:
        assert (folder / "talk.srt").read_text().startswith("1\n00:00:00,000 --> ")
    elif "response_format=srt" in text:
        assert done.stdout.startswith("1\n00:00:0")
    else:
        answer = json.loads(done.stdout)
        assert "timeline=true" not in text or answer["timeline"]
        assert "by_modality" not in text or answer["modalities"].keys() == {"audio", "video"}
        assert "spans" not in text or all(one["spans"] for one in answer["results"])
        assert "verbose_json" not in text or answer["words"]


def test_every_route_has_a_line(server):
    routes = server.client.get("/openapi.json").json()["paths"].keys() - {"/healthz"}
    shown = {word.partition(ADDRESS)[2] for command in LINES for word in command.text.split() if ADDRESS in word}
    assert routes <= shown


def test_the_token_is_needed(guarded):
    assert guarded.client.get("/v1/models").status_code == 401
