"""Runs that are stopped, killed, or out of room end well, and go on as if nothing had been."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import warm
from drills.kill_drill import after_steps, kill, start
from media import tone
from runs import AUDIO, ROOT, assert_same_weights, metrics_of, write_recipe
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_fer.data.skipped import SkippedFile
from hf_fer.models.multimodal_fer import MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.train.clips import ClipTransform
from hf_fer.models.multimodal_fer.train.task import MultimodalFerTask
from hf_fer.run import main
from hf_fer.runtime.callbacks import SaveProcessorCallback
from hf_fer.runtime.checkpoints import damage, declared
from hf_fer.runtime.failures import memory_advice
from hf_fer.runtime.interruption import StopOnSignal
from hf_fer.task.find import parse_task

SAVING = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
WORKERS = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums over another number of threads round otherwise."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def by_epoch(tmp_path_factory, small_ravdess) -> Path:
    """A run left alone that evaluates and saves each epoch."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("by_epoch")
    main([write_recipe(folder, dataset=str(small_ravdess))])
    return folder / "out"


@pytest.fixture(scope="session")
def by_steps(tmp_path_factory, small_ravdess) -> Path:
    """A run left alone that evaluates and saves every second step."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("by_steps")
    main([write_recipe(folder, dataset=str(small_ravdess), **SAVING)])
    return folder / "out"


@pytest.fixture
def recipe(tmp_path, small_ravdess):
    return lambda **fields: write_recipe(tmp_path, **{"dataset": str(small_ravdess), **fields})


@pytest.fixture
def at_step(monkeypatch):
    """Do something when a step begins, once."""
    callbacks = MultimodalFerTask.callbacks

    def arrange(step: int, action) -> None:
        class AtStep(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == step and not done:
                    done.append(step)
                    action()

        done = []
        monkeypatch.setattr(MultimodalFerTask, "callbacks", lambda task: [*callbacks(task), AtStep()])

    return arrange


def exit_status(*argv: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([*argv])
    return stopped.value.code


def assert_same_end(out: Path, alone: Path) -> None:
    """The model that is saved, which is the best one, and that of the last step."""
    assert_same_weights(out, alone)
    assert_same_weights(out / "checkpoint-12", alone / "checkpoint-12")


class TestSignals:
    @pytest.mark.parametrize(
        ("signum", "status", "step", "saved"),
        [
            (signal.SIGTERM, 143, 1, 2),
            (signal.SIGINT, 130, 8, 9),
            # in the last step of an epoch: saved after the evaluation that is due
            (signal.SIGTERM, 143, 5, 6),
        ],
    )
    def test_a_checkpoint_and_the_same_end(
        self, by_epoch, recipe, at_step, tmp_path, capsys, signum, status, step, saved
    ):
        before = signal.getsignal(signum)
        at_step(step, lambda: os.kill(os.getpid(), signum))
        assert exit_status(recipe()) == status
        assert f"checkpoint-{saved} is saved" in capsys.readouterr().err
        assert signal.getsignal(signum) == before
        assert not (tmp_path / "out" / "model.safetensors").exists()
        main([recipe(resume_from_checkpoint=True)])
        assert_same_end(tmp_path / "out", by_epoch)
        found, expected = metrics_of(tmp_path / "out"), metrics_of(by_epoch)
        assert found["validation"] == expected["validation"]
        assert found["runtime"]["best_metric"] == expected["runtime"]["best_metric"]

    @pytest.fixture
    def ctrl_c(self):
        """Ctrl-C raises KeyboardInterrupt, which it does not where pytest is a shell's background job."""
        earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, earlier)

    @pytest.mark.usefixtures("ctrl_c")
    @pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_outside_training_too(self, recipe, monkeypatch, signum, status):
        monkeypatch.setattr(MultimodalFerTask, "load_data", lambda task: signal.raise_signal(signum))
        assert exit_status(recipe()) == status

    def test_a_second_ctrl_c_is_obeyed_at_once(self, monkeypatch):
        stop, now = StopOnSignal(), time.monotonic()
        with pytest.raises(KeyboardInterrupt), stop.listening():  # noqa: PT012
            for _ in range(2):  # launchers pass one on twice
                os.kill(os.getpid(), signal.SIGINT)
            assert stop.signum == signal.SIGINT
            monkeypatch.setattr(time, "monotonic", lambda: now + 60)
            os.kill(os.getpid(), signal.SIGINT)

    def test_the_whole_job_gets_it_workers_too(self, by_epoch, recipe, small_ravdess, tmp_path):
        """As a scheduler sends it; with workers that died of it the step could not be finished."""
        path = recipe(**WORKERS)
        process = start(path, tmp_path / "out", python=warm.python())
        after_steps(process, 2)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 143, output[-3000:]
        assert "is saved" in output
        main([recipe(**WORKERS, resume_from_checkpoint=True)])
        assert_same_end(tmp_path / "out", by_epoch)


