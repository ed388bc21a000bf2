"""Connections that do not say what they want are closed: uvicorn itself waits for a request's head without end."""

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedHeads(H11Protocol):
    """
    HTTP/1.1 with a limit on how long a connection may take over the head of a request.

    Args:
        head_seconds: From the connection, or from the first byte after an answer, to the end of the head.
    """

    def __init__(self, *args: Any, head_seconds: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.head_seconds = head_seconds
        self.head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A connection begins."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Bytes come: of a head, as long as no request is being answered."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.head_timer is None:
            self._start()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection ends."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        self.head_timer = asyncio.get_running_loop().call_later(self.head_seconds, self.transport.close)

    def _stop(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None


def timed_heads(head_seconds: float) -> Any:
    """The class as uvicorn's `http` setting takes it."""
    return partial(TimedHeads, head_seconds=head_seconds)
