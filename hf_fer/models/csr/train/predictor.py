"""Predictions of csr for many images."""

from typing import Any

from hf_fer.data.manifest import LABEL_COLUMNS
from hf_fer.data.tables import PathFinder
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.predictor import ClassPredictor

from ..configuration_csr import TASK
from ..decoding_csr import IMAGE_SUFFIXES
from .concepts import IMAGE_COLUMNS, image_file


class ImagePredictor(ClassPredictor):
    """Classes of images, by a model of stage 3."""

    pipeline_task = "concept-image-classification"
    model_type = "csr"
    page = "image"
    endings = IMAGE_SUFFIXES
    columns = {"image": IMAGE_COLUMNS}
    target_columns = LABEL_COLUMNS
    in_seconds = False

    def __init__(self, *args: Any, **kwargs: Any):
        """Raises `RecipeError` where the model's classifier has not been trained."""
        super().__init__(*args, **kwargs)
        stage = self.pipe.model.config.stage
        if stage != TASK:
            raise RecipeError(
                f"{self.pipe.model.name_or_path} is a stage-{stage} checkpoint, whose classifier has not been "
                f"trained: give a stage-{TASK} checkpoint."
            )

    @classmethod
    def locate(cls, finder: PathFinder, name: str) -> str:
        return image_file(finder, name, IMAGE_SUFFIXES)

    @property
    def options(self) -> dict[str, Any]:
        """The user's options; only one concept is explained by default, because rows hold none."""
        return {"top_concepts": 1, **self.given}

    def row(self, answer: Any) -> dict[str, Any]:
        return self.ranked(answer["labels"], None)
