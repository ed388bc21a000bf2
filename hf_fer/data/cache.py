"""Caches of arrays that are computed once per file and then read memory-mapped. List or remove them with:

python -m hf_fer.data.cache [list]
python -m hf_fer.data.cache clear NAME [NAME ...]      # or: clear all
"""

import argparse
import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import xxhash
from datasets import Dataset, Features, List, Value
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from hf_fer import __version__
from hf_fer.data.loading import DataError, cache_dir, digest, file_facts, write_json_atomically

logger = logging.getLogger(__name__)

MIB = 2**20
FORMAT = 1
SHARD_BYTES = 128 * MIB
SHARD_FILES = 64

SETTINGS_FILE = "settings.json"

REMEDY = (
    "Remove old caches (python -m hf_fer.data.cache), set HF_HOME to a folder on a larger disk, or set cache to none."
)

Compute = Callable[[list[str]], Iterable[np.ndarray | None]]


def weights_digest(module: torch.nn.Module) -> str:
    """Digest of a module's parameters and buffers: their names, types, shapes and values."""
    state = xxhash.xxh3_128()
    for name, tensor in module.state_dict().items():
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return state.hexdigest()


class ArrayCache:
    """
    One array per file, in a folder of Arrow files under the Hugging Face cache.

    The folder's name has a digest of the settings on which the arrays depend. The key of an array is its file's path,
    size and modification time, taken when this object first looks at the file. A changed setting or file is therefore
    a cache miss. Arrow files are written atomically, so that an interrupted build continues where it stopped, and
    several processes and runs that build the same cache share the work.

    Args:
        kind: Name of the kind of arrays, with which the folder's name begins.
        settings: Settings on which the arrays depend, as JSON; the version of this package is added.
        dtype: NumPy type of the arrays.
    """

    def __init__(self, kind: str, settings: dict[str, Any], dtype: str):
        self.kind = kind
        self.dtype = np.dtype(dtype)
        self.facts = {"kind": kind, "dtype": dtype, "version": __version__, "format": FORMAT, "settings": settings}
        self.folder = cache_dir("arrays") / f"{kind}-{digest(self.facts)[:16]}"
        self._features = Features(
            {"key": Value("string"), "shape": List(Value("int64")), "values": List(Value(dtype))}
        )
        self._keys: dict[str, str] = {}
        self._shards: dict[str, Dataset] = {}
        self._rows: dict[str, tuple[str, int]] = {}
        self._find_shards()

    def __contains__(self, path: str) -> bool:
        return self._key(path) in self._rows

    def __getitem__(self, path: str) -> np.ndarray:
        """The file's array, memory-mapped and read-only; raises `KeyError` where there is none."""
        shard, row = self._rows[self._key(path)]
        table = self._shards[shard][row]
        return table["values"][0].values.to_numpy().reshape(table["shape"][0].as_py())

    def missing(self, paths: Iterable[str]) -> list[str]:
        """The paths that have no array yet, without duplicates."""
        return [path for path in dict.fromkeys(paths) if path not in self]

    def plan(self, paths: Iterable[str], item_bytes: int) -> str:
        """A sentence on the number of arrays that `build` would compute and the disk space that they need."""
        count = len(self.missing(paths))
        return (
            f"{self.kind} of {count} files: about {count * item_bytes / MIB:,.1f} MiB in {self.folder}, where "
            f"{self._free_bytes() / MIB:,.0f} MiB are free."
        )

    def build(
        self,
        paths: Iterable[str],
        compute: Compute,
        *,
        item_bytes: int,
        main_process: bool = True,
        disable_tqdm: bool = False,
    ) -> None:
        """
        Compute and store the missing arrays; returns when all exist, whichever process computed them.

        Args:
            paths: Files, in the same order in every process.
            compute: Computes an array for each file of a list, in order, or `None` where that is not possible.
            item_bytes: Expected size of an array in bytes, to estimate the disk space and to divide the work.
            main_process: Whether this process logs the disk space and shows a progress bar.
            disable_tqdm: Whether to show no progress bar.

        Raises:
            DataError: the disk has too little space.
        """
        paths = list(dict.fromkeys(paths))
        missing = self.missing(paths)
        if not missing:
            return
        plan = self.plan(missing, item_bytes)
        if len(missing) * item_bytes > self._free_bytes():
            raise DataError(f"No room to cache {plan} {REMEDY}")
        if main_process:
            logger.warning("Caching %s", plan)
        self.folder.mkdir(exist_ok=True)
        write_json_atomically(self.folder / SETTINGS_FILE, self.facts)
        size = max(1, min(SHARD_FILES, SHARD_BYTES // max(item_bytes, 1)))
        chunks = [paths[start : start + size] for start in range(0, len(paths), size)]
        failed: set[str] = set()
        with tqdm(desc=self.kind, total=len(missing), disable=disable_tqdm or not main_process) as bar:
            # First compute the chunks that no other process holds; then wait for the others, in case one was killed.
            for blocking in (False, True):
                for chunk in chunks:
                    self._build_chunk(chunk, compute, failed, bar, blocking)

    def _build_chunk(self, chunk: list[str], compute: Compute, failed: set[str], bar: tqdm, blocking: bool) -> None:
        wanted = [path for path in self.missing(chunk) if path not in failed]
        if not wanted:
            return
        name = digest([self._key(path) for path in chunk])[:16]
        try:
            with FileLock(self.folder / f"{name}.lock", blocking=blocking):
                self._find_shards()
                todo = self.missing(wanted)
                bar.update(len(wanted) - len(todo))
                stored = self._write(self.folder / f"{name}.partial", todo, compute, bar)
                failed.update(path for path in todo if path not in stored)
                self._find_shards()
        except Timeout:
            return

    def _write(self, partial: Path, paths: list[str], compute: Compute, bar: tqdm) -> list[str]:
        """Write a shard; returns the paths of the files whose arrays it holds."""
        stored, schema = [], self._features.arrow_schema
        try:
            with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                for path, array in zip(paths, compute(paths), strict=True):
                    bar.update()
                    if array is not None:
                        writer.write_batch(self._row(path, array, schema))
                        stored.append(path)
            if stored:
                os.replace(partial, self.folder / f"{digest([self._key(path) for path in stored])[:16]}.arrow")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(f"The disk of {self.folder} is full. {REMEDY}") from error
        finally:
            partial.unlink(missing_ok=True)
        return stored

    def _row(self, path: str, array: np.ndarray, schema: pa.Schema) -> pa.RecordBatch:
        if array.dtype != self.dtype:
            raise TypeError(f"{self.kind} stores {self.dtype}, got {array.dtype} for {path}.")
        values = pa.ListArray.from_arrays(pa.array([0, array.size], pa.int32()), pa.array(array.reshape(-1)))
        shape = pa.array([list(array.shape)], pa.list_(pa.int64()))
        return pa.RecordBatch.from_arrays([pa.array([self._key(path)]), shape, values], schema=schema)

    def _key(self, path: str) -> str:
        if path not in self._keys:
            self._keys[path] = digest(file_facts(path) or path)
        return self._keys[path]

    def _find_shards(self) -> None:
        for file in sorted(self.folder.glob("*.arrow")):
            if file.name not in self._shards:
                shard = _read_shard(file)
                self._shards[file.name] = shard
                keys = shard.data.column("key").to_pylist()
                self._rows.update({key: (file.name, row) for row, key in enumerate(keys)})

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder.parent).free


def _read_shard(file: Path) -> Dataset:
    try:
        return Dataset.from_file(str(file)).with_format("arrow")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: damaged ({error}). Remove it; its arrays are computed again.") from error


def describe_caches() -> str:
    """Text with one line per cache: name, number of arrays, size on disk."""
    lines = []
    for folder in sorted(cache_dir("arrays").iterdir()):
        shards = list(folder.glob("*.arrow"))
        count = sum(len(_read_shard(file)) for file in shards)
        size = sum(file.stat().st_size for file in shards)
        lines.append(f"{folder.name}: {count} files, {size / MIB:,.1f} MiB")
    return "\n".join([f"{len(lines)} caches in {cache_dir('arrays')}", *lines])


def remove_caches(names: list[str]) -> None:
    """
    Remove caches by name; `all` removes every cache.

    Raises:
        DataError: there is no cache of that name; nothing is removed.
    """
    known = {folder.name: folder for folder in cache_dir("arrays").iterdir()}
    unknown = [name for name in names if name not in known and name != "all"]
    if unknown:
        raise DataError(f"No cache {unknown[0]!r}. There are: {', '.join(sorted(known)) or 'none'}.")
    for name in known if "all" in names else names:
        shutil.rmtree(known[name])


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hf_fer.data.cache", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", nargs="?", choices=["list", "clear"], default="list")
    parser.add_argument("names", nargs="*", help="caches to remove, or all")
    args = parser.parse_args(argv)
    try:
        if args.action == "clear":
            remove_caches(args.names)
        print(describe_caches())
    except DataError as error:
        print(f"hf_fer: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
