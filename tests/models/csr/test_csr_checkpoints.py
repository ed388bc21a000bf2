"""csr's checkpoints are whole for every backbone: the best one, and the one that a run goes on from."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from models.suite_csr import BACKBONES, config
from runs import assert_same_weights
from safetensors.torch import load_file, save_file

from hf_fer.models.csr import CsrForImageClassification
from hf_fer.models.csr.train.task import CsrTask
from hf_fer.recipe.arguments import RecipeError
from hf_fer.run import main
from hf_fer.runtime.checkpoints import load_weights

RECIPE = {
    "task": "csr",
    "dataset": "demo",
    "stage": 1,
    "image_size": 32,
    "max_train_samples": 32,
    "max_eval_samples": 8,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "learning_rate": 0.01,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 4,
    "metric_for_best_model": "concept_auroc",
    "do_predict": False,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}


def train(folder: Path, backbone: str, **fields) -> Path:
    sizes = {**BACKBONES[backbone], **({"patch_size": 8} if backbone in ("medmae", "vit") else {})}
    overrides = {"backbone_config": sizes, "num_prototypes": 2, "prototype_size": 8}
    whole = {**RECIPE, "backbone": backbone, "config_overrides": overrides, "output_dir": str(folder), **fields}
    path = folder.parent / f"{folder.name}.json"
    path.write_text(json.dumps(whole))
    torch.set_num_threads(1)
    main([str(path)])
    return folder


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_best_checkpoint_is_what_is_saved_and_resuming_is_exact(backbone, tmp_path, monkeypatch):
    falling = itertools.count(0, -1)
    scores = {"concept_auroc": 0.0, "concept_f1": 0.0}
    monkeypatch.setattr(CsrTask, "compute_metrics", lambda *args, **kwargs: {**scores, "concept_auroc": next(falling)})
    whole = train(tmp_path / "whole", backbone)
    state = json.loads((whole / "trainer_state.json").read_text())
    best = whole / f"checkpoint-{state['best_global_step']}"
    assert state["best_global_step"] == 1
    assert_same_weights(whole, best)

    part = tmp_path / "part"
    shutil.copytree(whole / "checkpoint-2", part / "checkpoint-2")
    train(part, backbone, resume_from_checkpoint="true", load_best_model_at_end=False)
    assert_same_weights(part / "checkpoint-4", whole / "checkpoint-4")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_checkpoint_gives_a_model_all_its_weights(backbone, tmp_path):
    torch.manual_seed(0)
    trained, new = (CsrForImageClassification(config(backbone)) for _ in range(2))
    trained.save_pretrained(tmp_path)
    load_weights(new, tmp_path)
    found = new.state_dict()
    assert not [name for name, value in trained.state_dict().items() if not torch.equal(value, found[name])]


@pytest.mark.parametrize("backbone", ["vit", "resnet50"])
@pytest.mark.parametrize(("change", "listed"), [("drop", "missing: "), ("add", "left over: another")])
def test_a_load_that_would_leave_a_part_lists_it(backbone, change, listed, tmp_path):
    model = CsrForImageClassification(config(backbone))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if change == "drop":
        del weights["classifier.weight"]
    else:
        weights["another"] = torch.zeros(1)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=listed):
        load_weights(model, tmp_path)
