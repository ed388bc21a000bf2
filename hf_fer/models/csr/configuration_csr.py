"""Configuration of concept-based similarity reasoning (CSR)."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

CONCEPTS, PROTOTYPES, TASK = 1, 2, 3
"""The three stages of training."""

# Backbone name -> model type in transformers, and the fields that differ from that type's defaults.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "medmae": ("vit_mae", {"mask_ratio": 0.0}),
    "resnet50": ("resnet", {}),
    "vit": ("vit", {}),
    "convnext": ("convnext", {}),
}

TIMM = "timm/"
"""Prefix of the names of backbones that timm builds: `timm/resnet18`, `timm/vit_small_patch16_224.dino`."""


def backbone_type(name: str) -> tuple[str, dict[str, Any]]:
    """
    A backbone's model type in transformers, and the fields of its configuration that differ from the defaults.

    Raises:
        ValueError: the name is not in `BACKBONES` and does not begin with `timm/`.
    """
    if name.startswith(TIMM):
        return "timm_backbone", {"backbone": name.removeprefix(TIMM)}
    if name not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, or {TIMM}NAME, got {name!r}.")
    return BACKBONES[name]


@strict
class CsrConfig(PreTrainedConfig):
    r"""
    Configuration of [`CsrForImageClassification`] (arXiv 2503.06873).

    Args:
        stage (`int`, *optional*, defaults to 1):
            What is trained: 1 the backbone and the concept head, 2 the projector and the prototypes, 3 the
            classifier. In a checkpoint it is the last stage that was trained.
        backbone (`str`, *optional*, defaults to `"resnet50"`):
            `"medmae"` (ViT-MAE without masking), `"resnet50"`, `"vit"`, `"convnext"`, or any image model of timm as
            `"timm/NAME"`.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Sizes of the backbone; a `dict` replaces fields of the backbone's defaults.
        concepts (`list[str]`, *optional*):
            Names of the K concepts; `num_concepts` unnamed ones by default.
        num_concepts (`int`, *optional*, defaults to 14):
            K, where `concepts` is not given.
        num_prototypes (`int`, *optional*, defaults to 5):
            Prototypes M of each concept.
        prototype_size (`int`, *optional*, defaults to 128):
            Width of the projected space in which prototypes live.
        similarity_scale (`float`, *optional*, defaults to 20.0):
            Lambda of the prototype loss.
        assignment_scale (`float`, *optional*, defaults to 1000.0):
            Gamma of the soft assignment of a vector to a concept's prototypes. The default is the paper's and assigns
            a vector to one prototype in effect; SoftTriple's own is 10.
        prototype_loss (`str`, *optional*, defaults to `"paper"`):
            `"paper"` contrasts the concepts of an image with one another; `"background"` contrasts each also with
            the places beside it, so that its prototypes' maps point at it.
        background_threshold (`float`, *optional*, defaults to 0.5):
            A place is background of a concept where the concept's map is below this share of the map's range.
        margin (`float`, *optional*, defaults to 0.1):
            Delta of the prototype loss.
        margin_sign (`int`, *optional*, defaults to -1):
            -1 subtracts the margin, as SoftTriple (arXiv 1909.05235) does; 1 adds it, as the paper prints it.
        pos_weight (`list[float]`, *optional*):
            One weight per concept for the positives of the concept loss.
        pruned_prototypes (`list[list]`, *optional*):
            Prototypes that are left out, each as `[concept, index]`.
        problem_type (`str`, *optional*):
            `"single_label_classification"` (cross entropy, the default) or `"multi_label_classification"` (binary).
        similarity_means (`dict`, *optional*):
            Training means of the similarities `(K, M)`, over `"all"` images, and over those where the concept is
            `"present"` and `"absent"`. They replace similarities of corrected concepts. Set after stage 2.
        atlas (`list[dict]`, *optional*):
            For each prototype its most similar training patch: `concept`, `prototype`, `box` (x0, y0, x1, y1 as
            shares of the image), `similarity` and `shows_concept`. Set after stage 2. It lacks the image's name,
            because a configuration is published and names may identify people.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a field has the wrong type or an impossible value.
    """

    model_type = "csr"
    sub_configs = {"backbone_config": AutoConfig}
    # The maps are large; the Trainer would otherwise gather them in evaluation.
    keys_to_ignore_at_inference = ["concept_maps", "similarity_maps", "hidden_states", "attentions"]

    stage: Literal[1, 2, 3] = CONCEPTS
    backbone: str = "resnet50"
    backbone_config: dict | PreTrainedConfig | None = None
    concepts: list[str] | None = None
    num_concepts: int = 14
    num_prototypes: int = 5
    prototype_size: int = 128
    similarity_scale: float | int = 20.0
    assignment_scale: float | int = 1000.0
    prototype_loss: Literal["paper", "background"] = "paper"
    background_threshold: float | int = 0.5
    margin: float | int = 0.1
    margin_sign: Literal[-1, 1] = -1
    pos_weight: list[float] | None = None
    pruned_prototypes: list[list] | None = None
    similarity_means: dict[str, list[list[float]]] | None = None
    atlas: list[dict] | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        model_type, fields = backbone_type(self.backbone)
        if not isinstance(self.backbone_config, PreTrainedConfig):
            given = {key: value for key, value in (self.backbone_config or {}).items() if key != "model_type"}
            self.backbone_config = AutoConfig.for_model(model_type, **{**fields, **given})
        if self.concepts is None:
            self.concepts = [f"concept_{index}" for index in range(self.num_concepts)]
        self.num_concepts = len(self.concepts)
        self.pruned_prototypes = self.pruned_prototypes or []
        if self.id2label is None and "num_labels" not in kwargs:
            kwargs["num_labels"] = 6
        if self.problem_type is None:
            self.problem_type = "single_label_classification"
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "CsrConfig":
        """
        Build a configuration from its saved form.

        A saved model carries its pipeline for machines without this package. If the package is installed, that entry
        is dropped, so that `pipeline` takes the registered class and needs no `trust_remote_code`.
        """
        if not cls.__module__.startswith("transformers_modules"):
            config_dict = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
        return super().from_dict(config_dict, **kwargs)

    def validate_backbone(self):
        """Check that the backbone's configuration has the backbone's type and a mask ratio of 0."""
        expected, fields = backbone_type(self.backbone)
        if self.backbone_config.model_type != expected:
            raise ValueError(
                f"backbone {self.backbone!r} needs a backbone_config of type {expected!r}, "
                f"got {self.backbone_config.model_type!r}."
            )
        if getattr(self.backbone_config, "backbone", None) != fields.get("backbone"):
            raise ValueError(f"backbone {self.backbone!r} has a backbone_config of {self.backbone_config.backbone!r}.")
        if getattr(self.backbone_config, "mask_ratio", 0):
            raise ValueError(f"backbone_config: mask_ratio must be 0, got {self.backbone_config.mask_ratio}.")

    def validate_concepts(self):
        """Check that concepts have different names, and that there is one positive weight for each or none at all."""
        if not self.concepts or len(set(self.concepts)) != len(self.concepts):
            raise ValueError(f"concepts must be one or more different names, got {self.concepts}.")
        if self.pos_weight is not None and (
            len(self.pos_weight) != len(self.concepts) or not min(self.pos_weight) > 0
        ):
            raise ValueError(f"pos_weight needs one positive number for each of the {len(self.concepts)} concepts.")

    def validate_sizes(self):
        """Check the ranges of counts, scales and the margin."""
        for name in ("num_prototypes", "prototype_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("similarity_scale", "assignment_scale"):
            if not getattr(self, name) > 0:  # nor NaN
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if not 0 < self.background_threshold < 1:
            raise ValueError(f"background_threshold must be between 0 and 1, got {self.background_threshold}.")
        if not self.margin >= 0:
            raise ValueError(f"margin must not be negative, got {self.margin}; its sign is margin_sign.")

    def validate_pruned_prototypes(self):
        """Check that each entry names a concept and one of its prototypes."""
        for entry in self.pruned_prototypes:
            if len(entry) != 2 or entry[0] not in self.concepts or entry[1] not in range(self.num_prototypes):
                raise ValueError(
                    f"pruned_prototypes has {entry}; each entry is [concept, index] with a concept of "
                    f"{self.concepts} and an index from 0 to {self.num_prototypes - 1}."
                )


__all__ = ["BACKBONES", "CONCEPTS", "PROTOTYPES", "TASK", "TIMM", "CsrConfig", "backbone_type"]
