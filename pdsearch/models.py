"""Models by name: AlexNet, an MLP, torchvision's classifiers, your own functions."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from pdsearch.autograd import convert, relu_sites
from pdsearch.errors import InputError, one_line
from pdsearch.family import Drawn, load_family
from pdsearch.networks import MLP, RGB_32, AlexNet, Shape
from pdsearch.userfile import UserFile, read_python

Initialisation = Literal["pytorch", "caffe", "he"]

SMALL = 64
"""Sides up to which torchvision's networks are adapted to small images, in pixels."""


def build_model(
    spec: str,
    *,
    classes: int,
    shape: Shape = RGB_32,
    initialisation: Initialisation = "pytorch",
    dropout: float | None = None,
    mlp: Mapping[str, Any] | None = None,
    source: str | None = None,
    directory: Path | None = None,
) -> nn.Module:
    """Build a model that computes ReLU somewhere.

    Weights are drawn from torch's default generator.

    Args:
        spec: one of

            * ``alexnet``: `pdsearch.networks.AlexNet`;
            * ``mlp``: `pdsearch.networks.MLP`;
            * a classifier of torchvision by its name, untrained. Where its authors have a version
              for CIFAR, it is built for images of up to 64×64: ResNet, ResNeXt and Wide ResNet
              begin with a 3×3 convolution of stride 1 and no max pooling (He et al. 2016,
              arXiv:1512.03385, section 4.2), as does DenseNet (Huang et al., arXiv:1608.06993,
              section 3); VGG ends in a 512-wide classifier on its 1×1 map (the mean of a larger
              one) instead of a 4096-wide one on 7×7 copies of it (Liu and Deng 2015). For images of
              other than 3 channels, its first convolution is replaced by one that differs in these
              alone, with weights as `nn.Conv2d` draws them;
            * ``path.py:function``: your own function, called with ``classes=…``, and with
              ``shape=…`` if it has such a parameter.
        classes: number of classes.
        shape: channels, height and width of the images.
        initialisation: ``pytorch``: as the layers' constructors draw. ``he``: normal with variance
            2/fan_in (He et al. 2015, arXiv:1502.01852; 1/fan_in in the last layer, which no ReLU
            follows) and zero biases. ``caffe``, for ``alexnet`` only: normal with deviation 0.01
            (0.005 in the hidden fully connected layers), biases 0.1 in the second, fourth and fifth
            convolution and the hidden fully connected layers and 0 elsewhere, as in
            ``bvlc_alexnet/train_val.prototxt`` (Krizhevsky et al. 2012 had biases of 1 there).
        dropout: probability of every ``nn.Dropout`` in the model; default: the model's own.
        mlp: further arguments of `pdsearch.networks.MLP`.
        source: `source_digest` of the model's file as it must be; None: any.
        directory: the folder that ``path.py`` is relative to; default: the current folder.

    Raises:
        InputError: the model is unknown, does not take such images, or computes no ReLU.
    """
    if initialisation not in get_args(Initialisation):
        valid = ", ".join(get_args(Initialisation))
        raise InputError(f"no initialisation {initialisation!r}: valid are {valid}")
    if initialisation == "caffe" and spec != "alexnet":
        raise InputError(
            f"initialisation 'caffe' is AlexNet's, not for model {spec!r}: use 'pytorch' or 'he'"
        )
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout must be in [0, 1), got {dropout}")
    if spec == "alexnet":
        model: nn.Module = AlexNet(classes=classes, shape=shape)
    elif spec == "mlp":
        model = MLP(classes=classes, shape=shape, **(mlp or {}))
    elif ".py" in spec:
        model = _own(spec, classes=classes, shape=shape, source=source, directory=directory)
    else:
        model = _torchvision(spec, classes=classes, shape=shape)
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    found = bool(relu_sites(model))
    try:
        _check_shape(model, spec, classes=classes, shape=shape)
    except InputError:
        if found:
            raise
    else:
        # Running the model shows ReLUs that its modules do not.
        found = found or bool(relu_sites(model, example_images(shape)))
    if not found:
        raise InputError(
            f"model {spec!r} holds no nn.ReLU module, so there is no derivative to replace"
            f"{_activations(model)}"
        )
    if initialisation == "caffe":
        _initialise_caffe(model)
    elif initialisation == "he":
        _initialise_he(model)
    return model


