"""Hostile inputs of full size, against a server with the limits that the command has by default."""

import io
import pickle
import socket
import time
import zlib
from pathlib import Path

import av
import httpx
import numpy as np
import psutil
import pytest
from inference.serve.conftest import running
from inference.serve.test_serve_refusals import GIGABYTE, post, refused, speak

from hf_fer.inference.serve.command import find_all, main
from hf_fer.inference.serve.hosting import load_hosts
from hf_fer.task.service import Limits


@pytest.fixture(scope="module")
def server(systems):
    found = find_all([f"{name}={systems[name].model}" for name in ("multimodal_fer", "csr")])
    with running(load_hosts(found, Limits()), Limits(), with_page=True) as started:
        while started.client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        yield started


@pytest.fixture(autouse=True)
def lives_and_stays_small(server):
    """After each test the server answers, and has not grown by what was sent."""
    before = psutil.Process().memory_info().rss
    yield
    assert server.client.get("/readyz").status_code == 200
    assert psutil.Process().memory_info().rss - before < GIGABYTE / 2


def tiny_video(count: int) -> bytes:
    """A video of very many frames of 16 x 16 pixels: one encoded frame, repeated without encoding it again."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1000, width=16, height=16, pix_fmt="yuv420p")
        picture = av.VideoFrame.from_ndarray(np.zeros((24, 16), np.uint8), format="yuv420p")
        picture.pts = 0
        first = bytes([*stream.encode(picture), *stream.encode()][0])
        for number in range(count):
            packet = av.Packet(first)
            packet.stream, packet.time_base = stream, stream.codec_context.time_base
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
    return target.getvalue()


@pytest.mark.parametrize("fields", [{}, {"timeline": "true"}])
def test_a_tiny_file_of_a_hundred_thousand_frames(server, fields):
    video = tiny_video(100_000)
    assert len(video) < 8 * 2**20
    refused(post(server, "/v1/emotion", video, **fields), 422, "it has 100000 frames, over max_frames = 20000")


def whole_png(side: int) -> bytes:
    """A black square of that side, whole, of one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def huge_video(picture: bytes) -> bytes:
    """A video of one frame, a PNG."""
    target = io.BytesIO()
    with av.open(io.BytesIO(picture), format="png_pipe") as given, av.open(target, "w", format="mov") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux():
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return target.getvalue()


def test_four_hundred_megapixels(server):
    picture = whole_png(20_000)
    assert len(picture) < 2**20
    refused(post(server, "/v1/concepts", picture), 422, "pixels, over max_pixels = 33554432")
    film = huge_video(whole_png(16_000))  # FFmpeg writes no larger one
    for fields in ({}, {"timeline": "true"}):
        refused(post(server, "/v1/emotion", film, **fields), 422, "16000 x 16000 pixels")


@pytest.mark.parametrize("route", ["/v1/concepts", "/v1/emotion", "/gradio_api/upload"])
@pytest.mark.parametrize("is_announced", [True, False])
def test_two_gigabytes(server, route, is_announced):
    sent = 0

    def zeros():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        while sent < 2 * GIGABYTE:
            sent += 2**20
            yield bytes(2**20)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    headers |= {"content-length": str(2 * GIGABYTE)} if is_announced else {}
    before = time.monotonic()
    answer = httpx.post(f"{server.url}{route}", content=zeros(), headers=headers, timeout=30)
    assert answer.status_code == 413, answer.text
    assert sent < GIGABYTE / 2
    assert time.monotonic() - before < 20


NAMES = ("../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "\x00/etc/passwd", "a" * 300)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_paths(server, systems, name):
    image = systems["csr"].files[0].read_bytes()
    assert post(server, "/v1/concepts", image, name).status_code == 200  # a name is ignored
    refused(post(server, "/v1/concepts", image, model=name), 404, "no such model")
    assert "root:" not in post(server, "/gradio_api/upload", b"root", name).text
    if name.isprintable() and len(name) < 100:
        said = speak(server, f"GET /{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert said.startswith((b"HTTP/1.1 404", b"HTTP/1.1 403", b"HTTP/1.1 400", b"HTTP/1.1 307"))
        assert b"root:" not in said


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "unpickled")


def test_a_pickle_named_model_safetensors(server, systems, tmp_path, capsys):
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    refused(post(server, "/v1/concepts", bomb, "model.safetensors"), 422, "its format is not accepted")
    folder = tmp_path / "model"
    folder.mkdir()
    for file in systems["csr"].model.iterdir():
        (folder / file.name).write_bytes(bomb if file.suffix == ".safetensors" else file.read_bytes())
    with pytest.raises(SystemExit) as end:
        main([str(folder)], host="127.0.0.1", port=0, token=None)
    assert end.value.code == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()


def test_fifty_slow_clients_do_not_keep_others_out(server):
    head = b"POST /v1/emotion HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    slow = []
    try:
        for number in range(50):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            slow.append(client)
            client.sendall(b"GET /healthz HTTP/1.1\r\nX: " if number % 2 else head + b"Content-Length: 9\r\n\r\n-")
        before = time.monotonic()
        for _ in range(3):
            assert httpx.get(f"{server.url}/v1/models").status_code == 200
        assert time.monotonic() - before < 2
        assert slow[1].recv(99) == b""  # the server of the tests waits a second for a head
    finally:
        for client in slow:
            client.close()
