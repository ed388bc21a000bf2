"""Predicting over Ray: the rows are those without it, and what cannot work says so."""

import importlib.util
import pickle
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hf_fer.inference import cluster
from hf_fer.inference.cluster import ShardAnswer, ShardPredictor, check_answer
from hf_fer.inference.inputs import Input
from hf_fer.inference.jobs import Settings, predict_to_file
from hf_fer.inference.loading import find_model, load_predictor
from hf_fer.inference.outputs import Shards
from hf_fer.inference.predict import Work
from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.failures import RunError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def settings(system, sources, output: Path, **fields) -> Settings:
    return Settings(str(system.model), [*map(str, sources)], str(output), **fields)


def answer_of(work: Work, inputs: list[Input]) -> ShardAnswer:
    found = ShardPredictor(work)({"number": 7, "inputs": pickle.dumps(inputs)})
    assert found["number"] == 7
    return pickle.loads(found["answer"])


@needs_ray
def test_ray_goes_on_where_one_process_stopped_and_gives_its_table(systems, tmp_path, monkeypatch):
    import ray

    system = systems["language_id"]
    table = tmp_path / "texts.csv"
    table.write_text('text,label\nein Text,de\n"",en\nanother text,en\nmột văn bản,vi\n', encoding="utf-8")
    sources = [system.files[3], system.bad, *system.files, table]
    one = predict_to_file(settings(system, sources, tmp_path / "one.parquet", shard_size=3))
    output, write, written = tmp_path / "ray.parquet", Shards.write, []

    def write_two(self, number, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(number)
        write(self, number, *rest)

    monkeypatch.setattr(Shards, "write", write_two)
    with pytest.raises(KeyboardInterrupt):
        predict_to_file(settings(system, sources, output, shard_size=3))
    monkeypatch.setattr(
        Shards, "write", lambda shards, number, *rest: written.append(number) or write(shards, number, *rest)
    )
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # for the few seconds on loopback; it would write to HOME else
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 else, which other tests on the machine would starve
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        assert predict_to_file(settings(system, sources, output, shard_size=3, engine="ray", num_processes=2)) == one
        assert ray.is_initialized()  # whoever started it ends it
    finally:
        ray.shutdown()
    assert sorted(written) == [0, 1, 2, 3]
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "one.parquet"))


@needs_ray
def test_what_ends_an_actor_is_told_with_its_machine(systems):
    model = find_model(str(systems["language_id"].model))

    def load():
        return load_predictor(model, options={"no_such": 1})

    found = answer_of(Work(load, None, False), [Input("1", "a text")])
    with pytest.raises(RecipeError, match=r"no_such.*\(on \d+\."):
        check_answer(found)


@needs_ray
def test_a_file_that_another_machine_does_not_see_ends_the_run_and_is_no_bad_input(systems, tmp_path):
    system, there = systems["language_id"], tmp_path / "there.txt"
    model = find_model(str(system.model))
    work = Work(lambda: load_predictor(model), None, False)
    found = answer_of(work, [Input(str(path), path) for path in (system.bad, there)])
    assert found.unseen == [str(there)]
    check_answer(found)  # it is nowhere: a bad input like another
    there.write_text("this machine has it")
    with pytest.raises(RunError, match=r"there\.txt is on this machine, and not on .* share"):
        check_answer(found)


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'hf_fer\[ray\]'"):
        Settings("model", ["a.wav"], "out.csv", engine="ray")


def test_engine_and_address_are_checked():
    with pytest.raises(RecipeError, match="add --engine ray"):
        Settings("model", ["a.wav"], "out.csv", address="auto")
    with pytest.raises(RecipeError, match="processes"):
        Settings("model", ["a.wav"], "out.csv", engine="spark")


@needs_ray
def test_no_cluster_at_the_address_says_how_to_start_one(systems, tmp_path, monkeypatch):
    import ray

    def refuse(**kwargs):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", refuse)
    system = systems["language_id"]
    with pytest.raises(RecipeError, match=r"--address auto: Could not find .* `ray start --head`"):
        predict_to_file(settings(system, system.files, tmp_path / "out.csv", engine="ray", address="auto"))