class TestKill:
    def test_minus_nine_while_it_runs(self, by_steps, recipe, tmp_path):
        """Ten times at random moments: tests/drills/kill_drill.py."""
        path = recipe(**SAVING, **WORKERS)
        process = start(path, tmp_path / "out", python=warm.python())
        after_steps(process, 5)
        kill(process)
        assert process.returncode == -signal.SIGKILL
        main([recipe(**SAVING, **WORKERS, resume_from_checkpoint=True)])
        assert_same_end(tmp_path / "out", by_steps)

    @pytest.mark.parametrize("harm", ["no manifest", "short file", "missing file"])
    def test_a_checkpoint_cut_short_is_passed_over(self, by_steps, recipe, tmp_path, harm, caplog):
        out = Path(shutil.copytree(by_steps, tmp_path / "out"))
        newest = declared(out)[-1]
        if harm == "no manifest":
            (newest / "manifest.json").unlink()
        elif harm == "short file":
            os.truncate(newest / "optimizer.pt", 1000)
        else:
            (newest / "rng_state.pth").unlink()
        (out / "checkpoint-99").mkdir()  # of a deletion that was killed, say
        main([recipe(**SAVING, resume_from_checkpoint=True)])
        assert f"{newest} is skipped" in caplog.text
        assert_same_weights(out, by_steps)
        assert all(damage(folder) is None for folder in out.glob("checkpoint-*"))

    def test_a_named_one_must_be_whole(self, by_steps, recipe, tmp_path, capsys):
        out = Path(shutil.copytree(by_steps, tmp_path / "out"))
        os.truncate(declared(out)[-1] / "optimizer.pt", 1000)
        assert exit_status(recipe(), "--resume_from_checkpoint", str(declared(out)[-1])) == 2
        assert "optimizer.pt has 1000 of" in capsys.readouterr().err
        assert exit_status(recipe(), "--resume_from_checkpoint", str(tmp_path)) == 2
        assert "no trainer_state.json" in capsys.readouterr().err

    def test_those_of_the_stock_trainer_have_to_be_named(self, by_steps, recipe, tmp_path, capsys):
        out = Path(shutil.copytree(by_steps, tmp_path / "out"))
        for folder in declared(out):
            (folder / "manifest.json").unlink()
            state = json.loads((folder / "trainer_state.json").read_text())
            del state["stateful_callbacks"]["NonFiniteGuard"]
            (folder / "trainer_state.json").write_text(json.dumps(state))
        assert exit_status(recipe(**SAVING, resume_from_checkpoint=True)) == 2
        assert f"--resume_from_checkpoint {out / 'checkpoint-'}" in capsys.readouterr().err
        main([recipe(**SAVING, resume_from_checkpoint=str(out / "checkpoint-10"))])
        assert_same_weights(out, by_steps)

    def test_the_older_checkpoint_stays_until_the_newer_is_whole(self, by_steps, recipe, tmp_path, monkeypatch):
        save, calls = SaveProcessorCallback.on_save, []

        def fail_the_second_time(self, args, state, control, **kwargs):
            calls.append(state.global_step)
            if len(calls) == 2:
                raise KeyError("lost in the middle of a save")
            save(self, args, state, control, **kwargs)

        monkeypatch.setattr(SaveProcessorCallback, "on_save", fail_the_second_time)
        single = {**SAVING, "save_total_limit": 1, "load_best_model_at_end": False}
        with pytest.raises(KeyError):
            main([recipe(**single)])
        assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]
        assert damage(tmp_path / "out" / "checkpoint-2") is None
        main([recipe(**single, resume_from_checkpoint=True)])
        assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-12"]


