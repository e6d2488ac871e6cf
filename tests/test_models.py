"""Models: shapes by hand, initial weights by their moments, wrong names by their messages."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pdsearch.errors import InputError
from pdsearch.models import build_model, check_trains, model_names
from pdsearch.networks import AlexNet


def outputs(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    images: tuple[int, int, int] = (3, 32, 32),
) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    model.eval()(torch.zeros(1, *images))
    return shapes


def test_alexnet_shapes() -> None:
    model = build_model("alexnet", classes=10)
    assert isinstance(model, AlexNet)
    # By hand: (32 + 2·5 − 11)//4 + 1 = 8, pooled to 4, to 2, to 1.
    assert outputs(model, (nn.Conv2d, nn.Linear)) == [
        (64, 8, 8),
        (192, 4, 4),
        (384, 2, 2),
        (256, 2, 2),
        (256, 2, 2),
        (1024,),
        (1024,),
        (10,),
    ]
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 7
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    convolutions = 64 * 364 + 192 * 1601 + 384 * 1729 + 256 * 3457 + 256 * 2305
    classifier = 1024 * 257 + 1024 * 1025 + 10 * 1025
    assert sum(p.numel() for p in model.parameters()) == convolutions + classifier


def test_same_seed_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build_model("alexnet", classes=10, initialisation="he").state_dict())
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


def test_he_initialisation_keeps_the_variance() -> None:
    torch.manual_seed(0)
    model = build_model("alexnet", classes=10, initialisation="he")
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for number, layer in enumerate(layers):
        fan_in = layer.weight[0].numel()
        wanted = math.sqrt((1 if number == len(layers) - 1 else 2) / fan_in)
        # A sample of n normal values has a deviation accurate to about 1/sqrt(2n).
        assert float(layer.weight.detach().std()) == pytest.approx(
            wanted, rel=5 / math.sqrt(2 * layer.weight.numel())
        )
        assert layer.bias is not None
        assert not layer.bias.any()


def test_caffe_initialisation() -> None:
    torch.manual_seed(0)
    model = build_model("alexnet", classes=10, initialisation="caffe")
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    # bvlc_alexnet/train_val.prototxt: weight_filler std and bias_filler value by layer.
    wanted = [(0.01, 0), (0.01, 0.1), (0.01, 0), (0.01, 0.1), (0.01, 0.1)]
    wanted += [(0.005, 0.1), (0.005, 0.1), (0.01, 0)]
    for layer, (deviation, bias) in zip(layers, wanted, strict=True):
        assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.05)
        assert layer.bias is not None
        assert (layer.bias == bias).all()


def test_dropout_is_set() -> None:
    model = build_model("alexnet", classes=10, dropout=0.25)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]
    with pytest.raises(InputError, match=r"dropout must be in \[0, 1\), got 1"):
        build_model("alexnet", classes=10, dropout=1.0)


def test_resnet_is_adapted() -> None:
    model = build_model("resnet18", classes=7)
    shapes = outputs(model, (nn.Conv2d, nn.Linear))
    # He et al. 2016 keep the full resolution in the first stage and halve it three times.
    assert shapes[0] == (64, 32, 32)
    assert shapes[-1] == (7,)
    assert (512, 4, 4) in shapes


def test_vgg_is_adapted() -> None:
    model = build_model("vgg11", classes=7)
    assert outputs(model, (nn.Linear,)) == [(512,), (512,), (7,)]
    assert sum(p.numel() for p in model.parameters()) < 1e7 + 1e6


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v3_small", "squeezenet1_1"])
def test_other_classifiers_of_torchvision(name: str) -> None:
    model = build_model(name, classes=5).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        # (s - 1)//4 + 1, then halved three times, where an odd side keeps its last row.
        ((1, 28, 28), [(7, 7), (4, 4), (2, 2), (1, 1)]),
        ((3, 64, 64), [(16, 16), (8, 8), (4, 4), (2, 2)]),
        ((5, 96, 40), [(24, 10), (12, 5), (6, 3), (3, 2)]),
        ((1, 8, 8), [(2, 2), (1, 1), (1, 1), (1, 1)]),
    ],
)
def test_alexnet_for_other_images(shape: tuple[int, int, int], maps: list[tuple[int, int]]) -> None:
    model = build_model("alexnet", classes=4, shape=shape)
    found = outputs(model, (nn.Conv2d, nn.MaxPool2d, nn.Linear), shape)
    first, one, two, last = maps
    assert [one[1:] for one in found if len(one) == 3] == [
        first,
        one,
        one,
        two,
        two,
        two,
        two,
        last,
    ]
    inputs = [m.in_features for m in model.modules() if isinstance(m, nn.Linear)]
    assert inputs == [256 * last[0] * last[1], 1024, 1024]
    assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels == shape[0]


def test_mlp_for_other_images() -> None:
    model = build_model("mlp", classes=4, shape=(2, 5, 7))
    assert next(m for m in model.modules() if isinstance(m, nn.Linear)).in_features == 70
    assert model(torch.zeros(3, 2, 5, 7)).shape == (3, 4)


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "vgg11", "googlenet", "squeezenet1_1", "regnet_y_400mf"]
)
def test_other_channels_change_the_first_convolution_alone(name: str) -> None:
    grey, rgb = (build_model(name, classes=5, shape=(c, 32, 32)) for c in (1, 3))
    own, other = ({k: v.shape for k, v in m.state_dict().items()} for m in (grey, rgb))
    differing = [key for key in own if own[key] != other.get(key)]
    assert own.keys() == other.keys() and len(differing) == 1
    out, _, *kernel = other[differing[0]]
    assert own[differing[0]] == (out, 1, *kernel)
    assert grey.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 5)


def test_larger_images_keep_torchvisions_own_beginning() -> None:
    small, large = (build_model("resnet18", classes=5, shape=(3, s, s)) for s in (64, 96))
    shapes = [outputs(m, (nn.Conv2d,), (3, s, s)) for m, s in ((small, 64), (large, 96))]
    # Stride 1 without pooling; stride 2, then pooling.
    assert [shapes[0][:2], shapes[1][:2]] == [
        [(64, 64, 64), (64, 64, 64)],
        [(64, 48, 48), (64, 24, 24)],
    ]
    small, large = (build_model("vgg11", classes=5, shape=(1, s, s)) for s in (64, 96))
    assert outputs(small, (nn.Linear,), (1, 64, 64)) == [(512,), (512,), (5,)]
    assert outputs(large, (nn.Linear,), (1, 96, 96)) == [(4096,), (4096,), (5,)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet81", r"no model 'resnet81': did you mean resnet18"),
        ("", r"no model ''"),
        ("qqqq", r"no model 'qqqq': valid are alexnet, mlp, torchvision's classifiers"),
        ("vit_b_16", r"holds no nn.ReLU module, so there is no derivative to replace; it has GELU"),
        ("mobilenet_v2", r"holds no nn.ReLU .*it has ReLU6"),
        ("nothing.py:net", r"there is no file .*nothing.py"),
        ("nothing.py", r"names no function: write path.py:function"),
        ("nothing.py:", r"names no function"),
    ],
)
def test_wrong_models(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_model(spec, classes=10, directory=tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_initialisation() -> None:
    with pytest.raises(
        InputError, match="no initialisation 'xavier': valid are pytorch, caffe, he"
    ):
        build_model("alexnet", classes=10, initialisation="xavier")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'caffe' is AlexNet's, not for model 'resnet18'"):
        build_model("resnet18", classes=10, initialisation="caffe")


def test_names() -> None:
    names = model_names()
    assert {"alexnet", "resnet18", "vgg16"} <= set(names)
    assert "fcn_resnet50" not in names  # segments images, classifies none


OWN = """
import torch
from torch import nn

