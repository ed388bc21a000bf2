"""What the CSR model does with its similarities: the classes that follow, and a person's word on concepts.

Shapes use B (batch), H and W (feature map), K (concepts), M (prototypes of a concept).
"""

import torch
from torch import Tensor, nn

from .backbone_csr import in_half
from .configuration_csr import CsrConfig

REPLACEMENTS = ("zero", "mean", "absent")
"""What the similarities of a rejected concept become: 0, their training mean, or that of images without it."""


def peaks(maps: Tensor) -> Tensor:
    """Centre of the cell with the maximum: maps `(..., H, W)` -> x and y as shares of the image, `(..., 2)`."""
    height, width = maps.shape[-2:]
    place = maps.flatten(-2).argmax(dim=-1)
    return torch.stack([(place % width + 0.5) / width, (place // width + 0.5) / height], dim=-1)


class ConceptReasoning:
    """
    What a model does with its similarities; for a class with these attributes.

    Attributes:
        config: Of the model.
        classifier: From similarities to logits.
    """

    config: CsrConfig
    classifier: nn.Linear

    @property
    def kept(self) -> Tensor:
        """False for pruned prototypes, `(K, M)`."""
        kept = torch.ones(self.config.num_concepts, self.config.num_prototypes, dtype=torch.bool)
        for concept, index in self.config.pruned_prototypes:
            kept[self.config.concepts.index(concept), index] = False
        return kept.to(self.classifier.weight.device)

    def classify(self, similarities: Tensor) -> Tensor:
        """Logits `(B, classes)` of similarities `(B, K, M)`; pruned prototypes do not count."""
        return self.classifier(in_half((similarities * self.kept).flatten(1), self.classifier.weight.dtype))

    def contributions(self, similarities: Tensor) -> Tensor:
        """
        Each prototype's share of each logit, `(B, K, M)` -> `(B, classes, K, M)`.

        With the classifier's bias they sum to the logits.
        """
        weight = self.classifier.weight.unflatten(1, self.kept.shape)
        return (similarities * self.kept)[:, None] * weight

    def intervene(
        self, similarities: Tensor, reject: Tensor, confirm: Tensor | None = None, replacement: str = "mean"
    ) -> Tensor:
        """
        Similarities with an expert's word on some concepts.

        Args:
            similarities: `(B, K, M)`.
            reject: True where a concept is not there, `(B, K)`.
            confirm: True where it is; its similarities become the training mean of images that show it.
            replacement: What rejected ones become, one of `REPLACEMENTS`.

        Raises:
            ValueError: an unknown replacement, or training means that the checkpoint does not have.
        """
        if replacement not in REPLACEMENTS:
            raise ValueError(f"replacement must be one of {REPLACEMENTS}, got {replacement!r}.")
        other = torch.zeros_like(similarities)
        if replacement != "zero":
            other = self._training_mean("all" if replacement == "mean" else "absent", similarities)
        changed = torch.where(reject[..., None], other, similarities)
        if confirm is None or not confirm.any():
            return changed
        return torch.where(confirm[..., None], self._training_mean("present", similarities), changed)

    def _training_mean(self, kind: str, like: Tensor) -> Tensor:
        """The training mean `"all"`, `"present"` or `"absent"`, `(K, M)`; raises ValueError where there is none."""
        if self.config.similarity_means is None:
            raise ValueError("This checkpoint has no training means; they are set at the end of stages 2 and 3.")
        return torch.tensor(self.config.similarity_means[kind], dtype=like.dtype, device=like.device)

    def task_outputs(self, maps: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Similarity maps `(B, K, M, H, W)` to similarities, their places, and the classes that follow: `forward`."""
        if weights is not None:
            maps = maps * weights[..., None, None, :, :].to(maps)
        similarities = maps.flatten(-2).amax(dim=-1)
        return {
            "logits": self.classify(similarities),
            "similarities": similarities,
            "similarity_peaks": peaks(maps.detach()),
            "similarity_maps": maps,
        }


__all__ = ["REPLACEMENTS", "ConceptReasoning", "peaks"]
