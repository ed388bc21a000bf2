"""Concept-based similarity reasoning (CSR, CVPR 2025, arXiv 2503.06873).

Shapes use B (batch), C (backbone channels), H and W (feature map), K (concepts), M (prototypes of a concept),
D (projected width).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .backbone_csr import (
    BackboneKeysError,
    build_backbone,
    encode,
    feature_map,
    feature_size,
    load_backbone,
    timm_to_transformers,
)
from .configuration_csr import CONCEPTS, PROTOTYPES, TASK, CsrConfig
from .losses_csr import IGNORED, assign, at_least_float32, background_places, class_loss, concept_loss, prototype_loss
from .reasoning_csr import REPLACEMENTS, ConceptReasoning, peaks

TRAINED = {CONCEPTS: ("backbone", "concept_head"), PROTOTYPES: ("projector", "prototypes"), TASK: ("classifier",)}
"""The modules that each stage trains."""


@dataclass
class CsrOutput(ModelOutput):
    """
    Output of [`CsrForImageClassification`]. Fields that the stage does not compute are `None`.

    Args:
        loss (`torch.Tensor` of shape `()`): The stage's loss; given with its labels.
        logits (`torch.Tensor` of shape `(B, classes)`): Class scores, stage 3.
        concept_logits (`torch.Tensor` of shape `(B, K)`): Concept scores before the sigmoid.
        concept_peaks (`torch.Tensor` of shape `(B, K, 2)`): x and y of the maximum of each concept map, in [0, 1].
        similarities (`torch.Tensor` of shape `(B, K, M)`): Highest similarity to each prototype, stage 3.
        similarity_peaks (`torch.Tensor` of shape `(B, K, M, 2)`): Where it is, x and y in [0, 1].
        concept_maps (`torch.Tensor` of shape `(B, K, H, W)`): Class activation map of each concept.
        similarity_maps (`torch.Tensor` of shape `(B, K, M, H, W)`): Cosine similarity to each prototype, stage 3.
        hidden_states (`tuple[torch.Tensor]`): The backbone's, as it gives them; with `output_hidden_states`.
        attentions (`tuple[torch.Tensor]`): The backbone's, `(B, heads, tokens, tokens)`; with `output_attentions`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    concept_logits: Tensor | None = None
    concept_peaks: Tensor | None = None
    similarities: Tensor | None = None
    similarity_peaks: Tensor | None = None
    concept_maps: Tensor | None = None
    similarity_maps: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def keep_frozen_statistics(model: nn.Module) -> None:
    """Puts each BatchNorm without trainable weights in evaluation mode, to keep its statistics, adapters or not."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and not any(value.requires_grad for value in layer.parameters()):
            layer.train(False)


def concept_vectors(features: Tensor, concept_maps: Tensor, projector: nn.Module) -> Tensor:
    """
    The vector of each concept: the features, weighted by the softmax of the concept's map over space, projected.

    Args:
        features: `(B, C, H, W)`.
        concept_maps: `(B, K, H, W)`.
        projector: The model's.

    Returns:
        Unit vectors `(B, K, D)`.
    """
    attention = concept_maps.flatten(2).softmax(dim=-1)
    return F.normalize(projector(torch.einsum("bkn,bcn->bkc", attention, features.flatten(2))), dim=-1)


def spatial_weights(
    positive: list[tuple[float, float, float, float]],
    negative: list[tuple[float, float, float, float]],
    size: tuple[int, int],
    alpha: float | None = None,
) -> Tensor:
    """
    The map A that steers similarities in space: 1 in positive boxes, 0 in negative boxes, `alpha` elsewhere.

    A cell belongs to each box that contains the cell's centre. A box smaller than a cell also has the cell at its own
    centre. Where boxes overlap, negative ones take precedence.

    Args:
        positive, negative: Boxes as x0, y0, x1, y1, shares of the image.
        size: H and W of the map.
        alpha: Weight of cells that no box covers; by default 0.5 with positive boxes and 1 without.

    Returns:
        `(H, W)`.

    Raises:
        ValueError: a box has no area or does not lie in the image.
    """
    height, width = size
    y, x = ((torch.arange(side) + 0.5) / side for side in size)
    weights = torch.full(size, float((0.5 if positive else 1) if alpha is None else alpha))
    for boxes, value in ((positive, 1.0), (negative, 0.0)):
        for x0, y0, x1, y1 in boxes:
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError(f"Box {(x0, y0, x1, y1)} does not lie in the image or has no area.")
            inside = ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))[None]
            inside[int((y0 + y1) / 2 * height), int((x0 + x1) / 2 * width)] = True
            weights[inside] = value
    return weights


class CsrForImageClassification(ConceptReasoning, PreTrainedModel):
    """
    Backbone, concept maps, prototypes of each concept, and a linear classifier on the similarities to them.

    `config.stage` determines which modules train and which loss `forward` returns.
    """

    config: CsrConfig
    base_model_prefix = "csr"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["ViTMAELayer", "ViTLayer", "ConvNextLayer", "ResNetBasicLayer", "ResNetBottleNeckLayer"]

    def __init__(self, config: CsrConfig):
        super().__init__(config)
        size = config.prototype_size
        self.backbone = build_backbone(config.backbone_config)
        # Layers of ResNet, ConvNeXt and timm do not support it.
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        channels = feature_size(self.backbone)
        self.concept_head = nn.Conv2d(channels, config.num_concepts, kernel_size=1, bias=False)
        self.projector = nn.Sequential(nn.Linear(channels, size), nn.GELU(), nn.Linear(size, size))
        self.prototypes = nn.Parameter(torch.empty(config.num_concepts, config.num_prototypes, size))
        self.classifier = nn.Linear(config.num_concepts * config.num_prototypes, config.num_labels)
        self.post_init()
        # The position embeddings of ViT-MAE are fixed sines and cosines.
        self._fixed = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        self.freeze_for_stage()

    def post_init(self):
        super().post_init()
        # FSDP raises if a class to wrap is not in the model.
        built = {type(part).__name__ for part in self.modules()}
        self._no_split_modules = sorted(built & set(self._no_split_modules))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        if isinstance(module, CsrForImageClassification):
            init.normal_(module.prototypes, std=self.config.prototype_size**-0.5)

    @classmethod
    def from_backbone_pretrained(cls, path: str | Path, config: CsrConfig) -> "CsrForImageClassification":
        """
        A new model whose backbone starts from a checkpoint.

        Args:
            path: A weights file or a folder with `model.safetensors`, in transformers' layout or, for vision
                transformers and timm's models, in timm's or MAE's; `"pretrained"` for timm's weights from the Hub.
            config: The whole model's configuration.

        Raises:
            BackboneKeysError: keys of the checkpoint and of the backbone differ; the message lists them.
        """
        model = cls(config)
        model.backbone.load_state_dict(load_backbone(config.backbone_config, path).state_dict())
        return model

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in `PreTrainedModel`; modules that `config.stage` does not train are then frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_for_stage()
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding of a vision transformer; a backbone of another kind raises `NotImplementedError`."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another in the place of the patch embedding; see `get_input_embeddings`."""
        self.backbone.set_input_embeddings(value)

    def freeze_for_stage(self) -> None:
        """Freeze all modules that `config.stage` does not train, and keep them in evaluation mode (BatchNorm)."""
        for name, parameter in self.named_parameters():
            trained = name.partition(".")[0] in TRAINED[self.config.stage]
            parameter.requires_grad_(trained and name not in self._fixed)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for part in self.children():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.train(False)
        keep_frozen_statistics(self)
        return self

    def _project(self, vectors: Tensor) -> Tensor:
        """Feature vectors `(..., C)` -> unit vectors `(..., D)`."""
        return F.normalize(self.projector(vectors), dim=-1)

    def _concept_similarities(self, features: Tensor, concept_maps: Tensor) -> Tensor:
        """
        Similarity of the vector that each concept pools to every concept's prototypes.

        Args:
            features: `(B, C, H, W)`.
            concept_maps: `(B, K, H, W)`.

        Returns:
            `(B, K, K)`: `[b, i, k]` is the vector of concept `i` against the prototypes of concept `k`.
        """
        vectors = concept_vectors(features, concept_maps, self.projector)
        cosines = torch.einsum("bid,kmd->bikm", vectors, F.normalize(self.prototypes, dim=-1))
        return assign(at_least_float32(cosines), self.config.assignment_scale, self.kept)

    def _background_similarities(self, features: Tensor, concept_maps: Tensor) -> Tensor:
        """
        Similarity of the places beside a concept to that concept's own prototypes, the negatives of `prototype_loss`.

        Args:
            features: `(B, C, H, W)`.
            concept_maps: `(B, K, H, W)`; where they are low (`background_threshold`) is background.

        Returns:
            `(B, K, H * W)`, `-inf` for places that belong to the concept.
        """
        maps = at_least_float32(self.similarity_maps(features)).flatten(3)
        places = assign(maps.transpose(2, 3), self.config.assignment_scale, self.kept[:, None])
        beside = background_places(concept_maps.flatten(2), self.config.background_threshold)
        return places.masked_fill(~beside, -torch.inf)

    @torch.no_grad()
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """H and W of the feature map of images of this size in pixels."""
        image = self.prototypes.new_zeros(1, 3, height, width)
        return tuple(feature_map(self.backbone, image).shape[-2:])

    def similarity_maps(self, features: Tensor) -> Tensor:
        """Cosine similarity of every place to every prototype: `(B, C, H, W)` -> `(B, K, M, H, W)`."""
        places = self._project(features.flatten(2).transpose(1, 2))
        maps = torch.einsum("bnd,kmd->bkmn", places, F.normalize(self.prototypes, dim=-1))
        return maps.unflatten(-1, features.shape[-2:])

    def _stage_loss(
        self, features: Tensor, outputs: dict[str, Tensor], labels: Tensor | None, concept_labels: Tensor | None
    ) -> Tensor | None:
        """The loss of `config.stage`, or `None` without the labels that it needs."""
        config = self.config
        if config.stage == TASK:
            return None if labels is None else class_loss(at_least_float32(outputs["logits"]), labels)
        if concept_labels is None:
            return None
        if config.stage == CONCEPTS:
            logits = at_least_float32(outputs["concept_logits"])
            weight = None if config.pos_weight is None else logits.new_tensor(config.pos_weight)
            return concept_loss(logits, concept_labels.to(logits.dtype), weight)
        similarities = self._concept_similarities(features, outputs["concept_maps"])
        background = None
        if config.prototype_loss == "background":
            background = self._background_similarities(features, outputs["concept_maps"])
        margin = config.margin_sign * config.margin
        return prototype_loss(similarities, concept_labels >= 0.5, config.similarity_scale, margin, background)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        concept_labels: Tensor | None = None,
        spatial_weights: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> CsrOutput:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, height, width)`): Normalised images.
            labels (`torch.Tensor`): Class indices `(B,)`, or, multi-label, targets `(B, classes)`; -100 is ignored.
            concept_labels (`torch.Tensor` of shape `(B, K)`): Presence of each concept in [0, 1]; -100 is ignored.
            spatial_weights (`torch.Tensor` of shape `(B, H, W)` or `(H, W)`): The map A of the function of that
                name; similarities are multiplied with it before their maximum is taken.
            output_hidden_states (`bool`): Also return the backbone's hidden states.
            output_attentions (`bool`): Also return the attention weights of a `vit` or `medmae` that was loaded with
                `attn_implementation="eager"`.

        Raises:
            ValueError: attentions are asked of a backbone that gives none.
        """
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        record = {name: getattr(self.config, name) if given is None else given for name, given in asked.items()}
        features, encoded = encode(self.backbone, pixel_values, **record)
        concept_maps = self.concept_head(features)
        outputs = {
            "concept_logits": concept_maps.mean(dim=(2, 3)),
            "concept_peaks": peaks(concept_maps.detach()),
            "concept_maps": concept_maps,
        }
        if self.config.stage == TASK:
            outputs |= self.task_outputs(self.similarity_maps(features), spatial_weights)
        outputs |= {name: getattr(encoded, name, None) for name in ("hidden_states", "attentions")}
        return CsrOutput(loss=self._stage_loss(features, outputs, labels, concept_labels), **outputs)


__all__ = [
    "IGNORED",
    "REPLACEMENTS",
    "BackboneKeysError",
    "CsrForImageClassification",
    "CsrOutput",
    "spatial_weights",
    "timm_to_transformers",
]