def good(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, classes))

def shaped(classes, shape=(3, 32, 32)):
    size = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, classes))

def plain(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

def narrow(classes):
    return nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(3072, 3))

def large(classes):
    return nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(3 * 224 * 224, classes))

def nothing(classes):
    return 5

def fails(classes):
    raise KeyError("a\\nb")

def other(number):
    return None

constant = 3
"""


def test_own_model(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    model = build_model("own.py:good", classes=4, directory=tmp_path)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert model.training
    model = build_model("own.py:shaped", classes=4, shape=(1, 9, 7), directory=tmp_path)
    assert model(torch.zeros(2, 1, 9, 7)).shape == (2, 4)
    for shape, kind in (((1, 28, 28), "28×28 grey"), ((4, 9, 7), "9×7 4-channel")):
        with pytest.raises(InputError, match=f"does not take {kind} images: "):
            build_model("own.py:good", classes=4, shape=shape, directory=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("god", r"own.py has no function 'god'; it has fails, good, large, narrow, nothing, other"),
        ("constant", r"has no function 'constant'"),
        ("plain", r"holds no nn.ReLU module, so there is no derivative to replace"),
        ("narrow", r"makes \(2, 3\) of 2 images, but \(2, 10\) is needed"),
        ("large", r"does not take 32×32 RGB images: "),
        ("nothing", r"nothing returned int, not a torch.nn.Module"),
        ("fails", r"fails raised KeyError: 'a.*b'"),
        ("other", r"other must take the keyword argument classes, perhaps shape, and need no"),
    ],
)
def test_wrong_own_models(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(InputError, match=message) as caught:
        build_model(f"own.py:{name}", classes=10, directory=tmp_path)
    assert "\n" not in str(caught.value)


def test_own_file_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f(:\n")
    with pytest.raises(InputError, match=r"running .*own.py raised SyntaxError"):
        build_model("own.py:f", classes=10, directory=tmp_path)


EXITS = """
import sys
{before}
def net(classes):
    sys.exit({status})
"""


@pytest.mark.parametrize(
    ("before", "message"), [("", "net raised SystemExit: 0"), ("sys.exit(3)", "SystemExit: 3")]
)
def test_a_model_that_ends_the_process_is_an_error(
    before: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "exits.py").write_text(EXITS.format(before=before, status=0))
    with pytest.raises(InputError, match=message):
        build_model("exits.py:net", classes=3, directory=tmp_path)


class OnlyEvaluates(nn.Sequential):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("no training here")
        return super().forward(images)


@pytest.mark.parametrize(
    ("kind", "frozen", "message"),
    [
        (OnlyEvaluates, False, "model 'm.py:f' cannot be trained: RuntimeError: no training here"),
        (nn.Sequential, True, "model 'm.py:f' cannot be trained: .*does not require grad"),
    ],
)
def test_a_model_that_cannot_be_trained(
    kind: type[nn.Sequential], frozen: bool, message: str
) -> None:
    model = kind(nn.Flatten(), nn.Linear(3072, 4), nn.ReLU(), nn.Linear(4, 2))
    model.requires_grad_(not frozen)
    with pytest.raises(InputError, match=message):
        check_trains(model, "m.py:f")


def test_the_look_at_training_draws_no_random_number() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.ReLU(), nn.Dropout(0.5))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_trains(model, "m.py:f")
    assert torch.rand(4).equal(expected)
