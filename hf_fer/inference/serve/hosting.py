"""Served models: stores and decodes uploads, and asks the pipeline."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import HTTPException, UploadFile

from hf_fer.inference.loading import FoundModel, load_predictor
from hf_fer.inference.serve.batching import Batcher
from hf_fer.inference.serve.decoding import BusyError, Decoding, UnusableUploadError
from hf_fer.inference.serve.formats import HEAD, kind_of
from hf_fer.task.service import Arrays, FileService, Limits, PieceDecoder, Service, services


class HostedModel:
    """
    One served model; see `hf_fer.task.service.Hosted`.

    Args:
        name: Name in requests.
        service: Service of its system, with the model loaded.
        decoding: Decoding processes, which all models share.
    """

    def __init__(self, name: str, service: Service, decoding: Decoding):
        self.name = name
        self.service = service
        self.decoding = decoding
        self.decoder = service.decoder() if isinstance(service, FileService) else None
        self.batcher = Batcher(service.answer, service.predictor.batch_size)

    @property
    def is_ready(self) -> bool:
        """Whether the model can answer and, if it takes files, decode them."""
        return self.decoder is None or self.decoding.is_ready

    async def read(self, upload: UploadFile | str) -> Any:
        """
        Decode an upload to the pipeline's input; its name is ignored.

        Args:
            upload: Upload of a request, or path of a file that the server has stored.

        Raises:
            HTTPException: 422 if the model does not accept the format, or the file does not decode.
        """
        async with self._stored(upload) as path:
            return self.service.value(await self.decoding.decode(self.decoder, path))

    async def stream(self, upload: UploadFile | str, decoder: PieceDecoder) -> AsyncIterator[Arrays]:
        """
        Decode an upload piece by piece, in memory that does not grow with its length.

        Args:
            upload: See `read`.
            decoder: Decodes the pieces, in place of the service's decoder.

        Raises:
            HTTPException: 422 as in `read`; 429 if as many uploads as there are cores are being read in this way.
        """
        async with self._stored(upload) as path:
            try:
                async for piece in self.decoding.stream(decoder, path):
                    yield piece
            except BusyError as error:
                said = "other recordings are being read piece by piece; try again later."
                raise HTTPException(429, said, {"Retry-After": "60"}) from error

    @asynccontextmanager
    async def _stored(self, upload: UploadFile | str) -> AsyncIterator[Path]:
        """The path of a copy of an upload, for as long as the block; raises `HTTPException` 422 for what is in it."""
        with tempfile.TemporaryDirectory(prefix="hf_fer_upload_") as folder:
            path = Path(folder) / "upload"
            await asyncio.to_thread(store, upload, path)
            with path.open("rb") as file:
                kind = kind_of(file.read(HEAD))
            if kind not in self.service.kinds:
                found = f"it is {kind}" if kind else "its format is not accepted, or it is empty"
                raise HTTPException(422, f"file: {found}; this model takes {' or '.join(self.service.kinds)}.")
            try:
                yield path
            except UnusableUploadError as error:
                raise HTTPException(422, f"file: {error}") from error

    async def ask(self, value: Any, **options: Any) -> Any:
        """
        The pipeline's answer; options that are `None` keep the pipeline's default.

        Raises:
            HTTPException: 422 if the pipeline refuses the input or an option, 503 if the answer takes too long.
        """
        try:
            async with asyncio.timeout(self.service.limits.answer_seconds):
                return await self.batcher.ask(value, {name: one for name, one in options.items() if one is not None})
        except TimeoutError as error:
            raise HTTPException(503, "the answer took too long; try again later.") from error
        except ValueError as error:
            raise HTTPException(422, " ".join(str(error).split())) from error


def store(upload: UploadFile | str, path: Path) -> None:
    """Copy an upload to `path`, a file named by the server."""
    source: BinaryIO = open(upload, "rb") if isinstance(upload, str) else upload.file  # noqa: SIM115
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


class SystemHost:
    """The models of one system; see `hf_fer.task.service.Host`."""

    def __init__(self, service: type[Service], limits: Limits):
        self.service = service
        self.limits = limits
        self.models: dict[str, HostedModel] = {}

    def names(self) -> list[str]:
        """Names of the models, the default one first."""
        return list(self.models)

    def model(self, name: str | None) -> HostedModel:
        """The model of this name, or the default one if `None`; raises `HTTPException` 404 if there is none."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise HTTPException(404, f"there is no such model here; there are: {', '.join(self.models)}.")
        return self.models[name]


def load_hosts(found: dict[str, FoundModel], limits: Limits) -> list[SystemHost]:
    """
    Load models and group them by system.

    Args:
        found: Name in requests -> model.
        limits: Limits of a request.

    Raises:
        RecipeError: a model cannot be loaded.
    """
    known = services()
    chosen = {name: known[model.predictor.pipeline_task] for name, model in found.items()}
    decoding = Decoding(limits, sorted({kind.__module__ for kind in chosen.values() if issubclass(kind, FileService)}))
    hosts: dict[type[Service], SystemHost] = {}
    for name, model in found.items():
        kind = chosen[name]
        host = hosts.setdefault(kind, SystemHost(kind, limits))
        host.models[name] = HostedModel(name, kind(load_predictor(model), limits), decoding)
    return list(hosts.values())
