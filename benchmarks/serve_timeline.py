"""Time and memory of a timeline over HTTP, for recordings of several lengths.

python benchmarks/serve_timeline.py MODEL [--minutes 1 10 60]

Starts `hf-fer serve` on a model of emotions, makes recordings as `benchmarks/recording_memory.py` does (a tone, and
grey frames of 160 x 120 pixels at 25 a second), and posts each to `/v1/emotion` with `timeline=true`. Memory is the
largest resident set of the server, and of its decoding processes together, which share libraries with one another.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
from recording_memory import write_recording

PORT = 8124
MIB = 2**20


def is_ready() -> bool:
    """Whether the server can answer."""
    try:
        return httpx.get(f"http://localhost:{PORT}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def served(model: str) -> Iterator[psutil.Process]:
    """A server with the model, once it is ready."""
    words = [sys.executable, "-m", "hf_fer.cli", "serve", f"emotion={model}", "--port", str(PORT), "--no-page"]
    server = subprocess.Popen(words)
    try:
        while not is_ready():
            if server.poll() is not None:
                sys.exit("The server did not start.")
            time.sleep(0.2)
        yield psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


class Peaks(threading.Thread):
    """Largest resident sets of a process and of its children together, in bytes, until `stop`."""

    def __init__(self, process: psutil.Process):
        super().__init__(daemon=True)
        self.process = process
        self.own = self.children = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Look every 50 ms."""
        while not self.ended.wait(0.05):
            self.own = max(self.own, self.process.memory_info().rss)
            together = 0
            for child in self.process.children(recursive=True):
                with suppress(psutil.Error):
                    together += child.memory_info().rss
            self.children = max(self.children, together)

    def stop(self) -> None:
        """End the thread."""
        self.ended.set()
        self.join()


def measure(server: psutil.Process, path: Path, minutes: int) -> str:
    """A row of the table in Markdown."""
    peaks = Peaks(server)
    peaks.start()
    start = time.perf_counter()
    with path.open("rb") as file:
        form = {"files": {"file": file}, "data": {"timeline": "true"}}
        answer = httpx.post(f"http://localhost:{PORT}/v1/emotion", **form, timeout=3600)
    seconds = time.perf_counter() - start
    peaks.stop()
    answer.raise_for_status()
    speed = 60 * minutes / seconds
    return f"| {minutes} | {seconds:.1f} | {speed:.1f} | {peaks.own // MIB:,} | {peaks.children // MIB:,} |"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 10, 60])
    given = parser.parse_args()
    print("| minutes | seconds | times as fast as it plays | server, MiB | decoding processes, MiB |")
    print("| -- | -- | -- | -- | -- |", flush=True)
    with tempfile.TemporaryDirectory() as folder, served(given.model) as server:
        for minutes in given.minutes:
            path = Path(folder) / f"{minutes}.mp4"
            write_recording(path, 60 * minutes, video=True)
            print(measure(server, path, minutes), flush=True)


if __name__ == "__main__":
    main()
