"""Predicting into a file over kills, processes and changed inputs."""

import multiprocessing
import pickle
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from hf_fer.data.captions import clock, lines_of_words
from hf_fer.inference import jobs
from hf_fer.inference.jobs import Settings, predict_to_file
from hf_fer.inference.outputs import Shards
from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.failures import RunError


def settings(system, sources, output: Path, **fields) -> Settings:
    return Settings(str(system.model), [*map(str, sources)], str(output), **fields)


def drill_inputs(system, folder: Path) -> list[str]:
    """A table of texts, four rows of which are empty, and files, three of which are not UTF-8."""
    texts = [f"text number {number} of many" if number % 60 else "" for number in range(240)]
    pd.DataFrame({"text": texts, "more": "x"}).to_csv(folder / "texts.csv", index=False)
    files = [*system.files * 3, system.bad, *system.files * 3, system.bad, system.bad, *system.files * 6]
    return [str(folder / "texts.csv"), *map(str, files)]


def kill_after(job: Settings, count: int) -> None:
    """Start a run in a process of its own, and send that one SIGKILL at so many finished shards."""
    parts = Path(f"{job.output}.parts")
    process = multiprocessing.get_context("fork").Process(target=predict_to_file, args=(job,))
    process.start()
    deadline = time.monotonic() + 120
    while len(list(parts.glob("[0-9]*.parquet"))) < count:
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    # The killed one's own processes, which were forked here, hold its lock until they notice.
    with FileLock(parts / ".lock").acquire(timeout=60):
        pass


def test_two_processes_killed_twice_give_the_rows_of_one_process(systems, tmp_path, monkeypatch):
    system = systems["language_id"]
    sources = drill_inputs(system, tmp_path)
    one = predict_to_file(settings(system, sources, tmp_path / "one.parquet", batch_size=2, shard_size=2))
    job = settings(system, sources, tmp_path / "two.parquet", batch_size=2, shard_size=2, num_processes=2)
    parts = tmp_path / "two.parquet.parts"
    monkeypatch.setattr(jobs, "START_METHOD", "fork")  # of what was imported already, which takes no time
    kill_after(job, 20)
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.parquet")}
    kill_after(job, len(kept) + 30)
    assert not Path(job.output).exists()
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.parquet")}.items()
    two = predict_to_file(job)
    assert two == one
    assert two["inputs"] == 303
    assert sum(two["errors"].values()) == 7
    table = pq.read_table(job.output)
    assert table.equals(pq.read_table(tmp_path / "one.parquet"))
    assert table["input"].to_pylist()[:2] == [f"{sources[0]} row 1", f"{sources[0]} row 2"]
    assert not parts.exists()


def test_what_a_process_is_given_can_be_sent_to_one_that_is_not_forked(systems, tmp_path):
    system = systems["language_id"]
    model = jobs.find_model(str(system.model))
    inputs = jobs.read_sources([str(path) for path in system.files], model.predictor)
    given = (settings(system, system.files, tmp_path / "out.csv"), model, Shards(tmp_path / "out.csv", 1), inputs)
    sent = pickle.loads(ForkingPickler.dumps(given))
    assert sent[0] == given[0]
    assert sent[1] == model
    assert sent[2].path(0) == given[2].path(0)
    assert sent[3] == inputs


def test_finished_shards_are_not_done_again(systems, tmp_path, monkeypatch):
    system, out = systems["language_id"], tmp_path / "out.jsonl"
    asked, whole = [], jobs.answer

    def answer(predictor, inputs, *rest):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append([given.name for given in inputs])
        return whole(predictor, inputs, *rest)

    monkeypatch.setattr(jobs, "answer", answer)
    with pytest.raises(KeyboardInterrupt):
        predict_to_file(settings(system, system.files, out, shard_size=2))
    assert not out.exists()
    monkeypatch.setattr(jobs, "answer", lambda *given: (asked.append(given[1][0].name), whole(*given))[1])
    assert predict_to_file(settings(system, system.files, out, shard_size=2))["inputs"] == 5
    assert asked == [
        *([str(file) for file in pair] for pair in (system.files[:2], system.files[2:4])),
        str(system.files[4]),
    ]


def test_shards_of_other_inputs_are_refused_or_replaced(systems, tmp_path):
    system, out = systems["language_id"], tmp_path / "out.parquet"
    first = settings(system, system.files, out)
    shards = Shards(out, 1)
    shards.open("another run", overwrite=False).release()
    with pytest.raises(RecipeError, match="other inputs"):
        predict_to_file(first)
    with pytest.raises(RecipeError, match="other inputs"):
        predict_to_file(first)
    predict_to_file(settings(system, system.files, out, overwrite=True))
    assert pq.read_table(out).num_rows == 5


def test_a_file_that_changed_changes_the_fingerprint(systems, tmp_path):
    system, text = systems["language_id"], tmp_path / "a.txt"
    seen = set()
    for content in ("one", "another"):
        text.write_text(content)
        model = jobs.find_model(str(system.model))
        seen.add(
            jobs.fingerprint(
                settings(system, [text], "out.csv"), model, jobs.read_sources([str(text)], model.predictor)
            )
        )
    assert len(seen) == 2


def test_two_runs_do_not_write_one_output(systems, tmp_path):
    system, out = systems["language_id"], tmp_path / "out.parquet"
    lock = Shards(out, 1).open("a run", overwrite=False)
    with pytest.raises(RecipeError, match="another process is writing"):
        predict_to_file(settings(system, system.files, out))
    lock.release()


def test_lack_of_memory_ends_the_run_and_is_no_bad_input(systems, tmp_path, monkeypatch):
    system = systems["language_id"]

    def full(self, *args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(
        "hf_fer.models.language_id.pipeline_language_id.TextLanguageIdentificationPipeline.__call__", full
    )
    with pytest.raises(RunError, match="--batch_size"):
        predict_to_file(settings(system, system.files, tmp_path / "out.csv"))


def test_words_become_lines_that_can_be_read():
    words = [{"start": n * 0.5, "end": n * 0.5 + 0.4, "label": "word"} for n in range(20)]
    words.append({"start": 20.0, "end": 20.4, "label": "late"})
    lines = lines_of_words(words)
    assert " ".join(line["label"] for line in lines) == " ".join(word["label"] for word in words)
    assert all(len(line["label"]) <= 42 and line["end"] - line["start"] <= 6 for line in lines)
    assert lines[-1] == {"start": 20.0, "end": 20.4, "label": "late"}
    assert clock(3661.0426, ",") == "01:01:01,043"
