"""Layers keep the batch free when they are traced, as an export needs; whole models are for benchmarks/export.py."""

import pytest
import torch
from torch.export import Dim

from hf_fer.models.multimodal_fer import MultimodalFerConfig
from hf_fer.models.multimodal_fer.layers_multimodal_fer import (
    ModalityEmbedding,
    RoiTokenCompression,
    TemporalEncoder,
)

CONFIG = MultimodalFerConfig.from_preset("tiny", num_frames=4, temporal_num_layers=1)
WIDTH = CONFIG.vision_config.hidden_size


class Missing(torch.nn.Module):
    """The embedding of a modality whose tokens are not given."""

    def __init__(self):
        super().__init__()
        self.embedding = ModalityEmbedding(2, 8)

    def forward(self, shown):
        return self.embedding(1, None, shown, 3)


LAYERS = {
    "tokens of a frame": (lambda: RoiTokenCompression(CONFIG), lambda size: (torch.randn(size, 16, WIDTH),)),
    "frames": (
        lambda: TemporalEncoder(CONFIG),
        lambda size: (torch.randn(size, 4, 6, WIDTH), torch.ones(size, 4, dtype=torch.bool)),
    ),
    "missing modality": (Missing, lambda size: (torch.zeros(size, dtype=torch.bool),)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_traced_layer_takes_batches_of_any_size(name):
    build, batch = LAYERS[name]
    layer = build().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    given = batch(3)
    axes = tuple({0: Dim("batch")} for _ in given)
    traced = torch.export.export(layer, given, dynamic_shapes=axes).module()
    for size in (1, 2, 5):
        given = batch(size)
        for known, got in zip(outputs(layer(*given)), outputs(traced(*given)), strict=True):
            assert torch.allclose(known, got, atol=1e-5)


def outputs(found):
    return found if isinstance(found, tuple) else (found,)
