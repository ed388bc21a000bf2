"""The recipe fields of csr."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from hf_fer.recipe.arguments import DataArguments, ModelArguments, RecipeError, check_choice, json_object

from .concepts import ConceptFormat
from .image_augment import ImageAugmentation


@dataclass
class CsrModelArguments(ModelArguments):
    """Where the model comes from."""

    stage: Literal[1, 2, 3] = field(
        default=1,
        metadata={"help": "What is trained: 1 concepts, 2 prototypes, 3 classes; each starts from the stage before."},
    )
    backbone: str = field(
        default="resnet50",
        metadata={
            "help": "Backbone of a new model: medmae, resnet50, vit or convnext (config_overrides sets their sizes), "
            "or timm/NAME for any model of timm."
        },
    )
    backbone_weights: str | None = field(
        default=None,
        metadata={
            "help": "Pretrained weights of the backbone in stage 1: a weights file, a folder with model.safetensors, "
            "or 'pretrained' for timm's default weights."
        },
    )
    prototype_start: Literal["kmeans", "random"] = field(
        default="kmeans",
        metadata={
            "help": "Where a new stage 2 starts a concept's prototypes: at the centres of k-means among the concept's "
            "vectors in the training images, or at random."
        },
    )


@dataclass
class CsrDataArguments(DataArguments):
    """Which images, concepts and classes, and how images are augmented."""

    image_folder: str | None = field(
        default=None, metadata={"help": "Folder of the images; the table's folder if unset."}
    )
    concepts: dict | str | None = field(
        default=None, metadata={"help": "JSON object: concept name to column, or to column=value|value."}
    )
    class_columns: list[str] = field(
        default_factory=list, metadata={"help": "One column of class names, or several of 0 and 1 (multi-label)."}
    )
    boxes: str | None = field(default=None, metadata={"help": "Table of boxes in pixels, for the Pointing Game."})
    image_labels: str | None = field(default=None, metadata={"help": "VinDr-CXR's table of labels per image."})
    reader_agreement: Literal["any", "majority", "soft"] = field(
        default="majority",
        metadata={"help": "How readers' findings become a label: any reader, the majority, or soft: their share."},
    )
    test_dataset: str | None = field(
        default=None, metadata={"help": "Table of the test set; dataset is then split into train and validation."}
    )
    test_image_folder: str | None = field(
        default=None, metadata={"help": "Folder of the test images; image_folder, or the test table's, if unset."}
    )
    test_boxes: str | None = field(default=None, metadata={"help": "Table of the test images' boxes."})
    test_image_labels: str | None = field(default=None, metadata={"help": "Table of labels per test image."})
    min_concept_images: int = field(
        default=0, metadata={"help": "Concepts with fewer training images are dropped; 0 drops none."}
    )
    image_mean: list[float] | None = field(
        default=None,
        metadata={"help": "Mean of each channel, in [0, 1]; if unset, that of backbone_weights' folder, or 0.5."},
    )
    image_std: list[float] | None = field(default=None, metadata={"help": "Standard deviation of each channel."})
    image_size: int = field(default=224, metadata={"help": "Side of the images the model sees, in pixels."})
    max_pixels: int | None = field(
        default=None,
        metadata={"help": "Images with more pixels are left out; 50 million, or the checkpoint's limit, if unset."},
    )
    augment: bool = field(default=True, metadata={"help": "Augment the training split."})
    augmentation: dict | str | None = field(
        default=None, metadata={"help": "JSON object of strengths; its fields are those of ImageAugmentation."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.concepts = json_object("concepts", self.concepts)
        for name, rule in self.concepts.items():
            if not isinstance(rule, str):
                raise RecipeError(
                    f"concepts: {name!r} needs the name of a column or column=value|value, got {rule!r}."
                )
        overrides = json_object("augmentation", self.augmentation)
        for name in overrides:
            check_choice("augmentation", name, (item.name for item in dataclasses.fields(ImageAugmentation)))
        self.augmentation = overrides
        ImageAugmentation(**self.augmentation)  # raises RecipeError for a strength that cannot be
        for name in ("image_mean", "image_std"):
            if getattr(self, name) is not None and len(getattr(self, name)) != 3:
                raise RecipeError(f"{name} needs a number for each of 3 channels, got {getattr(self, name)}.")
        if min(self.image_std or [1]) <= 0:
            raise RecipeError(f"image_std must be positive, got {self.image_std}.")
        if self.min_concept_images < 0:
            raise RecipeError(f"min_concept_images must not be negative, got {self.min_concept_images}.")
        self.check_test_set()

    def check_test_set(self) -> None:
        """Raises `RecipeError` where fields about a separate test set do not go together."""
        for name in ("test_image_folder", "test_boxes", "test_image_labels"):
            if getattr(self, name) and not self.test_dataset:
                raise RecipeError(f"{name} goes with test_dataset, which is not set.")
        if self.test_dataset and self.dataset == "demo":
            raise RecipeError("test_dataset does not go with the demo, which has a test set.")
        if self.test_dataset and self.protocol not in (None, "manifest", "manifest_leaky"):
            raise RecipeError(
                f"test_dataset is the test set, and protocol {self.protocol!r} draws one: leave one of them out."
            )

    @property
    def form(self) -> ConceptFormat:
        """What the table's columns mean."""
        return ConceptFormat(**{item.name: getattr(self, item.name) for item in dataclasses.fields(ConceptFormat)})
