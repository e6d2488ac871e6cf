"""Plain convolutional networks of a chosen depth, without normalisation or shortcuts."""

from torch import nn


def plain(depth: int, classes: int, *, width: int = 32) -> nn.Sequential:
    """Return `depth` 3×3 convolutions, each with a ReLU, and a linear layer, for 32×32 images.

    The first convolution has stride 2. Half-way, a pooling layer reduces the maps to 8×8 and the
    width doubles, so most layers cost the same.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU()]
    channels = width
    for number in range(1, depth):
        wider = width if number < depth // 2 else 2 * width
        if wider != channels:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.ReLU()]
        channels = wider
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def depth6(classes: int) -> nn.Sequential:
    return plain(6, classes)


def depth16(classes: int) -> nn.Sequential:
    return plain(16, classes)
