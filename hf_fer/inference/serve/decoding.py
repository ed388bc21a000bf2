"""Decodes uploads in separate processes, which may crash, hang or run out of memory without harm to the server."""

import asyncio
import json
import multiprocessing
import os
import resource
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hf_fer.task.service import Arrays, Decoder, Limits, PieceDecoder

DECODED = "decoded_{}.npz"
LONGEST_MESSAGE = 2**16


class UnusableUploadError(ValueError):
    """An upload that cannot be used; the message has the reason."""


class BusyError(RuntimeError):
    """As many files are being decoded piece by piece as the server allows."""


class Decoding:
    """
    Decodes files in processes forked from a fork server that has imported only the decoders.

    Each process decodes one file within limits of memory and time, and returns arrays in a file without pickles.

    Args:
        limits: Limits of time and memory.
        modules: Names of the modules that define the decoders.
        workers: Number of files that are decoded at the same time, and of those that are decoded piece by piece.
    """

    def __init__(self, limits: Limits, modules: list[str], workers: int | None = None):
        self.limits = limits
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, *modules])
        self.starting = threading.Lock()
        workers = workers or os.cpu_count() or 1
        self.threads = ThreadPoolExecutor(workers, "decode")
        self.streams = threading.Semaphore(workers)
        self.is_ready = False
        self.threads.submit(self._prepare)

    def _prepare(self) -> None:
        """Start the fork server, which imports the decoders."""
        process = self.context.Process(target=int, daemon=True)
        self.start(process)
        process.join()
        self.is_ready = process.exitcode == 0

    def start(self, process: BaseProcess) -> None:
        """Start a process without the main module, which multiprocessing would import again in each process."""
        with self.starting:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = types.ModuleType("__main__")
            try:
                process.start()
            finally:
                sys.modules["__main__"] = main

    async def decode(self, decoder: Decoder, path: Path) -> Arrays:
        """
        Decode a file to arrays, which are written to a file in the same folder.

        Raises:
            UnusableUploadError: the file cannot be decoded within the limits.
        """
        return await asyncio.get_running_loop().run_in_executor(self.threads, self._decode, decoder, path)

    def _decode(self, decoder: Decoder, path: Path) -> Arrays:
        worker = Worker(self, _decode_alone, decoder, path)
        try:
            return worker.piece()
        finally:
            worker.close()

    async def stream(self, decoder: PieceDecoder, path: Path) -> AsyncIterator[Arrays]:
        """
        Decode a file piece by piece; the process decodes the next piece while the caller uses the last one.

        The limits of time and memory hold for a piece, and processor time as a whole grows with the longest timeline.

        Raises:
            BusyError: as many files as there are workers are being decoded in this way.
            UnusableUploadError: the file cannot be decoded within the limits.
        """
        if not self.streams.acquire(blocking=False):
            raise BusyError
        try:
            run = asyncio.get_running_loop().run_in_executor
            worker = await run(self.threads, Worker, self, _decode_pieces_alone, decoder, path)
            try:
                while (piece := await run(self.threads, worker.piece)) is not None:
                    yield piece
                    worker.connection.send_bytes(b"next")
            finally:
                worker.close()
        finally:
            self.streams.release()

    def close(self) -> None:
        """Stop without waiting for files that are being decoded."""
        self.threads.shutdown(wait=False, cancel_futures=True)


class Worker:
    """
    A process that decodes one file, started with the object.

    Args:
        decoding: Starts the process and has its limits.
        target: Main function of the process.
        decoder: Decoder that `target` gets.
        path: File to decode; the arrays are written beside it.
    """

    def __init__(self, decoding: Decoding, target: Callable, decoder: Decoder | PieceDecoder, path: Path):
        self.path = path
        self.seconds = decoding.limits.decode_seconds
        self.connection, other = decoding.context.Pipe()
        given = (other, decoder, str(path), decoding.limits)
        self.process = decoding.context.Process(target=target, args=given, daemon=True)
        decoding.start(self.process)
        other.close()

    def piece(self) -> Arrays | None:
        """The next arrays, or `None` at the end of the file; raises `UnusableUploadError`."""
        try:
            if not self.connection.poll(self.seconds):
                raise UnusableUploadError(f"it took more than {self.seconds:g} s to decode.")
            message = json.loads(self.connection.recv_bytes(LONGEST_MESSAGE))
        except (EOFError, OSError, ValueError) as error:
            if isinstance(error, UnusableUploadError):
                raise
            raise UnusableUploadError("the decoder crashed: the file is damaged or needs too much memory.") from error
        if message["reason"]:
            raise UnusableUploadError(message["reason"])
        if message["number"] is None:
            return None
        written = self.path.with_name(DECODED.format(int(message["number"])))
        with np.load(written, allow_pickle=False) as arrays:
            found = dict(arrays)
        written.unlink()
        return found

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


def _decode_alone(connection: Connection, decoder: Decoder, path: str, limits: Limits) -> None:
    """Main function of a process: decodes the file as a whole."""
    _answer(connection, path, limits, limits.decode_seconds, lambda: _write(path, 0, decoder(path)))


def _decode_pieces_alone(connection: Connection, decoder: PieceDecoder, path: str, limits: Limits) -> None:
    """Main function of a process: decodes the file piece by piece; a piece is sent when the last one was taken."""

    def send_all() -> None:
        for number, arrays in enumerate(decoder(path)):
            _write(path, number, arrays)
            if number:
                connection.recv_bytes(LONGEST_MESSAGE)
            _send(connection, number=number)

    _answer(connection, path, limits, limits.decode_seconds * limits.timeline_scale, send_all)


def _write(path: str, number: int, arrays: Arrays) -> int:
    """Write arrays beside the file; returns their number."""
    np.savez(Path(path).with_name(DECODED.format(number)), **arrays)
    return number


def _send(connection: Connection, number: int | None = None, reason: str = "") -> None:
    connection.send_bytes(json.dumps({"number": number, "reason": reason}).encode())


def _answer(
    connection: Connection, path: str, limits: Limits, seconds: float, decode: Callable[[], int | None]
) -> None:
    """Decode within the limits; sends the number of the last arrays, `None` at the end, or the reason of a failure."""
    sent: dict[str, Any]
    try:
        _limit(limits, seconds)
        sent = {"number": decode()}
    except MemoryError:
        sent = {"reason": f"it needs more than {limits.decode_bytes / 2**20:.0f} MiB to decode."}
    except Exception as error:  # decoders may raise anything for a damaged file
        reason = " ".join(getattr(error, "reason", str(error)).replace(path, "the file").split())
        sent = {"reason": reason[:1000] or type(error).__name__}
    with suppress(OSError):  # the server has stopped listening
        _send(connection, **sent)


def _limit(limits: Limits, seconds: float) -> None:
    """Limit memory (beyond that of the imported libraries), processor time, and the size of written files."""
    memory = psutil.Process().memory_info().vms + limits.decode_bytes
    for name, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, limits.decode_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(name)
        resource.setrlimit(name, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
