"""Networks for images of any size: AlexNet, and an MLP."""

import math
from typing import Literal

import torch
from torch import nn

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

RGB_32: Shape = (3, 32, 32)


class AlexNet(nn.Module):
    """AlexNet for small images: five convolutions, two hidden layers, dropout, no batch norm.

    The layers are those of Krizhevsky, Sutskever and Hinton 2012 (*ImageNet Classification with
    Deep Convolutional Neural Networks*): an 11×11 convolution of stride 4, a 5×5 and three 3×3
    ones, ReLU after each layer, max pooling after the first, second and fifth, dropout before both
    hidden layers of the classifier. Differences:

    * padding 5 in the first convolution: maps of 8×8, 4×4, 2×2 and 1×1 for 32×32 images instead of
      55, 27, 13 and 6 for 224×224;
    * 2×2 pooling with stride 2 instead of 3×3, because the maps are too small to overlap; at the
      end of an odd side it pools what is left, so that any size can be pooled three times;
    * 64, 192, 384, 256 and 256 channels without groups, as in torchvision and in the one-GPU
      version of Krizhevsky 2014 (arXiv:1404.5997), instead of two groups for two GPUs;
    * a classifier 1024 instead of 4096 wide: for 32×32 images its input has 256 features instead
      of 9216 (256 per place of the last map), and at 4096 a CPU would spend most of its time there
      (600 to 1700 images a second instead of 3000);
    * no local response normalisation: it does not help (VGG, arXiv:1409.1556, section 4.1).

    Args:
        classes: number of classes.
        shape: channels, height and width of the images.

    Shape:
        ``(n, channels, height, width)``, floating → ``(n, classes)``.
    """

    def __init__(self, *, classes: int, shape: Shape = RGB_32) -> None:
        super().__init__()
        channels, height, width = shape
        places = math.prod(math.ceil(((side - 1) // 4 + 1) / 8) for side in (height, width))
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 11, stride=4, padding=5),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * places, 1024),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(1024, 1024),
            nn.ReLU(),
            nn.Linear(1024, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(self.features(images).flatten(1))


class CReLU(nn.Module):
    """``relu(cat(x, -x))``, twice as wide as x: Shang et al. 2016, arXiv:1603.05201.

    It prevents the loss of plasticity (Abbas et al. 2023, arXiv:2303.07507).
    """

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return ``(n, 2·features)`` from ``(n, features)``."""
        return self.relu(torch.cat([input, -input], 1))


class MLP(nn.Sequential):
    """Fully connected layers with ReLU, without dropout.

    Args:
        classes: number of classes.
        width: units in each hidden layer.
        depth: hidden layers.
        activation: ``relu``, or ``crelu`` (:class:`CReLU`), which doubles the next layer's inputs.
        normalisation: ``none``, or ``layer``: a ``nn.LayerNorm`` before each activation.
        shape: channels, height and width of the images.

    Shape:
        ``(n, channels, height, width)``, floating → ``(n, classes)``.
    """

    def __init__(
        self,
        *,
        classes: int,
        width: int = 128,
        depth: int = 3,
        activation: Literal["relu", "crelu"] = "relu",
        normalisation: Literal["none", "layer"] = "none",
        shape: Shape = RGB_32,
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(shape)
        for _ in range(depth):
            layers.append(nn.Linear(features, width))
            if normalisation == "layer":
                layers.append(nn.LayerNorm(width))
            layers.append(CReLU() if activation == "crelu" else nn.ReLU())
            features = 2 * width if activation == "crelu" else width
        super().__init__(*layers, nn.Linear(features, classes))