def example_images(shape: Shape) -> torch.Tensor:
    """Return two fixed images of noise, ``(2, *shape)``, on which `convert` tries a model."""
    return torch.randn(2, *shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")


def check_network(
    network: Mapping[str, Any],
    *,
    classes: int,
    shape: Shape,
    sites: Mapping[str, Any],
    directory: Path | None,
    candidate: Drawn | None = None,
) -> None:
    """Check that a model can be built by these arguments, converted and trained.

    `sites` are arguments of `convert`, and `candidate` is what it is converted to; default: ReLU.

    Raises:
        InputError: it cannot be built or trained.
        UnsupportedError: its ReLUs cannot be replaced.
    """
    model = build_model(classes=classes, shape=shape, directory=directory, **network)
    candidate = candidate or load_family("relu").default
    model = convert(model, candidate, example=example_images(shape), **sites)
    check_trains(model, network["spec"], shape)


def check_trains(model: nn.Module, spec: str, shape: Shape = RGB_32) -> None:
    """Run one forward and backward pass on noise; do not train the model afterwards.

    Raises:
        InputError: a pass fails, or reaches no parameter.
    """
    model.train()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        try:
            model(torch.randn(2, *shape, device="cpu")).sum().backward()
        except Exception as error:  # any layer may refuse, each in its own way
            raise InputError(
                f"model {spec!r} cannot be trained: {type(error).__name__}: {one_line(error)[:160]}"
            ) from error


def source_digest(spec: str, *, directory: Path | None = None) -> str | None:
    """Return a digest of the program in `path.py:function`'s file; None for any other model.

    Raises:
        InputError: there is no such file, or it is not valid Python.
    """
    if ".py" not in spec:
        return None
    file = _own_file(spec, directory)
    try:
        return file.digest
    except InputError as error:
        raise _failed(spec, "reading", file, error) from error


def model_names() -> list[str]:
    """Return the names that :func:`build_model` knows, torchvision's included."""
    import torchvision.models

    return sorted({"alexnet", "mlp", *torchvision.models.list_models(module=torchvision.models)})


def _torchvision(name: str, *, classes: int, shape: Shape) -> nn.Module:
    import torchvision.models

    names = model_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
        hint = f" did you mean {', '.join(close)}?" if close else ""
        raise InputError(
            f"no model {name!r}:{hint} valid are alexnet, mlp, torchvision's classifiers (such as "
            f"resnet18, vgg16, mobilenet_v3_small) and path.py:function"
        )
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Auxiliary heads return tuples; without init_weights torchvision warns.
        options = {"aux_logits": False, "init_weights": True}
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **options
    )
    channels, *sides = shape
    if channels != 3:
        _take_channels(model, channels)
    if max(sides) > SMALL:
        return model
    # Large images are reduced at the beginning and the end: see `build_model`.
    if isinstance(model, torchvision.models.ResNet):
        model.conv1 = _small_stem(model.conv1)
        model.maxpool = nn.Identity()
    elif isinstance(model, torchvision.models.DenseNet):
        model.features.conv0 = _small_stem(model.features.conv0)
        model.features.pool0 = nn.Identity()
    elif isinstance(model, torchvision.models.VGG):
        model.avgpool = nn.Identity() if max(sides) < 64 else nn.AdaptiveAvgPool2d(1)
        model.classifier[0] = nn.Linear(512, 512)
        model.classifier[3] = nn.Linear(512, 512)
        model.classifier[6] = nn.Linear(512, classes)
    return model


