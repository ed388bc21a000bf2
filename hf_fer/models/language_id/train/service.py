"""The HTTP route of language_id: `/v1/language`."""

from typing import Annotated

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from hf_fer.task.service import Host, Score, Segment, Service

MAX_TEXTS = 1000


class LanguageRequest(BaseModel):
    """Texts, and options for all of them."""

    text: str | Annotated[list[str], Field(max_length=MAX_TEXTS)] = Field(description="One text, or a list of them.")
    model: str | None = Field(None, description="Name of a served model; the first of this kind by default.")
    top_k: int = Field(1, ge=1, description="Number of languages to return, best first.")
    labels: list[str] | None = Field(None, description="The only languages to choose from: codes, tags or names.")
    unknown_threshold: float | None = Field(
        None, ge=0, lt=1, description="A text with a familiarity (0 to 1) below it is `unknown`."
    )
    spans: bool = Field(False, description="Also return spans of the text with their languages.")


class TextLanguages(BaseModel):
    """The languages of one text."""

    languages: list[Score] = Field(description="Best first; `unknown` comes first if no language fits.")
    spans: list[Segment] | None = Field(None, description="Spans in characters of the text, if requested.")


class LanguageAnswer(BaseModel):
    """Answers in the order of the texts."""

    model: str
    results: list[TextLanguages]


class LanguageService(Service):
    """Serves the identification of languages of texts."""

    pipeline_task = "text-language-identification"
    title = "Language"

    @classmethod
    def add_tab(cls, host: Host, limit: int) -> None:
        from .page import add_tab  # which imports Gradio

        add_tab(host, limit)

    @classmethod
    def add_route(cls, router: APIRouter, host: Host) -> None:
        @router.post("/v1/language")
        async def language(request: LanguageRequest) -> LanguageAnswer:
            """The languages of texts, and of their spans."""
            texts = [request.text] if isinstance(request.text, str) else request.text
            count = sum(map(len, texts))
            if count > host.limits.max_characters:
                raise HTTPException(413, f"{count} characters of text; at most {host.limits.max_characters}.")
            hosted = host.model(request.model)
            given = request.model_dump(include={"top_k", "labels", "unknown_threshold", "spans"}, exclude_none=True)
            found = await hosted.ask(texts, **given)
            results = [
                TextLanguages(**one) if isinstance(one, dict) else TextLanguages(languages=one) for one in found
            ]
            return LanguageAnswer(model=hosted.name, results=results)

    def answer(self, values: list[list[str]], options: dict) -> list[list]:
        """Identifies the texts of several requests together; returns the answers of each request."""
        found = iter(self.pipe([text for texts in values for text in texts], **options))
        return [[next(found) for _ in texts] for texts in values]
