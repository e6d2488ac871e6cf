"""Models for 32×32 RGB images: AlexNet, an MLP, torchvision's classifiers, your own functions."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import torch
from torch import nn

from pdsearch.autograd import relu_sites
from pdsearch.errors import InputError, one_line
from pdsearch.userfile import UserFile, read_python

Initialisation = Literal["pytorch", "caffe", "he"]
CLASSIFIER_WIDTH = 1024


class AlexNet(nn.Module):
    """AlexNet for 32×32 images: five convolutions, two hidden layers, dropout, no batch norm.

    It keeps what Krizhevsky, Sutskever and Hinton 2012 (*ImageNet Classification with Deep
    Convolutional Neural Networks*) are known for (an 11×11 convolution of stride 4, a 5×5 and three
    3×3 ones, ReLU after each layer, max pooling after the first, second and fifth, dropout before
    both hidden layers of the classifier) and departs from it where images of 32×32 ask for it, or
    where nothing is lost:

    * padding 5 in the first convolution: its map is 8×8, and the later ones 4×4, 2×2 and 1×1,
      rather than 55, 27, 13, 6;
    * pooling 2×2 with stride 2 rather than 3×3 with stride 2: the maps are too small to overlap;
    * 64, 192, 384, 256 and 256 channels without groups, the one-GPU version of Krizhevsky 2014
      (arXiv:1404.5997), which torchvision builds too, rather than 96, 256, 384, 384 and 256 in two
      groups for two GPUs;
    * a classifier 1024 rather than 4096 wide: its input has 256 features rather than 9216, and
      4096 would make a CPU spend most of its time there (600 to 1700 images a second rather than
      3000);
    * no local response normalisation: the authors of VGG found that it does not help
      (arXiv:1409.1556, section 4.1).

    Args:
        classes: number of classes.
        dropout: probability of dropping a unit before each hidden layer of the classifier.
        width: units in each hidden layer of the classifier.

    Shape:
        ``(n, 3, 32, 32)``, floating → ``(n, classes)``.
    """

    def __init__(
        self, *, classes: int, dropout: float = 0.5, width: int = CLASSIFIER_WIDTH
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The classes' logits."""
        return self.classifier(self.features(images).flatten(1))


class CReLU(nn.Module):
    """``relu(cat(x, -x))``, twice as wide as x: Shang et al. 2016, arXiv:1603.05201.

    Abbas et al. 2023 (arXiv:2303.07507) find that it prevents the loss of plasticity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``(n, features)`` → ``(n, 2·features)``."""
        return self.relu(torch.cat([input, -input], 1))


