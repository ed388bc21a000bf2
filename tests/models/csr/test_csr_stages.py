"""csr stage by stage: what each starts from, interruptions, and folds."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models.csr_runs import FAST, STAGES, metrics_of, write_recipes
from safetensors.torch import load_file

from hf_fer.experiment.stages import fingerprint
from hf_fer.experiment.stages import main as run_stages
from hf_fer.models.csr.train.source import read_source
from hf_fer.recipe.arguments import RecipeError
from hf_fer.run import main
from hf_fer.task.find import of_fold, parse_task
from hf_fer.task.settings import num_folds


class TestStages:
    def test_each_starts_from_the_one_before(self, trained):
        states = {number: load_file(trained / f"out/{number}/model.safetensors") for number in STAGES}
        for earlier, later, fixed in ((1, 2, ("backbone", "concept_head")), (2, 3, ("projector", "prototypes"))):
            for name, value in states[later].items():
                if name.startswith(fixed):
                    assert torch.equal(value, states[earlier][name]), name
        assert not torch.equal(states[1]["prototypes"], states[2]["prototypes"])
        assert not torch.equal(states[2]["classifier.weight"], states[3]["classifier.weight"])

    def test_each_chooses_by_its_own_measure(self, trained):
        for number, name in ((1, "eval_concept_auroc"), (2, "eval_loss"), (3, "eval_macro_f1")):
            state = json.loads((trained / f"out/{number}/trainer_state.json").read_text())
            values = [entry[name] for entry in state["log_history"] if name in entry]
            assert state["best_metric"] == (min(values) if number == 2 else max(values))

    def test_finished_stages_are_skipped(self, trained, monkeypatch, capsys):
        monkeypatch.chdir(trained)
        files = [trained / f"out/{number}/model.safetensors" for number in STAGES]
        before = [file.stat().st_mtime_ns for file in files]
        for overwrite in ("false", "true"):
            run_stages([*(f"csr_{number}.json" for number in STAGES), "--overwrite_output_dir", overwrite])
            assert capsys.readouterr().out.count("finished before, skipped") == 3
        assert [file.stat().st_mtime_ns for file in files] == before

    def test_a_stage_evaluates_its_own_output_by_its_own_recipe(self, trained, monkeypatch, capsys):
        monkeypatch.chdir(trained)
        given = ["--do_train", "false", "--output_dir", "again"]
        main(["csr_1.json", *given, "--model_name_or_path", "out/1"])
        again, before = (metrics_of(trained / name)["test"]["concept_auroc"] for name in ("again", "out/1"))
        assert again == before
        for field, value, told in (
            ("image_size", "224", "image_size 224: out/1 was trained with 48"),
            ("config_overrides", '{"backbone_config": {"depths": [2, 1]}}', "backbone_config.depths of out/1 is"),
        ):
            with pytest.raises(SystemExit):
                main(["csr_1.json", *given, "--model_name_or_path", "out/1", f"--{field}", value])
            assert told in capsys.readouterr().err

    def test_another_recipe_is_not_taken_for_finished(self, trained, monkeypatch, capsys):
        monkeypatch.chdir(trained)
        with pytest.raises(SystemExit):
            run_stages(["csr_2.json", "--learning_rate", "0.5"])
        assert "of another recipe" in capsys.readouterr().err

    def test_another_table_or_another_start_is_not_taken_for_finished(self, trained, tmp_path, monkeypatch, capsys):
        shutil.copytree(trained / "out/1", tmp_path / "out/1", ignore=shutil.ignore_patterns("checkpoint-*"))
        shutil.copytree(trained / "out/2", tmp_path / "out/2", ignore=shutil.ignore_patterns("checkpoint-*"))
        recipe = write_recipes(tmp_path)[1]
        monkeypatch.chdir(tmp_path)
        run_stages([recipe])
        assert "finished before, skipped" in capsys.readouterr().out
        config = json.loads(Path("out/1/config.json").read_text())
        Path("out/1/config.json").write_text(json.dumps({**config, "margin": 0.3}))
        with pytest.raises(SystemExit):
            run_stages([recipe])
        assert "of another model to start from" in capsys.readouterr().err

    def test_what_another_entry_trained_is_not_gone_on_with(self, tmp_path, monkeypatch, capsys):
        recipe = write_recipes(tmp_path, num_train_epochs=1)[0]
        monkeypatch.chdir(tmp_path)
        run_stages([recipe, "--dry_run", "true"])
        assert not Path("out").exists()
        main([recipe, "--learning_rate", "0.5"])
        with pytest.raises(SystemExit):
            run_stages([recipe])
        assert "holds the checkpoints of a run that was not started as a stage" in capsys.readouterr().err
        assert not Path("out/1/stage.json").exists()
        before = load_file("out/1/model.safetensors")["concept_head.weight"]
        run_stages([recipe, "--overwrite_output_dir", "true"])
        assert not torch.equal(before, load_file("out/1/model.safetensors")["concept_head.weight"])

    def test_one_output_for_all_is_refused(self, trained, capsys):
        with pytest.raises(SystemExit):
            run_stages([str(trained / "csr_1.json"), "--output_dir", "x"])
        assert "same for every stage" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("stage", "start", "message"),
        [
            (3, "out/1", "a stage-1 checkpoint: its prototypes have not been trained. Run stage 2"),
            (2, "out/3", "a stage-3 checkpoint: a later stage has been trained already"),
            (2, "out", "has no model: no config.json"),
            (2, None, "Stage 2 starts from a stage-1 checkpoint"),
        ],
    )
    def test_a_wrong_start_is_refused(self, trained, monkeypatch, capsys, stage, start, message):
        monkeypatch.chdir(trained)
        recipe = {**FAST, **STAGES[stage], "model_name_or_path": start, "output_dir": "elsewhere"}
        (trained / "wrong.json").write_text(json.dumps(recipe))
        with pytest.raises(SystemExit):
            main(["wrong.json"])
        assert message in capsys.readouterr().err
        assert not (trained / "elsewhere").exists()

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_killed_and_resumed_ends_with_the_same_weights(self, trained, tmp_path, monkeypatch, stage):
        """SIGKILL at the first checkpoint; augmentation is on."""
        shutil.copytree(trained / "out", tmp_path / "out", ignore=shutil.ignore_patterns("checkpoint-*"))
        for later in range(stage, 4):
            shutil.rmtree(tmp_path / f"out/{later}")
        recipe = write_recipes(tmp_path)[stage - 1]
        monkeypatch.chdir(tmp_path)
        torch.set_num_threads(1)
        process = subprocess.Popen([sys.executable, "-m", "hf_fer.stages", recipe])
        place = tmp_path / f"out/{stage}"
        while process.poll() is None and not list(place.glob("checkpoint-*/trainer_state.json")):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert json.loads((place / "stage.json").read_text())["progress"] == "stopped"
        run_stages([recipe])
        whole, resumed = (load_file(f / f"out/{stage}/model.safetensors") for f in (trained, tmp_path))
        for name, value in whole.items():
            torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)

    def test_prototypes_start_at_centres_unless_told_or_resumed(self, trained, monkeypatch):
        monkeypatch.chdir(trained)

        def start(*fields: str, resumes: bool = False) -> torch.Tensor:
            task = parse_task(["csr_2.json", *fields])
            task.resumes = resumes
            data = task.load_data()
            torch.manual_seed(0)
            return task.build_model(data, task.build_processor(data)).prototypes.detach()

        centres, drawn = start(), start("--prototype_start", "random")
        assert torch.equal(start(), centres)
        assert not torch.equal(centres, drawn)
        assert torch.equal(start(resumes=True), drawn)

    def test_new_models_take_the_mended_loss_and_older_ones_keep_theirs(self, trained, tmp_path, monkeypatch):
        monkeypatch.chdir(trained)
        shutil.copytree("out/1", tmp_path / "old", ignore=shutil.ignore_patterns("checkpoint-*"))
        config = json.loads((tmp_path / "old/config.json").read_text())
        new = {"assignment_scale": 10.0, "prototype_loss": "background"}
        assert {name: config[name] for name in new} == new
        older = {name: value for name, value in config.items() if name not in (*new, "background_threshold")}
        (tmp_path / "old/config.json").write_text(json.dumps(older))
        for start, loss, scale in (("out/1", "background", 10.0), (str(tmp_path / "old"), "paper", 1000.0)):
            task = parse_task(["csr_2.json", "--model_name_or_path", start, "--prototype_start", "random"])
            data = task.load_data()
            found = task.build_model(data, task.build_processor(data)).config
            assert (found.prototype_loss, found.assignment_scale) == (loss, scale)

    def test_the_best_checkpoint_is_by_the_stage_unless_the_recipe_says(self):
        given = ["--task", "csr", "--dataset", "demo"]
        assert parse_task(given).training_args.metric_for_best_model == "concept_auroc"

    def test_channel_statistics(self, tmp_path):
        beside = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": 9}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(beside))
        given = ["--task", "csr", "--dataset", "demo"]
        (tmp_path / "model.safetensors").touch()
        weights = ["--backbone_weights", str(tmp_path / "model.safetensors")]
        means = (
            ([], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
            (weights, beside["image_mean"], beside["image_std"]),
            ([*weights, "--image_mean", "0.7", "0.8", "0.9"], [0.7, 0.8, 0.9], beside["image_std"]),
        )
        for more, mean, std in means:
            processor = parse_task([*given, *more]).build_processor(None).image_processor
            assert (list(processor.image_mean), list(processor.image_std)) == (mean, std)
        with pytest.raises(RecipeError, match="image_std needs a number for each of 3 channels"):
            parse_task([*given, "--image_std", "1"])

    def test_prototypes_are_resized_before_they_are_trained(self, trained, monkeypatch, capsys):
        monkeypatch.chdir(trained)
        for stage, refused in ((2, False), (3, True)):
            recipe = {**FAST, **STAGES[stage], "config_overrides": {"num_prototypes": 4}, "num_train_epochs": 1}
            recipe.pop("metric_for_best_model")
            (trained / "wide.json").write_text(json.dumps({**recipe, "output_dir": f"wide{stage}"}))
            if refused:
                with pytest.raises(SystemExit):
                    main(["wide.json"])
                assert "num_prototypes of out/2 is 2 and cannot change" in capsys.readouterr().err
                continue
            main(["wide.json"])
            state = json.loads(Path("wide2/trainer_state.json").read_text())
            assert state["best_metric"] == min(log["eval_loss"] for log in state["log_history"] if "eval_loss" in log)
            assert load_file("wide2/model.safetensors")["prototypes"].shape[:2] == (6, 4)

    def test_other_classes_get_another_classifier(self, trained, monkeypatch):
        """As many as before, so that the old one would fit."""
        monkeypatch.chdir(trained)
        recipe = {**FAST, **STAGES[3], "model_name_or_path": "out/3", "output_dir": "other", "num_train_epochs": 1}
        (trained / "other.json").write_text(json.dumps(recipe))
        same, other = parse_task(["other.json"]), parse_task(["other.json"])
        data = same.load_data()
        old = load_file("out/3/model.safetensors")
        processor = same.build_processor(data)
        assert torch.equal(same.build_model(data, processor).classifier.weight, old["classifier.weight"])
        renamed = dataclasses.replace(other.load_data(), labels=[f"{name} x" for name in data.labels])
        model = other.build_model(renamed, processor)
        assert not torch.equal(model.classifier.weight, old["classifier.weight"])
        assert torch.equal(model.prototypes, old["prototypes"])

    def test_unfreezing_later_is_not_for_stages(self, tmp_path, capsys):
        recipe = write_recipes(tmp_path, unfreeze={"backbone": 1})[0]
        with pytest.raises(SystemExit):
            main([recipe])
        assert "unfreeze: csr has no parts" in capsys.readouterr().err


class TestFolds:
    """Protocol group_kfold: every patient is tested once, and a stage goes on from the same fold of the one before."""

    ARGUMENTS = ("--protocol", "group_kfold", "--num_folds", "4")

    def test_each_patient_is_tested_once(self, tmp_path):
        recipe, tested = write_recipes(tmp_path)[0], []
        for fold in range(4):
            task = parse_task([recipe, *self.ARGUMENTS, "--fold", str(fold)])
            source, protocol, _ = read_source(task)
            assert protocol == f"group_kfold, fold {fold}"
            sides = source.rows.groupby("split")["group"].agg(set)
            assert not sides["train"] & sides["test"]
            assert not sides["validation"] & (sides["train"] | sides["test"])
            tested += sides["test"]
        assert len(tested) == len(set(tested)) == source.rows["group"].nunique()
        assert num_folds(parse_task([recipe, *self.ARGUMENTS, "--fold", "all"])) == 4
        assert num_folds(parse_task([recipe])) == 0

    def test_stages(self, trained, tmp_path, monkeypatch, capsys):
        """Stage 2 of all folds from stage 1 of all folds; from one model of all data it is refused."""
        monkeypatch.chdir(tmp_path)
        shutil.copytree(trained / "out/1", "out/1", ignore=shutil.ignore_patterns("checkpoint-*"))
        recipe = write_recipes(tmp_path)[1]
        arguments = [recipe, *self.ARGUMENTS, "--fold", "all"]
        with pytest.raises(RecipeError, match="has no fold_0: a model trained on all the data has seen"):
            parse_task(arguments)
        shutil.move("out/1", "one")
        Path("one/provenance.json").unlink()  # the copies stand for models that were trained on their own folds
        for fold in range(4):
            shutil.copytree("one", f"out/1/fold_{fold}")
        task = parse_task(arguments)
        starts = [of_fold(task, fold).model_args.model_name_or_path for fold in range(4)]
        assert starts == [str(Path("out/1", f"fold_{fold}")) for fold in range(4)]
        before = fingerprint(task)
        weights = Path("out/1/fold_3/model.safetensors")
        changed = bytearray(weights.read_bytes())
        changed[-1] ^= 1
        weights.write_bytes(changed)
        assert fingerprint(task) != before
        main([*arguments, "--dry_run", "true"])
        page = capsys.readouterr().out
        assert "Fold 0 of 4" in page
        assert "protocol group_kfold, fold 0" in page
        assert not Path("out/2").exists()
