"""Batches by seconds of sound: their limit, their order, several processes, and a run that resumes within an epoch."""

import csv
import json

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from models.speech_to_text.recipes import task_of
from scipy.io import wavfile

from hf_fer.data.augment import EpochClock
from hf_fer.experiment.one_run import dry_run, run
from hf_fer.models.speech_to_text.train.batches import SecondsBatches, alike, batches_by_length
from hf_fer.models.speech_to_text.train.demo import make_demo
from hf_fer.recipe.arguments import RecipeError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("recordings"))


def drawn(count: int = 500) -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 3.0, count).clip(0.3, 30)


PHRASES = ("a", "a b", "a b c", "c", "b", "b c")


@pytest.fixture(scope="module")
def phrases(tmp_path_factory):
    """A few phrases, each of a length of its own, as a button that stops recording makes them."""
    folder = tmp_path_factory.mktemp("phrases")
    draw = np.random.default_rng(0)
    rows = [("file_path", "transcript", "split")]
    for index in range(252):
        number = index % len(PHRASES)
        name, samples = f"{index}.wav", draw.uniform(-0.3, 0.3, 3200 + 800 * number)
        wavfile.write(folder / name, 16000, (samples * 32767).astype(np.int16))
        rows.append((name, PHRASES[number], "validation" if index < 12 else "train"))
    with (folder / "phrases.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder / "phrases.csv"


class TestAlike:
    """Batches by length are of one phrase where recordings of a length say the same."""

    def test_phrases_of_one_length_each(self):
        lengths, said = [10 * (index % 6) for index in range(600)], [PHRASES[index % 6] for index in range(600)]
        found, random = alike(batches_by_length(lengths, 8, 0), said, 0)
        assert found < 2.1
        assert 4 < random <= 6

    def test_lengths_that_say_nothing(self):
        draw = np.random.default_rng(0)
        lengths, said = draw.integers(50, 400, 600).tolist(), [PHRASES[index % 6] for index in range(600)]
        assert alike(batches_by_length(lengths, 8, 0), said, 0) is None

    def test_each_recording_is_in_one_batch(self):
        batches = batches_by_length(drawn(100).tolist(), 8, 0)
        assert sorted(index for batch in batches for index in batch) == list(range(100))
        assert {len(batch) for batch in batches[:-1]} == {8}

    @pytest.mark.parametrize(
        ("fields", "remedy"),
        [
            ({"train_sampling_strategy": "group_by_length"}, "set --train_sampling_strategy random"),
            ({"batch_seconds": 2.0, "max_seconds": 2.0}, "leave batch_seconds out"),
            ({"train_sampling_strategy": "random"}, None),
            ({"train_sampling_strategy": "group_by_length", "do_train": False}, None),
        ],
    )
    def test_a_run_is_told(self, phrases, tmp_path, fields, remedy):
        data = task_of(phrases, tmp_path, max_train_samples=None, **fields).load_data()
        notes = [note for note in data.notes if "different transcripts" in note]
        assert len(notes) == (remedy is not None)
        assert all(remedy in note for note in notes)


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