class MLP(nn.Sequential):
    """A plain network of fully connected layers with ReLU and without dropout.

    Args:
        classes: number of classes.
        width: units in each hidden layer.
        depth: hidden layers.
        activation: ``relu``, or ``crelu`` (:class:`CReLU`), for which each layer after a hidden one
            has twice the inputs.
        normalisation: ``none``, or ``layer``: a ``nn.LayerNorm`` before each activation.
        features: elements of an image.

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
        features: int = 3 * 32 * 32,
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(depth):
            layers.append(nn.Linear(features, width))
            if normalisation == "layer":
                layers.append(nn.LayerNorm(width))
            layers.append(CReLU() if activation == "crelu" else nn.ReLU())
            features = 2 * width if activation == "crelu" else width
        super().__init__(*layers, nn.Linear(features, classes))


def build_model(
    spec: str,
    *,
    classes: int,
    initialisation: Initialisation = "pytorch",
    dropout: float | None = None,
    mlp: Mapping[str, Any] | None = None,
    source: str | None = None,
    directory: Path | None = None,
) -> nn.Module:
    """Builds a model for 32×32 RGB images that computes ReLU somewhere.

    Weights are drawn from torch's default generator.

    * ``alexnet``: :class:`AlexNet`.
    * ``mlp``: :class:`MLP`.
    * a classifier of torchvision by its name there, untrained. What their authors changed for CIFAR
      is changed: ResNet, ResNeXt and Wide ResNet begin with a 3×3 convolution of stride 1 and no
      max pooling (He et al. 2016, arXiv:1512.03385, section 4.2, and common practice), DenseNet
      likewise (Huang et al., arXiv:1608.06993, section 3), VGG ends in a 512-wide classifier on
      its 1×1 map instead of a 4096-wide one on 7×7 copies of it (Liu and Deng 2015). Others stay as
      torchvision has them, and are refused if they cannot take 32×32 images or compute no ReLU.
    * ``path.py:function``: what that function of yours returns, called with ``classes=…``.

    Args:
        spec: see above.
        classes: number of classes.
        initialisation: ``pytorch``: as the layers' constructors draw. ``he``: normal with variance
            2/fan_in (He et al. 2015, arXiv:1502.01852;
            1/fan_in for the last layer, which no ReLU follows) and zero
            biases. ``caffe``, for ``alexnet`` only: normal with deviation 0.01 (0.005 in the hidden
            fully connected layers), biases 0.1 in the second, fourth and fifth convolution and the
            hidden fully connected layers and 0 elsewhere, as in ``bvlc_alexnet/train_val.prototxt``
            (Krizhevsky et al. 2012 had biases of 1 there).
        dropout: probability for every ``nn.Dropout`` of the model; the model's own when left out.
        mlp: of ``mlp``, the further arguments of :class:`MLP`.
        source: what `source_digest` gave when the study began; another text is refused. What is
            compared is what runs.
        directory: what a relative ``path.py`` is relative to; the current folder when left out.

    Raises:
        InputError: for an unknown model, or one that cannot be used here.
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
        model: nn.Module = AlexNet(classes=classes)
    elif spec == "mlp":
        model = MLP(classes=classes, **(mlp or {}))
    elif ".py" in spec:
        model = _own(spec, classes=classes, source=source, directory=directory)
    else:
        model = _torchvision(spec, classes=classes)
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    shown = bool(relu_sites(model))
    try:
        _check_shape(model, spec, classes=classes)
    except InputError:
        if shown:
            raise
        _refuse_without_relu(model, spec)
    # What the code does not show, running does.
    if not shown and not relu_sites(model, example_images()):
        _refuse_without_relu(model, spec)
    if initialisation == "caffe":
        _initialise_caffe(model)
    elif initialisation == "he":
        _initialise_he(model)
    return model


def _refuse_without_relu(model: nn.Module, spec: str) -> NoReturn:
    raise InputError(
        f"model {spec!r} holds no nn.ReLU module, so there is no derivative to replace"
        f"{_activations(model)}"
    )