class TestEarlyStopping:
    FIELDS = {**SAVING, "early_stopping_patience": 2, "early_stopping_threshold": 10.0, "num_train_epochs": 3}

    def test_the_count_goes_on(self, recipe, at_step, tmp_path, small_ravdess):
        main([write_recipe(tmp_path / "alone", dataset=str(small_ravdess), **self.FIELDS)])
        assert metrics_of(tmp_path / "alone" / "out")["runtime"]["steps"] == 6
        at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert exit_status(recipe(**self.FIELDS)) == 143
        main([recipe(**self.FIELDS, resume_from_checkpoint=True)])
        assert metrics_of(tmp_path / "out")["runtime"]["steps"] == 6
        assert_same_weights(tmp_path / "out", tmp_path / "alone" / "out")

    def test_a_run_that_had_stopped_stops_again(self, recipe, tmp_path):
        main([recipe(**self.FIELDS)])
        saved = {path.name for path in declared(tmp_path / "out")}
        main([recipe(**self.FIELDS, resume_from_checkpoint=True)])
        assert {path.name for path in declared(tmp_path / "out")} == saved


class TestOutOfMemory:
    @pytest.fixture
    def small_memory(self, monkeypatch):
        """A device on which two examples fit, no more."""
        forward = MultimodalFerForEmotionClassification.forward

        @wraps(forward)
        def limited(model, input_features=None, **inputs):
            if len(input_features) > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(model, input_features=input_features, **inputs)

        self.limit = 2
        monkeypatch.setattr(MultimodalFerForEmotionClassification, "forward", limited)
        return self

    def test_the_effective_batch_stays(self, recipe, small_memory, tmp_path, small_ravdess):
        fields = {"per_device_eval_batch_size": 2, "num_train_epochs": 1}
        main([recipe(auto_find_batch_size=True, **fields)])
        assert metrics_of(tmp_path / "out")["runtime"]["batch"] == "2 x 2 x 1"
        assert metrics_of(tmp_path / "out")["runtime"]["steps"] == 6
        by_hand = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, **fields}
        main([write_recipe(tmp_path / "hand", dataset=str(small_ravdess), **by_hand)])
        assert_same_weights(tmp_path / "out", tmp_path / "hand" / "out")

    def test_late_it_goes_on_from_the_last_checkpoint(self, recipe, small_memory, at_step, tmp_path, caplog):
        small_memory.limit = 4
        at_step(3, lambda: setattr(small_memory, "limit", 2))
        main([recipe(**SAVING, auto_find_batch_size=True, per_device_eval_batch_size=2, num_train_epochs=1)])
        assert "retrying with batch 2 x accumulation 2" in caplog.text
        runtime = metrics_of(tmp_path / "out")["runtime"]
        assert (runtime["steps"], runtime["batch"]) == (6, "2 x 2 x 1")

    def test_a_checkpoint_that_was_named_is_not_left_for_a_later_one(
        self, recipe, small_memory, by_steps, tmp_path, caplog
    ):
        """The folder has later ones, of the run before."""
        out = Path(shutil.copytree(by_steps, tmp_path / "out"))
        first, *later = declared(out)
        assert later
        fields = {"auto_find_batch_size": True, "per_device_eval_batch_size": 2, "save_total_limit": None}
        main([recipe(**SAVING, **fields, resume_from_checkpoint=str(first), learning_rate=0.002)])
        assert "retrying with batch 2 x accumulation 2" in caplog.text
        assert first.is_dir()
        weights, before = (load_file(folder / "model.safetensors") for folder in (out, by_steps))
        assert any(not torch.equal(value, before[name]) for name, value in weights.items())

    def test_evaluation_has_a_batch_of_its_own(self, recipe, small_memory, tmp_path, caplog):
        fields = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 8, "num_train_epochs": 1}
        main([recipe(auto_find_batch_size=True, **fields)])
        assert "retrying with batches of 2" in caplog.text
        assert metrics_of(tmp_path / "out")["runtime"]["batch"] == "2 x 1 x 1"

    @pytest.mark.parametrize("automatic", [False, True])
    def test_nothing_left_names_three_settings(self, recipe, small_memory, tmp_path, capsys, automatic):
        small_memory.limit = 0
        assert exit_status(recipe(auto_find_batch_size=automatic)) == 3
        message = capsys.readouterr().err
        assert "Out of memory" in message
        batch = "--gradient_checkpointing true (now false)" if automatic else "--per_device_train_batch_size 2 "
        assert batch in message
        assert message.split("Try, one by one: ")[1].count("(now ") == 3


