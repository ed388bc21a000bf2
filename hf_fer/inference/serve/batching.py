"""Batches requests that arrive at about the same time."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

GATHER_SECONDS = 0.005
"""How long the first request of a batch waits for others; while the model is busy, requests gather anyway."""


@dataclass
class Job:
    """One request: its input, its options and the future of its answer."""

    value: Any
    options: dict[str, Any]
    answer: asyncio.Future

    @property
    def key(self) -> str:
        """Key of the options; jobs with the same key can share a batch."""
        return json.dumps(self.options, sort_keys=True)


class Batcher:
    """
    Runs a model in its own thread, batch by batch.

    Args:
        answer: Called with values and options; returns one answer per value, in order.
        size: Largest number of values in a batch.
    """

    def __init__(self, answer: Callable[[list[Any], dict[str, Any]], list[Any]], size: int):
        self.answer = answer
        self.size = size
        self.waiting: deque[Job] = deque()
        self.thread = ThreadPoolExecutor(1, "model")
        self.task: asyncio.Task | None = None

    async def ask(self, value: Any, options: dict[str, Any]) -> Any:
        """
        The answer to one value; errors of other values in its batch do not affect it.

        Raises:
            Exception: the model raises it for this value alone.
        """
        loop = asyncio.get_running_loop()
        job = Job(value, options, loop.create_future())
        self.waiting.append(job)
        if self.task is None or self.task.done():
            self.task = loop.create_task(self._work())
        return await job.answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            await asyncio.sleep(GATHER_SECONDS)
            batch = self._take()
            if not batch:
                continue
            found = await loop.run_in_executor(
                self.thread, self._answers, [job.value for job in batch], batch[0].options
            )
            for job, one in zip(batch, found, strict=True):
                if job.answer.done():  # the request was cancelled
                    continue
                if isinstance(one, Exception):
                    job.answer.set_exception(one)
                else:
                    job.answer.set_result(one)

    def _take(self) -> list[Job]:
        """Take the next batch: the longest-waiting job and others with the same options; the rest keep their order."""
        batch: list[Job] = []
        rest: list[Job] = []
        for job in self.waiting:
            if job.answer.done():
                continue
            fits = len(batch) < self.size and (not batch or job.key == batch[0].key)
            (batch if fits else rest).append(job)
        self.waiting = deque(rest)
        return batch

    def _answers(self, values: list[Any], options: dict[str, Any]) -> list[Any]:
        """An answer or an exception for each value; the values of a failing batch are answered one by one."""
        try:
            return self.answer(values, options)
        except Exception as error:  # a model may raise anything for a bad input
            if len(values) == 1:
                return [error]
        return [one for value in values for one in self._answers([value], options)]

    def close(self) -> None:
        """End the thread after its current batch."""
        self.thread.shutdown(wait=False, cancel_futures=True)
