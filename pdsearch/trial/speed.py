"""What a run computes on and in: the device, the precision and the memory format."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from pdsearch.data import Dataset
from pdsearch.errors import InputError
from pdsearch.models import build_model
from pdsearch.trial.convolution import hasten
from pdsearch.trial.settings import TrialSettings

PROBE_IMAGES = 1024  # a precision, but at least 3 batches and at most 20
WORTH = 1.05  # bfloat16 must win by this factor: below it float32 is the safer choice


def resolve_device(text: str) -> torch.device:
    """The device meant by a text; `auto` is a CUDA device if there is one, else the CPU.

    Raises:
        InputError: no such device here.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise InputError(f"no device {text!r}: valid are auto, cpu, cuda and cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {text!r} is not supported: valid are auto, cpu, cuda and cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(f"device {text!r} is not there: torch sees {count} CUDA devices")
    return device


def resolve_settings(
    settings: TrialSettings,
    dataset: Dataset,
    device: torch.device,
    *,
    directory: Path | None = None,
) -> TrialSettings:
    """The settings with `precision` and `memory_format` decided; the same when they already are.

    A study calls it once and keeps the outcome: what a probe finds may differ from day to day,
    and the bits of a result with it.
    """
    precision: str = settings.precision
    if precision == "auto":
        precision = probe_precision(settings, dataset, device, directory=directory)
    layout: str = settings.memory_format
    if layout == "auto":
        layout = _layout(precision, device)
    return settings.model_copy(update={"precision": precision, "memory_format": layout})


def probe_precision(
    settings: TrialSettings,
    dataset: Dataset,
    device: torch.device,
    *,
    directory: Path | None = None,
) -> str:
    """`bfloat16` where training steps are at least 5 % faster in it than in float32.

    A few steps of the model on the device are timed in either precision, in turn; the fastest of
    each counts. It changes no random state.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float32"
    size = min(settings.batch_size, len(dataset.train_images))
    rounds = max(3, min(20, PROBE_IMAGES // size))
    # Values that a training run would see matter here: zeros and denormals take other times.
    images = dataset.train_images[:size].to(device).float() / 64 - 2
    labels = dataset.train_labels[:size].to(device)
    fastest: dict[str, float] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        setups = {}
        for precision in ("float32", "bfloat16"):
            torch.manual_seed(0)
            model = build_model(settings.model, classes=len(dataset.classes), directory=directory)
            layout: str = settings.memory_format
            if layout == "auto":
                layout = _layout(precision, device)
            if precision == "bfloat16" and device.type == "cpu" and not settings.compile:
                hasten(model)
            shape = memory_format(layout)
            setups[precision] = (
                model.to(device).to(memory_format=shape).train(),
                images.contiguous(memory_format=shape),
            )
        for turn in range(rounds + 1):
            for precision, (model, batch) in setups.items():
                begin = time.perf_counter()
                with autocast(precision, device):
                    loss = F.cross_entropy(model(batch), labels)
                loss.backward()
                model.zero_grad(set_to_none=True)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                spent = time.perf_counter() - begin
                if turn:  # the first warms up
                    fastest[precision] = min(spent, fastest.get(precision, spent))
    return "bfloat16" if fastest["bfloat16"] * WORTH < fastest["float32"] else "float32"


def _layout(precision: str, device: torch.device) -> str:
    # Measured on two cores with AVX-512 at batch 512: float32 is faster contiguous, bfloat16 in
    # channels-last; CUDA's tensor cores read channels-last without a transposition.
    return "contiguous" if device.type == "cpu" and precision == "float32" else "channels_last"


def memory_format(name: str) -> torch.memory_format:
    """Torch's memory format of a setting's name."""
    return torch.channels_last if name == "channels_last" else torch.contiguous_format


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context that computes in a precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def surroundings(device: torch.device, *, threads: int | None) -> Iterator[None]:
    """Threads, deterministic convolutions and the random state for a run; restores them all."""
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    before = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        with (
            torch.random.fork_rng(devices=devices),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)
