"""Interface for serving a system over HTTP: its route, its typed answers, and the decoding of uploads."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
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
"""Decodes a file to arrays. It is pickled and called in a separate process, which has no model."""
PieceDecoder = Callable[[str], Iterator[Arrays]]
"""Decodes a file piece by piece, in the same way."""


@dataclass(frozen=True)
class Limits:
    """
    Limits of a request.

    Args:
        max_bytes: Largest body; reading stops there.
        max_seconds: Longest recording.
        max_timeline_seconds: Longest recording that is decoded piece by piece, for a timeline.
        max_pixels: Largest picture or frame, as width times height.
        max_frames: Most frames of a video; a timeline may have more, as it may be longer.
        max_characters: Most characters in the texts of a request.
        queue: Most requests in progress or waiting; further ones are refused.
        decode_seconds, decode_bytes: Time and memory of the process that decodes an upload.
        body_seconds, idle_seconds: Longest time to receive a body, and between two chunks of it.
        answer_seconds: Longest time that a request waits for its answer.
    """

    max_bytes: int = 100 * 2**20
    max_seconds: float = 300.0
    max_timeline_seconds: float = 3600.0
    max_pixels: int = 2**25
    max_frames: int = 20_000
    max_characters: int = 100_000
    queue: int = 64
    decode_seconds: float = 30.0
    decode_bytes: int = 2 * 2**30
    body_seconds: float = 120.0
    idle_seconds: float = 10.0
    answer_seconds: float = 300.0

    @property
    def timeline_scale(self) -> float:
        """How many times as long as another recording a timeline may be; at least 1."""
        return max(1.0, self.max_timeline_seconds / self.max_seconds)


class Score(BaseModel):
    """A class and its calibrated probability."""

    label: str
    score: float


class Segment(Score):
    """A stretch of the input with one label, from `start` to `end` in seconds, or in characters of a text."""

    start: float
    end: float


class ErrorBody(BaseModel):
    """Why a request failed."""

    message: str
    type: str = Field(description="`invalid_request_error`, or `server_error` where the request is not at fault.")
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """An error in the form that OpenAI's clients read."""

    error: ErrorBody


class Hosted(Protocol):
    """A served model, as a system's routes and pages see it."""

    name: str
    service: "Service"

    async def read(self, upload: UploadFile | str) -> Any:
        """The pipeline's input for an upload or a file that the server stored; status 422 if it cannot be decoded."""

    def stream(self, upload: UploadFile | str, decoder: PieceDecoder) -> AsyncIterator[Arrays]:
        """Pieces of an upload, in memory that does not grow with its length; status 422 if it cannot be decoded."""

    async def ask(self, value: Any, **options: Any) -> Any:
        """The pipeline's answer; requests with the same options that arrive together share a batch."""


class Host(Protocol):
    """The served models of one system."""

    limits: Limits

    def names(self) -> list[str]:
        """Names of the models, the default one first."""

    def model(self, name: str | None) -> Hosted:
        """The model of this name, or the default one if `None`; status 404 if there is no such model."""


class Service(ABC):
    """
    Serves one system over HTTP. A system's module `train/service.py` holds one subclass.

    Args:
        predictor: Predictor with the model loaded.
        limits: Limits of a request.

    Attributes:
        pipeline_task: Name of the registered pipeline.
        title: Title of the system's tab.
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
        """Add the system's tab to the page that is being built; at most `limit` requests are handled at a time."""


class FileService(Service):
    """
    Service that takes uploads.

    Attributes:
        kinds: Kinds of files that it takes: `sound`, `video`, `image`.
    """

    kinds: ClassVar[tuple[str, ...]]

    @abstractmethod
    def decoder(self) -> Decoder:
        """The function that decodes an upload; it is pickled, so it must not refer to the model."""

    @abstractmethod
    def value(self, arrays: Arrays) -> Any:
        """The pipeline's input for decoded arrays; its answer is the same as for the file itself."""


def services() -> dict[str, type[Service]]:
    """Pipeline name -> service class of each system that has one."""
    return classes_by_pipeline("service", Service)
