"""The HTTP route of csr: `/v1/concepts`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, UploadFile
from pydantic import BaseModel, Field

from hf_fer.task.service import Arrays, FileService, Host, Score

from ..decoding_csr import load_image


class Prototype(BaseModel):
    """A prototype, and where the image is most similar to it."""

    prototype: int
    similarity: float
    share: float = Field(description="What it adds to the logit.")
    box: list[float] = Field(description="The cell where it is: x0, y0, x1, y1 in pixels.")


class Concept(BaseModel):
    """One concept's contribution to the diagnosis."""

    concept: str
    score: float = Field(description="Probability that it is there, by the concept head.")
    share: float = Field(description="What it adds to the logit.")
    map: list[list[float]] | None = Field(None, description="Class activation map, rows from the top, if asked for.")
    prototypes: list[Prototype]


class ConceptsAnswer(BaseModel):
    """Classes, and the concepts that explain the best one; shares and bias sum to its logit."""

    model: str
    labels: list[Score] = Field(description="Best first.")
    explained: str
    logit: float
    bias: float
    concepts: list[Concept] = Field(description="Largest share first.")
    other_concepts: float = Field(description="Share of the concepts that `top_concepts` leaves out.")


@dataclass(frozen=True)
class ImageDecoder:
    """An image file as RGB."""

    max_pixels: int

    def __call__(self, path: str) -> Arrays:
        return {"image": load_image(path, self.max_pixels)}


def read_box(text: str) -> list[float]:
    """`x0,y0,x1,y1` as numbers; raises `HTTPException` where it is not."""
    try:
        box = [float(number) for number in text.split(",")]
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError
    except ValueError:
        raise HTTPException(422, f"a box is x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1, got {text!r}.") from None
    return box


class ConceptsService(FileService):
    """Classifies images, explains classes by concepts, and applies a person's corrections."""

    pipeline_task = "concept-image-classification"
    kinds = ("image",)
    title = "Concepts"

    def decoder(self) -> ImageDecoder:
        """A decoder with the lower of the server's and the model's pixel limits."""
        return ImageDecoder(min(self.limits.max_pixels, self.pipe.processor.max_pixels))

    def value(self, arrays: Arrays) -> Any:
        """The image."""
        return arrays["image"]

    @classmethod
    def add_tab(cls, host: Host, limit: int) -> None:
        from .page import add_tab  # which imports Gradio

        add_tab(host, limit)

    @classmethod
    def add_route(cls, router: APIRouter, host: Host) -> None:
        @router.post("/v1/concepts")
        async def concepts(
            file: UploadFile,
            model: Annotated[str | None, Form(description="Name of a served model.")] = None,
            top_k: Annotated[int | None, Form(ge=1)] = None,
            top_concepts: Annotated[int | None, Form(ge=1)] = None,
            reject: Annotated[list[str], Form(description="Concepts that are not there.")] = [],  # noqa: B006
            confirm: Annotated[list[str], Form(description="Concepts that are there.")] = [],  # noqa: B006
            replacement: Annotated[Literal["mean", "zero", "absent"], Form()] = "mean",
            positive_boxes: Annotated[list[str], Form(description="x0,y0,x1,y1: where to look.")] = [],  # noqa: B006
            negative_boxes: Annotated[list[str], Form(description="Where not to look.")] = [],  # noqa: B006
            maps: Annotated[bool, Form(description="Whether concepts have their maps.")] = False,
        ) -> ConceptsAnswer:
            """Classes of an image (PNG, JPEG, WebP, BMP, TIFF or DICOM), explained by concepts."""
            hosted = host.model(model)
            options = {
                "top_k": top_k,
                "top_concepts": top_concepts,
                "reject": reject,
                "confirm": confirm,
                "replacement": replacement,
                "positive_boxes": [read_box(box) for box in positive_boxes],
                "negative_boxes": [read_box(box) for box in negative_boxes],
            }
            image = await hosted.read(file)
            found = await hosted.ask(image, **options)
            listed = [{**one, "map": one["map"].tolist() if maps else None} for one in found["concepts"]]
            return ConceptsAnswer(model=hosted.name, **{**found, "concepts": listed})
