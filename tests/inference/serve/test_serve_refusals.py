"""What is refused, with which status and words, by a server that goes on."""

import dataclasses
import io
import json
import logging
import pickle
import socket
import time
import zlib

import av
import httpx
import numpy as np
import pytest
from inference.serve.conftest import LIMITS, running

from hf_fer.inference.serve.command import main
from hf_fer.inference.serve.logs import JsonLines, logger

GIGABYTE = 2**30


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    for word in words:
        assert word in error["message"]
    assert "/tmp" not in answer.text
    assert "upload" not in error["message"]


def huge_png(side: int) -> bytes:
    """A header that promises a square of that side, and hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def many_frames(count: int) -> bytes:
    """A small video of very many frames."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1000, width=16, height=16, pix_fmt="yuv420p")
        frame = av.VideoFrame.from_ndarray(np.zeros((24, 16), np.uint8), format="yuv420p")
        for number in range(count):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def post(server, route: str, data: bytes, name: str = "file", **fields) -> httpx.Response:
    return server.client.post(route, files={"file": (name, data)}, data=fields)


def test_files_that_are_not_what_they_should_be(server, tmp_path):
    passwords = b"root:x:0:0:root:/root:/bin/bash\n"
    refused(post(server, "/v1/emotion", passwords, "../../etc/passwd"), 422, "its format is not accepted")
    refused(post(server, "/v1/concepts", pickle.dumps({"a": 1}), "model.safetensors"), 422, "image")
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    refused(post(server, "/v1/audio/transcriptions", playlist, "a.m3u8"), 422, "sound or video")
    refused(post(server, "/v1/audio/transcriptions", b"ffconcat version 1.0\nfile /etc/passwd\n"), 422, "format")
    refused(post(server, "/v1/concepts", b"RIFF\0\0\0\0WAVEfmt "), 422, "it is sound; this model takes image")
    refused(post(server, "/v1/emotion", b"RIFF\0\0\0\0WAVEfmt " + b"\xff" * 999, "a.wav"), 422, "file: ")
    refused(server.client.post("/v1/emotion", data={"file": "/etc/passwd"}), 422, "file: ")
    refused(server.client.post("/v1/emotion"), 422, "file")


def test_pictures_and_videos_over_the_limits(server):
    refused(post(server, "/v1/concepts", huge_png(20_000)), 422, "pixels, over max_pixels = 1000000")
    refused(post(server, "/v1/concepts", huge_png(900)), 422, "does not decode")
    refused(post(server, "/v1/concepts", huge_png(2000)), 422, "2000 x 2000 pixels")
    refused(post(server, "/v1/emotion", many_frames(3000)), 422, "3000 frames", "2000")
    quiet = io.BytesIO()
    with av.open(quiet, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * 40), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    refused(post(server, "/v1/audio/transcriptions", quiet.getvalue()), 422, "lasts", "30")
    assert server.client.get("/readyz").status_code == 200


def test_fields_that_cannot_be_used(server, systems):
    image = systems["csr"].files[0].read_bytes()
    refused(post(server, "/v1/concepts", image, reject="rung"), 422, "did you mean 'ring'?")
    refused(post(server, "/v1/concepts", image, positive_boxes="1,2,3"), 422, "x0,y0,x1,y1")
    refused(post(server, "/v1/concepts", image, top_k="0"), 422, "top_k")
    refused(server.client.post("/v1/language", json={"text": "a", "labels": ["xx-nope"]}), 422, "xx-nope")
    answer = server.client.post("/v1/language", json={"text": {"secret": 1}})
    refused(answer, 422, "text")
    assert "secret" not in answer.text
    refused(server.client.post("/v1/language", content=b"{", headers={"content-type": "application/json"}), 422)
    refused(server.client.post("/v1/language", json={"text": ["a" * 6000] * 2}), 413, "12000 characters")


@pytest.mark.parametrize("is_announced", [True, False])
def test_two_gigabytes_are_cut_off_early(server, is_announced):
    """At 60 MiB/s at most: the server discards for a second, in which an unlimited client sends over a gigabyte."""
    sent = 0

    def zeros():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        while sent < 2 * GIGABYTE:
            sent += 2**16
            yield bytes(2**16)
            time.sleep(0.001)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    headers |= {"content-length": str(2 * GIGABYTE)} if is_announced else {}
    before = time.monotonic()
    answer = httpx.post(f"{server.url}/v1/emotion", content=zeros(), headers=headers, timeout=30)
    refused(answer, 413, str(LIMITS.max_bytes + 2**16))
    assert sent < GIGABYTE / 2
    assert time.monotonic() - before < 20


def speak(server, data: bytes, pause: float = 0.0) -> bytes:
    """What the server says to bytes, one at a time after a pause, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        try:
            for piece in [data[i : i + 1] for i in range(len(data))] if pause else [data]:
                client.sendall(piece)
                time.sleep(pause)
        except OSError:
            return b""
        said = b""
        while part := client.recv(2**16):
            said += part
        return said


def test_slow_clients_are_cut_off(server):
    before = time.monotonic()
    assert speak(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 999, pause=0.05) == b""
    head = b"POST /v1/emotion HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    assert b"408" in speak(server, head + b"Content-Length: 999\r\n\r\n--x\r\n").partition(b"\r\n")[0]
    assert time.monotonic() - before < 10
    assert b"400" in speak(server, b"no HTTP at all\r\n\r\n").partition(b"\r\n")[0]
    assert server.client.get("/healthz").status_code == 200


def test_a_page_elsewhere_cannot_reach_it_under_its_own_name(server):
    refused(server.client.get("/v1/models", headers={"host": "evil.example"}), 421, "localhost")


def test_token_queue_and_log(hosts):
    limits = dataclasses.replace(LIMITS, queue=0)
    with running(hosts, limits, token="secret-token") as server:
        client = server.client
        assert client.get("/healthz").status_code == 200
        refused(client.get("/v1/models"), 401, "token")
        assert "Basic" in client.get("/").headers["www-authenticate"]
        for headers in (
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic ?"},
            {"authorization": "secret-token"},
        ):
            refused(client.get("/v1/models", headers=headers), 401)
        assert client.get("/v1/models", headers={"authorization": "Bearer secret-token"}).status_code == 200
        assert client.get("/v1/models", auth=("anyone", "secret-token")).status_code == 200

        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.setLevel("INFO")
        client.headers["authorization"] = "Bearer secret-token"
        answer = client.post("/v1/language?q=private", json={"text": "private words"})
        refused(answer, 429, "0 requests")
        assert answer.headers["retry-after"] == "1"
        client.get("/private")
        logger.removeHandler(handler)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["status"]) for line in lines] == [("request", 429), ("request", 404)]
    assert lines[0]["request"] == answer.headers["x-request-id"]
    assert "private" not in stream.getvalue()
    assert "secret" not in stream.getvalue()


@pytest.mark.parametrize(
    ("models", "limits", "words"),
    [
        (["no/such/model"], {}, "no/such/model"),
        (["{model}", "{model}"], {}, "two models are called model: give one another name"),
        (["a={model}", "b={model}"], {"max_bytes": 0}, "--max_bytes must be positive"),
    ],
)
def test_the_command_says_what_is_wrong(systems, capsys, models, limits, words):
    given = [name.format(model=systems["language_id"].model) for name in models]
    with pytest.raises(SystemExit) as end:
        main(given, host="127.0.0.1", port=0, token=None, **limits)
    assert end.value.code == 2
    assert words in capsys.readouterr().err
