"""
Load on `hf-fer serve`: clients that ask all routes at once, answers checked against those of single requests, memory.

    python benchmarks/serve.py MODEL [MODEL ...] --files clip.wav image.png --clients 50 --seconds 60

Every text of the script and every file goes to the routes of the models that take it.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

TEXTS = ("Guten Morgen, wie geht es dir?", "Good morning, my friend.", "Bonjour à tous.", "Xin chào các bạn.")
ROUTES = {
    "audio-visual-emotion-recognition": "/v1/emotion",
    "concept-image-classification": "/v1/concepts",
    "text-language-identification": "/v1/language",
    "timed-speech-recognition": "/v1/audio/transcriptions",
}
TOLERANCE = 1e-4
"""Between scores of a clip alone and in a batch."""


def same(found, known) -> bool:
    """Whether two answers are the same, but for the last digits of their numbers."""
    if isinstance(known, dict):
        return found.keys() == known.keys() and all(same(found[name], known[name]) for name in known)
    if isinstance(known, list):
        return len(found) == len(known) and all(map(same, found, known))
    if isinstance(known, float):
        return abs(found - known) <= TOLERANCE * max(1, abs(known))
    return found == known


def memory(server: psutil.Process) -> float:
    """MiB of the server and its processes, shared pages counted once."""
    total = 0
    for one in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that decodes a file lives for a moment
            total += one.memory_full_info().pss
    return total / 2**20


def wait_until_ready(server: subprocess.Popen, url: str) -> None:
    while server.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    sys.exit("the server has ended; see its messages above.")


def questions(url: str, files: list[Path]) -> list[tuple[str, dict]]:
    """Route and content of every request that some model answers."""
    tasks = {model["task"] for model in httpx.get(f"{url}/v1/models").json()["data"]}
    asked = []
    for route in (ROUTES[task] for task in sorted(tasks)):
        if route == "/v1/language":
            asked += [(route, {"json": {"text": text}}) for text in TEXTS]
        else:
            asked += [(route, {"files": {"file": file.read_bytes()}}) for file in files]
    return [(route, given) for route, given in asked if httpx.post(url + route, timeout=120, **given).is_success]


async def load(url: str, asked: list[tuple[str, dict]], known: list, clients: int, seconds: float, server) -> dict:
    """Ask in turns until time is up."""
    times, wrong, failed, sizes = [], 0, 0, []
    end = time.monotonic() + seconds

    async def client(number: int, http: httpx.AsyncClient) -> None:
        nonlocal wrong, failed
        turn = number
        while time.monotonic() < end:
            chosen = turn % len(asked)
            turn += clients + 1
            route, given = asked[chosen]
            began = time.monotonic()
            answer = await http.post(route, **given)
            times.append(time.monotonic() - began)
            failed += not answer.is_success
            wrong += answer.is_success and not same(answer.json(), known[chosen])

    async def watch() -> None:
        while time.monotonic() < end:
            sizes.append(await asyncio.to_thread(memory, server))
            await asyncio.sleep(2)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        await asyncio.gather(watch(), *(client(number, http) for number in range(clients)))
    tenth = max(len(sizes) // 10, 1)
    return {
        "requests": len(times),
        "failed": failed,
        "mixed_up": wrong,
        "requests_a_second": round(len(times) / seconds, 1),
        **{f"p{rank}_ms": round(1000 * float(np.percentile(times, rank))) for rank in (50, 95, 99)},
        "MiB_first_tenth": round(float(np.mean(sizes[:tenth]))),
        "MiB_last_tenth": round(float(np.mean(sizes[-tenth:]))),
        "MiB_most": round(max(sizes)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--files", nargs="*", type=Path, default=[])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--port", type=int, default=8123)
    args = parser.parse_args()
    url = f"http://127.0.0.1:{args.port}"
    command = [sys.executable, "-m", "hf_fer.cli", "serve", *args.models, "--port", str(args.port), "--no-page"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(server, url)
        asked = questions(url, args.files)
        known = [httpx.post(url + route, timeout=120, **given).json() for route, given in asked]
        process = psutil.Process(server.pid)
        print(json.dumps(asyncio.run(load(url, asked, known, args.clients, args.seconds, process)), indent=2))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
