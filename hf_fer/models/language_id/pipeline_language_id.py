"""`pipeline("text-language-identification", model=...)`."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit, logit
from transformers import Pipeline

from .codes_language_id import same_language
from .windows_language_id import Window, cut_windows, familiarity, log_softmax, merge_spans, pool_windows

UNKNOWN = "unknown"
SETTINGS = {
    **{"max_length": 512, "overlap": 64, "temperature": 1.0, "unknown_threshold": 0.0, "typical_margins": None},
    **{"span_length": 16, "span_overlap": 12},
}
SWITCH_PENALTY = 4.0
TEXTS_AT_ONCE = 2048


def check_threshold(name: str, value: Any) -> None:
    """Raises ValueError where a threshold is no number in [0, 1]."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}.")


class TextLanguageIdentificationPipeline(Pipeline):
    """
    Identifies the language of a text.

    Inputs are a text, a `pathlib.Path` of a UTF-8 text file, a list of these, or a generator of them, which is
    answered by a generator. A string is always a text, never the name of a file. Texts longer than the model's window
    are scored in overlapping windows whose log-probabilities are pooled.

    Args (of the call, or of `pipeline` as defaults):
        top_k: Number of languages to return, 1 by default.
        labels: The only languages to choose from, as codes of the model, or, where `iso639-lang` is installed, as
            any ISO 639 code, tag or English name that training takes.
        unknown_threshold: A text is `unknown` if the logistic function of its `familiarity` is below this value in
            [0, 1). The default was fitted on validation; 0 switches it off. With `labels`, a text is still compared
            with all languages of the model, so that a text in none of `labels` is unknown.
        spans: Also return spans of the text with their languages.
        max_windows: Largest number of windows of a long text to score, evenly spread; `None` for all. Spans use all.
        batch_size: Windows per forward pass.

    Returns for each input a list of `{"label", "score"}`, best first, `top_k` of them. Scores are calibrated
    probabilities over the languages to choose from. If the text is `unknown`, that label comes first, with a score
    between 0.5 at the threshold and 1, and `top_k - 1` languages follow. A text without a letter is `unknown`, 1.0.
    With `spans`, it is a dictionary `{"languages": that list, "spans": [{"start", "end", "label", "score"}]}`; `start`
    and `end` are in characters of the input.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._check_settings()

    def _check_settings(self) -> None:
        """Raises ValueError where the model's configuration has settings that would give wrong scores or none."""
        stored = getattr(self.model.config, "language_id", None) or {}
        if not isinstance(stored, dict):
            raise ValueError(f"language_id in the configuration must be an object, got {stored!r}.")
        for name, least in (("max_length", 1), ("overlap", 0), ("span_length", 1), ("span_overlap", 0)):
            value = stored.get(name, SETTINGS[name])
            if not isinstance(value, int) or value < least:
                raise ValueError(f"language_id.{name} must be a whole number from {least} on, got {value!r}.")
        temperature = stored.get("temperature", 1.0)
        if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
            raise ValueError(f"language_id.temperature must be a positive number, got {temperature!r}.")
        check_threshold("language_id.unknown_threshold", stored.get("unknown_threshold", 0.0))
        typical, size = stored.get("typical_margins"), len(self.model.config.id2label)
        if typical is not None and [len(typical.get(name, ())) for name in ("mean", "std")] != [size, size]:
            raise ValueError(f"language_id.typical_margins needs mean and std of each of {size} classes.")

    @property
    def settings(self) -> dict[str, Any]:
        """Window, temperature and threshold stored with the model, or defaults; windows fit the model's length."""
        longest = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings - 2)
        stored = {**SETTINGS, **(getattr(self.model.config, "language_id", None) or {})}
        stored["max_length"] = min(stored["max_length"], longest)
        stored["overlap"] = min(stored["overlap"], stored["max_length"] // 4)
        return stored

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        names = {"top_k", "labels", "unknown_threshold", "spans", "max_windows"}
        unknown = sorted(kwargs.keys() - names)
        if unknown:
            raise TypeError(f"Unknown parameters {unknown}; this pipeline takes {sorted(names)} and batch_size.")
        if kwargs.get("top_k", 1) < 1:
            raise ValueError(f"top_k must be at least 1, got {kwargs['top_k']}.")
        if (kwargs.get("max_windows") or 1) < 1:
            raise ValueError(f"max_windows must be at least 1, got {kwargs['max_windows']}.")
        if kwargs.get("unknown_threshold") is not None:
            check_threshold("unknown_threshold", kwargs["unknown_threshold"])
        if kwargs.get("labels") is not None:
            kwargs["labels"] = [self.label_index(label) for label in kwargs["labels"]]
            if not kwargs["labels"]:
                raise ValueError("labels is empty: name the languages to choose from, or leave it out.")
        preprocess = {name: kwargs[name] for name in ("spans", "max_windows") if name in kwargs}
        postprocess = {name: kwargs[name] for name in kwargs if name != "max_windows"}
        return preprocess, {}, postprocess

    def label_index(self, label: str) -> int:
        """
        The class of a language, by the model's own label or any code, tag or name that training takes.

        Raises:
            ValueError: the model does not know the language; the message lists those it knows.
        """
        known = {name: index for index, name in self.model.config.id2label.items()}
        if label in known:
            return known[label]
        name = same_language(label, list(known))
        if name is None:
            raise ValueError(f"This model does not know the language {label!r}; it knows {sorted(known)}.")
        return known[name]

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Identify texts; see the class."""
        given = self._sanitize_parameters(**kwargs)
        stored = (self._preprocess_params, self._forward_params, self._postprocess_params)
        params = [{**defaults, **override} for defaults, override in zip(stored, given, strict=True)]
        batch_size = batch_size or self._batch_size or 64
        if isinstance(inputs, str | Path):
            return next(self._stream([inputs], batch_size, *params))
        if not isinstance(inputs, Iterable) or isinstance(inputs, bytes | dict):
            raise TypeError(
                f"Give a text, a pathlib.Path, or a list or generator of them, not {type(inputs).__name__}."
            )
        results = self._stream(inputs, batch_size, *params)
        return list(results) if isinstance(inputs, list | tuple) else results

    def _stream(
        self, inputs: Iterable[str | Path], batch_size: int, preprocess: dict, forward: dict, postprocess: dict
    ) -> Iterator[Any]:
        items = iter(inputs)
        while chunk := list(islice(items, TEXTS_AT_ONCE)):
            inputs = self.preprocess(chunk, **preprocess)
            logits = self._scores(inputs["windows"], batch_size, **forward)
            yield from self.postprocess({**inputs, "logits": logits}, **postprocess)

    def _scores(self, windows: list[Window], batch_size: int, **forward: Any) -> np.ndarray:
        """Logits `(windows, classes)`; windows of similar length share a batch."""
        logits = np.zeros((len(windows), self.model.config.num_labels), dtype=np.float32)
        order = sorted(range(len(windows)), key=lambda index: len(windows[index].input_ids))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.tokenizer.pad(
                {"input_ids": [windows[index].input_ids for index in chosen]}, return_tensors="pt"
            )
            logits[chosen] = self.forward(dict(batch), **forward)["logits"].float().numpy()
        return logits

    def preprocess(
        self, inputs: list[str | Path], spans: bool = False, max_windows: int | None = 64
    ) -> dict[str, Any]:
        """
        Turns texts into `{"texts", "windows", "wordless"}`; a text without a letter is wordless, and treated as empty.

        Raises:
            TypeError: an input is neither a text nor a path.
            ValueError: a file cannot be read or is not UTF-8.
        """
        texts = [self.read(item) for item in inputs]
        wordless = [not any(map(str.isalpha, text)) for text in texts]
        texts = ["" if empty else text for text, empty in zip(texts, wordless, strict=True)]
        settings = self.settings
        size = {"max_length": settings["max_length"], "overlap": settings["overlap"], "max_windows": max_windows}
        if spans:
            length = min(settings["span_length"], size["max_length"])
            size = {"max_length": length, "overlap": min(settings["span_overlap"], 3 * length // 4)}
        return {"texts": texts, "windows": cut_windows(self.tokenizer, texts, **size), "wordless": wordless}

    @staticmethod
    def read(item: str | Path) -> str:
        """The text, or a file's text; lone surrogates, which no tokenizer accepts, become question marks."""
        if isinstance(item, Path):
            try:
                return item.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(f"{item} is not UTF-8 (byte {error.start}); convert it, or pass its text.") from error
            except OSError as error:
                raise ValueError(f"{item} cannot be read: {error.strerror}.") from error
        if not isinstance(item, str):
            raise TypeError(f"Expected a text or a pathlib.Path, got {type(item).__name__}.")
        return item.encode("utf-8", "replace").decode("utf-8")

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": self.model(**model_inputs).logits}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        top_k: int = 1,
        labels: list[int] | None = None,
        unknown_threshold: float | None = None,
        spans: bool = False,
    ) -> list[Any]:
        """Turns logits of windows into the results of their texts."""
        texts, windows, wordless = (model_outputs[name] for name in ("texts", "windows", "wordless"))
        settings, names = self.settings, self.model.config.id2label
        classes = list(dict.fromkeys(labels)) if labels else list(range(len(names)))
        threshold = settings["unknown_threshold"] if unknown_threshold is None else unknown_threshold
        pooled = self.pool(model_outputs)
        chosen = np.array(classes)[pooled[:, classes].argmax(axis=1)]
        doubts = np.full(len(pooled), -np.inf)
        if threshold > 0:
            doubts = logit(threshold) - familiarity(pooled, chosen, settings["typical_margins"])
        doubts[wordless] = np.inf
        scores = np.exp(log_softmax(pooled[:, classes] / settings["temperature"]))
        codes = [names[index] for index in classes]
        results = [self._ranked(row, codes, top_k, doubt) for row, doubt in zip(scores, doubts, strict=True)]
        if not spans:
            return results
        calibrated = log_softmax(model_outputs["logits"][:, classes] / settings["temperature"])
        owners = np.array([window.text for window in windows])
        groups = np.split(np.arange(len(windows)), np.cumsum(np.bincount(owners))[:-1])
        return [
            {"languages": result, "spans": [] if no else self._spans(item, group, windows, calibrated, codes)}
            for result, item, group, no in zip(results, texts, groups, wordless, strict=True)
        ]

    @staticmethod
    def pool(outputs: dict[str, Any]) -> np.ndarray:
        """Uncalibrated log-probabilities of whole texts, `(texts, classes)`, from `preprocess` and `logits`."""
        windows = outputs["windows"]
        owners = np.array([window.text for window in windows])
        lengths = np.array([len(window.input_ids) for window in windows])
        return pool_windows(outputs["logits"], owners, lengths, len(outputs["texts"]))

    def log_probs(self, texts: list[str | Path], batch_size: int = 64) -> np.ndarray:
        """Uncalibrated log-probabilities of whole texts over all classes, `(texts, classes)`."""
        inputs = self.preprocess(texts)
        return self.pool({**inputs, "logits": self._scores(inputs["windows"], batch_size)})

    @staticmethod
    def _ranked(scores: np.ndarray, codes: list[str], top_k: int, doubt: float) -> list[dict[str, Any]]:
        if doubt == np.inf:
            return [{"label": UNKNOWN, "score": 1.0}]
        order = np.argsort(-scores, kind="stable")[:top_k]
        ranked = [{"label": codes[index], "score": float(scores[index])} for index in order]
        if doubt > 0:
            ranked = [{"label": UNKNOWN, "score": float(expit(doubt))}, *ranked[: top_k - 1]]
        return ranked

    @staticmethod
    def _spans(
        text: str, group: np.ndarray, windows: list[Window], log_probs: np.ndarray, codes: list[str]
    ) -> list[dict[str, Any]]:
        found = merge_spans(text, [windows[index] for index in group], log_probs[group], SWITCH_PENALTY)
        return [
            {"start": span["start"], "end": span["end"], "label": codes[span["class"]], "score": span["score"]}
            for span in found
        ]


__all__ = ["TextLanguageIdentificationPipeline"]
