"""The HTTP route of speech_to_text, in the form that OpenAI's clients use: `/v1/audio/transcriptions`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, HTTPException, Response, UploadFile
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from hf_fer.data.captions import lines_of_words, srt, vtt
from hf_fer.task.service import Arrays, FileService, Host

from ..sound_speech_to_text import MediaLimits, sound_blocks

UNDETERMINED = "und"
"""ISO 639-2 code of an undetermined language."""


class TimedWord(BaseModel):
    """A word, from `start` to `end` in seconds."""

    word: str
    start: float
    end: float
    confidence: float


class Line(BaseModel):
    """A line of subtitles, from `start` to `end` in seconds."""

    id: int
    start: float
    end: float
    text: str


class Transcript(BaseModel):
    """The transcript of a recording."""

    text: str


class VerboseTranscript(Transcript):
    """The transcript of a recording, with times."""

    task: Literal["transcribe"] = "transcribe"
    language: str = Field(description="The language of the request, or `und` if it has none.")
    duration: float = Field(description="Seconds.")
    confidence: float
    words: list[TimedWord] | None = None
    segments: list[Line] | None = None


@dataclass(frozen=True)
class SoundDecoder:
    """Decodes a recording's sound at the model's rate."""

    sampling_rate: int
    max_seconds: float

    def __call__(self, path: str) -> Arrays:
        return {"samples": np.concatenate([*sound_blocks(path, self.sampling_rate, MediaLimits(self.max_seconds))])}


def refuse_what_is_not_obeyed(**given: Any) -> None:
    """Raises `HTTPException` if a field of OpenAI's is set that a CTC model cannot obey."""
    for name, value in given.items():
        if value:
            raise HTTPException(422, f"{name}: these models have no such setting; leave it out.")


class TranscriptionService(FileService):
    """Transcribes recordings."""

    pipeline_task = "timed-speech-recognition"
    kinds = ("sound", "video")
    title = "Speech"

    @property
    def sampling_rate(self) -> int:
        """Rate of the model's sound, in Hz."""
        return self.pipe.feature_extractor.sampling_rate

    def decoder(self) -> SoundDecoder:
        """A decoder with the server's limits."""
        return SoundDecoder(self.sampling_rate, self.limits.max_seconds)

    def value(self, arrays: Arrays) -> np.ndarray:
        """The samples."""
        return arrays["samples"]

    @classmethod
    def add_tab(cls, host: Host, limit: int) -> None:
        from .page import add_tab  # which imports Gradio

        add_tab(host, limit)

    @classmethod
    def add_route(cls, router: APIRouter, host: Host) -> None:
        @router.post("/v1/audio/transcriptions", response_model=VerboseTranscript | Transcript)
        async def transcriptions(
            file: UploadFile,
            model: Annotated[str | None, Form(description="Name of a served model.")] = None,
            response_format: Annotated[Literal["json", "text", "verbose_json", "srt", "vtt"], Form()] = "json",
            granularities: Annotated[
                list[Literal["word", "segment"]] | None,
                Form(alias="timestamp_granularities[]", description="For `verbose_json`; `segment` by default."),
            ] = None,
            language: Annotated[
                str | None, Form(description="Repeated in the answer; it does not change the model's language.")
            ] = None,
            prompt: Annotated[str | None, Form()] = None,
            temperature: Annotated[float | None, Form()] = None,
            stream: Annotated[bool | None, Form()] = None,
        ) -> Any:
            """Transcribe a recording; the fields are those of OpenAI's clients."""
            refuse_what_is_not_obeyed(prompt=prompt, temperature=temperature, stream=stream)
            hosted = host.model(model)
            samples = await hosted.read(file)
            found = await hosted.ask(samples)
            if response_format == "json":
                return Transcript(text=found["text"])
            if response_format == "text":
                return PlainTextResponse(f"{found['text']}\n")
            lines = lines_of_words([{**word, "label": word["word"]} for word in found["words"]])
            if response_format == "srt":
                return PlainTextResponse(srt(lines), media_type="application/x-subrip")
            if response_format == "vtt":
                return Response(vtt(lines), media_type="text/vtt")
            wanted = granularities or ["segment"]
            return VerboseTranscript(
                text=found["text"],
                language=language or UNDETERMINED,
                duration=len(samples) / hosted.service.sampling_rate,
                confidence=found["confidence"],
                words=[TimedWord(**word) for word in found["words"]] if "word" in wanted else None,
                segments=listed(lines) if "segment" in wanted else None,
            )


def listed(lines: list[dict[str, Any]]) -> list[Line]:
    """Lines of subtitles as segments."""
    return [
        Line(id=number, start=line["start"], end=line["end"], text=line["label"]) for number, line in enumerate(lines)
    ]
