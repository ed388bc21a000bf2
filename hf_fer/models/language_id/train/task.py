"""How run.py trains language_id: its recipe fields, data, model and report."""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from scipy.special import expit
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from hf_fer.data.augment import EpochClock
from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import (
    DataError,
    LoadedData,
    is_leaky,
    to_splits,
)
from hf_fer.data.remarks import class_order, with_remarks
from hf_fer.data.tables import TableFormat
from hf_fer.metrics import calibration, classification, intervals
from hf_fer.metrics.scored import Scored
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.reporting.confidence import fitted_temperature
from hf_fer.runtime.callbacks import EpochCallback
from hf_fer.runtime.checkpoints import start_anew
from hf_fer.runtime.evaluation_order import evaluation_order
from hf_fer.task.classification import ClassificationTask
from hf_fer.task.steps import leave_out, subset
from hf_fer.weights.starting_points import load_model, nothing_anew, read

from ..pipeline_language_id import SETTINGS, TextLanguageIdentificationPipeline
from ..windows_language_id import familiarity, pool_windows, typical_margins
from . import report as findings
from . import text
from .arguments import LanguageIdDataArguments, LanguageIdModelArguments
from .demo_text import DEMO_TEXT_NOTICE, demo_texts
from .scratch import outside_encoder, scratch_config, train_tokenizer, with_nfkc
from .text_splits import assign_splits, drop_near_duplicates
from .texts import TextCollator, TrainingTexts, cut_words, evaluation_windows

logger = logging.getLogger(__name__)

MAX_WINDOWS = 64
WORD_VIEWS = {"single_words": 1, "word_pairs": 2}