def _take_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution, which takes RGB, by one for images of other channels."""
    found = (pair for pair in model.named_modules() if isinstance(pair[1], nn.Conv2d))
    name, old = cast("tuple[str, Any]", next(found))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        bias=old.bias is not None,
    )
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _small_stem(stem: nn.Conv2d) -> nn.Conv2d:
    small = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
    # As torchvision's ResNet.
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    return small


def _own_file(spec: str, directory: Path | None) -> UserFile:
    text, _, name = spec.rpartition(":")
    if not text.endswith(".py") or not name:
        raise InputError(f"model {spec!r} names no function: write path.py:function")
    path = ((directory or Path.cwd()) / Path(text).expanduser()).resolve()
    if not path.is_file():
        raise InputError(f"model {spec!r}: there is no file {path}")
    return read_python(path)


def _own(
    spec: str, *, classes: int, shape: Shape, source: str | None, directory: Path | None
) -> nn.Module:
    file, name = _own_file(spec, directory), spec.rpartition(":")[2]
    if source is not None and file.digest != source:
        raise InputError(
            f"model {spec!r}: its file has changed since this began, so new results would not "
            "compare: restore it, or begin under another study.name"
        )
    function = _load_function(file, name, spec)
    given: dict[str, Any] = {"classes": classes}
    try:
        if "shape" in inspect.signature(function).parameters:
            given["shape"] = shape
        inspect.signature(function).bind(**given)
    except TypeError as error:
        raise InputError(
            f"model {spec!r}: {name} must take the keyword argument classes, perhaps shape, "
            f"and need no other ({error})"
        ) from error
    try:
        model = function(**given)
    # SystemExit too: sys.exit() in the user's code would end this program, perhaps with status 0.
    except (Exception, SystemExit) as error:
        raise InputError(
            f"model {spec!r}: {name} raised {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model {spec!r}: {name} returned {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def _load_function(file: UserFile, name: str, spec: str) -> Callable[..., object]:
    try:
        module = file.run()
    except InputError as error:
        raise _failed(spec, "running", file, error) from error
    function = getattr(module, name, None)
    if callable(function):
        return function
    found = sorted(
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    )
    names = ", ".join(found) or "none"
    raise InputError(f"model {spec!r}: {file.path.name} has no function {name!r}; it has {names}")


def _failed(spec: str, doing: str, file: UserFile, error: InputError) -> InputError:
    cause = error.__cause__ or error
    return InputError(
        f"model {spec!r}: {doing} {file.path} raised {type(cause).__name__}: {one_line(cause)}"
    )


def _check_shape(model: nn.Module, spec: str, *, classes: int, shape: Shape) -> None:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference_mode: lazy layers make their parameters here
            made = tuple(model(torch.zeros(2, *shape, device="cpu")).shape)
    except Exception as error:  # any layer may refuse, each in its own way
        raise InputError(
            f"model {spec!r} does not take {_kind(shape)} images: {one_line(error)[:160]}"
            f"{'' if shape == RGB_32 else ' (trial.image_size and trial.channels change them)'}"
        ) from error
    finally:
        model.train(training)
    if made != (2, classes):
        raise InputError(
            f"model {spec!r} makes {made} of 2 images, but (2, {classes}) is needed: "
            "one logit a class"
        )


def _kind(shape: Shape) -> str:
    channels, height, width = shape
    kinds = {1: "grey", 3: "RGB"}
    return f"{height}×{width} {kinds.get(channels, f'{channels}-channel')}"


def _activations(model: nn.Module) -> str:
    """The model's other activations, for the message."""
    known = (nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Tanh)
    names = sorted({type(m).__name__ for m in model.modules() if isinstance(m, known)})
    return f"; it has {', '.join(names)}" if names else " (and it calls no ReLU as a function)"


def _initialise_caffe(model: nn.Module) -> None:
    deviations = (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01)
    biases = (0.0, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1, 0.0)
    for layer, deviation, bias in zip(_layers(model), deviations, biases, strict=True):
        nn.init.normal_(layer.weight, std=deviation)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)


def _initialise_he(model: nn.Module) -> None:
    layers = _layers(model)
    for layer in layers:
        gain = 1.0 if layer is layers[-1] else math.sqrt(2.0)
        nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
