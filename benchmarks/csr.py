"""Figures of the csr page, each from one command:

python benchmarks/csr.py ph2 --dataset MANIFEST [--seeds 0 1 2 3 4] [--json OUT]
python benchmarks/csr.py misled MODEL [--images 100]

`ph2` trains, seed by seed, CSR by its three recipes, the same backbone with a plain head, and the same backbone as a
joint concept bottleneck, all with the first recipe's epochs, optimiser and augmentation and the rule of the best
checkpoint on the validation images; beside them, logistic regression on colour histograms and on the experts' labels.
`misled` draws images with a shape that is not meant (an artefact), and rejects the concept that it passes for.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, Trainer, set_seed
from transformers.utils import ModelOutput

from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import LoadedData
from hf_fer.experiment.one_run import run
from hf_fer.metrics.classification import classification_metrics
from hf_fer.metrics.multilabel import multilabel_metrics
from hf_fer.models.csr.backbone_csr import build_backbone, feature_map
from hf_fer.models.csr.configuration_csr import CsrConfig
from hf_fer.models.csr.decoding_csr import load_image
from hf_fer.models.csr.losses_csr import class_loss, concept_loss
from hf_fer.models.csr.train.building import make_config
from hf_fer.models.csr.train.demo_images import CLASSES, CONCEPTS, class_of, draw_image, patient_tone
from hf_fer.models.csr.train.task import CsrTask
from hf_fer.reporting.report import markdown_table
from hf_fer.runtime.callbacks import EpochCallback
from hf_fer.task.find import parse_task

RECIPES = [
    str(Path(__file__).parents[1] / "training_args" / f"csr_{name}.json")
    for name in ("1_concepts", "2_prototypes", "3_task")
]
MEASURES = ("concept_auroc", "macro_f1")


class Rival(PreTrainedModel):
    """A backbone with global average pooling and a linear head; what `forward` returns is up to the kind of rival."""

    config_class = CsrConfig

    def __init__(self, config: CsrConfig):
        super().__init__(config)
        self.backbone = build_backbone(config.backbone_config)
        self.build_head(config)
        self.post_init()

    def pooled(self, pixel_values: Tensor) -> Tensor:
        """`(B, C)`."""
        return feature_map(self.backbone, pixel_values).mean(dim=(2, 3))


class PlainHead(Rival):
    """Pixels to classes; it knows no concepts."""

    def build_head(self, config: CsrConfig) -> None:
        self.classifier = nn.Linear(config.feature_size, config.num_labels)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, concept_labels: Tensor | None = None):
        logits = self.classifier(self.pooled(pixel_values))
        return ModelOutput(loss=class_loss(logits, labels), logits=logits)


class JointBottleneck(Rival):
    """Pixels to concept probabilities to classes, both losses at once (Koh et al. 2020, arXiv 2007.04612)."""

    def build_head(self, config: CsrConfig) -> None:
        self.concept_head = nn.Linear(config.feature_size, config.num_concepts)
        self.classifier = nn.Linear(config.num_concepts, config.num_labels)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, concept_labels: Tensor | None = None):
        concepts = self.concept_head(self.pooled(pixel_values))
        logits = self.classifier(concepts.sigmoid())
        weight = concepts.new_tensor(self.config.pos_weight)
        loss = class_loss(logits, labels) + concept_loss(concepts, concept_labels, weight)
        return ModelOutput(loss=loss, logits=logits, concept_logits=concepts)


def rival_metrics(prediction: EvalPrediction, data: LoadedData) -> dict[str, float]:
    """Macro-F1, and where there are concepts their AUROC."""
    predicted = prediction.predictions
    logits, concepts = predicted if isinstance(predicted, tuple) else (predicted, None)
    labels, concept_labels = prediction.label_ids
    metrics = {"macro_f1": classification_metrics(logits.argmax(axis=1), labels, data.labels)["macro_f1"]}
    if concepts is not None:
        found = multilabel_metrics(expit(concepts), concept_labels, data.own.concepts)
        metrics["concept_auroc"] = found["macro_auroc"]
    return metrics


def prepared(dataset: str, seed: int, folder: Path) -> tuple[CsrTask, LoadedData, Any]:
    """The first recipe's task, data and processor."""
    arguments = ["--dataset", dataset, "--seed", str(seed), "--output_dir", str(folder), *QUIET]
    task = parse_task([RECIPES[0], *arguments, "--metric_for_best_model", "loss"])
    task.training_args.metric_for_best_model = "macro_f1"
    task.training_args.greater_is_better = True
    data = task.load_data()
    return task, data, task.build_processor(data)


QUIET = [
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
    "--save_total_limit",
    "1",
    "--dataloader_pin_memory",
    "false",
]


def train_rival(rival: type[Rival], dataset: str, seed: int, folder: Path) -> dict[str, float]:
    """Validation metrics of the best checkpoint."""
    task, data, processor = prepared(dataset, seed, folder)
    set_seed(seed)
    config, clock = make_config(task, data), EpochClock()
    splits = task.with_transforms(data, processor, clock)
    trainer = Trainer(
        model=rival(config),
        args=task.training_args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=task.collator(processor),
        compute_metrics=partial(rival_metrics, data=data),
        callbacks=[EpochCallback(clock)],
    )
    trainer.train()
    found = trainer.evaluate()
    return {name: found[f"eval_{name}"] for name in MEASURES if f"eval_{name}" in found}


