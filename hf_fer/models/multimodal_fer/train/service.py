"""multimodal_fer behind HTTP: `/v1/emotion`."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, UploadFile
from pydantic import BaseModel, Field

from hf_fer.task.service import Arrays, Host, Hosted, Score, Service

from ..decoding_multimodal_fer import load_audio, load_video, media_tracks, video_timeline
from ..limits_multimodal_fer import MediaLimits, UnusableMediaError
from ..pipeline_multimodal_fer import ABSTAIN


class EmotionAnswer(BaseModel):
    """The emotion of a clip."""

    model: str
    labels: list[Score] = Field(description="Best first.")
    abstained: bool = Field(description="Whether the best score is below the threshold, so that no label is sure.")
    modalities: dict[str, list[Score]] | None = Field(
        None, description="What `audio` alone and `video` alone say, if asked for."
    )


@dataclass(frozen=True)
class ClipDecoder:
    """
    A clip's sound and as many frames as the model looks at, both as the processor decodes them.

    Args:
        modalities: Of the model.
        sampling_rate: Of the sound, in Hz.
        num_frames: Frames that are taken out of the video, evenly.
        limits: Of sound and frames.
        max_frames: Of the whole video.
    """

    modalities: tuple[str, ...]
    sampling_rate: int
    num_frames: int
    limits: MediaLimits
    max_frames: int

    def __call__(self, path: str) -> Arrays:
        """Raises `UnusableMediaError` where the file has none of the modalities, or is over the limits."""
        found = [name for name in self.modalities if name in media_tracks(path)]
        if not found:
            raise UnusableMediaError(path, f"has none of {', '.join(self.modalities)}")
        arrays = {}
        if "video" in found:
            frames = len(video_timeline(path, self.limits).frames)
            if frames > self.max_frames:
                raise UnusableMediaError(path, f"it has {frames} frames, over max_frames = {self.max_frames}")
            arrays["video"] = load_video(path, self.num_frames, self.limits)
        if "audio" in found:
            arrays["audio"] = load_audio(path, self.sampling_rate, self.limits)
        return arrays


class EmotionService(Service):
    """Emotions of clips."""

    pipeline_task = "audio-visual-emotion-recognition"
    kinds = ("sound", "video")
    title = "Emotion"

    def decoder(self) -> ClipDecoder:
        """Within the tighter of the server's and the processor's own limits."""
        processor, config = self.pipe.processor, self.pipe.model.config
        limits = MediaLimits(
            min(self.limits.max_seconds, processor.max_seconds), min(self.limits.max_pixels, processor.max_pixels)
        )
        modalities = ("audio",) if config.visual_feature_size else tuple(config.modalities)
        return ClipDecoder(modalities, processor.sampling_rate, processor.num_frames, limits, self.limits.max_frames)

    def value(self, arrays: Arrays) -> dict[str, Any]:
        """Sound and frames as the pipeline takes them."""
        return {**arrays, "sampling_rate": self.pipe.processor.sampling_rate}

    def options(self, abstain: float | None) -> dict[str, Any]:
        """Abstention by a threshold of the request, or by the model's own where it has one."""
        own = True if self.pipe.model.config.abstention_threshold else None
        return {"abstain": own if abstain is None else abstain}

    @classmethod
    def add_route(cls, router: APIRouter, host: Host) -> None:
        @router.post("/v1/emotion")
        async def emotion(
            file: UploadFile,
            model: Annotated[str | None, Form(description="Name of a served model.")] = None,
            top_k: Annotated[int | None, Form(ge=1)] = None,
            abstain: Annotated[
                float | None, Form(ge=0, le=1, description="Threshold in place of the model's.")
            ] = None,
            by_modality: Annotated[bool, Form(description="Whether to judge sound and pictures alone, too.")] = False,
        ) -> EmotionAnswer:
            """The emotion of a clip, from its sound, its pictures or both."""
            hosted = host.model(model)
            clip = await hosted.read(file)
            return await judge(hosted, clip, by_modality, top_k=top_k, **hosted.service.options(abstain))


async def judge(hosted: Hosted, clip: dict[str, Any], by_modality: bool, **options: Any) -> EmotionAnswer:
    """
    The emotion of a clip, and what its sound and pictures say on their own.

    Raises:
        HTTPException: the clip is of no use to the model.
    """
    names = [name for name in ("audio", "video") if name in clip] if by_modality else []
    if by_modality and not names:
        raise HTTPException(422, "the clip has neither sound nor pictures.")
    alone = [{name: clip[name], "sampling_rate": clip["sampling_rate"]} for name in names]
    found, *parts = await asyncio.gather(
        hosted.ask(clip, **options), *(hosted.ask(one, **{**options, "abstain": None}) for one in alone)
    )
    labels = [one for one in found if one["label"] != ABSTAIN]
    return EmotionAnswer(
        model=hosted.name,
        labels=labels,
        abstained=len(labels) < len(found),
        modalities=dict(zip(names, parts, strict=True)) if by_modality else None,
    )
