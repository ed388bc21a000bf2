"""Diversity of the prototypes of each concept, as cosine similarity."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
prototype_cosine: mean cosine between two prototypes of one concept, averaged over concepts; 1 is collapse.
highest_prototype_cosine: mean cosine of the concept where it is highest.
"""


class PrototypeDiversity(evaluate.Metric):
    """`compute(predictions=, references=)`: prototype vectors, and the index of the concept that each belongs to."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: vectors. references: concept indices.",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        vectors, concepts = np.asarray(predictions), np.asarray(references)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        means = []
        for concept in np.unique(concepts):
            own = vectors[concepts == concept]
            if len(own) > 1:
                means.append((own @ own.T)[np.triu_indices(len(own), k=1)].mean())
        if not means:
            return {}
        return {"prototype_cosine": float(np.mean(means)), "highest_prototype_cosine": float(np.max(means))}


def prototype_diversity(prototypes: np.ndarray) -> dict[str, float]:
    """Figures of `PrototypeDiversity` for `(concepts, prototypes, width)`; empty where a concept has one prototype."""
    concepts, count, width = prototypes.shape
    metric = PrototypeDiversity(keep_in_memory=True)
    return metric.compute(predictions=prototypes.reshape(-1, width), references=np.repeat(np.arange(concepts), count))
