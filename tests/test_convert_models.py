"""convert on the models of torchvision, timm and transformers, untrained; nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.models
from relu_oracle import check_converts
from torch import nn

# All of torchvision's classifiers that compute ReLU; the others have ReLU6, GELU or SiLU.
QUICK = ("alexnet", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "resnet18", "squeezenet1_1")
SLOW = (
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("inception_v3", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v3_large"),
    *("regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf"),
    *("regnet_x_800mf", "regnet_x_8gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf"),
    *("regnet_y_3_2gf", "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf", "resnet101"),
    *("resnet152", "resnet34", "resnet50", "resnext101_32x8d", "resnext101_64x4d"),
    *("resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"),
    *("shufflenet_v2_x2_0", "squeezenet1_0", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16"),
    *("vgg16_bn", "vgg19", "vgg19_bn", "wide_resnet101_2", "wide_resnet50_2"),
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
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


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


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = 256 if "256" in name or name.startswith("bat") else 96
    check_converts(timm.create_model(name, pretrained=False, num_classes=5), images(size))


def _resnet() -> tuple[nn.Module, Any]:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2])
    config.num_labels = 3
    return ResNetForImageClassification(config), {"pixel_values": images(64)}


def _opt() -> tuple[nn.Module, Any]:
    from transformers import OPTConfig, OPTForCausalLM

    size: dict[str, Any] = {
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 16,
    }
    config = OPTConfig(vocab_size=50, num_hidden_layers=2, max_position_embeddings=32, **size)
    return OPTForCausalLM(config), {"input_ids": torch.arange(10).reshape(2, 5)}


def _t5() -> tuple[nn.Module, Any]:
    from transformers import T5Config, T5ForConditionalGeneration

    size: dict[str, Any] = {
        "decoder_start_token_id": 0,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
    }
    config = T5Config(vocab_size=50, feed_forward_proj="relu", **size)
    ids = torch.arange(10).reshape(2, 5)
    return T5ForConditionalGeneration(config), {"input_ids": ids, "labels": ids}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of theirs
@pytest.mark.parametrize(
    ("make", "recompute"),  # transformers' ResNet has no gradient checkpointing
    [(_resnet, False), (_opt, False), (_opt, True), (_t5, False), (_t5, True)],
)
def test_transformers(make: Callable[[], tuple[nn.Module, Any]], recompute: bool) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, example = make()
    if recompute:
        model.gradient_checkpointing_enable()
    check_converts(model.train(), example)
