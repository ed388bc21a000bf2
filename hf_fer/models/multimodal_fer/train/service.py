"""multimodal_fer behind HTTP: `/v1/emotion`."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, UploadFile
from pydantic import BaseModel, Field

from hf_fer.task.service import Arrays, FileService, Host, Hosted, Score, Segment

from ..decoding_multimodal_fer import load_audio, load_video, media_tracks, video_timeline
from ..limits_multimodal_fer import MediaLimits, UnusableMediaError
from ..pipeline_multimodal_fer import ABSTAIN


class EmotionAnswer(BaseModel):
    """The emotion of a clip."""

    model: str
    labels: list[Score] = Field(description="Best first.")
    abstained: bool = Field(description="Whether the best score is below the threshold of abstention.")
    modalities: dict[str, list[Score]] | None = Field(
        None, description="Labels by `audio` alone and by `video` alone, if requested."
    )
    sound_timeline: list[Segment] | None = Field(None, description="Labels of the sound over time, if requested.")


@dataclass(frozen=True)
class ClipDecoder:
    """
    Decodes a clip's sound and the frames that the model looks at, as the processor decodes them.

    Args:
        modalities: Modalities of the model.
        sampling_rate: Rate of the sound, in Hz.
        num_frames: Number of frames, evenly spaced over the video.
        limits: Limits of sound and frames.
        max_frames: Limit of the whole video's number of frames.
    """

    modalities: tuple[str, ...]
    sampling_rate: int
    num_frames: int
    limits: MediaLimits
    max_frames: int

    def __call__(self, path: str) -> Arrays:
        """Raises `UnusableMediaError` where the file has none of the modalities, or exceeds the limits."""
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


class EmotionService(FileService):
    """Emotions of clips."""

    pipeline_task = "audio-visual-emotion-recognition"
    kinds = ("sound", "video")
    title = "Emotion"

    def decoder(self) -> ClipDecoder:
        """A decoder with the lower of the server's and the processor's limits."""
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
        """The threshold of abstention: the request's, or else the model's if it has one."""
        own = True if self.pipe.model.config.abstention_threshold else None
        return {"abstain": own if abstain is None else abstain}

    @classmethod
    def add_tab(cls, host: Host, limit: int) -> None:
        from .page import add_tab  # which imports Gradio

        add_tab(host, limit)

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
            by_modality: Annotated[bool, Form(description="Also classify sound and pictures alone.")] = False,
            sound_timeline: Annotated[bool, Form(description="Also label the sound over time.")] = False,
        ) -> EmotionAnswer:
            """The emotion of a clip, from its sound, its pictures or both."""
            hosted = host.model(model)
            clip = await hosted.read(file)
            options = {"top_k": top_k, **hosted.service.options(abstain)}
            return (await judge(hosted, clip, by_modality, sound_timeline, **options))[0]


async def judge(
    hosted: Hosted, clip: dict[str, Any], by_modality: bool, sound_timeline: bool, **options: Any
) -> tuple[EmotionAnswer, Any]:
    """
    The emotion of a clip, its labels by sound and by pictures alone, and the labels of its sound over time.

    Also returns the pipeline's answer to the whole clip, with what `options` ask for.

    Args:
        hosted: The model.
        clip: A clip as the service's `read` returns it.
        by_modality, sound_timeline: Whether to add these; a clip without sound has no timeline.
        options: Options of the pipeline.
    """
    alone = {
        name: {name: clip[name], "sampling_rate": clip["sampling_rate"]} for name in ("audio", "video") if name in clip
    }
    names = list(alone) if by_modality else []
    wanted = [hosted.ask(clip, **options)]
    whole_only = {"abstain": None, "kept_patches": None}
    wanted += [hosted.ask(alone[name], **{**options, **whole_only}) for name in names]
    if sound_timeline and "audio" in alone:
        wanted.append(hosted.ask(alone["audio"], timeline=True, **{**options, "kept_patches": None}))
    whole, *parts = await asyncio.gather(*wanted)
    found = whole["labels"] if isinstance(whole, dict) else whole
    labels = [one for one in found if one["label"] != ABSTAIN]
    answer = EmotionAnswer(
        model=hosted.name,
        labels=labels,
        abstained=len(labels) < len(found),
        modalities=dict(zip(names, parts[: len(names)], strict=True)) if by_modality else None,
        sound_timeline=parts[len(names)]["segments"] if len(parts) > len(names) else None,
    )
    return answer, whole
