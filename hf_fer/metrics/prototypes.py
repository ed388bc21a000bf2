"""Whether the prototypes of a concept differ from one another."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
prototype_cosine: mean cosine between the prototypes of one concept, over all pairs of all concepts; 1 is collapse.
highest_prototype_cosine: that mean for the concept where it is highest.
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
    """Pairwise cosines of prototypes `(K, M, D)`; empty where no concept has two."""
    concepts, count, width = prototypes.shape
    metric = PrototypeDiversity(keep_in_memory=True)
    return metric.compute(predictions=prototypes.reshape(-1, width), references=np.repeat(np.arange(concepts), count))
