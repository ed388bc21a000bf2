"""The tokenizer and the model of a language_id recipe."""

import logging
from dataclasses import asdict
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_fer.data.loading import DataError, LoadedData
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.runtime.checkpoints import start_anew
from hf_fer.task.base import Task
from hf_fer.weights.starting_points import load_model, nothing_anew

from ..configuration_language_id import LanguageIdNgramConfig
from ..pipeline_language_id import SETTINGS
from .ngrams import Start, character_tokenizer, count_ngrams, fill, ngram_config, start_weights
from .preprocessing import WindowSettings
from .scratch import outside_encoder, scratch_config, train_tokenizer, with_nfkc
from .source import checkpoint_config

logger = logging.getLogger(__name__)

SPANS_OF_CHARACTERS = {"span_length": 24, "span_overlap": 18}
"""Windows of four or five words for the pipeline's spans, if tokens are characters."""


def make_tokenizer(task: Task, data: LoadedData) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, with NFKC, or a new one that is trained on the training split only."""
    path = task.model_args.model_name_or_path
    if path is None:
        if "train" not in data.splits:
            raise DataError("There is no training split to train a tokenizer on; give --model_name_or_path.")
        texts, length = data.splits["train"]["text"], WindowSettings.of(task).max_length
        if task.model_args.architecture == "ngrams":
            return character_tokenizer(texts, length)
        return train_tokenizer(texts, task.model_args.vocab_size, length)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: {path} has no tokenizer that can be loaded ({error}).") from error
    if not tokenizer.is_fast:
        raise RecipeError(f"{path} has no fast tokenizer, which windows of long texts need.")
    length = WindowSettings.of(task).max_length
    if tokenizer.model_max_length < length:
        raise RecipeError(f"max_length is {length}, but {path} takes {tokenizer.model_max_length} tokens.")
    return with_nfkc(tokenizer)


def make_model(task: Task, data: LoadedData, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A new classifier, or the checkpoint's, whose configuration holds the pipeline's settings."""
    args, path = task.model_args, task.model_args.model_name_or_path
    config = make_config(task, data, tokenizer)
    model = load_checkpoint(path, config, data.labels) if path else new_model(task, data, tokenizer, config)
    modules = dict(model.named_modules())
    for part in args.freeze or []:
        check_choice("freeze part", part, [name for name in modules if name])
        modules[part].requires_grad_(False)
    return model


def new_model(
    task: Task, data: LoadedData, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> PreTrainedModel:
    """A model from scratch; that of n-grams gets its rows and weights from the counts of the training split."""
    args = task.model_args
    if args.architecture != "ngrams":
        return AutoModelForSequenceClassification.from_config(config)
    texts = data.splits["train"]
    counts = count_ngrams(config, tokenizer, list(texts["text"]), list(texts["labels"]))
    start = Start(args.ngram_discount, args.ngram_smoothing, args.naive_bayes_share, args.ngram_min_counts)
    keys, weights = start_weights(counts, start)
    config.num_ngrams = len(keys)
    model = AutoModelForSequenceClassification.from_config(config)
    fill(model, keys, weights)
    return model


def make_config(task: Task, data: LoadedData, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The checkpoint's configuration or a new one, with the classes of the data and the fields of the recipe."""
    args, names, windows = task.model_args, dict(enumerate(data.labels)), WindowSettings.of(task)
    fields: dict[str, Any] = {
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
        "problem_type": "single_label_classification",
        **({"attn_implementation": args.attn_implementation} if args.attn_implementation else {}),
    }
    if args.model_name_or_path:
        config = checkpoint_config(args.model_name_or_path, **fields)
    elif args.architecture == "ngrams":
        config = ngram_config(tokenizer, windows.max_length, **fields)
    else:
        config = AutoConfig.for_model("modernbert", **scratch_config(tokenizer, windows.max_length), **fields)
    for name, value in args.config_overrides.items():
        check_choice("config_overrides field", name, config.to_dict())
        setattr(config, name, value)
    if config.vocab_size < len(tokenizer):
        raise RecipeError(
            f"config_overrides: vocab_size {config.vocab_size} is less than the tokenizer's {len(tokenizer)}; leave "
            "it out, and set the recipe's own vocab_size for another tokenizer."
        )
    # After training, the temperature and threshold of the checkpoint no longer fit.
    stored = None if task.training_args.do_train else getattr(config, "language_id", None)
    config.language_id = {
        "typical_margins": None,
        **(stored or {name: SETTINGS[name] for name in ("temperature", "unknown_threshold")}),
        **asdict(windows),
        **(SPANS_OF_CHARACTERS if config.model_type == LanguageIdNgramConfig.model_type else {}),
    }
    return config


def load_checkpoint(path: str, config: PreTrainedConfig, labels: list[str]) -> PreTrainedModel:
    """The checkpoint's model; if the data has other classes, its classifier is initialised again."""
    known = list(checkpoint_config(path).id2label.values())
    if known == labels:
        return load_model(AutoModelForSequenceClassification, path, config=config, anew=nothing_anew)
    logger.warning("%s has other classes than the data: its classifier is initialised again.", path)
    model = load_model(AutoModelForSequenceClassification, path, config=config, anew=outside_encoder(config))
    start_anew(*(part for name, part in model.named_children() if name != model.base_model_prefix))
    return model
