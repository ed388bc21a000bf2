"""`pipeline("concept-image-classification", model=...)`."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline

from .configuration_csr import TASK
from .modeling_csr import REPLACEMENTS, spatial_weights
from .overlay_csr import overlay

Box = Sequence[float]


class ConceptImageClassificationPipeline(Pipeline):
    """
    Classifies images, explains the best class by concepts and prototypes, and applies a person's corrections.

    Inputs are an image file (DICOM too), Pillow image or array, or a list of them. Keyword arguments apply to all:

        top_k (`int`): Number of classes returned; all by default.
        top_concepts (`int`): Number of concepts returned, by the size of their share; all by default.
        reject, confirm (`list[str]`): Concepts that a person says are absent, and present.
        replacement (`str`, defaults to `"mean"`): What replaces the similarities of rejected concepts: `"zero"`, their
            training `"mean"`, or their mean over training images where the concept is `"absent"`.
        positive_boxes, negative_boxes (`list`): Where to look and where not, each x0, y0, x1, y1 in pixels.
        alpha (`float`): Weight of places that no box covers; by default 0.5 with positive boxes and 1 without.

    Returns for each input a dictionary:

        labels: `{"label", "score"}`, best first.
        explained, logit, bias: The best label, its logit, and the classifier's bias for it.
        concepts: `{"concept", "score", "share", "map", "prototypes"}`, largest share first. `score` is the concept
            head's probability, `map` the class activation map `(H, W)`, and each prototype has `prototype`,
            `similarity`, `share`, `box` (the most similar cell, in pixels) and `source` (its entry in the atlas).
        other_concepts: Sum of the shares of the concepts that `top_concepts` leaves out.

    The shares of all concepts and the bias sum to the logit. `overlay(image, concept["map"])` draws a map.
    """

    overlay = staticmethod(overlay)

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.tokenizer = None  # batches need no padding

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        top_concepts: int | None = None,
        reject: Sequence[str] = (),
        confirm: Sequence[str] = (),
        replacement: str = "mean",
        positive_boxes: Sequence[Box] = (),
        negative_boxes: Sequence[Box] = (),
        alpha: float | None = None,
        **kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        if kwargs:
            raise TypeError(f"Unknown parameters {sorted(kwargs)}; see the pipeline's documentation.")
        for name, value in (("top_k", top_k), ("top_concepts", top_concepts)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if replacement not in REPLACEMENTS:
            raise ValueError(f"replacement must be one of {REPLACEMENTS}, got {replacement!r}.")
        if set(reject) & set(confirm):
            raise ValueError(f"{sorted(set(reject) & set(confirm))} is both rejected and confirmed.")
        corrections = {
            "reject": self._mask(reject),
            "confirm": self._mask(confirm),
            "replacement": replacement,
            "positive_boxes": positive_boxes,
            "negative_boxes": negative_boxes,
            "alpha": alpha,
        }
        return {}, corrections, {"top_k": top_k, "top_concepts": top_concepts}

    def _mask(self, names: Sequence[str]) -> Tensor:
        known = self.model.config.concepts
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise ValueError(f"Unknown concept {name!r}{hint} This model has {known}.")
        return torch.tensor([name in names for name in known])

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify and explain images; see the class. `batch_size` images go through the model together."""
        if self.model.config.stage != TASK:
            raise ValueError(
                f"This is a stage-{self.model.config.stage} checkpoint, whose classifier has not been trained: the "
                "pipeline needs a stage-3 checkpoint."
            )
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any) -> dict[str, Tensor]:
        """Turns an image into tensors; raises the errors of `CsrProcessor.load_image`."""
        image = self.processor.load_image(inputs)
        height, width = image.shape[1:]
        return {"pixel_values": self.processor.features(image)[None], "size": torch.tensor([[width, height]])}

    def _forward(
        self,
        model_inputs: dict[str, Tensor],
        reject: Tensor,
        confirm: Tensor,
        replacement: str,
        positive_boxes: Sequence[Box],
        negative_boxes: Sequence[Box],
        alpha: float | None,
    ) -> dict[str, Tensor]:
        output = self.model(model_inputs["pixel_values"])
        steered = {name: output[name] for name in ("similarities", "similarity_peaks")}
        if positive_boxes or negative_boxes:
            weights = [
                self._weights(size, output.similarity_maps.shape[-2:], positive_boxes, negative_boxes, alpha)
                for size in model_inputs["size"].tolist()
            ]
            weights = torch.stack(weights).to(output.similarity_maps.device)
            steered = self.model.task_outputs(output.similarity_maps, weights)
        similarities = steered["similarities"]
        masks = (mask.to(similarities.device).expand(len(similarities), -1) for mask in (reject, confirm))
        similarities = (
            self.model.intervene(similarities, *masks, replacement) if (reject | confirm).any() else similarities
        )
        return {
            "logits": self.model.classify(similarities),
            "contributions": self.model.contributions(similarities),
            "similarities": similarities,
            "similarity_peaks": steered["similarity_peaks"],
            "concept_logits": output.concept_logits,
            "concept_maps": output.concept_maps,
            "size": model_inputs["size"],
        }

    @staticmethod
    def _weights(
        size: list[int], grid: Sequence[int], positive: Sequence[Box], negative: Sequence[Box], alpha: float | None
    ) -> Tensor:
        width, height = size
        boxes = (
            [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in given]
            for given in (positive, negative)
        )
        return spatial_weights(*boxes, tuple(grid), alpha)

    def postprocess(
        self, model_outputs: dict[str, Tensor], top_k: int | None = None, top_concepts: int | None = None
    ) -> dict[str, Any]:
        """Turns one image's tensors, with a leading dimension of 1, into the dictionary that the class describes."""
        outputs = {name: tensor[0].float() for name, tensor in model_outputs.items()}
        config, logits = self.model.config, outputs["logits"]
        multi_label = config.problem_type == "multi_label_classification"
        scores = logits.sigmoid() if multi_label else logits.softmax(dim=-1)
        best = scores.topk(min(top_k or len(scores), len(scores)))
        explained = int(logits.argmax())
        shares = outputs["contributions"][explained]
        order = shares.sum(dim=1).abs().argsort(descending=True).tolist()
        listed = order[: top_concepts or len(order)]
        return {
            "labels": [
                {"label": config.id2label[index], "score": score}
                for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ],
            "explained": config.id2label[explained],
            "logit": float(logits[explained]),
            "bias": self.model.classifier.bias[explained].item(),
            "concepts": [self._concept(k, outputs, shares[k]) for k in listed],
            "other_concepts": float(shares[order[len(listed) :]].sum()),
        }

    def _concept(self, k: int, outputs: dict[str, Tensor], shares: Tensor) -> dict[str, Any]:
        config = self.model.config
        sources = {entry["prototype"]: entry for entry in config.atlas or [] if entry["concept"] == config.concepts[k]}
        rows, columns = outputs["concept_maps"].shape[-2:]
        width, height = outputs["size"].tolist()
        cell = torch.tensor([width / columns, height / rows])
        prototypes = []
        for m in (m for m in shares.abs().argsort(descending=True).tolist() if self.model.kept[k, m]):
            centre = outputs["similarity_peaks"][k, m].cpu() * torch.tensor([width, height])
            prototypes.append(
                {
                    "prototype": m,
                    "similarity": float(outputs["similarities"][k, m]),
                    "share": float(shares[m]),
                    "box": [*(centre - cell / 2).tolist(), *(centre + cell / 2).tolist()],
                    "source": sources.get(m),
                }
            )
        return {
            "concept": config.concepts[k],
            "score": float(outputs["concept_logits"][k].sigmoid()),
            "share": float(shares.sum()),
            "map": outputs["concept_maps"][k].cpu().numpy(),
            "prototypes": prototypes,
        }


__all__ = ["ConceptImageClassificationPipeline", "overlay"]
