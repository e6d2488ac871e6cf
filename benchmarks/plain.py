"""Plain convolutional networks of a chosen depth, without normalisation or shortcuts."""

from torch import nn


def plain(depth: int, classes: int, *, width: int = 32) -> nn.Sequential:
    """`depth` convolutions of 3×3, each before a ReLU, and a linear layer; images of 32×32.

    The first has stride 2; half of them come before a pooling to 8×8, after which the width is
    twice as large, so that most cost the same.
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
