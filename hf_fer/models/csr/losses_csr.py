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
        scale: Gamma; the larger it is, the nearer the mean is to the maximum.
        kept: False for pruned prototypes, `(..., M)`; a concept without any has similarity 0.

    Returns:
        `(B, ...)`.
    """
    if kept is None:
        return ((scale * similarities).softmax(dim=-1) * similarities).sum(dim=-1)
    scores = (scale * similarities).masked_fill(~kept, torch.finfo(similarities.dtype).min)
    return (scores.softmax(dim=-1) * similarities * kept).sum(dim=-1)


def prototype_loss(similarities: Tensor, present: Tensor, scale: float, margin: float) -> Tensor:
    """
    Stage 2 (arXiv 2503.06873, SoftTriple of arXiv 1909.05235), the mean over images of the sum over their concepts.

    The vector that a concept pooled from an image has to be nearer to its own concept's prototypes than to those of
    the others.

    Args:
        similarities: `[b, i, k]` is the similarity of the vector of concept `i` in image `b` to concept `k`'s
            prototypes, `(B, K, K)`.
        present: Whether image `b` shows concept `i`, `(B, K)`.
        scale: Lambda.
        margin: Delta with its sign; it is added to a vector's similarity to its own concept.
    """
    own = margin * torch.eye(similarities.shape[-1], dtype=similarities.dtype, device=similarities.device)
    log_probs = (scale * (similarities + own)).log_softmax(dim=-1)
    return -(log_probs.diagonal(dim1=-2, dim2=-1) * present).sum() / len(similarities)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Stage 3: cross entropy with class indices `(B,)`, binary cross entropy with targets `(B, classes)`."""
    if labels.ndim == 2:
        return concept_loss(logits, labels.to(logits.dtype))
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


__all__ = ["IGNORED", "assign", "at_least_float32", "class_loss", "concept_loss", "prototype_loss"]
