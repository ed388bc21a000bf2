"""Checks every request before the application sees it: token, queue, limits of the body; and logs it."""

import asyncio
import base64
import binascii
import contextlib
import logging
import secrets
import time
import uuid
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_fer.inference.serve.logs import described, log
from hf_fer.task.service import ErrorAnswer, ErrorBody, Limits

API = "/v1/"
OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no token, because monitoring has none."""

FORM_BYTES = 2**16
"""Bytes that a form may have in addition to its file."""
JSON_BYTES = 2**20
"""Bytes that a JSON body may have in addition to its texts."""
CHARACTER_BYTES = 12
"""Most bytes of a character: a surrogate pair in JSON's escapes."""
LINGER_SECONDS = 1.0
"""How long the remaining body of a refused request is read and discarded, so that the client reads the answer."""
LINGER_BYTES = 2**26
"""How much of it is read at most."""

TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def error_body(status: int, message: str) -> bytes:
    """An error in the form that OpenAI's clients read."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ErrorAnswer(error=ErrorBody(message=message, type=kind, code=str(status))).model_dump_json().encode()


class Guard:
    """
    ASGI middleware that checks and logs requests.

    Args:
        app: Application to wrap.
        limits: Limits of a request.
        token: Token that requests must send; `None` for no token.
        hosts: Accepted names in the `Host` header; all if `None`.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None, hosts: tuple[str, ...] | None = None):
        self.app = app
        self.limits = limits
        self.token = token
        self.hosts = hosts
        self.admitted = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self.limits)
        counted = scope["path"].startswith(API) and scope["method"] == "POST"
        try:
            self._check(scope, exchange, counted)
            self.admitted += counted
            try:
                await self.app(scope, exchange.receive, exchange.send)
            finally:
                self.admitted -= counted
        except HTTPException as error:
            await exchange.refuse(error)
        except Exception as error:
            log("failure", logging.ERROR, request=exchange.name, **described(error))
            await exchange.refuse(HTTPException(500, "the server failed; its log says where, under the request's id."))
        finally:
            exchange.log()

    def _check(self, scope: Scope, exchange: "Exchange", counted: bool) -> None:
        if self.hosts and host_name(exchange.headers.get("host", "")) not in self.hosts:
            raise HTTPException(421, f"this server is called {', '.join(self.hosts)}; start it with --host otherwise.")
        if self.token and scope["path"] not in OPEN_PATHS and not self._has_token(exchange.headers):
            told = {"WWW-Authenticate": 'Basic realm="hf-fer: any name, and the token as password", Bearer'}
            raise HTTPException(401, "give the server's token: Authorization: Bearer TOKEN", told)
        exchange.check_length()
        if counted and self.admitted >= self.limits.queue:
            raise HTTPException(429, f"{self.limits.queue} requests wait already; try again.", {"Retry-After": "1"})

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        """Whether a request has the token, as bearer token or as the password that a browser asks its user for."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return secrets.compare_digest(given.strip().encode(), self.token.encode())


def host_name(header: str) -> str:
    """A `Host` header without its port."""
    return header[: header.find("]") + 1] if header.startswith("[") else header.partition(":")[0]


class Exchange:
    """
    One request and its answer.

    Args:
        scope, receive, send: Arguments of an ASGI call.
        limits: Limits of a request.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits):
        self.scope = scope
        self._receive = receive
        self._send = send
        self.limits = limits
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.name = uuid.uuid4().hex
        self.started = time.monotonic()
        self.bytes = 0
        self.status: int | None = None
        self.is_whole = False

    @property
    def max_bytes(self) -> int:
        """Largest size of the body: of a form with its file, or of JSON with its texts."""
        if self.headers.get("content-type", "").startswith("multipart/"):
            return self.limits.max_bytes + FORM_BYTES
        return min(self.limits.max_bytes, JSON_BYTES + CHARACTER_BYTES * self.limits.max_characters)

    def check_length(self) -> None:
        """Refuse a body that is too large by its `Content-Length`, before any of it is read."""
        length = self.headers.get("content-length", "")
        if length.isdecimal():
            self._check_bytes(int(length))

    def _check_bytes(self, count: int) -> None:
        if count > self.max_bytes:
            raise HTTPException(413, f"the body has over {self.max_bytes} bytes, which is the most that is accepted.")

    async def receive(self) -> Message:
        """
        Receive the next chunk of the body.

        Raises:
            HTTPException: 413 if the body is too large, 408 if it arrives too slowly.
        """
        if self.is_whole:
            return await self._receive()
        left = self.started + self.limits.body_seconds - time.monotonic()
        try:
            async with asyncio.timeout(min(self.limits.idle_seconds, left)):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "the body arrived too slowly.") from error
        if message["type"] == "http.request":
            self.bytes += len(message.get("body", b""))
            self._check_bytes(self.bytes)
            self.is_whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; the connection is closed after it if the request's body is incomplete."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [(b"x-request-id", self.name.encode()), (b"x-content-type-options", b"nosniff")]
            own += [] if self._has_ended else [(b"connection", b"close")]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        elif message["type"] == "http.response.body" and not message.get("more_body") and not self._has_ended:
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    @property
    def _has_ended(self) -> bool:
        """Whether the request's body is complete."""
        length, chunks = self.headers.get("content-length", "0"), self.headers.get("transfer-encoding")
        return self.is_whole or (length == "0" and not chunks)

    async def _linger(self) -> None:
        """
        Read and discard the rest of the body, so that the client gets the answer before the connection is closed.

        After `LINGER_BYTES` the body is not read any more, and after `LINGER_SECONDS` the connection may be closed.
        """
        discarded = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (message := await self._receive())["type"] == "http.request" and message.get("more_body"):
                    discarded += len(message.get("body", b""))
                    if discarded > LINGER_BYTES:
                        await asyncio.sleep(LINGER_SECONDS)

    async def refuse(self, error: HTTPException) -> None:
        """Answer with an error, unless an answer has already started."""
        if self.status is not None:
            return
        body = error_body(error.status_code, error.detail)
        headers = {"content-type": "application/json", "content-length": str(len(body)), **(error.headers or {})}
        listed = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status_code, "headers": listed})
        await self.send({"type": "http.response.body", "body": body})

    def log(self) -> None:
        """Log the request by its route, because a path may contain anything."""
        route = getattr(self.scope.get("route"), "path", None) or ("page" if self.status != 404 else "unknown")
        seconds = round(time.monotonic() - self.started, 4)
        log(
            "request",
            request=self.name,
            method=self.scope["method"],
            route=route,
            status=self.status,
            seconds=seconds,
            bytes=self.bytes,
        )
