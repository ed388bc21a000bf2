"""The k-means start of csr's prototypes, on images whose looks are known."""

import torch
from datasets import Dataset
from models.suite_csr import config

from hf_fer.models.csr import CsrForImageClassification
from hf_fer.models.csr.backbone_csr import feature_map
from hf_fer.models.csr.modeling_csr import concept_vectors
from hf_fer.models.csr.train.prototype_start import cluster_prototypes

LOOKS = [0, 1, 0, 1, 1, 0, 0, 1]
"""Images of concept 0 are dark or bright; concept 1 is in the first image alone."""


def images() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = [4.0 * look - 2 + 0.1 * torch.randn(3, 32, 32, generator=generator) for look in LOOKS]
    pixels.append(None)  # could no longer be read
    labels = [[1.0, float(index == 0)] for index in range(len(pixels))]
    rows = Dataset.from_dict({"index": range(len(pixels)), "concept_labels": labels})
    return rows.with_transform(lambda batch: {"pixel_values": [pixels[index] for index in batch["index"]]})


def started(seed: int = 0) -> CsrForImageClassification:
    torch.manual_seed(0)
    model = CsrForImageClassification(config("convnext", 2, num_concepts=2, num_prototypes=2))
    cluster_prototypes(model, images(), batch_size=3, seed=seed)
    return model


def test_each_prototype_starts_at_a_share_of_the_concepts_images():
    model = started()
    pixels = torch.stack([images()[index]["pixel_values"] for index in range(len(LOOKS))])
    with torch.no_grad():
        features = feature_map(model.eval().backbone, pixels)
        vectors = concept_vectors(features, model.concept_head(features), model.projector)[:, 0]
    nearest = (vectors @ model.prototypes[0].T).argmax(dim=1)
    assert (nearest == nearest[0]).tolist() == [look == LOOKS[0] for look in LOOKS]
    torch.testing.assert_close(model.prototypes[0].norm(dim=-1), torch.ones(2))


def test_the_same_seed_gives_the_same_prototypes():
    assert torch.equal(started().prototypes, started().prototypes)


def test_a_concept_with_too_few_images_keeps_its_drawn_prototypes_and_the_log_says_so(caplog):
    torch.manual_seed(0)
    drawn = CsrForImageClassification(config("convnext", 2, num_concepts=2, num_prototypes=2)).prototypes
    model = started()
    assert torch.equal(model.prototypes[1], drawn[1])
    assert not torch.equal(model.prototypes[0], drawn[0])
    assert "prototypes of concept_1 start at random: 1 training images" in caplog.text
