"""The application: routes of every model that is served, health, and errors in one form."""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from hf_fer import __version__
from hf_fer.inference.serve.guard import Guard, error_body
from hf_fer.inference.serve.hosting import SystemHost
from hf_fer.task.service import ErrorAnswer, Limits

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": said}
    for status, said in {
        401: "no token, or another one",
        404: "no such model here",
        408: "the body came too slowly",
        413: "the body or text is too large",
        422: "a file or field that cannot be used; the message says why",
        429: "too many requests wait",
        503: "the answer took too long",
    }.items()
}


class Health(BaseModel):
    """The process lives."""

    status: str = "ok"


class ModelEntry(BaseModel):
    """A model that is served."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "hf_fer"
    task: str


class ModelList(BaseModel):
    """Models that are served, in the form of OpenAI's clients."""

    object: str = "list"
    data: list[ModelEntry]


def new_app(
    hosts: list[SystemHost],
    limits: Limits,
    token: str | None = None,
    *,
    is_local: bool = True,
    with_page: bool = False,
) -> FastAPI:
    """
    The application that serves loaded models.

    Args:
        hosts: The models, by system.
        limits: Of a request.
        token: That requests must bring, if there is one.
        is_local: Whether only this machine can reach it. Then pages of other sites cannot either, under any name that
            they give to this machine's address.
        with_page: Whether there is a page for browsers at `/`.
    """
    app = FastAPI(
        title="hf_fer", version=__version__, description="Emotion, language, speech and concept models over HTTP."
    )
    bearer = [Depends(HTTPBearer(auto_error=False))] if token else []  # the guard checks it; this describes it
    router = APIRouter(responses=REFUSALS, dependencies=bearer)
    for host in hosts:
        host.service.add_route(router, host)
    app.include_router(router)
    add_health(app, hosts, bearer)
    app.add_exception_handler(HTTPException, told)
    app.add_exception_handler(RequestValidationError, told_of_field)
    if with_page:
        from hf_fer.inference.serve.pages import mount_page  # which imports Gradio

        mount_page(app, hosts, limits)
    app.add_middleware(Guard, limits=limits, token=token, hosts=LOOPBACK if is_local else None)
    return app


def add_health(app: FastAPI, hosts: list[SystemHost], dependencies: list[Any]) -> None:
    """Routes that say how the server is."""

    @app.get("/healthz")
    async def health() -> Health:
        """The process lives."""
        return Health()

    @app.get("/readyz", responses={503: {"model": ErrorAnswer}})
    async def ready() -> Health:
        """Models are loaded, and a file would be decoded."""
        if not all(model.is_ready for host in hosts for model in host.models.values()):
            raise HTTPException(503, "models are still being prepared.")
        return Health(status="ready")

    @app.get("/v1/models", dependencies=dependencies)
    async def list_models() -> ModelList:
        """Models that are served."""
        return ModelList(
            data=[ModelEntry(id=name, task=host.service.pipeline_task) for host in hosts for name in host.names()]
        )


async def told(request: Request, error: HTTPException) -> Response:
    """A refusal in the one form of errors."""
    body = error_body(error.status_code, str(error.detail))
    return Response(body, error.status_code, error.headers, "application/json")


async def told_of_field(request: Request, error: RequestValidationError) -> Response:
    """Which fields are wrong and why, without what was sent."""
    problems = [f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}" for one in error.errors()]
    return Response(error_body(422, "; ".join(problems)), 422, media_type="application/json")
