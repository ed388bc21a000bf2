"""Closes connections that do not send the head of a request in time; uvicorn alone would wait forever."""

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedHeads(H11Protocol):
    """
    HTTP/1.1 with a time limit for receiving the head of a request.

    Args:
        head_seconds: Time limit from the start of the connection, or from the first byte after an answer, to the end
            of the head.
    """

    def __init__(self, *args: Any, head_seconds: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.head_seconds = head_seconds
        self.head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the timer with a new connection."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Start the timer with the first bytes of a head, and stop it when the head is complete."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.head_timer is None:
            self._start()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer when the connection ends."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        self.head_timer = asyncio.get_running_loop().call_later(self.head_seconds, self.transport.close)

    def _stop(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None


def timed_heads(head_seconds: float) -> Any:
    """`TimedHeads` in the form that uvicorn's `http` setting takes."""
    return partial(TimedHeads, head_seconds=head_seconds)
