"""What leaves the machine: pushed by the real client to a Hub on loopback, and read byte by byte."""

import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import warm
from experiment.test_run import FAST as FER
from hub_server import HubServer
from models.csr_runs import FAST as CSR
from models.csr_runs import STAGES
from runs import ROOT

from hf_fer.models.csr.train.demo import demo_data
from hf_fer.models.language_id.train.demo_text import demo_texts
from hf_fer.models.multimodal_fer import MultimodalFerConfig
from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.recipe.paths import without_folders
from hf_fer.reporting.sharing import shared_content, shared_files
from hf_fer.task.base import task_names
from hf_fer.task.find import load_task
from hf_fer.task.settings import shared_patterns

REPO = "tester/model"
SUBPROCESS = {"capture_output": True, "text": True, "check": False}


def push(hub: HubServer, folder: Path, *recipes: dict) -> tuple[dict[str, bytes], dict[str, str]]:
    """Run recipes as stages, of which the last pushes; returns the repository's files, and the environment used."""
    environment = {**os.environ, **hub.environment(folder / "home"), "OMP_NUM_THREADS": "1"}
    pushing = {"push_to_hub": True, "hub_model_id": REPO, "hub_token": hub.token}
    paths = []
    for number, recipe in enumerate(recipes):
        path = folder / f"recipe_{number}.json"
        last = pushing if number == len(recipes) - 1 else {}
        path.write_text(json.dumps({**recipe, "num_train_epochs": 1, "save_total_limit": 1, **last}))
        paths.append(str(path))
    command = [warm.python("libraries"), "-m", "hf_fer.stages", *paths]
    done = subprocess.run(command, env=environment, cwd=folder, **SUBPROCESS)
    assert done.returncode == 0, done.stderr[-3000:]
    return hub.repo_files(REPO), environment


def assert_private(files: dict[str, bytes], secrets: Iterable[str]) -> None:
    """None of the secrets is in the bytes or the name of a file."""
    for name, content in files.items():
        found = [secret for secret in secrets if secret.encode() in content or secret in name]
        assert not found, (name, found)


