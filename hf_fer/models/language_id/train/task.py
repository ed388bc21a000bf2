"""How run.py trains language_id."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import LoadedData
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.classification import ClassificationTask
from hf_fer.task.scoring import Evaluation

from . import text
from .arguments import LanguageIdDataArguments, LanguageIdModelArguments
from .building import make_model, make_tokenizer
from .preprocessing import WindowSettings
from .score import LanguageReport, score_split, windows
from .source import load_texts
from .texts import TextCollator, TrainingTexts
from .widget import widget_texts


class LanguageIdTask(ClassificationTask):
    """Text language identification."""

    model_arguments = LanguageIdModelArguments
    data_arguments = LanguageIdDataArguments
    primary_metric = "weighted_f1"
    hub_task = pipeline_tag = "text-classification"
    text_columns = ("text",)
    group_column = "source"
    shareable = (*ClassificationTask.shareable, "accuracy_by_length.csv", "confused_pairs.csv")
    widget_texts = staticmethod(widget_texts)

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
        return load_texts(self)

    def build_processor(self, data: LoadedData) -> PreTrainedTokenizerBase:
        return make_tokenizer(self, data)

    def build_model(self, data: LoadedData, processor: PreTrainedTokenizerBase) -> PreTrainedModel:
        return make_model(self, data, processor)

    def with_transforms(
        self, data: LoadedData, processor: PreTrainedTokenizerBase, clock: EpochClock
    ) -> dict[str, Any]:
        """Training texts, cut at other places each epoch, and the windows of the other splits."""
        args, settings, splits = self.data_args, WindowSettings.of(self), {}
        for split, rows in data.splits.items():
            texts, labels = list(rows["text"]), list(rows["labels"])
            if split != "train":
                splits[split] = windows(texts, labels, processor, settings)
                continue
            splits[split] = TrainingTexts(
                texts,
                labels,
                processor,
                max_length=settings.max_length,
                short_copies=args.short_copies,
                short_lengths=tuple(args.short_lengths),
                token_dropout=args.token_dropout,
                seed=self.training_args.seed,
                clock=clock,
            )
        return splits

    def collator(self, processor: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return TextCollator(processor, pad_to=8 if torch.accelerator.is_available() else None)

    def score(self, evaluation: Evaluation) -> LanguageReport:
        return score_split(self, evaluation)

    def memory_hints(self) -> list[str]:
        now = WindowSettings.of(self)
        return [f"--max_length {now.max_length // 2} --overlap {now.overlap // 2} (now {now.max_length})"]

    def card_example(self, repo_id: str) -> str:
        own = self.model_args.architecture == "ngrams"
        trusted = ", trust_remote_code=True" if own else ""
        return (
            "import hf_fer\n"
            "from transformers import pipeline\n\n"
            f'identify = pipeline("text-language-identification", model="{repo_id}")\n'
            'identify("Hôm nay trời đẹp quá", top_k=3)\n'
            'identify("Hello there. Hôm nay trời đẹp quá.", spans=True)\n\n'
            "# or, without hf_fer, the plain classifier: the same languages, with scores that are not calibrated\n"
            f'pipeline("text-classification", model="{repo_id}"{trusted})("Hôm nay trời đẹp quá")'
        )
