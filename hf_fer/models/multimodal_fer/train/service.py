"""The HTTP route of multimodal_fer: `/v1/emotion`."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request, Response, UploadFile
from pydantic import BaseModel, Field

from hf_fer.data.captions import srt, vtt
from hf_fer.task.service import Arrays, FileService, Host, Hosted, Score, Segment

from ..timeline_multimodal_fer import ABSTAIN
from .clip_decoding import ClipDecoder, ClipLimits, WindowDecoder
from .over_time import TimelineSettings, judge_over_time

SUBTITLES = {"srt": (srt, "application/x-subrip"), "vtt": (vtt, "text/vtt")}


class EmotionAnswer(BaseModel):
    """The emotion of a clip."""

    model: str
    labels: list[Score] = Field(description="Best first.")
    abstained: bool = Field(description="Whether the best score is below the threshold of abstention.")
    modalities: dict[str, list[Score]] | None = Field(
        None, description="Labels by `audio` alone and by `video` alone, if requested."
    )
    sound_timeline: list[Segment] | None = Field(None, description="Labels of the sound over time, if requested.")
    timeline: list[Segment] | None = Field(None, description="Labels over time, if requested.")


class EmotionService(FileService):
    """Emotions of clips."""

    pipeline_task = "audio-visual-emotion-recognition"
    kinds = ("sound", "video")
    title = "Emotion"

    def decoder(self) -> ClipDecoder:
        """A decoder with the lower of the server's and the processor's limits."""
        return ClipDecoder(**self._media())

    def window_decoder(self, length: float, stride: float) -> WindowDecoder:
        """A decoder of windows of `length` seconds that start `stride` seconds apart; see `decoder`."""
        longest = max(self.limits.max_seconds, self.limits.max_timeline_seconds)
        return WindowDecoder(**self._media(), length=length, stride=stride, max_seconds=longest)

    def _media(self) -> dict[str, Any]:
        """What the model reads of a clip, and its limits."""
        processor, config = self.pipe.processor, self.pipe.model.config
        return {
            "modalities": ("audio",) if config.visual_feature_size else tuple(config.modalities),
            "sampling_rate": processor.sampling_rate,
            "num_frames": processor.num_frames,
            "max_frames": self.limits.max_frames,
            "limits": ClipLimits(
                min(self.limits.max_seconds, processor.max_seconds), min(self.limits.max_pixels, processor.max_pixels)
            ),
        }

    def value(self, arrays: Arrays) -> dict[str, Any]:
        """Sound and frames as the pipeline takes them."""
        return {**arrays, "sampling_rate": self.pipe.processor.sampling_rate}

    def options(self, abstain: float | None) -> dict[str, Any]:
        """The threshold of abstention: the request's, or else the model's if it has one."""
        own = True if self.pipe.model.config.abstention_threshold else None
        return {"abstain": own if abstain is None else abstain}

    def threshold(self, abstain: float | None) -> float:
        """The probability below which a label is unsure: the request's, or else the model's; 0 for none."""
        return (self.pipe.model.config.abstention_threshold or 0.0) if abstain is None else abstain

    @classmethod
    def add_tab(cls, host: Host, limit: int) -> None:
        from .page import add_tab  # which imports Gradio

        add_tab(host, limit)

    @classmethod
    def add_route(cls, router: APIRouter, host: Host) -> None:
        @router.post("/v1/emotion", response_model=EmotionAnswer)
        async def emotion(
            request: Request,
            file: UploadFile,
            model: Annotated[str | None, Form(description="Name of a served model.")] = None,
            top_k: Annotated[int | None, Form(ge=1)] = None,
            abstain: Annotated[
                float | None, Form(ge=0, le=1, description="Threshold in place of the model's.")
            ] = None,
            by_modality: Annotated[bool, Form(description="Also classify sound and pictures alone.")] = False,
            sound_timeline: Annotated[bool, Form(description="Also label the sound over time.")] = False,
            timeline: Annotated[
                bool, Form(description="Label a recording of any length over time, from sound and pictures.")
            ] = False,
            window_seconds: Annotated[
                float | None, Form(ge=0.1, description="Length of a timeline's windows; 2 by default.")
            ] = None,
            stride_seconds: Annotated[
                float | None, Form(ge=0.1, description="From the start of a window to the next; a quarter of it.")
            ] = None,
            switch_penalty: Annotated[
                float | None, Form(ge=0, description="Evidence, in nats, that a change of label needs; 1 by default.")
            ] = None,
            response_format: Annotated[
                Literal["json", "srt", "vtt"], Form(description="`srt` and `vtt` are subtitles of a timeline.")
            ] = "json",
        ) -> Any:
            """The emotion of a clip or over time, from its sound, its pictures or both."""
            hosted = host.model(model)
            settings = {
                "window_seconds": window_seconds,
                "stride_seconds": stride_seconds,
                "switch_penalty": switch_penalty,
            }
            check_form(timeline, by_modality or sound_timeline, settings, response_format)
            if timeline:
                limit = hosted.service.threshold(abstain)
                found = await judge_over_time(hosted, file, request, TimelineSettings.of(**settings), limit)
                return timeline_answer(hosted.name, *found, top_k, limit, response_format)
            clip = await hosted.read(file)
            options = {"top_k": top_k, **hosted.service.options(abstain)}
            return (await judge(hosted, clip, by_modality, sound_timeline, **options))[0]


def check_form(timeline: bool, of_clips: bool, settings: dict[str, Any], response_format: str) -> None:
    """Raises `HTTPException` 422 where fields of timelines are given without one, or others with one."""
    given = [name for name, value in settings.items() if value is not None]
    given += [f"response_format={response_format}"] if response_format in SUBTITLES else []
    if given and not timeline:
        raise HTTPException(422, f"{', '.join(given)}: goes with timeline=true.")
    if timeline and of_clips:
        raise HTTPException(422, "by_modality and sound_timeline go with clips, not with timeline=true.")


def timeline_answer(
    name: str,
    labels: list[dict[str, Any]],
    segments: list[dict[str, Any]],
    top_k: int | None,
    threshold: float,
    response_format: str,
) -> EmotionAnswer | Response:
    """The answer of the model `name` about a recording, as JSON or as subtitles."""
    if response_format in SUBTITLES:
        write, kind = SUBTITLES[response_format]
        return Response(write(segments), media_type=kind)
    abstained = labels[0]["score"] < threshold
    return EmotionAnswer(model=name, labels=labels[:top_k], abstained=abstained, timeline=segments)


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
