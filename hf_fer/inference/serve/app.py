"""The web application: routes of the served models, health checks, and errors in one format."""

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
        401: "the token is missing or wrong",
        404: "there is no such model here",
        408: "the body arrived too slowly",
        413: "the body or text is too large",
        422: "a file or field cannot be used; the message says why",
        429: "too many requests are waiting",
        503: "the answer took too long",
    }.items()
}


class Health(BaseModel):
    """The state of the server."""

    status: str = "ok"


class ModelEntry(BaseModel):
    """A served model."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "hf_fer"
    task: str


class ModelList(BaseModel):
    """The served models, in the format of OpenAI's API."""

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
        hosts: The models of each system.
        limits: Limits of a request.
        token: Token that requests must send; `None` for no token.
        is_local: Whether only this machine can reach the server. Requests are then accepted only under a local host
            name, which keeps out other sites whose names resolve to this machine (DNS rebinding).
        with_page: Whether there is a page for browsers at `/`.
    """
    app = FastAPI(
        title="hf_fer", version=__version__, description="Emotion, language, speech and concept models over HTTP."
    )
    bearer = [Depends(HTTPBearer(auto_error=False))] if token else []  # for the OpenAPI description; `Guard` checks it
    router = APIRouter(responses=REFUSALS, dependencies=bearer)
    for host in hosts:
        host.service.add_route(router, host)
    app.include_router(router)
    add_health(app, hosts, bearer)
    app.add_exception_handler(HTTPException, told)
    app.add_exception_handler(RequestValidationError, told_of_field)
    if with_page:
        from hf_fer.inference.serve.pages import mount_page  # imports Gradio

        mount_page(app, hosts, limits)
    app.add_middleware(Guard, limits=limits, token=token, hosts=LOOPBACK if is_local else None)
    return app


def add_health(app: FastAPI, hosts: list[SystemHost], dependencies: list[Any]) -> None:
    """Add the routes for health checks and the list of models."""

    @app.get("/healthz")
    async def health() -> Health:
        """Whether the process runs."""
        return Health()

    @app.get("/readyz", responses={503: {"model": ErrorAnswer}})
    async def ready() -> Health:
        """Whether the models are loaded and files can be decoded."""
        if not all(model.is_ready for host in hosts for model in host.models.values()):
            raise HTTPException(503, "models are still being prepared.")
        return Health(status="ready")

    @app.get("/v1/models", dependencies=dependencies)
    async def list_models() -> ModelList:
        """List the served models."""
        return ModelList(
            data=[ModelEntry(id=name, task=host.service.pipeline_task) for host in hosts for name in host.names()]
        )


async def told(request: Request, error: HTTPException) -> Response:
    """The response for an `HTTPException`."""
    body = error_body(error.status_code, str(error.detail))
    return Response(body, error.status_code, error.headers, "application/json")


async def told_of_field(request: Request, error: RequestValidationError) -> Response:
    """The response for invalid fields: their names and the reasons, without the values that were sent."""
    problems = [f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}" for one in error.errors()]
    return Response(error_body(422, "; ".join(problems)), 422, media_type="application/json")
