"""Batches by seconds of sound: their limit, their order, several processes, and a run that resumes within an epoch."""

import json

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from models.speech_to_text.recipes import task_of

from hf_fer.data.augment import EpochClock
from hf_fer.experiment.one_run import dry_run, run
from hf_fer.models.speech_to_text.train.batches import SecondsBatches
from hf_fer.models.speech_to_text.train.demo import make_demo
from hf_fer.recipe.arguments import RecipeError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("recordings"))


def drawn(count: int = 500) -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 3.0, count).clip(0.3, 30)


class TestSampler:
    def test_a_batch_has_at_most_so_many_seconds_with_its_padding(self):
        seconds = drawn()
        batches = list(SecondsBatches(seconds, 60, 0, EpochClock()))
        assert sorted(row for batch in batches for row in batch) == list(range(len(seconds)))
        padded = [len(batch) * seconds[batch].max() for batch in batches]
        assert max(padded) <= 60
        assert seconds.sum() / sum(padded) > 0.8
        assert np.mean(padded) > 45

    def test_each_epoch_has_other_batches_and_as_many(self):
        clock = EpochClock()
        sampler = SecondsBatches(drawn(), 60, 0, clock)
        first, again = list(sampler), list(sampler)
        clock.epoch = 1
        second = list(sampler)
        assert first == again
        assert sorted(map(sorted, first)) != sorted(map(sorted, second))
        assert len(first) == len(second) == len(sampler)
        assert list(SecondsBatches(drawn(), 60, 1, clock)) != second

    def test_the_largest_batch_is_one_of_the_longest_recordings(self):
        seconds = drawn()
        sampler = SecondsBatches(seconds, 60, 0, EpochClock())
        rows = sampler.largest()
        assert seconds[rows].max() == seconds.max()
        assert len(rows) == int(60 / seconds.max())

    @pytest.mark.parametrize("count", [2, 3])
    def test_processes_share_the_batches(self, count):
        sampler = SecondsBatches(drawn(), 60, 0, EpochClock())
        shards = [list(BatchSamplerShard(sampler, count, index)) for index in range(count)]
        assert {len(shard) for shard in shards} == {-(-len(sampler) // count)}
        taken = {tuple(batch) for shard in shards for batch in shard}
        assert taken == set(map(tuple, sampler))

    def test_a_resumed_epoch_skips_what_was_trained_on(self):
        sampler = SecondsBatches(drawn(), 60, 0, EpochClock())
        assert list(SkipBatchSampler(sampler, 5)) == list(sampler)[5:]


class TestRun:
    def test_training_takes_them_and_the_report_names_them(self, manifest, tmp_path, capsys):
        fields = {"batch_seconds": 20, "max_seconds": 10, "logging_steps": 1, "gradient_accumulation_steps": 2}
        task = task_of(manifest, tmp_path / "out", **fields)
        dry_run(task)
        page = capsys.readouterr().out
        assert "Batch 20 s x accumulation 2 x 1 processes, " in page
        run(task)
        batches = SecondsBatches(task.load_data().splits["train"]["seconds"], 20, 0, EpochClock())
        state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
        assert state["global_step"] == -(-len(batches) // 2)
        report = json.loads((tmp_path / "out" / "report" / "metrics.json").read_text())
        assert report["runtime"]["batch"] == "20 s x 2 x 1"

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"batch_seconds": 20}, "batch_seconds 20 is less than max_seconds 30"),
            ({"batch_seconds": 60, "join_recordings": 1}, "do not go together"),
            ({"batch_seconds": 60, "auto_find_batch_size": True}, "auto_find_batch_size lowers numbers"),
            ({"batch_seconds": -1}, "batch_seconds must be over 0"),
        ],
    )
    def test_what_cannot_be_obeyed_is_refused(self, manifest, tmp_path, fields, said):
        with pytest.raises(RecipeError, match=said):
            task_of(manifest, tmp_path, **fields)
