"""The recipe fields of multimodal_fer."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hf_fer.data.augment import Augmentation
from hf_fer.data.stills import ARCHIVE_ENDING
from hf_fer.data.tables import is_table
from hf_fer.recipe.arguments import ModelArguments, RecipeError, check_choice, json_object
from hf_fer.task.classification import ClassificationDataArguments

from ..configuration_multimodal_fer import MODALITIES


@dataclass
class MultimodalFerModelArguments(ModelArguments):
    """Where the model comes from."""

    model_size: Literal["tiny", "light", "full"] = field(
        default="light", metadata={"help": "Preset that a new model is built from."}
    )
    audio_backbone: str | None = field(
        default=None, metadata={"help": "Parakeet checkpoint that the audio encoder starts from."}
    )
    vision_backbone: str | None = field(
        default=None, metadata={"help": "SigLIP2 checkpoint of fixed resolution that the vision encoder starts from."}
    )
    fusion_backbone: str | None = field(
        default=None, metadata={"help": "LFM2 checkpoint that the fusion starts from."}
    )
    fusion_num_layers: int | None = field(
        default=None, metadata={"help": "Keep only this many first layers of fusion_backbone."}
    )
    balance_classes: bool = field(
        default=False, metadata={"help": "Weight classes in the loss by the inverse of their training counts."}
    )

    @property
    def backbones(self) -> dict[str, str]:
        """Checkpoint by encoder, for the encoders that start from one."""
        named = {part: getattr(self, f"{part}_backbone") for part in ("audio", "vision", "fusion")}
        return {part: name for part, name in named.items() if name}


@dataclass
class MultimodalFerDataArguments(ClassificationDataArguments):
    """Which clips, which of their modalities, and how they are decoded and augmented."""

    modalities: list[str] = field(default_factory=lambda: list(MODALITIES), metadata={"help": "audio, video or both."})
    missing_modality: Literal["skip", "keep"] = field(
        default="skip", metadata={"help": "Skip clips that lack one of the modalities, or keep their other one."}
    )
    more_datasets: list[str] | None = field(
        default=None,
        metadata={"help": "Corpora or tables that are used together with dataset; each is split by itself."},
    )
    label_map: dict | str | None = field(
        default=None, metadata={"help": "JSON object: class -> its new name, or null to leave its clips out."}
    )
    unknown_classes: Literal["refuse", "leave_out"] = field(
        default="refuse",
        metadata={"help": "Evaluation on classes that the checkpoint lacks: refuse, or leave them out."},
    )
    channel: Literal["speech", "song", "both"] = field(default="speech", metadata={"help": "RAVDESS vocal channel."})
    visual_features: str | None = field(
        default=None,
        metadata={"help": "Archive (.npz of 'keys' and one array) of features that replace video; see the docs."},
    )
    num_frames: int = field(default=16, metadata={"help": "Frames sampled from a clip."})
    image_size: int = field(default=224, metadata={"help": "Side of the frames the model sees, in pixels."})
    face_crop: Literal["none", "center", "yunet"] = field(
        default="center",
        metadata={"help": "Crop of the face: none, the centred square, or the face that YuNet finds."},
    )
    yunet_path: str | None = field(default=None, metadata={"help": "YuNet's ONNX file; from the Hub if unset."})
    audio_normalization: Literal["global", "utterance"] | None = field(
        default=None,
        metadata={"help": "Log-mel normalisation; if unset, utterance with an audio_backbone, else global."},
    )
    trim_silence_db: float | None = field(
        default=None,
        metadata={"help": "Cut both ends of the sound that are this many dB below its peak; unset keeps them."},
    )
    max_seconds: float | None = field(
        default=None, metadata={"help": "Clips that last longer are left out; 300, or the checkpoint's, if unset."}
    )
    max_pixels: int | None = field(
        default=None,
        metadata={"help": "Videos with larger frames are left out; 2**25 (8K), or the checkpoint's, if unset."},
    )
    augment: bool = field(default=True, metadata={"help": "Augment the training split."})
    augmentation: dict | str | None = field(
        default=None, metadata={"help": "JSON object of strengths; its fields are those of hf_fer.data.augment."}
    )

    cache: Literal["none", "decoded", "features"] = field(
        default="none",
        metadata={
            "help": "Keep on disk for later epochs and runs: decoded sound and frames, or also the outputs of frozen "
            "encoders."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        for modality in self.modalities:
            check_choice("modality", modality, MODALITIES)
        self.label_map = json_object("label_map", self.label_map)
        if wrong := sorted(old for old, new in self.label_map.items() if not (new is None or isinstance(new, str))):
            raise RecipeError(f"label_map: {', '.join(wrong)} must become a class name, or null.")
        overrides = json_object("augmentation", self.augmentation)
        for name in overrides:
            check_choice("augmentation", name, (item.name for item in dataclasses.fields(Augmentation)))
        self.augmentation = overrides
        Augmentation(**self.augmentation)  # raises RecipeError for a strength that cannot be

    @property
    def limits(self) -> dict[str, float]:
        """The limits on files that the recipe sets."""
        given = {"max_seconds": self.max_seconds, "max_pixels": self.max_pixels}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def is_table(self) -> bool:
        """Whether the data is a manifest: a file, or a name with a table's suffix, but not a folder."""
        return names_table(self.dataset)

    @property
    def is_on_hub(self) -> bool:
        """Whether the data is a Hub data set: its name is `owner/name`, and there is no local folder `owner`."""
        return names_hub_dataset(self.dataset)


def names_table(dataset: str) -> bool:
    """See `MultimodalFerDataArguments.is_table`."""
    path = Path(dataset)
    named = is_table(path) or path.suffix.lower() == ARCHIVE_ENDING
    return dataset != "demo" and not path.is_dir() and (path.is_file() or named)


def names_hub_dataset(dataset: str) -> bool:
    """See `MultimodalFerDataArguments.is_on_hub`."""
    path = Path(dataset)
    here = names_table(dataset) or path.is_dir() or path.parent.is_dir()
    return not here and dataset.count("/") == 1
