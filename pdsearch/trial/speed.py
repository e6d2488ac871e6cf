"""The device, the precision and the memory format of a run."""

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

PROBE_IMAGES = 1024  # for each choice, but at least 3 batches and at most 20
DEVICES = "auto, cpu, cuda, cuda:N and mps"
BEHIND = 1.3  # a choice that takes this much longer than the best is not timed again
MARGIN = 1.05  # bfloat16 must win by this factor: otherwise float32 is the safer choice


def resolve_device(text: str) -> torch.device:
    """Return the device of a text; `auto` is a CUDA device if there is one, else the CPU.

    Raises:
        InputError: no such device here.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise InputError(f"no device {text!r}: valid are {DEVICES}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {text!r} is not supported: valid are {DEVICES}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {text!r} is not there: torch sees no Apple GPU")
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
    threads: int | None = None,
    directory: Path | None = None,
) -> TrialSettings:
    """Return the settings with `precision` and `memory_format` decided, if they are not yet.

    A study does this once and keeps the outcome: a probe's choice, and with it the bits of a
    result, may differ from day to day. `threads` are those of the runs.
    """
    with surroundings(device, threads=threads):
        precision, layout = probe_precision(settings, dataset, device, directory=directory)
    return settings.model_copy(update={"precision": precision, "memory_format": layout})


def probe_precision(
    settings: TrialSettings,
    dataset: Dataset,
    device: torch.device,
    *,
    directory: Path | None = None,
) -> tuple[str, str]:
    """Return the precision and the memory format in which training steps are fastest.

    A few steps of the model on the device are timed in each combination that the settings leave
    open, in turn; the fastest step counts, and bfloat16 must win by 5 %. The random state stays as
    it is. Without a choice nothing is measured.
    """
    choices = _choices(settings, device)
    if len(choices) == 1:
        return choices[0]
    size = min(settings.batch_size, len(dataset.train_images))
    rounds = max(3, min(20, PROBE_IMAGES // size))
    # As a training run would see: zeros and denormals take other times.
    images = dataset.train_images[:size].to(device).float() / 64 - 2
    labels = dataset.train_labels[:size].to(device)
    fastest: dict[tuple[str, str], float] = {}
    with _random_state(device):
        setups = {}
        for precision, layout in choices:
            torch.manual_seed(0)
            classes = len(dataset.classes)
            model = build_model(
                classes=classes, shape=dataset.shape, directory=directory, **settings.network
            )
            shape = memory_format(layout)
            model = model.to(device).to(memory_format=shape).train()
            if device.type == "cpu" and not settings.compile:
                hasten(model)
            setups[precision, layout] = model, images.contiguous(memory_format=shape)
        for turn in range(rounds + 1):
            for choice, (model, batch) in setups.items():
                begin = time.perf_counter()
                with autocast(choice[0], device):
                    loss = F.cross_entropy(model(batch), labels)
                loss.backward()
                model.zero_grad(set_to_none=True)
                if device.type != "cpu":
                    torch.accelerator.synchronize(device)
                spent = time.perf_counter() - begin
                if turn:  # the first warms up
                    fastest[choice] = min(spent, fastest.get(choice, spent))
            if turn:
                limit = BEHIND * min(fastest.values())
                setups = {key: made for key, made in setups.items() if fastest[key] <= limit}
            if len(setups) == 1:
                break
    penalty = {"float32": 1.0, "bfloat16": MARGIN}
    return min(choices, key=lambda choice: fastest[choice] * penalty[choice[0]])


def _choices(settings: TrialSettings, device: torch.device) -> list[tuple[str, str]]:
    """The precisions and memory formats that settings and device leave open."""
    precisions = [str(settings.precision)]
    if settings.precision == "auto":
        able = device.type == "cpu" or (
            device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        precisions = ["float32", "bfloat16"] if able else ["float32"]
    layout = str(settings.memory_format)
    if settings.model == "mlp" and layout == "auto":
        layout = "contiguous"  # an MLP has no maps
    if layout != "auto":
        return [(precision, layout) for precision in precisions]
    # CUDA's tensor cores and oneDNN's bfloat16 read channels-last without a transposition. In
    # float32 on a CPU it depends on the model: AlexNet with the convolutions of `convolution.py`
    # takes 136 ms a step in channels-last and 151 contiguous, without them 325 and 243 (batch 256,
    # one Xeon core with AVX-512, torch 2.14).
    choices = [(precision, "channels_last") for precision in precisions]
    if device.type == "cpu" and "float32" in precisions:
        choices.insert(0, ("float32", "contiguous"))
    return choices


def memory_format(name: str) -> torch.memory_format:
    """Return torch's memory format of a setting."""
    return torch.channels_last if name == "channels_last" else torch.contiguous_format


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context that computes in a precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def surroundings(device: torch.device, *, threads: int | None) -> Iterator[None]:
    """Set threads, deterministic convolutions and the random state of a run, and restore them."""
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        with (
            _random_state(device),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's random state afterwards, on the CPU and on the device."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type != "mps":
            yield
            return
        before = torch.mps.get_rng_state()  # which fork_rng cannot read
        try:
            yield
        finally:
            torch.mps.set_rng_state(before)
