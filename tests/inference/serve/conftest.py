"""A server on loopback with a small model of each system."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
import uvicorn

from hf_fer.inference.serve.app import new_app
from hf_fer.inference.serve.command import find_all
from hf_fer.inference.serve.connections import timed_heads
from hf_fer.inference.serve.hosting import SystemHost, load_hosts
from hf_fer.task.service import Limits

LIMITS = Limits(
    max_bytes=4 * 2**20,
    max_seconds=30.0,
    max_timeline_seconds=60.0,
    max_pixels=10**6,
    max_frames=2000,
    max_characters=10_000,
    idle_seconds=1.0,
    decode_seconds=10.0,
)
TRIES = 200


@dataclass
class Server:
    """A running server: its hosts, and a client that keeps its connections."""

    url: str
    hosts: list[SystemHost]
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def running(hosts: list[SystemHost], limits: Limits = LIMITS, **settings) -> Iterator[Server]:
    """Serve in a thread, as the command does, until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = new_app(hosts, limits, **settings)
        server = uvicorn.Server(
            uvicorn.Config(app, http=timed_heads(1.0), ws="none", log_config=None, access_log=False)
        )
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                while not server.started:
                    time.sleep(0.02)
                yield Server(url, hosts, client)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def hosts(systems) -> list[SystemHost]:
    """The models of all systems, loaded as the command loads them."""
    return load_hosts(find_all([f"{name}={system.model}" for name, system in systems.items()]), LIMITS)


@pytest.fixture(scope="session")
def server(hosts) -> Iterator[Server]:
    with running(hosts) as found:
        for _ in range(TRIES):
            if found.client.get("/readyz").status_code == 200:
                break
            time.sleep(0.2)
        yield found
