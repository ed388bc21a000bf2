"""Arrays computed once per file: hits, misses, cut-short and simultaneous builds, room on the disk."""

import errno
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from hf_fer.data import cache, loading
from hf_fer.data.cache import ArrayCache, main, weights_digest
from hf_fer.data.loading import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "home")
    monkeypatch.setattr(cache, "SHARD_FILES", 4)


@pytest.fixture
def files(tmp_path) -> list[str]:
    for index in range(10):
        (tmp_path / f"{index:02}.txt").write_text("x" * (index + 1))
    return sorted(str(path) for path in tmp_path.glob("*.txt"))


class Lengths:
    """An array of each file's length and contents' size, and a record of which files were asked for."""

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, paths: list[str]):
        for path in paths:
            self.asked.append(path)
            size = os.path.getsize(path)
            yield np.arange(2 * size, dtype=np.float16).reshape(size, 2)


def build(files: list[str], compute, settings=None) -> ArrayCache:
    arrays = ArrayCache("lengths", settings or {}, "float16")
    arrays.build(files, compute, item_bytes=20, disable_tqdm=True)
    return arrays


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.arrow")}


def test_computed_once_and_read_as_stored(files):
    compute = Lengths()
    build(files, compute)
    arrays = build(files, compute)
    assert compute.asked == files
    for index, path in enumerate(files):
        array = arrays[path]
        np.testing.assert_array_equal(array, np.arange(2 * index + 2, dtype=np.float16).reshape(-1, 2))
        assert array.dtype == np.float16
        assert not array.flags.writeable  # mapped, not copied
    assert files[0] in arrays
    assert "elsewhere.txt" not in arrays
    with pytest.raises(KeyError):
        arrays["elsewhere.txt"]


def test_a_larger_set_computes_what_is_new(files):
    compute = Lengths()
    build(files[3:6], compute)
    arrays = build(files, compute)
    assert sorted(compute.asked) == files
    assert arrays.missing(files) == []


def test_a_changed_file_or_setting_is_a_miss(files):
    build(files, Lengths(), {"size": 1})
    Path(files[2]).write_text("longer than it was")
    compute = Lengths()
    assert len(build(files, compute, {"size": 1})[files[2]]) == 18
    assert compute.asked == [files[2]]
    os.utime(files[3], (0, 0))
    assert ArrayCache("lengths", {"size": 1}, "float16").missing(files) == [files[3]]
    assert ArrayCache("lengths", {"size": 2}, "float16").missing(files) == files


def test_a_file_that_changes_during_a_run_keeps_its_array(files):
    arrays = build(files, Lengths())
    Path(files[2]).write_text("longer than it was")
    assert len(arrays[files[2]]) == 3


def test_what_cannot_be_computed_is_asked_for_again_next_time(files):
    def all_but_one(paths):
        for path, array in zip(paths, Lengths()(paths), strict=True):
            yield None if path == files[5] else array

    assert build(files, all_but_one).missing(files) == [files[5]]
    assert build(files, Lengths()).missing(files) == []


def test_wrong_type_is_refused(files):
    with pytest.raises(TypeError, match="float16"):
        build(files, lambda paths: (np.zeros(2) for _ in paths))


class TestCutShort:
    def test_an_error_keeps_whole_shards(self, files):
        def until_the_seventh(paths):
            for path, array in zip(paths, Lengths()(paths), strict=True):
                if path == files[6]:
                    raise RuntimeError("power cut")
                yield array

        with pytest.raises(RuntimeError, match="power cut"):
            build(files, until_the_seventh)
        compute = Lengths()
        arrays = build(files, compute)
        assert compute.asked == files[4:]
        assert arrays.missing(files) == []

    def test_a_killed_build_goes_on_and_gives_the_same_files(self, files):
        """Kill -9 in the middle of a shard."""
        folder = ArrayCache("lengths", {}, "float16").folder
        context = multiprocessing.get_context("fork")
        child = context.Process(target=build, args=(files, slowly_from(files[6])))
        child.start()
        while not (folder.exists() and list(folder.glob("*.arrow"))):
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert list(folder.glob("*.partial"))
        compute = Lengths()
        arrays = build(files, compute)
        assert compute.asked == files[4:]
        resumed = contents(arrays.folder)
        assert not list(folder.glob("*.partial"))
        main(["clear", "all"])
        assert contents(build(files, Lengths()).folder) == resumed

    def test_a_damaged_shard_is_named(self, files):
        arrays = build(files, Lengths())
        shard = sorted(arrays.folder.glob("*.arrow"))[0]
        shard.write_bytes(shard.read_bytes()[:100])
        with pytest.raises(DataError, match=shard.name):
            ArrayCache("lengths", {}, "float16")


