"""Interface for predicting with a system's pipeline: which inputs it takes and the columns of its answers."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from transformers import Pipeline

from hf_fer.data.names import clean_name
from hf_fer.data.tables import PathFinder
from hf_fer.metrics.classification import NAMES, classification_metrics
from hf_fer.task.systems import classes_by_pipeline

SEGMENTS = pa.list_(
    pa.struct([("start", pa.float64()), ("end", pa.float64()), ("label", pa.string()), ("score", pa.float64())])
)


class Predictor(ABC):
    """
    Applies one system's pipeline to many inputs.

    A system's module `train/predictor.py` holds one subclass; `hf-fer predict` needs it, training does not.

    Args:
        pipe: The pipeline, with its model loaded.
        probabilities: Whether answers include the probability of every class.
        timeline: Whether answers include segments: labels with their start and end in the input.
        options: Arguments of the pipeline's call that the user gave.

    Attributes:
        pipeline_task: Name of the registered pipeline, which identifies the system of a saved model.
        model_type: Model type of the models that the pipeline takes; `None` for those of other libraries.
        endings: Endings, in lower case, of the files that are read from a folder.
        columns: Kind of input -> usual names of the table column that holds it.
        target_columns: Usual names of the column with the true answer.
        takes_texts: Whether a string is a text and not the name of a file.
        in_seconds: Whether segments have times in seconds, so that subtitles can be written.
        joins_segments: Whether segments are words, which subtitles join to lines.
        timeline_options: Arguments of the pipeline's call for a timeline; `None` where the system has none.
        page: Input of a Space's page: `clip`, `recording`, `image` or `text`; `None` where there is no page.
        batch_size: Default number of inputs in a batch.
        inputs_per_call: Number of inputs per call of the pipeline; `None` for one batch.
    """

    pipeline_task: ClassVar[str]
    model_type: ClassVar[str | None] = None
    endings: ClassVar[tuple[str, ...]]
    columns: ClassVar[dict[str, tuple[str, ...]]]
    target_columns: ClassVar[tuple[str, ...]]
    takes_texts: ClassVar[bool] = False
    in_seconds: ClassVar[bool] = True
    joins_segments: ClassVar[bool] = False
    timeline_options: ClassVar[dict[str, Any] | None] = None
    page: ClassVar[str | None] = None
    batch_size: ClassVar[int] = 8
    inputs_per_call: ClassVar[int | None] = None

    def __init__(
        self,
        pipe: Pipeline,
        *,
        probabilities: bool = False,
        timeline: bool = False,
        options: dict[str, Any] | None = None,
    ):
        self.pipe = pipe
        self.probabilities = probabilities
        self.timeline = timeline
        self.given = {**(self.timeline_options or {} if timeline else {}), **(options or {})}

    @property
    def labels(self) -> list[str]:
        """Class names in index order."""
        names = self.pipe.model.config.id2label
        return [names[index] for index in sorted(names)]

    @classmethod
    def combine(cls, found: dict[str, Any]) -> Any:
        """The pipeline's input for a row of a table; `found` has the row's values by the keys of `columns`."""
        return next(iter(found.values()))

    @classmethod
    def from_item(cls, item: dict[str, Any]) -> Any:
        """The pipeline's input for a dictionary such as a `datasets.Dataset` yields."""
        names = (name for usual in cls.columns.values() for name in usual)
        return next((item[name] for name in names if name in item), item)

    @classmethod
    def locate(cls, finder: PathFinder, name: str) -> str:
        """The path of a file that a table names."""
        return finder.find(name)

    @classmethod
    def length(cls, value: Any) -> float:
        """Sort key of an input, so that a batch needs little padding; the same for all inputs if unknown."""
        return 0.0

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the pipeline's call."""
        return self.given

    @classmethod
    def gives_segments(cls, timeline: bool, options: dict[str, Any]) -> bool:
        """Whether answers have segments, given `timeline` and these options of the user."""
        return timeline

    @property
    @abstractmethod
    def fields(self) -> dict[str, pa.DataType]:
        """Columns of an answer -> their Arrow types, in order."""

    @abstractmethod
    def row(self, answer: Any) -> dict[str, Any]:
        """Convert the pipeline's answer to one input to column -> value."""

    @classmethod
    @abstractmethod
    def score(cls, said: Sequence[str], rows: Sequence[dict[str, Any]], labels: list[str]) -> dict[str, Any]:
        """
        Compute metrics of rows whose true answer is known.

        Args:
            said: True answers as the table writes them.
            rows: Answers to the same inputs, without errors.
            labels: Class names in index order.
        """


class ClassPredictor(Predictor):
    """Predictor of a system that gives each input one label."""

    @property
    def fields(self) -> dict[str, pa.DataType]:
        found = {"label": pa.string(), "score": pa.float64(), "abstained": pa.bool_()}
        probabilities = {f"p_{label}": pa.float64() for label in self.labels} if self.probabilities else {}
        if self.gives_segments(self.timeline, self.given):
            found["segments"] = SEGMENTS
        if self.has_curve:
            moments = {"start": pa.float64(), "end": pa.float64(), **probabilities}
            found["curve"] = pa.list_(pa.struct([*moments.items()]))
        return found | probabilities

    @property
    def has_curve(self) -> bool:
        """Whether answers have a curve: the probability of every class over time."""
        return False

    def ranked(self, ranked: list[dict[str, Any]], abstention: str | None) -> dict[str, Any]:
        """
        Convert a ranking to column -> value.

        Args:
            ranked: List of `{"label", "score"}`, best first, as the pipeline gives it.
            abstention: Label that the pipeline puts first when it abstains; the row has the best class instead.
        """
        classes = [entry for entry in ranked if entry["label"] != abstention]
        best = classes[0] if classes else {"label": None, "score": None}
        row = {**best, "abstained": len(classes) < len(ranked)}
        if self.probabilities:
            row |= {f"p_{entry['label']}": entry["score"] for entry in classes}
        return row

    @classmethod
    def class_of(cls, name: str, labels: list[str]) -> int | None:
        """The class index of a true label as a table writes it, or `None` where the model has no such class."""
        name = clean_name(name)
        return labels.index(name) if name in labels else None

    @classmethod
    def score(cls, said: Sequence[str], rows: Sequence[dict[str, Any]], labels: list[str]) -> dict[str, Any]:
        """
        Accuracy, UAR and F1 of the best class, whether or not the model abstained.

        `not_scored` counts inputs whose true label is no class of the model, and inputs without a best class.
        """
        known = {name: cls.class_of(name, labels) for name in set(said)}
        pairs = [
            (labels.index(row["label"]), known[name])
            for name, row in zip(said, rows, strict=True)
            if known[name] is not None and row["label"] is not None
        ]
        counts = {"scored": len(pairs), "not_scored": len(said) - len(pairs)}
        if not pairs:
            return counts
        predicted, true = np.array(pairs).T
        metrics = classification_metrics(predicted, true, labels)
        return {**counts, **{name: metrics[name] for name in NAMES}}


def file_length(value: Any) -> float:
    """Size of an input's file in bytes, which stands for its length without decoding; 0 where there is no file."""
    if isinstance(value, dict):
        return max(map(file_length, value.values()), default=0.0)
    if not isinstance(value, str | os.PathLike):
        return 0.0
    try:
        return float(os.path.getsize(value))
    except (OSError, ValueError):  # ValueError: the name has a zero byte
        return 0.0


def predictors() -> dict[str, type[Predictor]]:
    """Pipeline name -> predictor class of each system that has one."""
    return classes_by_pipeline("predictor", Predictor)
