"""Decodes uploads in separate processes, which may crash, hang or run out of memory without harm to the server."""

import asyncio
import json
import multiprocessing
import os
import resource
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil

from hf_fer.task.service import Arrays, Decoder, Limits

DECODED = "decoded.npz"
LONGEST_MESSAGE = 2**16


class UnusableUploadError(ValueError):
    """An upload that cannot be used; the message has the reason."""


class Decoding:
    """
    Decodes files in processes forked from a fork server that has imported only the decoders.

    Each process decodes one file within limits of memory and time, and returns arrays in a file without pickles.

    Args:
        limits: Limits of time and memory.
        modules: Names of the modules that define the decoders.
        workers: Number of files that are decoded at the same time.
    """

    def __init__(self, limits: Limits, modules: list[str], workers: int | None = None):
        self.limits = limits
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, *modules])
        self.starting = threading.Lock()
        self.threads = ThreadPoolExecutor(workers or os.cpu_count() or 1, "decode")
        self.is_ready = False
        self.threads.submit(self._prepare)

    def _prepare(self) -> None:
        """Start the fork server, which imports the decoders."""
        process = self.context.Process(target=int, daemon=True)
        self._start(process)
        process.join()
        self.is_ready = process.exitcode == 0

    def _start(self, process: BaseProcess) -> None:
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
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=_decode_alone, args=(sender, decoder, str(path), self.limits), daemon=True
        )
        self._start(process)
        sender.close()
        try:
            if not receiver.poll(self.limits.decode_seconds):
                raise UnusableUploadError(f"it took more than {self.limits.decode_seconds:g} s to decode.")
            reason = json.loads(receiver.recv_bytes(LONGEST_MESSAGE))
        except (EOFError, OSError, ValueError) as error:
            if isinstance(error, UnusableUploadError):
                raise
            raise UnusableUploadError("the decoder crashed: the file is damaged or needs too much memory.") from error
        finally:
            process.kill()
            process.join()
            process.close()
            receiver.close()
        if reason:
            raise UnusableUploadError(reason)
        with np.load(path.with_name(DECODED), allow_pickle=False) as arrays:
            return dict(arrays)

    def close(self) -> None:
        """Stop without waiting for files that are being decoded."""
        self.threads.shutdown(wait=False, cancel_futures=True)


def _decode_alone(sender: Connection, decoder: Decoder, path: str, limits: Limits) -> None:
    """Main function of the process; sends the reason of a failure, or an empty text once the arrays are written."""
    reason = ""
    try:
        _limit(limits)
        np.savez(Path(path).with_name(DECODED), **decoder(path))
    except MemoryError:
        reason = f"it needs more than {limits.decode_bytes / 2**20:.0f} MiB to decode."
    except Exception as error:  # decoders may raise anything for a damaged file
        reason = " ".join(getattr(error, "reason", str(error)).replace(path, "the file").split())
        reason = reason[:1000] or type(error).__name__
    sender.send_bytes(json.dumps(reason).encode())


def _limit(limits: Limits) -> None:
    """Limit memory (beyond that of the imported libraries), processor time, and the size of written files."""
    memory = psutil.Process().memory_info().vms + limits.decode_bytes
    seconds = int(limits.decode_seconds) + 1
    for name, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, limits.decode_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(name)
        resource.setrlimit(name, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