def example_images() -> torch.Tensor:
    """Two images of noise, ``(2, 3, 32, 32)``, always the same: what `convert` tries a model on."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator("cpu").manual_seed(0), device="cpu")


def check_trains(model: nn.Module, spec: str) -> None:
    """One training step's passes on two images of noise: what `build_model` cannot see in a look.

    Changes the model's gradients and running statistics: call it on a model that is not used on.

    Raises:
        InputError: the forward or the backward pass fails, or reaches no parameter.
    """
    model.train()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        try:
            model(torch.randn(2, 3, 32, 32, device="cpu")).sum().backward()
        except Exception as error:  # any layer may refuse, each in its own way
            raise InputError(
                f"model {spec!r} cannot be trained: {type(error).__name__}: {one_line(error)[:160]}"
            ) from error


def source_digest(spec: str, *, directory: Path | None = None) -> str | None:
    """A digest of the program in `path.py:function`'s file, remarks and layout left out.

    None for a model that comes with a package, whose version tells as much.

    Args:
        spec: as for `build_model`.
        directory: likewise.

    Raises:
        InputError: there is no such file, or it holds no program.
    """
    if ".py" not in spec:
        return None
    file = _own_file(spec, directory)
    try:
        return file.digest
    except InputError as error:
        raise _raised(spec, "reading", file, error) from error


def model_names() -> list[str]:
    """The names that :func:`build_model` knows, those of torchvision included."""
    import torchvision.models

    return sorted({"alexnet", "mlp", *torchvision.models.list_models(module=torchvision.models)})


def _torchvision(name: str, *, classes: int) -> nn.Module:
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
        # Without auxiliary heads, which make tuples; init_weights warns when left out.
        options = {"aux_logits": False, "init_weights": True}
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **options
    )
    _adapt(model, classes=classes)
    return model


def _adapt(model: nn.Module, *, classes: int) -> None:
    """Replaces what a torchvision model does to large images at its beginning and end."""
    from torchvision.models import VGG, DenseNet, ResNet

    if isinstance(model, ResNet):
        model.conv1 = _small_stem(model.conv1)
        model.maxpool = nn.Identity()
    elif isinstance(model, DenseNet):
        model.features.conv0 = _small_stem(model.features.conv0)
        model.features.pool0 = nn.Identity()
    elif isinstance(model, VGG):
        model.avgpool = nn.Identity()
        model.classifier[0] = nn.Linear(512, 512)
        model.classifier[3] = nn.Linear(512, 512)
        model.classifier[6] = nn.Linear(512, classes)


def _small_stem(stem: nn.Conv2d) -> nn.Conv2d:
    small = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(
        small.weight, mode="fan_out", nonlinearity="relu"
    )  # as torchvision's ResNet
    return small


def _own_file(spec: str, directory: Path | None) -> UserFile:
    text, _, name = spec.rpartition(":")
    if not text.endswith(".py") or not name:
        raise InputError(f"model {spec!r} names no function: write path.py:function")
    path = ((directory or Path.cwd()) / Path(text).expanduser()).resolve()
    if not path.is_file():
        raise InputError(f"model {spec!r}: there is no file {path}")
    return read_python(path)


def _own(spec: str, *, classes: int, source: str | None, directory: Path | None) -> nn.Module:
    file, name = _own_file(spec, directory), spec.rpartition(":")[2]
    if source is not None and file.digest != source:
        raise InputError(
            f"model {spec!r}: its file has changed since this began, and what is trained from here "
            "on would not compare: restore it, or begin under another study.name"
        )
    function = _load_function(file, name, spec)
    try:
        inspect.signature(function).bind(classes=classes)
    except TypeError as error:
        raise InputError(
            f"model {spec!r}: {name} must take the keyword argument classes alone ({error})"
        ) from error
    try:
        model = function(classes=classes)
    # Whatever the user's own code raises is told with its place; sys.exit() there would else end
    # this program with a status of its own choice, 0 perhaps.
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
        raise _raised(spec, "running", file, error) from error
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


def _raised(spec: str, doing: str, file: UserFile, error: InputError) -> InputError:
    cause = error.__cause__ or error
    return InputError(
        f"model {spec!r}: {doing} {file.path} raised {type(cause).__name__}: {one_line(cause)}"
    )


def _check_shape(model: nn.Module, spec: str, *, classes: int) -> None:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference_mode: lazy layers make their parameters here
            shape = tuple(model(torch.zeros(2, 3, 32, 32, device="cpu")).shape)
    except Exception as error:  # any layer may refuse, each in its own way
        raise InputError(
            f"model {spec!r} does not take 32×32 RGB images: {one_line(error)[:160]}"
        ) from error
    finally:
        model.train(training)
    if shape != (2, classes):
        raise InputError(
            f"model {spec!r} makes {shape} of 2 images, but (2, {classes}) is needed: "
            "one logit a class"
        )


def _activations(model: nn.Module) -> str:
    """The activations that the model has instead, for the message."""
    known = (nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Tanh)
    names = sorted({type(m).__name__ for m in model.modules() if isinstance(m, known)})
    return f"; it has {', '.join(names)}" if names else " (and it calls no ReLU as a function)"


def _initialise_caffe(model: nn.Module) -> None:
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    deviations = (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01)
    biases = (0.0, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1, 0.0)
    for layer, deviation, bias in zip(layers, deviations, biases, strict=True):
        nn.init.normal_(layer.weight, std=deviation)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)


def _initialise_he(model: nn.Module) -> None:
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        gain = 1.0 if layer is layers[-1] else math.sqrt(2.0)
        fan_in = layer.weight[0].numel()
        nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