class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path):
        """A disk of a few MiB."""
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"a small disk cannot be mounted here ({mounted.stderr.strip()})")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)

    @pytest.mark.parametrize("file", ["model", "optimizer"])
    def test_it_says_so_and_the_last_checkpoint_is_whole(
        self, by_steps, recipe, at_step, disk, tmp_path, capsys, file
    ):
        one_checkpoint = sum(path.stat().st_size for path in (by_steps / "checkpoint-12").iterdir())
        model = (by_steps / "checkpoint-12" / "model.safetensors").stat().st_size

        def fill() -> None:
            room = model // 2 if file == "model" else one_checkpoint // 2
            free = shutil.disk_usage(disk).free
            (disk / "other").write_bytes(b"0" * (free - room))

        at_step(5, fill)
        fields = {**SAVING, "output_dir": str(disk / "out"), "report_to": "tensorboard"}
        assert exit_status(recipe(**fields)) == 3
        message = capsys.readouterr().err
        assert "The disk is full" in message
        assert f"The last good checkpoint is {disk / 'out' / 'checkpoint-4'}" in message
        assert damage(disk / "out" / "checkpoint-4") is None
        assert not (disk / "out" / "checkpoint-6").exists()
        (disk / "other").unlink()
        main([recipe(**fields, resume_from_checkpoint=True)])
        assert_same_weights(disk / "out", by_steps)


class TestNanDrill:
    """Clips that hold NaN, infinity and overflow, each on another way into the model."""

    @pytest.fixture
    def clips(self, tmp_path, small_ravdess) -> Path:
        """Eight clips to train on and four to evaluate, with sound in float WAV files."""
        videos = sorted(small_ravdess.rglob("*.mp4"))[:12]
        rows = []
        for index, video in enumerate(videos):
            sound = tmp_path / f"{index}.wav"
            soundfile.write(sound, tone(1.0, 16000, frequency=200 + 20 * index)[0], 16000, subtype="FLOAT")
            split = "train" if index < 8 else "validation"
            rows.append({"video": str(video), "audio": str(sound), "label": f"class {index % 2}", "split": split})
        (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "clips.jsonl"

    def test_training_ends_finite_and_evaluation_is_unharmed(self, clips, recipe, tmp_path, monkeypatch):
        before, after, pixels, loud = (tmp_path / f"{index}.wav" for index in range(4))
        spoilt = np.full(16000, np.nan, np.float32)
        soundfile.write(before, spoilt, 16000, subtype="FLOAT")
        load = MultimodalFerTask.load_data

        def load_then_spoil_one(task):
            data = load(task)
            soundfile.write(after, spoilt, 16000, subtype="FLOAT")
            return data

        example = ClipTransform.example

        def spoil_features(transform, row):
            features = example(transform, row)
            if row["audio"] == str(pixels):
                features["pixel_values"][0] = float("inf")
            if row["audio"] == str(loud):
                features["input_features"] *= 1e38
            return features

        monkeypatch.setattr(MultimodalFerTask, "load_data", load_then_spoil_one)
        monkeypatch.setattr(ClipTransform, "example", spoil_features)
        overrides = {
            **AUDIO["config_overrides"],
            "vision_config": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32},
            "temporal_num_layers": 1,
        }
        pictures = {"modalities": ["audio", "video"], "num_frames": 2, "image_size": 32, "face_crop": "none"}
        fields = {"config_overrides": overrides, "max_skipped_fraction": 0.2, "per_device_train_batch_size": 1}
        main([recipe(dataset=str(clips), **pictures, **fields)])
        out = tmp_path / "out"
        assert {entry["path"] for entry in SkippedFile(out / "report" / "skipped.jsonl").read()} == {
            before.name,
            after.name,
        }
        assert metrics_of(out)["runtime"]["steps"] == 14
        assert metrics_of(out)["runtime"]["skipped_steps"] == 4  # two clips, two epochs
        for folder in (out, *declared(out)):
            assert all(torch.isfinite(tensor).all() for tensor in load_file(folder / "model.safetensors").values())
        validation = metrics_of(out)["validation"]
        assert np.sum(validation["confusion_matrix"]) == 4
        assert math.isfinite(validation["loss"])


def test_the_system_names_its_own_settings():
    task = parse_task([str(ROOT / "training_args" / "demo" / "multimodal_fer.json")])
    advice = memory_advice(task.training_args, task.memory_hints(), evaluating=False, can_checkpoint=True)
    assert advice[0].startswith("--per_device_train_batch_size 8 --gradient_accumulation_steps 2 (now 16")
    assert advice[1] == "--num_frames 2 (now 4)"
    assert len(advice) == 3


def test_memory_is_in_the_log(by_epoch):
    header = (by_epoch / "report" / "history.csv").read_text().splitlines()[0].split(",")
    assert {"peak_cpu_mib", "skipped_steps"} <= set(header)
    assert metrics_of(by_epoch)["runtime"]["skipped_steps"] == 0
