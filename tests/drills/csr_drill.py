"""Runs the kill drill on every backbone of csr, each with a small model on the demo's images:

python tests/drills/csr_drill.py [--backbones medmae vit resnet50 convnext] [--kills 3] [--seed 0] [--json OUT]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from drills.kill_drill import drill
from models.suite_csr import BACKBONES

RECIPE = {
    "task": "csr",
    "dataset": "demo",
    "stage": 1,
    "image_size": 32,
    "max_train_samples": 64,
    "max_eval_samples": 16,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 16,
    "learning_rate": 0.01,
    "save_total_limit": 4,
    "metric_for_best_model": "concept_auroc",
    "do_predict": False,
    "dataloader_num_workers": 1,
    "use_cpu": True,
    "report_to": "none",
}


def recipe_of(backbone: str) -> dict:
    """A recipe of a small model with this backbone."""
    sizes = {**BACKBONES[backbone], **({"patch_size": 8} if backbone in ("medmae", "vit") else {})}
    overrides = {"backbone_config": sizes, "num_prototypes": 2, "prototype_size": 8}
    return {**RECIPE, "backbone": backbone, "config_overrides": overrides}


def main() -> None:
    """Command line; exit status 1 if any tensor differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {}
    for backbone in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "recipe.json")
            path.write_text(json.dumps(recipe_of(backbone)))
            results[backbone] = drill(str(path), [], Path(folder), args.kills, save_steps=2, seed=args.seed)
        print(f"{backbone}: {len(results[backbone]['differing_tensors'])} tensors differ", flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(1 if any(result["differing_tensors"] for result in results.values()) else 0)


if __name__ == "__main__":
    main()
