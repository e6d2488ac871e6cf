"""convert on the models of torchvision and timm, untrained; nothing is downloaded."""

from typing import Any

import pytest
import timm
import torch
import torchvision.models
from accelerate import init_empty_weights
from relu_oracle import LEAKY, check_converts
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pdsearch import convert
from pdsearch.errors import UnsupportedError

# All of torchvision's classifiers. Those that compute ReLU:
QUICK = ("alexnet", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "resnet18", "squeezenet1_1")
SLOW = (
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("inception_v3", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v3_large"),
    *("regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf"),
    *("regnet_x_800mf", "regnet_x_8gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf"),
    *("regnet_y_3_2gf", "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf", "resnet101"),
    *("resnet152", "resnet34", "resnet50", "resnext101_32x8d", "resnext101_64x4d"),
    *("resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"),
    *("swin_v2_b", "swin_v2_s", "swin_v2_t"),
    *("shufflenet_v2_x2_0", "squeezenet1_0", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16"),
    *("vgg16_bn", "vgg19", "vgg19_bn", "wide_resnet101_2", "wide_resnet50_2"),
)
LARGE = ("regnet_y_128gf",)  # 645 million weights
# Those that have ReLU6, GELU, SiLU or hard swish instead:
WITHOUT = (
    *("convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "maxvit_t"),
    *(f"efficientnet_b{number}" for number in range(8)),
    *("efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s", "mobilenet_v2"),
    *("swin_b", "swin_s", "swin_t", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"),
)
TIMM = (
    *(
        "bat_resnext26ts",
        "botnet26t_256",
        "densenet121",
        "fbnetc_100",
        "semnasnet_075",
        "spnasnet_100",
    ),
    *("dla34", "dpn48b", "ecaresnet26t", "ese_vovnet19b_dw", "ghostnet_050", "gernet_s"),
    *("hardcorenas_a", "hrnet_w18_small", "inception_v3", "inception_v4", "lcnet_035"),
    *("legacy_xception", "mixnet_s", "mnasnet_small", "nf_resnet26"),
    *("regnetx_002", "regnety_002", "repvgg_a0", "res2net50_26w_4s", "resnest14d", "resnet18"),
    *("resnetv2_50", "rexnet_100", "selecsls42", "seresnet18", "skresnet18", "tresnet_m"),
    *("vgg11", "wide_resnet50_2", "xception41"),
)


def images(size: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, size, size, generator=generator, device="cpu")


def torchvision_model(name: str) -> nn.Module:
    options: dict[str, Any] = (
        {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    )
    return torchvision.models.get_model(name, weights=None, num_classes=5, **options)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_torchvision(name: str) -> None:
    torch.manual_seed(0)
    small = name in ("alexnet", "densenet121") or name.startswith("vgg")
    check_converts(torchvision_model(name), images(299 if name == "inception_v3" else 64 + small))


def test_the_lists_hold_every_classifier_of_torchvision() -> None:
    listed = [*QUICK, *SLOW, *LARGE, *WITHOUT]
    assert sorted(listed) == torchvision.models.list_models(module=torchvision.models)


class _Relus(TorchDispatchMode):
    """Notes what ReLU is to the dispatcher, whatever called it: forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.backward = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.forward += func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
        zero = func is torch.ops.aten.threshold_backward.default and args[2] == 0
        self.backward += zero
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT)
def test_torchvision_without_relu(name: str) -> None:
    with torch.device("meta"):
        model, given = torchvision_model(name), images(224).to("meta")
    with _Relus() as seen:
        model(given)
    assert seen.forward == 0
    for example in (None, given):
        with pytest.raises(UnsupportedError, match=r"holds no nn\.ReLU to convert, and calls none"):
            convert(model, LEAKY, example=example)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_torchvision_without_memory_for_the_weights(name: str) -> None:
    with init_empty_weights(include_buffers=True):
        model = torchvision_model(name)
    given = images(224).to("meta")
    convert(model, LEAKY, example=given)
    with _Relus() as seen:
        model(given).sum().backward()
    assert seen.forward and not seen.backward


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "regnetx_002")) for n in TIMM]
)
def test_timm(name: str) -> None:
    torch.manual_seed(0)
    size = 256 if "256" in name or name.startswith("bat") else 96
    check_converts(timm.create_model(name, pretrained=False, num_classes=5), images(size))
