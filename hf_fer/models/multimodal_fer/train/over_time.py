"""The emotion of a recording over time: reads windows, asks the served model, and joins its answers."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import HTTPException, Request, UploadFile

from hf_fer.task.service import Arrays, Hosted

from ..face_multimodal_fer import NoFaceError
from ..timeline_multimodal_fer import SWITCH_PENALTY, TIMELINE_SECONDS, TIMELINE_STRIDES, timeline_of
from ..windows_multimodal_fer import Window

AHEAD = 4
"""Windows that go to the model together, and are therefore in memory at a time."""


@dataclass(frozen=True)
class TimelineSettings:
    """
    Settings of a timeline; see the pipeline.

    Args:
        length, stride: Length and stride of the windows, in seconds.
        switch_penalty: Evidence, in nats, that a change of label needs.
    """

    length: float
    stride: float
    switch_penalty: float

    @classmethod
    def of(
        cls, window_seconds: float | None, stride_seconds: float | None, switch_penalty: float | None
    ) -> "TimelineSettings":
        """Settings of a request; `None` for the pipeline's defaults."""
        length = window_seconds or TIMELINE_SECONDS
        penalty = SWITCH_PENALTY if switch_penalty is None else switch_penalty
        return cls(length, stride_seconds or length / TIMELINE_STRIDES, penalty)


@dataclass
class JudgedWindows:
    """Windows with the scores of all classes, in index order."""

    windows: list[Window] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)

    async def add(self, hosted: Hosted, pieces: list[Arrays]) -> None:
        """Ask the model about windows; those without a face and without sound are left out."""
        names = hosted.service.pipe.model.config.id2label
        found = await asyncio.gather(*(judge_window(hosted, piece) for piece in pieces))
        for piece, ranked in zip(pieces, found, strict=True):
            if ranked is not None:
                by_name = {one["label"]: one["score"] for one in ranked}
                self.windows.append(Window(*piece["window"].tolist()))
                self.scores.append([by_name[names[index]] for index in range(len(names))])


async def judge_over_time(
    hosted: Hosted, upload: UploadFile, request: Request, settings: TimelineSettings, threshold: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    The emotion of a whole recording and over time, equal to the pipeline's with `timeline=True`.

    Memory does not grow with the recording. Reading stops if the client does not wait any more.

    Args:
        hosted: The model.
        upload: The recording.
        request: The request.
        settings: Settings of the timeline.
        threshold: Score below which a segment abstains.

    Returns:
        All labels of the recording as `{"label", "score"}`, best first, and its segments.

    Raises:
        HTTPException: 422 if the recording or a setting cannot be used, 503 if the answer takes too long.
    """
    limits = hosted.service.limits
    judged, held = JudgedWindows(), []
    try:
        async with (
            asyncio.timeout(limits.answer_seconds * limits.timeline_scale),
            aclosing(hosted.stream(upload, hosted.service.window_decoder(settings.length, settings.stride))) as pieces,
        ):
            async for piece in pieces:
                held.append(piece)
                if len(held) == AHEAD:
                    await judged.add(hosted, held)
                    held = []
                    if await request.is_disconnected():
                        raise HTTPException(408, "the client has gone.")
            await judged.add(hosted, held)
    except TimeoutError as error:
        raise HTTPException(503, "the answer took too long: give a shorter recording.") from error
    if not judged.windows:
        raise HTTPException(422, "file: no face is found in any window, and there is no sound.")
    log_probs = np.log(np.maximum(np.array(judged.scores), np.finfo(np.float32).tiny))
    names = hosted.service.pipe.model.config.id2label
    found = timeline_of(
        judged.windows,
        log_probs,
        names,
        window_seconds=settings.length,
        switch_penalty=settings.switch_penalty,
        threshold=threshold,
    )
    mean = log_probs.mean(axis=0)
    whole = np.exp(mean - np.logaddexp.reduce(mean)).tolist()
    ranked = sorted(range(len(whole)), key=whole.__getitem__, reverse=True)
    return [{"label": names[index], "score": whole[index]} for index in ranked], found["segments"]


async def judge_window(hosted: Hosted, piece: Arrays) -> list[dict[str, Any]] | None:
    """Scores of a window; by its sound if YuNet finds no face in it, or `None` if it has no sound either."""
    clip = hosted.service.value({name: piece[name] for name in ("audio", "video") if name in piece})
    try:
        return await hosted.ask(clip)
    except HTTPException as error:
        if not isinstance(error.__cause__, NoFaceError):
            raise
    return await hosted.ask({**clip, "video": None}) if "audio" in clip else None