def train_csr(dataset: str, seed: int, folder: Path) -> dict[str, float]:
    """Validation metrics after the three stages."""
    before: list[str] = []
    for number, recipe in enumerate(RECIPES, start=1):
        output = str(folder / str(number))
        run(parse_task([recipe, "--dataset", dataset, "--seed", str(seed), "--output_dir", output, *before, *QUIET]))
        before = ["--model_name_or_path", output]
    found = json.loads((folder / "3" / "report" / "metrics.json").read_text(encoding="utf-8"))["validation"]
    return {name: found[name] for name in (*MEASURES, "prototype_cosine")}


def regression() -> Any:
    """Logistic regression on standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, C=0.1, class_weight="balanced"))


def histogram(path: str) -> np.ndarray:
    """Colour histogram of an image, 16 bins of each channel."""
    image = load_image(path)
    return np.concatenate([np.histogram(image[..., channel], bins=16, range=(0, 1))[0] for channel in range(3)])


def references(dataset: str, folder: Path) -> list[dict[str, Any]]:
    """Colour histograms, and the experts' own concept labels, with logistic regression."""
    _, data, _ = prepared(dataset, 0, folder)
    train, validation = data.splits["train"], data.splits["validation"]
    concepts = [np.array(split["concept_labels"]) for split in (train, validation)]
    histograms = [np.stack([histogram(path) for path in split["path"]]) for split in (train, validation)]

    def f1(features: list[np.ndarray]) -> float:
        predicted = regression().fit(features[0], train["labels"]).predict(features[1])
        return classification_metrics(predicted, np.array(validation["labels"]), data.labels)["macro_f1"]

    scores = [
        regression().fit(histograms[0], concepts[0][:, k]).predict_proba(histograms[1])[:, 1]
        for k in range(concepts[0].shape[1])
    ]
    names = [str(k) for k in range(len(scores))]
    auroc = multilabel_metrics(np.stack(scores, axis=1), concepts[1], names)["macro_auroc"]
    return [
        {"system": "colour histograms, logistic regression", "concept_auroc": auroc, "macro_f1": f1(histograms)},
        {"system": "experts' concept labels, logistic regression", "macro_f1": f1(concepts)},
    ]


def ph2(args: argparse.Namespace) -> None:
    """One table over all seeds."""
    systems: dict[str, Callable[[str, int, Path], dict[str, float]]] = {
        "CSR": train_csr,
        "plain head": partial(train_rival, PlainHead),
        "joint concept bottleneck": partial(train_rival, JointBottleneck),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory() as place:
        rows = references(args.dataset, Path(place, "references"))
        for seed in args.seeds:
            for name, train in systems.items():
                folder = Path(place, str(seed), name)
                results[name].append(train(args.dataset, seed, folder))
                shutil.rmtree(folder, ignore_errors=True)
                print(seed, name, results[name][-1], flush=True)
    for name, found in results.items():
        row: dict[str, Any] = {"system": name}
        for measure in sorted({key for each in found for key in each}):
            values = [each[measure] for each in found]
            row[measure] = f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"
        rows.append(row)
    print(markdown_table(pd.DataFrame(rows).fillna("")))
    if args.json:
        Path(args.json).write_text(json.dumps({"seeds": args.seeds, "results": results}, indent=2) + "\n")


def misled(args: argparse.Namespace) -> None:
    """Images with an artefact that passes for a concept: the classes as they are, and with that concept rejected."""
    from transformers import pipeline

    explain = pipeline("concept-image-classification", model=args.model)
    rng = np.random.default_rng(args.seed)
    truth, answers = [], {"none": [], "zero": [], "mean": [], "absent": []}
    for _ in range(args.images):
        present = [name for name in CONCEPTS if rng.random() < 0.4]
        artefact = str(rng.choice([name for name in ("disc", "cross", "stripes") if name not in present] or ["ring"]))
        image, _ = draw_image([*dict.fromkeys([*present, artefact])], rng, patient_tone(rng))
        truth.append(CLASSES.index(class_of(present)))
        for kind, found in answers.items():
            correction = {} if kind == "none" else {"reject": [artefact], "replacement": kind}
            found.append(CLASSES.index(explain(image, top_k=1, **correction)["labels"][0]["label"]))
    rows = []
    for kind, found in answers.items():
        metrics = classification_metrics(np.array(found), np.array(truth), list(CLASSES))
        rows.append({"artefact rejected by": kind, "accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"]})
    print(markdown_table(pd.DataFrame(rows)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("ph2")
    command.add_argument("--dataset", required=True)
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    command.add_argument("--json")
    command.set_defaults(run=ph2)
    command = commands.add_parser("misled")
    command.add_argument("model")
    command.add_argument("--images", type=int, default=100)
    command.add_argument("--seed", type=int, default=7)
    command.set_defaults(run=misled)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
