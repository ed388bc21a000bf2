"""Valid ranges of a recipe's numbers, and valid encodings and delimiters."""

import codecs
import math
from typing import Any

# Field -> (minimum, maximum, whether the minimum is excluded); None is no bound.
AT_LEAST_0, AT_LEAST_1 = (0, None, False), (1, None, False)
POSITIVE, SHARE = (0, None, True), (0, 1, False)

RANGES: dict[str, tuple[float | None, float | None, bool]] = {
    **dict.fromkeys(
        [
            "learning_rate",
            "weight_decay",
            "adam_epsilon",
            "max_grad_norm",
            "eval_delay",
            "warmup_steps",
            "dataloader_num_workers",
            "hp_trials",
            "save_total_limit",
            "early_stopping_threshold",
            "neftune_noise_alpha",
            "min_letters",
            "short_copies",
            "min_concept_images",
            "blank_steps",
            "join_recordings",
            "lm_weight",
            "naive_bayes_share",
        ],
        AT_LEAST_0,
    ),
    **dict.fromkeys(
        [
            "per_device_train_batch_size",
            "save_top_k",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "eval_accumulation_steps",
            "dataloader_prefetch_factor",
            "torch_empty_cache_steps",
            "early_stopping_patience",
            "max_skipped_steps",
            "ddp_timeout",
            "ddp_bucket_cap_mb",
            "check_workers",
            "max_train_samples",
            "max_eval_samples",
            "num_frames",
            "image_size",
            "fusion_num_layers",
            "max_length",
            "max_pixels",
            "sampling_rate",
            "mel_bins",
        ],
        AT_LEAST_1,
    ),
    **dict.fromkeys(
        [
            "num_train_epochs",
            "logging_steps",
            "eval_steps",
            "save_steps",
            "skip_grad_norm",
            "trim_silence_db",
            "max_seconds",
            "batch_seconds",
            "ngram_smoothing",
        ],
        POSITIVE,
    ),
    **dict.fromkeys(
        [
            "adam_beta1",
            "adam_beta2",
            "max_skipped_fraction",
            "validation_fraction",
            "test_fraction",
            "label_smoothing_factor",
            "ngram_discount",
        ],
        SHARE,
    ),
    **dict.fromkeys(["seed", "data_seed", "split_seed"], (0, 2**32 - 1, False)),  # NumPy's generators take no more
    "train_fraction": (0, 1, True),
    "window_ms": (10, 200, False),
    "max_steps": (-1, None, False),
    "local_rank": (-1, None, False),
}


def out_of_range(name: str, value: Any) -> str | None:
    """A sentence about an invalid number (NaN and infinity too), encoding or delimiter; `None` if it is valid."""
    if isinstance(value, str):
        return {"encoding": _unknown_encoding, "delimiter": _no_delimiter}.get(name, lambda value: None)(value)
    if name not in RANGES or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    least, most, is_open = RANGES[name]
    if not math.isfinite(value):
        return f"{name} must be a finite number, got {value}."
    if (value > least if is_open else value >= least) and (most is None or value <= most):
        return None
    if most is not None:
        return f"{name} must be in {'(' if is_open else '['}{least}, {most}], got {value}."
    return f"{name} must be {'over' if is_open else 'at least'} {least}, got {value}."


def _unknown_encoding(value: str) -> str | None:
    try:
        codecs.lookup(value)
    except LookupError:
        return f"encoding {value!r} is unknown to Python; write utf-8, cp1252, gb18030 or the like."
    return None


def _no_delimiter(value: str) -> str | None:
    if value == "\\t" or (len(value) == 1 and value not in '"\r\n'):
        return None
    return f"delimiter must be one character, such as ';' or '\\t', got {value!r}."