def saved(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_multimodal_fer_is_pushed_once_and_tells_of_nobody(small_ravdess, tmp_path):
    """The default strategy; and the pipeline of the pushed model runs where hf_fer is not installed."""
    data = Path(shutil.copytree(small_ravdess, tmp_path / "data"))
    clip, broken, *_ = sorted(data.rglob("*.mp4"))
    broken.write_bytes(b"no video")
    recipe = {**FER, "dataset": str(data), "output_dir": str(tmp_path / "out"), "max_skipped_fraction": 0.5}
    with HubServer(tmp_path / "hub") as hub:
        files, environment = push(hub, tmp_path, recipe)
        assert len(hub.commits(REPO)) == 2  # the Hub's own, and one upload
        expected = {"model.safetensors", "config.json", "processor_config.json", "modeling_multimodal_fer.py"}
        expected |= {"pipeline_multimodal_fer.py", "README.md", "report/metrics.json", "report/per_class.csv"}
        assert expected <= files.keys()
        assert not {"training_args.bin", "trainer_state.json", "stage.json"} & files.keys()
        assert not {"report/predictions.csv", "report/skipped.jsonl"} & files.keys()
        names = [path.stem for path in data.rglob("*.mp4")]
        assert_private(files, [hub.token, str(tmp_path), str(ROOT), *names])
        out = saved(tmp_path / "out")
        assert "training_args.bin" in out
        assert_private(out, [hub.token])
        own = ("training_args.bin", "trainer_state.json", "config.json", "processor_config.json")
        assert_private({name: out[name] for name in own}, [str(tmp_path)])
        script = (
            "import sys; sys.modules['hf_fer'] = None\n"
            "from transformers import pipeline\n"
            f"name, clip = 'audio-visual-emotion-recognition', {str(clip)!r}\n"
            f"print(len(pipeline(name, model={REPO!r}, trust_remote_code=True)(clip)))\n"
        )
        command = [warm.python("libraries"), "-c", script]
        loaded = subprocess.run(command, env=environment, cwd=tmp_path, **SUBPROCESS)
        assert loaded.returncode == 0, loaded.stderr[-3000:]
        assert loaded.stdout.split() == ["8"]


def test_csr_tells_of_no_image(tmp_path):
    """After the stage that writes the atlas."""
    with HubServer(tmp_path / "hub") as hub:
        files, _ = push(hub, tmp_path, *({**CSR, **STAGES[stage]} for stage in (1, 2)))
        expected = {"model.safetensors", "config.json", "modeling_csr.py", "pipeline_csr.py", "report/per_concept.csv"}
        assert expected <= files.keys()
        assert not [name for name in files if name.startswith(("report/atlas", "report/explanations", "checkpoint"))]
        images = [path.name for path in demo_data()[0].parent.rglob("*.png")]
        assert images
        assert_private(files, [hub.token, str(tmp_path), str(ROOT), *images])
        assert_private(saved(tmp_path / "out"), [hub.token])


def test_language_id_tells_no_text(tmp_path):
    """With an upload after each checkpoint, by name; all of them by the same list."""
    texts = demo_texts()
    texts.to_csv(tmp_path / "diary.csv", index=False)
    recipe = json.loads((ROOT / "training_args" / "demo" / "language_id.json").read_text())
    fields = {"dataset": str(tmp_path / "diary.csv"), "output_dir": str(tmp_path / "out"), "report_to": "none"}
    fields |= {"hub_strategy": "all_checkpoints", "noise_confidence": 0.0}
    with HubServer(tmp_path / "hub") as hub:
        files, _ = push(hub, tmp_path, {**recipe, **fields})
        assert {"model.safetensors", "tokenizer.json", "report/confused_pairs.csv"} <= files.keys()
        checkpoints = [name for name in files if name.startswith("checkpoint-")]
        assert {Path(name).name for name in checkpoints} >= {"model.safetensors", "config.json", "tokenizer.json"}
        assert not {Path(name).name for name in checkpoints} & {"optimizer.pt", "trainer_state.json", "rng_state.pth"}
        assert len(hub.commits(REPO)) == 3
        assert "report/suspected_label_noise.csv" not in files
        shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", files["README.md"].decode())
        assert "report/confusion_matrix_percent.png" in shown
        assert set(shown) <= files.keys()
        assert (tmp_path / "out/report/suspected_label_noise.csv").is_file()
        long = [text for text in texts["text"] if len(text) > 20]
        assert_private(files, [hub.token, str(tmp_path), str(ROOT), *long])
        assert_private(saved(tmp_path / "out"), [hub.token])


@pytest.mark.parametrize("name", task_names())
def test_what_nobody_named_stays(name, tmp_path):
    """Default deny: in the folder of a model, in its report, and below."""
    task = load_task(name)
    given = ["config.json", "report/metrics.json"]
    kept = ["training_args.bin", "notes.txt", "report/predictions.csv", "report/skipped.jsonl", "report/report.html"]
    kept += [
        "report/suspected_label_noise.csv",
        "report/atlas/index.html",
        "checkpoint-3/config.json",
        "runs/config.json",
    ]
    (given if "per_class.csv" in task.shareable else kept).append("report/per_class.csv")
    for file in (*given, *kept):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "notes.txt")
    assert shared_files(tmp_path, shared_patterns(task)) == given


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_the_trainer_never_pushes_by_itself(strategy, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, hub_strategy=strategy, hub_token="hf_secret")
    assert args.hub_strategy == "end"
    assert args.upload_strategy == strategy
    kept = pickle.loads(pickle.dumps(args))
    assert (args.hub_token, args.output_dir) == ("hf_secret", str(tmp_path))
    assert (kept.hub_token, kept.output_dir) == (None, tmp_path.name)


def test_paths_are_cut_at_any_depth():
    given = {
        "a": ["/home/anna/clips", "b/c"],
        "d": {"e": "~/clips", "f": "C:\\anna\\clips"},
        "g": Path("/h/i"),
        "j": 1,
    }
    told = {"a": ["clips", "b/c"], "d": {"e": "clips", "f": "clips"}, "g": "i", "j": 1}
    assert without_folders(given) == told


def test_a_path_of_this_machine_is_cut_from_what_is_uploaded(tmp_path):
    fields = {"backbones": {"audio": str(tmp_path)}, "id2label": {"0": "/m/09x0r"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    told = json.loads(shared_content(tmp_path / "config.json"))
    assert told == {**fields, "backbones": {"audio": tmp_path.name}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"vocab": {"/": 0}, "path": str(tmp_path)}))
    assert shared_content(tmp_path / "tokenizer.json") == str(tmp_path / "tokenizer.json")


def test_the_carried_pipeline_is_left_to_the_installed_package():
    config = MultimodalFerConfig.from_dict({"custom_pipelines": {"audio-visual-emotion-recognition": {}}})
    assert not hasattr(config, "custom_pipelines")