def slowly_from(name: str):
    def compute(paths):
        for path, array in zip(paths, Lengths()(paths), strict=True):
            time.sleep(60 if path == name else 0)
            yield array

    return compute


def build_and_report(files, start, queue):
    compute = Lengths()

    def slow(paths):
        for array in compute(paths):
            time.sleep(0.02)
            yield array

    start.wait()
    arrays = build(files, slow)
    queue.put((compute.asked, arrays.missing(files)))


def test_processes_share_the_work_and_build_what_one_builds(files):
    context = multiprocessing.get_context("fork")
    start, queue = context.Barrier(3), context.Queue()
    children = [context.Process(target=build_and_report, args=(files, start, queue)) for _ in range(3)]
    for child in children:
        child.start()
    reports = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert all(missing == [] for _, missing in reports)
    assert sorted(path for asked, _ in reports for path in asked) == files
    assert sum(bool(asked) for asked, _ in reports) > 1
    together = contents(ArrayCache("lengths", {}, "float16").folder)
    main(["clear", "all"])
    assert contents(build(files, Lengths()).folder) == together


def test_two_runs_over_parts_that_overlap(files):
    """Each finds the right array of each of its files, in another order and other chunks than the other's."""
    context = multiprocessing.get_context("fork")
    start, queue = context.Barrier(2), context.Queue()
    parts = [files[:7], files[:2:-1]]
    children = [context.Process(target=build_and_report, args=(part, start, queue)) for part in parts]
    for child in children:
        child.start()
    assert [queue.get(timeout=60)[1] for _ in children] == [[], []]
    for child in children:
        child.join()
    arrays = ArrayCache("lengths", {}, "float16")
    assert [arrays[path].shape for path in files] == [(os.path.getsize(path), 2) for path in files]
    assert not list(arrays.folder.glob("*.partial"))


class TestRoom:
    def test_too_little_is_said_before_anything_is_computed(self, files, monkeypatch):
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 3 * 2**20}))
        compute = Lengths()
        arrays = ArrayCache("lengths", {}, "float16")
        with pytest.raises(DataError, match=r"lengths of 10 files: about 10.0 MiB .* 3 MiB are free.*HF_HOME"):
            arrays.build(files, compute, item_bytes=2**20)
        assert not compute.asked
        assert not arrays.folder.exists()

    def test_the_need_is_told(self, files, caplog):
        ArrayCache("lengths", {}, "float16").build(files, Lengths(), item_bytes=2**20)
        assert "lengths of 10 files: about 10.0 MiB" in caplog.text

    def test_a_disk_that_fills_up(self, files):
        """/dev/full refuses every byte as a full disk does."""
        arrays = ArrayCache("lengths", {}, "float16")
        key = loading.digest([arrays._key(path) for path in files[:4]])[:16]
        arrays.folder.mkdir()
        (arrays.folder / f"{key}.partial").symlink_to("/dev/full")
        with pytest.raises(DataError, match="is full"):
            arrays.build(files, Lengths(), item_bytes=20, disable_tqdm=True)
        assert not list(arrays.folder.glob("*.partial"))
        assert not list(arrays.folder.glob("*.arrow"))

    def test_another_error_is_not_taken_for_it(self, files, monkeypatch):
        def refuse(*args):
            raise OSError(errno.EACCES, "no")

        monkeypatch.setattr(pa, "OSFile", refuse)
        with pytest.raises(OSError, match="no"):
            build(files, Lengths())


def test_it_travels_to_data_loader_workers(files):
    arrays = build(files, Lengths())
    copy = pickle.loads(pickle.dumps(arrays))
    np.testing.assert_array_equal(copy[files[4]], arrays[files[4]])


def test_command(files, capsys):
    arrays = build(files, Lengths())
    assert main([]) == 0
    assert f"{arrays.folder.name}: 10 files" in capsys.readouterr().out
    assert main(["clear", "lengthz"]) == 2
    assert arrays.folder.name in capsys.readouterr().err
    assert main(["clear", arrays.folder.name]) == 0
    assert "0 caches" in capsys.readouterr().out
    assert not arrays.folder.exists()


def test_weights_digest():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    first = weights_digest(module)
    assert weights_digest(module) == first
    with torch.no_grad():
        module[0].bias[1] += 1e-6
    second = weights_digest(module)
    module[1].num_batches_tracked += 1
    third = weights_digest(module)
    module.to(torch.bfloat16)
    assert len({first, second, third, weights_digest(module)}) == 4
