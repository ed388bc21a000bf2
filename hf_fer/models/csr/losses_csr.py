"""The losses of the three stages. Shapes use B (batch), K (concepts), M (prototypes), D (projected width)."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Target of an image that could not be read; no loss and no metric counts it."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Casts half precision to single, and returns other tensors unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def concept_loss(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """
    Stage 1: binary cross entropy over concepts, `(B, K)` and `(B, K)` in [0, 1] -> `()`.

    The sum is divided by the number of all targets, so that gradient accumulation over equal micro-batches gives the
    gradient of the one large batch.
    """
    counted = targets != IGNORED
    each = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), pos_weight=pos_weight, reduction="none")
    return (each * counted).sum() / counted.sum().clamp(min=1)


def assign(similarities: Tensor, scale: float, kept: Tensor | None = None) -> Tensor:
    """
    Similarity of a vector to a concept: the mean over the concept's prototypes, weighted by soft assignment.

    Args:
        similarities: Cosines `(B, ..., M)`.
        scale: Gamma; the larger it is, the nearer the mean is to the maximum. At 1000 only the most similar prototype
            gets a gradient, unless two differ by less than about 0.01.
        kept: False for pruned prototypes, `(..., M)`; a concept without any has similarity 0.

    Returns:
        `(B, ...)`.
    """
    if kept is None:
        return ((scale * similarities).softmax(dim=-1) * similarities).sum(dim=-1)
    scores = (scale * similarities).masked_fill(~kept, torch.finfo(similarities.dtype).min)
    return (scores.softmax(dim=-1) * similarities * kept).sum(dim=-1)


def prototype_loss(
    similarities: Tensor, present: Tensor, scale: float, margin: float, background: Tensor | None = None
) -> Tensor:
    """
    Stage 2 (arXiv 2503.06873, SoftTriple of arXiv 1909.05235), the mean over images of the sum over their concepts.

    The vector that a concept pooled from an image has to be nearer to its own concept's prototypes than to those of
    the others and, with `background`, than the places of the image beside the concept are to them. Each of these
    places is one more negative in the denominator, as in InfoNCE (arXiv 1807.03748).

    Args:
        similarities: `[b, i, k]` is the similarity of the vector of concept `i` in image `b` to concept `k`'s
            prototypes, `(B, K, K)`.
        present: Whether image `b` shows concept `i`, `(B, K)`.
        scale: Lambda.
        margin: Delta with its sign; it is added to a vector's similarity to its own concept.
        background: `[b, i, n]` is the similarity of place `n` of image `b` to concept `i`'s prototypes, `-inf` where
            the place is not background of the concept, `(B, K, N)`. None for the paper's loss.
    """
    own = margin * torch.eye(similarities.shape[-1], dtype=similarities.dtype, device=similarities.device)
    compared = similarities + own
    if background is not None:
        compared = torch.cat([compared, background], dim=-1)
    log_probs = (scale * compared).log_softmax(dim=-1)[..., : similarities.shape[-1]]
    return -(log_probs.diagonal(dim1=-2, dim2=-1) * present).sum() / len(similarities)


def background_places(maps: Tensor, threshold: float) -> Tensor:
    """
    Where concept maps are low, so that the place does not belong to the concept.

    A map's support is where it is above a share of its range; CAM (arXiv 1512.04150) boxes objects by the same rule.

    Args:
        maps: `(..., N)`.
        threshold: Share of the range from the map's lowest to its highest value.

    Returns:
        True for background, `(..., N)`; a map's highest place is never background.
    """
    lowest, highest = maps.amin(dim=-1, keepdim=True), maps.amax(dim=-1, keepdim=True)
    return maps < lowest + threshold * (highest - lowest)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Stage 3: cross entropy with class indices `(B,)`, binary cross entropy with targets `(B, classes)`."""
    if labels.ndim == 2:
        return concept_loss(logits, labels.to(logits.dtype))
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


__all__ = [
    "IGNORED",
    "assign",
    "at_least_float32",
    "background_places",
    "class_loss",
    "concept_loss",
    "prototype_loss",
]
