"""What a run says where it cannot go on: no room, processes that are gone or are others, files that change."""

import errno
import logging
import os

import pytest
import torch.distributed as dist
from datasets import Dataset, DatasetDict
from transformers import TrainerControl, TrainerState

from hf_fer.data.loading import LoadedData
from hf_fer.data.skipped import SkippedFile
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.run import one_message
from hf_fer.runtime.callbacks import ChangedFilesCallback, SkipLimitCallback
from hf_fer.runtime.checkpoints import write_manifest
from hf_fer.runtime.failures import RunError, explained
from hf_fer.runtime.preparation import resumption


@pytest.fixture
def args(tmp_path) -> TrainingArguments:
    return TrainingArguments(str(tmp_path), use_cpu=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_write_outside_output_dir_that_a_disk_refuses(code, capsys):
    with pytest.raises(SystemExit) as stopped, one_message():
        raise OSError(code, os.strerror(code), "/cache/checked.json")
    assert stopped.value.code == 3
    told = capsys.readouterr().err
    assert told.startswith(f"hf_fer: error: /cache/checked.json cannot be written ({os.strerror(code)}).")
    assert "HF_HOME" in told
    assert len(told.splitlines()) == 1


def test_a_copy_that_a_full_disk_refuses_names_where_it_was_to_go(args, tmp_path):
    """Not the file that was read, whose disk has room."""
    target = tmp_path / "modeling.py"
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/package/modeling.py", None, str(target))
    with pytest.raises(RunError, match=f"The disk is full: writing to {target}"), explained(args, [], True):
        raise error


def test_other_errors_of_files_are_shown_as_they_are():
    with pytest.raises(FileNotFoundError), one_message():
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:9"),
        dist.DistBackendError("NCCL communicator was aborted on rank 0."),
    ],
)
def test_a_lost_process_is_said(args, tmp_path, error):
    (tmp_path / "checkpoint-4").mkdir()
    write_manifest(tmp_path / "checkpoint-4")
    with (
        pytest.raises(RunError, match=r"Another process of this run has ended(.|\n)*checkpoint-4"),
        explained(args, [], True),
    ):
        raise error


def test_an_error_of_our_own_is_no_lost_process(args):
    with pytest.raises(RuntimeError, match="shapes"), explained(args, [], True):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize("resume", ["true", "named"])
def test_resuming_with_another_number_of_processes_is_refused(tmp_path, resume):
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    write_manifest(folder, processes=2)
    asked = resume if resume == "true" else str(folder)
    with pytest.raises(RecipeError, match="is of a run of 2 processes, this one has 1"):
        resumption(TrainingArguments(str(tmp_path), use_cpu=True, resume_from_checkpoint=asked))


@pytest.mark.parametrize("processes", [1, None])
def test_resuming_with_the_same_number_or_an_older_manifest(tmp_path, processes, caplog):
    (tmp_path / "checkpoint-4").mkdir()
    write_manifest(tmp_path / "checkpoint-4", processes)
    with caplog.at_level(logging.WARNING):
        found = resumption(TrainingArguments(str(tmp_path), use_cpu=True, resume_from_checkpoint="true"))
    assert found.resume == str(tmp_path / "checkpoint-4")


def test_a_file_replaced_between_epochs_is_in_the_notes(args, tmp_path, caplog):
    files = [tmp_path / name for name in ("a.wav", "b.wav")]
    for file in files:
        file.write_text("x")
    paths = [*map(str, files), None]
    data = LoadedData(DatasetDict(train=Dataset.from_dict({"audio": paths, "labels": [0, 0, 0]})), ["a"], "p")
    callback = ChangedFilesCallback(data, ("audio", "video"))

    def epoch_ends() -> list[str]:
        callback.on_epoch_end(args, TrainerState(is_world_process_zero=True), TrainerControl())
        return [note.split(" during")[0] for note in data.notes]

    assert epoch_ends() == []
    files[0].write_text("another")
    assert epoch_ends() == ["1 of 2 files were replaced"]
    assert str(files[0]) in caplog.text
    files[1].unlink()
    assert epoch_ends() == ["2 of 2 files were replaced"]
    assert str(tmp_path) not in data.notes[0]


def test_clips_left_out_are_said_once_and_again_where_there_are_more(args, tmp_path, caplog):
    skipped = SkippedFile(tmp_path / "skipped.jsonl")
    state, control = TrainerState(), TrainerControl()
    skipped.append([{"path": "a.mp4", "reason": "empty"}])
    callback = SkipLimitCallback(skipped, total=100, max_fraction=0.5)
    callback.on_train_begin(args, state, control)
    callback.on_epoch_end(args, state, control)
    assert not caplog.messages
    skipped.append([{"path": "b.mp4", "reason": "gone"}])
    for _ in range(2):
        callback.on_epoch_end(args, state, control)
    assert caplog.messages == ["2 of 100 examples were skipped; see report/skipped.jsonl."]
