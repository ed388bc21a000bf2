"""What a system says about being served: its route, its typed answers, and how an upload is decoded."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from fastapi import APIRouter, UploadFile
from pydantic import BaseModel, Field
from transformers import Pipeline

from hf_fer.task.predictor import Predictor
from hf_fer.task.systems import classes_by_pipeline

Arrays = dict[str, np.ndarray]
Decoder = Callable[[str], Arrays]
"""From a file to arrays. It is pickled and called in a process of its own, which has no model."""


@dataclass(frozen=True)
class Limits:
    """
    What a request may cost.

    Args:
        max_bytes: Of a body; it is cut off there.
        max_seconds: Length of a recording.
        max_pixels: Width times height of a picture or frame.
        max_frames: Of a video.
        max_characters: Of the texts of a request.
        queue: Requests that are worked on or wait; more are refused.
        decode_seconds, decode_bytes: Time and memory of the process that decodes an upload.
        body_seconds, idle_seconds: How long a body may take to come, and to the next part of it.
        answer_seconds: How long a request may wait for its answer.
    """

    max_bytes: int = 100 * 2**20
    max_seconds: float = 300.0
    max_pixels: int = 2**25
    max_frames: int = 20_000
    max_characters: int = 100_000
    queue: int = 64
    decode_seconds: float = 30.0
    decode_bytes: int = 2 * 2**30
    body_seconds: float = 120.0
    idle_seconds: float = 10.0
    answer_seconds: float = 300.0


class Score(BaseModel):
    """A class and its calibrated probability."""

    label: str
    score: float


class Segment(Score):
    """Which part of an input has which label: from `start` to `end`, in seconds, or in characters of a text."""

    start: float
    end: float


class ErrorBody(BaseModel):
    """What is wrong with a request."""

    message: str
    type: str = Field(description="`invalid_request_error`, or `server_error` where the request is not to blame.")
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """An error in the form that OpenAI's clients read."""

    error: ErrorBody


class Hosted(Protocol):
    """A model that is being served, as a system's routes and pages see it."""

    name: str
    service: "Service"

    async def read(self, upload: UploadFile | str) -> Any:
        """What the pipeline is given for an upload, or for a file that the server has stored; 422 if it is bad."""

    async def ask(self, value: Any, **options: Any) -> Any:
        """The pipeline's answer; requests with the same options that arrive together share a batch."""


class Host(Protocol):
    """The models of one system that are being served."""

    limits: Limits

    def names(self) -> list[str]:
        """Their names, the default first."""

    def model(self, name: str | None) -> Hosted:
        """The model of a name, or the first; 404 if there is none of that name."""


class Service(ABC):
    """
    One system behind HTTP. A system's module `train/service.py` holds one subclass.

    Args:
        predictor: With the model loaded.
        limits: Of a request.

    Attributes:
        pipeline_task: The registered pipeline.
        title: Of its tab.
    """

    pipeline_task: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, predictor: Predictor, limits: Limits):
        self.predictor = predictor
        self.limits = limits

    @property
    def pipe(self) -> Pipeline:
        """The pipeline."""
        return self.predictor.pipe

    def answer(self, values: list[Any], options: dict[str, Any]) -> list[Any]:
        """The pipeline's answers to a batch; runs in the model's own thread."""
        return list(self.pipe(values, batch_size=len(values), **options))

    @classmethod
    @abstractmethod
    def add_route(cls, router: APIRouter, host: Host) -> None:
        """Add the system's route."""

    @classmethod
    @abstractmethod
    def add_tab(cls, host: Host, limit: int) -> None:
        """Add the system's tab to the page that is being built; it answers `limit` users at a time."""


class FileService(Service):
    """
    One that takes uploads.

    Attributes:
        kinds: Of files that it takes: `sound`, `video`, `image`.
    """

    kinds: ClassVar[tuple[str, ...]]

    @abstractmethod
    def decoder(self) -> Decoder:
        """How an upload is decoded; what it holds is pickled, so it must not hold the model."""

    @abstractmethod
    def value(self, arrays: Arrays) -> Any:
        """What the pipeline is given for decoded arrays, with the same answer as for the file itself."""


def services() -> dict[str, type[Service]]:
    """The service of each system that has one, by its pipeline's name."""
    return classes_by_pipeline("service", Service)
