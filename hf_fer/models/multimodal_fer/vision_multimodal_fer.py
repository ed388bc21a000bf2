"""SigLIP2's vision encoder, whose patch embedding a convolutional stem can replace."""

from torch import Tensor, nn
from transformers import SiglipVisionModel

from .configuration_multimodal_fer import FrameEncoderConfig
from .layers_multimodal_fer import reset_to_torch_default


class ResidualConvolutions(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, added to their input (arXiv 1512.03385)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.activation = nn.GELU()

    def forward(self, features: Tensor) -> Tensor:
        """`(M, channels, height, width)` -> the same shape."""
        changed = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(features)))))
        return self.activation(features + changed)


class ConvolutionalStem(nn.Sequential):
    """
    Convolutions in place of the patch embedding (arXiv 2106.14881), one stage per entry of `config.stem_channels`.

    A stage halves height and width, and `config.stem_blocks` residual blocks follow. A transformer alone needs far
    more pictures to learn what convolutions bring along: that neighbouring pixels belong together, wherever they are.
    """

    def __init__(self, config: FrameEncoderConfig):
        layers: list[nn.Module] = []
        before = config.num_channels
        for channels in config.stem_channels:
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels)]
            layers += [nn.GELU(), *(ResidualConvolutions(channels) for _ in range(config.stem_blocks))]
            before = channels
        super().__init__(*layers, nn.Conv2d(before, config.hidden_size, 1))

    @property
    def weight(self) -> Tensor:
        """A weight, from which SigLIP2's embeddings read the type that pixels are cast to."""
        return self[-1].weight


class FrameEncoder(SiglipVisionModel):
    """`SiglipVisionModel` without a pooling head; frames `(M, 3, height, width)` -> patches `(M, N, D)`."""

    config: FrameEncoderConfig

    def __init__(self, config: FrameEncoderConfig):
        super().__init__(config)
        if config.stem_channels:
            self.embeddings.patch_embedding = ConvolutionalStem(config)
            self.post_init()
            reset_to_torch_default(self.embeddings.patch_embedding)

    @classmethod
    def is_custom_code(cls) -> bool:
        """
        False, as for its base class, so that SigLIP's attention and MLP are initialised by SigLIP's own rule.

        In classes of other packages transformers skips modules without parameters of their own, to which it applies.
        """
        return False


__all__ = ["ConvolutionalStem", "FrameEncoder", "ResidualConvolutions"]