class LanguageIdTask(ClassificationTask):
    """Text language identification."""

    model_arguments = LanguageIdModelArguments
    data_arguments = LanguageIdDataArguments
    primary_metric = "weighted_f1"
    hub_task = "text-classification"
    text_columns = ("text",)
    group_column = "source"
    shareable = (*ClassificationTask.shareable, "accuracy_by_length.csv", "confused_pairs.csv")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clock = EpochClock()
        self.rows: dict[str, pd.DataFrame] = {}
        self.held_out = pd.DataFrame()
        self.scored: dict[str, Scored] = {}
        self.temperature, self.threshold = SETTINGS["temperature"], SETTINGS["unknown_threshold"]
        self.calibration_remarks: list[str] = []
        self.warnings: list[str] = []
        self.typical: dict[str, list[float]] | None = None
        self.uncalibrated = True

    @classmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        form = form or TableFormat()
        rows, unusable = text.read_texts(path, text.TextFormat(encoding=form.encoding, delimiter=form.delimiter))
        empty = rows["text"].map(text.normalize) == ""
        unusable += [{"path": place, "reason": "is empty"} for place in rows["path"][empty]]
        return text.canonical_labels(rows).drop(columns="text"), unusable

    def check_arguments(self) -> None:
        super().check_arguments()
        both = set(self.data_args.codes("held_out_languages")) & set(self.data_args.codes("focus_languages"))
        if both:
            raise RecipeError(f"held_out_languages and focus_languages share {sorted(both)}.")

    def load_data(self) -> LoadedData:
        args = self.data_args
        rows, skipped, notes = self.read_rows()
        total = len(rows) + len(skipped)
        rows, counts = text.clean(rows, min_letters=args.min_letters)
        notes.append(
            f"{total} texts were read. Left out: {counts['empty']} empty, {counts['too_short']} with fewer than "
            f"{args.min_letters} letters, {counts['duplicate']} duplicates. {counts['ambiguous']} texts occur under "
            "more than one label."
        )
        leave_out(self, skipped, total)
        rows = self.choose_languages(rows)
        rows, protocol = self.split_rows(rows, notes)
        labels = self.label_names(rows, notes)
        rows = rows[rows["label"].isin(labels)].reset_index(drop=True)
        rows = rows.assign(labels=rows["label"].map({name: index for index, name in enumerate(labels)}))
        rows = subset(self, rows)
        self.rows = {split: part.reset_index(drop=True) for split, part in rows.groupby("split")}
        absent = {split: "the data has none" for split in ("validation", "test") if split not in self.rows}
        data = LoadedData(to_splits(rows), labels, protocol, skipped, notes, absent)
        return with_remarks(data, group=self.group_column)

    def read_rows(self) -> tuple[pd.DataFrame, list[dict[str, str]], list[str]]:
        """Texts as they come, with the labels' codes; what was left out; notes for the report."""
        args = self.data_args
        if args.dataset == "demo":
            return demo_texts(), [], [DEMO_TEXT_NOTICE]
        rows, skipped = text.read_texts(args.dataset, args.form)
        return text.canonical_labels(rows) if args.label_codes == "iso639" else rows, skipped, []

    def choose_languages(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of the languages to know; those of held-out languages go to `self.held_out`."""
        present = set(rows["label"])
        for name in ("languages", "held_out_languages", "focus_languages"):
            # A recipe's focus only asks for a sub-report, of which other data has its part.
            is_recipes = name == "focus_languages" and name not in self.on_command_line
            for code in [] if is_recipes else self.data_args.codes(name):
                check_choice(f"{name} code", code, present)
        if self.data_args.languages:
            kept = {*self.data_args.codes("languages"), *self.data_args.codes("held_out_languages")}
            rows = rows[rows["label"].isin(kept)]
        out = rows["label"].isin(self.data_args.codes("held_out_languages"))
        self.held_out = rows[out].reset_index(drop=True)
        rows = rows[~out].reset_index(drop=True)
        if rows["label"].nunique() < 2:
            raise DataError(
                f"{self.data_args.dataset}: texts of {sorted(set(rows['label'])) or 'no language'} are left; telling "
                "languages apart takes at least two."
            )
        return rows

    def split_rows(self, rows: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, str]:
        """The rows with their split, near-duplicates across splits left out, and the protocol; adds to `notes`."""
        args = self.data_args
        protocol = args.protocol or "disjoint"
        rows, split_notes = assign_splits(
            rows,
            protocol=protocol,
            seed=args.split_seed,
            validation_fraction=args.validation_fraction,
            test_fraction=args.test_fraction,
        )
        notes += split_notes
        rows, copies = drop_copies(rows, (), leaky=is_leaky(protocol), text_columns=self.text_columns)
        notes += copies
        if protocol == "disjoint" and args.near_duplicate_threshold is not None:
            rows, near = drop_near_duplicates(rows, args.near_duplicate_threshold)
            notes.append(
                f"Left out as copies or near-duplicates of a text in a later split: {near['train']} texts of "
                f"training, {near['validation']} of validation."
            )
        return rows, protocol

    def label_names(self, rows: pd.DataFrame, notes: list[str]) -> list[str]:
        """The languages with training texts, or, where nothing is trained, those that the checkpoint knows."""
        if not self.training_args.do_train and self.model_args.model_name_or_path:
            return self.known_languages(set(rows["label"]))
        counts = rows["label"][rows["split"] == "train"].value_counts()
        lost = sorted(set(rows["label"]) - set(counts.index))
        if lost:
            notes.append(f"Left out for want of a training text: {', '.join(lost)}.")
        few = sorted(counts.index[counts < 10])
        if few:
            examples = ", ".join(f"{name} ({counts[name]})" for name in few[:20])
            notes.append(f"Fewer than 10 training texts, too few to learn or to judge: {examples}.")
            logger.warning(notes[-1])
        if len(counts) < 2:
            raise DataError(f"{self.data_args.dataset}: training texts of fewer than two languages.")
        path = self.model_args.model_name_or_path
        known = self._config(path).id2label if path else {}
        return class_order(sorted(counts.index), [known[index] for index in sorted(known)], training=True)

    def known_languages(self, present: set[str]) -> list[str]:
        """The checkpoint's languages in its order; raises DataError where the data has others."""
        config = self._config(self.model_args.model_name_or_path)
        known = [config.id2label[index] for index in range(config.num_labels)]
        if present - set(known):
            raise DataError(
                f"{self.model_args.model_name_or_path} does not know {sorted(present - set(known))}: it cannot be "
                "scored on them. Name them as --held_out_languages, or choose others by --languages."
            )
        return known

    @staticmethod
    def _config(path: str, **overrides: Any) -> PreTrainedConfig:
        return read(AutoConfig.from_pretrained, path, **overrides)

    def build_processor(self, data: LoadedData) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, with NFKC, or a new one that has seen the training split alone."""
        path = self.model_args.model_name_or_path
        if path is None:
            if "train" not in data.splits:
                raise DataError("There is no training split to train a tokenizer on; give --model_name_or_path.")
            return train_tokenizer(data.splits["train"]["text"], self.model_args.vocab_size, self.data_args.max_length)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise RecipeError(f"model_name_or_path: {path} has no tokenizer that can be loaded ({error}).") from error
        if not tokenizer.is_fast:
            raise RecipeError(f"{path} has no fast tokenizer, which windows of long texts need.")
        if tokenizer.model_max_length < self.data_args.max_length:
            raise RecipeError(
                f"max_length is {self.data_args.max_length}, but {path} takes {tokenizer.model_max_length} tokens."
            )
        return with_nfkc(tokenizer)

    def build_model(self, data: LoadedData, processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        args = self.model_args
        names = dict(enumerate(data.labels))
        fields = {
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
            "problem_type": "single_label_classification",
            **({"attn_implementation": args.attn_implementation} if args.attn_implementation else {}),
        }
        if args.model_name_or_path:
            config = self._config(args.model_name_or_path, **fields)
        else:
            scratch = scratch_config(processor, self.data_args.max_length)
            config = AutoConfig.for_model("modernbert", **scratch, **fields)
        for name, value in args.config_overrides.items():
            check_choice("config_overrides field", name, config.to_dict())
            setattr(config, name, value)
        self.adopt(config)
        self.settle(config)
        if args.model_name_or_path:
            known = list(self._config(args.model_name_or_path).id2label.values())
            if known != data.labels:
                logger.warning(
                    "%s has other classes than the data: its classifier starts anew.", args.model_name_or_path
                )
            self.model = load_model(
                AutoModelForSequenceClassification,
                args.model_name_or_path,
                config=config,
                anew=outside_encoder(config) if known != data.labels else nothing_anew,
            )
            if known != data.labels:
                prefix = self.model.base_model_prefix
                start_anew(*(part for name, part in self.model.named_children() if name != prefix))
        else:
            self.model = AutoModelForSequenceClassification.from_config(config)
        self.tokenizer = processor
        self.freeze(args.freeze or [])
        return self.model

    def adopt(self, config: PreTrainedConfig) -> None:
        """Take up the temperature and threshold of a checkpoint that is evaluated, if it has been calibrated."""
        stored = getattr(config, "language_id", None)
        if stored and not self.training_args.do_train:
            self.temperature, self.threshold = stored["temperature"], stored["unknown_threshold"]
            self.typical = stored["typical_margins"]
            self.uncalibrated = False

    def settle(self, config: PreTrainedConfig) -> None:
        """Put what inference needs into the configuration."""
        config.language_id = {
            "max_length": self.data_args.max_length,
            "overlap": self.data_args.overlap,
            "temperature": self.temperature,
            "unknown_threshold": self.threshold,
            "typical_margins": self.typical,
        }

    def freeze(self, parts: list[str]) -> None:
        """Take parts of the model, by module name, out of training; raises RecipeError for one it does not have."""
        modules = dict(self.model.named_modules())
        for part in parts:
            check_choice("freeze part", part, [name for name in modules if name])
            modules[part].requires_grad_(False)

    def with_transforms(self, splits: DatasetDict, processor: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Training texts, cut anew each epoch, and the windows of the other splits."""
        args = self.data_args
        self.tokenizer = processor
        self.prepared = {
            split: self.windows(list(data["text"]), list(data["labels"]))
            for split, data in splits.items()
            if split != "train"
        }
        if "train" in splits:
            self.prepared["train"] = TrainingTexts(
                list(splits["train"]["text"]),
                list(splits["train"]["labels"]),
                processor,
                max_length=args.max_length,
                short_copies=args.short_copies,
                short_lengths=tuple(args.short_lengths),
                token_dropout=args.token_dropout,
                seed=self.training_args.seed,
                clock=self.clock,
            )
        return self.prepared

    def windows(self, texts: list[str], labels: list[int]) -> Dataset:
        """What the model is evaluated on."""
        args = self.data_args
        return evaluation_windows(
            texts, labels, self.tokenizer, max_length=args.max_length, overlap=args.overlap, max_windows=MAX_WINDOWS
        )

    def collator(self, processor: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return TextCollator(processor, pad_to=8 if torch.accelerator.is_available() else None)

    def memory_hints(self) -> list[str]:
        length = self.data_args.max_length
        return [f"--max_length {length // 2} --overlap {self.data_args.overlap // 2} (now {length})"]

    def callbacks(self) -> list[TrainerCallback]:
        return [EpochCallback(self.clock)]

    def evaluation_views(self, data: Dataset) -> dict[str, Dataset]:
        """Single words and pairs of words of the same texts, drawn by the split's seed."""
        split = next(name for name, prepared in self.prepared.items() if prepared is data)
        rows = self.rows[split]
        views = {}
        for view, count in WORD_VIEWS.items():
            rng = random.Random(f"{self.data_args.split_seed} {view}")
            views[view] = self.windows([cut_words(item, count, rng) for item in rows["text"]], list(rows["labels"]))
        return views

    def split_metrics(
        self, split: str, data: Dataset, prediction: EvalPrediction, labels: list[str]
    ) -> dict[str, Any]:
        """Scores of whole texts, pooled over their windows; on validation, fits temperature and unknown threshold."""
        rows = self.rows[split]
        truth = rows["labels"].to_numpy()
        logits = self.in_order(data, prediction)
        log_probs = pool_windows(logits, np.array(data["text"]), np.array(data["length"]), len(rows))
        scored = Scored(rows, truth, log_probs)
        self.scored[split] = scored
        if split == "validation" and self.uncalibrated:
            self.calibrate(scored)
        metrics = classification.classification_metrics(scored.predicted, truth, labels)
        metrics["texts"] = len(rows)
        lengths = findings.accuracy_by_length(scored)
        metrics["by_length"] = dict(zip(lengths["characters"], lengths["accuracy"], strict=True))
        metrics["texts_by_length"] = dict(zip(lengths["characters"], lengths["texts"], strict=True))
        metrics["calibration"] = calibration.calibration_report(scored.log_probs, truth, self.temperature)
        metrics["unknown"] = self.unknown_metrics(scored)
        focus = [code for code in self.data_args.codes("focus_languages") if code in labels]
        return {**metrics, "focus": findings.focus_metrics(scored, labels, focus)} if focus else metrics

    def detail_metrics(
        self, split: str, rows: Dataset, prediction: EvalPrediction, model: PreTrainedModel
    ) -> dict[str, Any]:
        """Intervals of the scores, drawn over sources where the data has them."""
        scored = self.scored[split]
        sources = scored.rows.get("source")
        found = intervals.interval_metrics(scored.predicted, scored.labels, sources)
        found["remarks"] = [*found["remarks"], *self.calibration_remarks]
        return {**found, "warnings": self.warnings} if self.warnings else found

    def in_order(self, data: Dataset, prediction: EvalPrediction) -> np.ndarray:
        """Logits `(windows, classes)` in the order of `data`, which length-grouped evaluation does not keep."""
        order = evaluation_order(self.training_args, list(data["length"]))
        if not np.array_equal(np.array(data["labels"])[order], prediction.label_ids):
            raise RuntimeError("The Trainer evaluated in an order that is not LengthGroupedSampler's.")
        logits = np.empty_like(prediction.predictions)
        logits[order] = prediction.predictions
        return logits

    def calibrate(self, scored: Scored) -> None:
        """Fit temperature and unknown threshold, and put them into the model's configuration."""
        self.temperature, origin = fitted_temperature(scored)
        self.typical = typical_margins(scored.log_probs)
        self.calibration_remarks = [origin]
        accepted, texts = self.data_args.accepted_fraction, len(scored.labels)
        if texts < (needed := calibration.examples_for_threshold(accepted)):
            self.threshold = 0.0
            self.warnings = [
                f"No unknown threshold: {texts} validation texts are too few to find what {accepted:.0%} of texts "
                f"pass; it needs {needed}. The pipeline answers with a language even where a text is in none of them."
            ]
        else:
            known = familiarity(scored.log_probs, scored.predicted, self.typical)
            self.threshold = float(expit(calibration.acceptance_threshold(known, accepted)))
            self.calibration_remarks.append(
                f"The unknown threshold ({self.threshold:.3f}) was fitted on {texts:,} validation texts, of which "
                f"{accepted:.0%} pass it."
            )
        self.settle(self.model.config)

    def unknown_metrics(self, scored: Scored) -> dict[str, Any]:
        """Texts of known languages that pass the threshold, and how well held-out languages are told from them."""
        known = expit(familiarity(scored.log_probs, scored.predicted, self.typical))
        metrics = {"threshold": self.threshold, "accepted": float((known >= self.threshold).mean())}
        if self.held_out.empty:
            return metrics
        identify = TextLanguageIdentificationPipeline(model=self.model, tokenizer=self.tokenizer)
        log_probs = identify.log_probs(list(self.held_out["text"]))
        unknown = expit(familiarity(log_probs, log_probs.argmax(axis=1), self.typical))
        metrics |= {
            "auroc": calibration.unknown_auroc(known, unknown),
            "rejected_held_out": float((unknown < self.threshold).mean()),
        }
        for code, places in self.held_out.groupby("label").indices.items():
            metrics[f"auroc_{code}"] = calibration.unknown_auroc(known, unknown[places])
        return metrics

    def write_artifacts(self, folder: Path, data: LoadedData, results: dict[str, dict[str, Any]]) -> dict[str, str]:
        if not self.scored:
            return {}
        captions = super().write_artifacts(folder, data, results)
        captions |= findings.write_tables(
            folder, self.scored, data.labels, self.temperature, self.data_args.noise_confidence
        )
        if self.training_args.do_train:
            output = self.training_args.output_dir
            config = AutoConfig.from_pretrained(output)
            self.settle(config)
            config.save_pretrained(output)
        return captions

    def card_example(self, repo_id: str) -> str:
        return (
            "import hf_fer\n"
            "from transformers import pipeline\n\n"
            f'identify = pipeline("text-language-identification", model="{repo_id}")\n'
            'identify("Hôm nay trời đẹp quá", top_k=3)\n'
            'identify("Hello there. Hôm nay trời đẹp quá.", spans=True)\n\n'
            "# or, without hf_fer, the plain classifier: the same languages, with scores that are not calibrated\n"
            f'pipeline("text-classification", model="{repo_id}")("Hôm nay trời đẹp quá")'
        )
