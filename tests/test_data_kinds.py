"""Data sets of other sizes, channels and sources: arrays in files, torchvision's, resized ones."""

import gzip
import hashlib
import json
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from PIL import Image, ImageOps

from pdsearch import data, load_family
from pdsearch.data import folder as folder_module
from pdsearch.errors import InputError
from pdsearch.trial import TrialSettings, loop, run_trial

RANDOM = np.random.default_rng(2)


def random(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def save_arrays(
    root: Path, *, shape: tuple[int, ...] = (5, 12, 20), n: int = 90, m: int = 30
) -> dict[str, np.ndarray]:
    """A folder of arrays in three classes, and what is in it."""
    root.mkdir(parents=True, exist_ok=True)
    content = {
        "train_images": random(n, *shape), "train_labels": np.arange(n, dtype=np.uint8) % 3,
        "test_images": random(m, *shape), "test_labels": np.arange(m, dtype=np.int16) % 3,
    }  # fmt: skip
    for name, array in content.items():
        np.save(root / f"{name}.npy", array)
    return content


def tiny_run(dataset: data.Dataset, **changed: Any) -> Any:
    given: dict[str, Any] = {"model": "mlp", "width": 8, "depth": 1, "epochs": 2, "batch_size": 16}
    given |= {"precision": "float32", "memory_format": "contiguous", **changed}
    candidate = load_family("leaky").default
    settings = TrialSettings(**given)
    return run_trial(candidate, settings, dataset, seed=3, threads=1, device="cpu")


def numbers(result: Any) -> list[tuple[float, ...]]:
    return [(e.loss, e.accuracy, e.evaluation_loss, *e.dead.values()) for e in result.epochs]


# --- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 12, 20), (1, 9, 9), (9, 11), (3, 32, 32)])
def test_arrays_are_what_was_saved(tmp_path: Path, cache: Path, shape: tuple[int, ...]) -> None:
    content = save_arrays(tmp_path / "set", shape=shape)
    own = data.load_dataset("arrays:set", directory=tmp_path, cache=cache)
    assert own.shape == (shape if len(shape) == 3 else (1, *shape))
    for name, array in content.items():
        found = getattr(own, name).numpy()
        assert np.array_equal(found.reshape(array.shape), array), name
    assert own.train_labels.dtype == torch.int64
    assert own.classes == ("0", "1", "2") and own.mirror


def test_arrays_train_as_the_same_images_in_memory_do(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = save_arrays(tmp_path)
    mapped = data.load_dataset(f"arrays:{tmp_path}", cache=cache)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in content.items()}
    labels = {name: tensors[name].long() for name in ("train_labels", "test_labels")}
    parts: dict[str, Any] = {**tensors, **labels}
    memory = data.Dataset("memory", classes=mapped.classes, **parts)
    assert mapped.fingerprint == memory.fingerprint
    seen: list[torch.Tensor] = []
    prepared = loop.Loop._prepared

    def spy(self: loop.Loop, images: torch.Tensor) -> torch.Tensor:
        seen.append(images.clone())
        return prepared(self, images)

    monkeypatch.setattr(loop.Loop, "_prepared", spy)
    results, batches = [], []
    for dataset in (mapped, memory):
        results.append(numbers(tiny_run(dataset)))
        batches.append([*seen])
        seen.clear()
    assert results[0] == results[1]
    assert len(batches[0]) == len(batches[1]) == 2 * (5 + 1)  # 81 // 16 steps and an evaluation
    assert all(one.equal(two) for one, two in zip(*batches, strict=True))


def test_class_names_and_seen_test_images(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = save_arrays(tmp_path)
    (tmp_path / "classes.txt").write_text("ä b\r\ndog\ncat\n", encoding="utf-8")
    content["test_images"][4] = content["train_images"][7]
    np.save(tmp_path / "test_images.npy", content["test_images"])
    for _ in range(2):  # the second time from the kept checksum
        caplog.clear()
        own = data.load_dataset(f"arrays:{tmp_path}", cache=cache)
        assert own.classes == ("ä b", "dog", "cat")
        assert "1 of 30 test images are training images too" in caplog.text


def test_the_checksum_is_kept_and_follows_the_files(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdsearch.data import arrays

    read: list[int] = []
    whole = arrays.fingerprint

    def spy(*given: Any) -> str:
        read.append(1)
        return whole(*given)

    monkeypatch.setattr(arrays, "fingerprint", spy)
    root = tmp_path / "set"
    content = save_arrays(root)
    first = data.load_dataset(f"arrays:{root}", cache=cache).fingerprint
    assert data.load_dataset(f"arrays:{root}", cache=cache).fingerprint == first and len(read) == 1
    (kept,) = cache.glob("arrays-*.json")
    kept.write_text("{")
    assert data.load_dataset(f"arrays:{root}", cache=cache).fingerprint == first and len(read) == 2
    content["train_images"][0, 0, 0, 0] ^= 1
    np.save(root / "train_images.npy", content["train_images"])
    assert data.load_dataset(f"arrays:{root}", cache=cache).fingerprint != first and len(read) == 3
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    data.load_dataset(f"arrays:{root}", cache=blocked / "cache")
    assert len(read) == 4


def wrong(name: str, array: Any) -> Callable[[Path], None]:
    return lambda root: np.save(root / f"{name}.npy", array)


def cut_off(root: Path) -> None:
    file = root / "train_images.npy"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "test_labels.npy").unlink(), r"no file .*test_labels.npy; the"),
        (cut_off, r"train_images.npy is not an array as numpy.save writes it"),
        (lambda root: (root / "train_images.npy").write_bytes(b""), r"is not an array as numpy"),
        (wrong("train_labels", np.array([{}] * 90)), r"train_labels.npy is not an array"),
        (wrong("train_images", np.zeros((90, 5, 12, 20))), r"holds float64, but uint8 is needed"),
        (wrong("train_images", random(90, 5)), r"holds 90×5, but \(images, channels, height"),
        (wrong("test_images", random(0, 5, 12, 20)), r"holds 0×5×12×20, but .* none of them 0"),
        (wrong("train_images", random(90, 32, 32, 3)), r"channels last: save array.transpose\(0"),
        (wrong("train_images", np.asfortranarray(random(90, 5, 12, 20))), r"Fortran order"),
        (wrong("test_images", random(30, 5, 12, 21)), r"of 5×12×20, but test images of 5×12"),
        (wrong("train_labels", np.zeros(90)), r"holds float64 of shape 90, but one whole number"),
        (wrong("train_labels", np.zeros((90, 1), dtype=int)), r"of shape 90×1, but one whole"),
        (wrong("train_labels", np.zeros(9, dtype=int)), r"9 labels, but train_images.npy 90"),
        (wrong("train_labels", np.arange(90) % 3 - 1), r"must be from 0 to 2, one .*, got -1"),
        (wrong("train_labels", np.arange(90) % 2), r"leave class '2' without a training image"),
        (wrong("test_labels", np.full(30, 2**62)), r"from 0 to 999999, one .*, got 4"),
        (lambda root: (root / "classes.txt").write_text("a\nb"), r"to 1, .* classes.txt, got 2"),
        (lambda root: (root / "classes.txt").write_bytes(b"\xff"), r"classes.txt cannot be read"),
    ],
)  # fmt: skip
def test_broken_arrays(
    tmp_path: Path, cache: Path, damage: Callable[[Path], object], message: str
) -> None:
    root = tmp_path / "set"
    save_arrays(root)
    damage(root)
    with pytest.raises(InputError, match=message) as caught:
        data.load_dataset(f"arrays:{root}", cache=cache)
    assert "\n" not in str(caught.value)


def test_one_class_alone_is_refused(tmp_path: Path, cache: Path) -> None:
    save_arrays(tmp_path)
    for part, count in (("train", 90), ("test", 30)):
        np.save(tmp_path / f"{part}_labels.npy", np.zeros(count, dtype=int))
    with pytest.raises(InputError, match="name one class only"):
        data.load_dataset(f"arrays:{tmp_path}", cache=cache)


@pytest.mark.parametrize("form", [{"image_size": 32}, {"channels": 1}])
def test_arrays_keep_their_form(tmp_path: Path, cache: Path, form: dict[str, Any]) -> None:
    save_arrays(tmp_path)
    with pytest.raises(InputError, match=rf"trial\.{next(iter(form))}: arrays keep their own"):
        data.load_dataset(f"arrays:{tmp_path}", cache=cache, **form)


LIMITED = """
import resource, sys
import numpy as np
from pathlib import Path
from pdsearch import data, load_family
from pdsearch.trial import TrialSettings, run_trial
root, small, cache = map(Path, sys.argv[1:4])
settings = TrialSettings(model="mlp", width=2, depth=1, epochs=1, batch_size=8,
                         precision="float32", memory_format="contiguous")
def train(folder):
    own = data.load_dataset(f"arrays:{folder}", cache=cache)
    run = run_trial(load_family("leaky").default, settings, own, seed=0, threads=1, device="cpu")
    return len(run.epochs), run.diverged
train(small)  # what is imported and compiled on first use does not count
lines = Path("/proc/self/status").read_text().splitlines()
used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
# All private memory that can be written to: mappings that are only read do not count.
limit = used + int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.load(root / "train_images.npy")
except MemoryError:
    print("too large")
print(*train(root))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux alone")
def test_images_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    shape, roots = (3, 256, 256), [tmp_path / "large", tmp_path / "small"]
    for root, count in zip(roots, (900, 16), strict=True):
        root.mkdir()
        # 177 MB of images where 150 MB of memory may be allocated; the file is sparse.
        where: dict[str, Any] = {"mode": "w+", "dtype": np.uint8, "shape": (count, *shape)}
        np.lib.format.open_memmap(root / "train_images.npy", **where)
        np.save(root / "train_labels.npy", np.arange(count) % 2)
        np.save(root / "test_images.npy", random(8, *shape))
        np.save(root / "test_labels.npy", np.arange(8) % 2)
    command = [sys.executable, "-c", LIMITED, *map(str, roots), str(tmp_path / "cache")]
    done = subprocess.run([*command, str(150 * 2**20)], capture_output=True, text=True, timeout=300)
    assert done.stdout.split("\n")[:2] == ["too large", "1 None"], done.stderr


# --- folders ------------------------------------------------------------------------------------


def make_folder(root: Path, *, size: tuple[int, int] = (50, 40)) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog\n2"):
            (root / part / name).mkdir(parents=True)
            for number in range(3):
                pixels = random(*size[::-1], 3)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


@pytest.mark.parametrize(("size", "channels"), [(24, 3), (64, 3), (32, 1), (28, 1)])
def test_folders_of_another_form_are_pillows(
    tmp_path: Path, cache: Path, size: int, channels: int
) -> None:
    root = make_folder(tmp_path / "set")
    form: dict[str, Any] = {"image_size": size, "channels": channels}
    own = data.load_dataset(f"folder:{root}", cache=cache, **form)
    assert own.shape == (channels, size, size)
    files = [*sorted((root / "train" / "cat").iterdir()), *sorted((root / "train").glob("d*/*"))]
    for image, file in zip(own.train_images, files, strict=True):
        square = ImageOps.fit(
            Image.open(file).convert("RGB" if channels == 3 else "L"),
            (size, size),
            method=Image.Resampling.BICUBIC,
        )
        wanted = np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)
        assert np.array_equal(image.numpy(), wanted)
    plain = data.load_dataset(f"folder:{root}", cache=cache)
    assert plain.shape == (3, 32, 32) and plain.fingerprint != own.fingerprint
    # One form does not throw the other out of the cache.
    assert len(list(cache.glob("*.safetensors"))) == 2


def test_a_large_folder_is_decoded_into_files(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "set")
    memory = data.load_dataset(f"folder:{root}", cache=tmp_path / "other")
    decoded: list[str] = []
    read = folder_module._read_image

    def spy(path: str, **form: int) -> np.ndarray:
        decoded.append(path)
        return read(path, **form)

    monkeypatch.setattr(folder_module, "_read_image", spy)
    monkeypatch.setattr(folder_module, "IN_MEMORY", 12 * 3072 - 1)
    for _ in range(2):
        mapped = data.load_dataset(f"folder:{root}", cache=cache)
        assert len(decoded) == 12  # once each
        assert mapped.fingerprint == memory.fingerprint
        assert mapped.classes == memory.classes and mapped.name == memory.name
        for part in ("train_images", "train_labels", "test_images", "test_labels"):
            assert getattr(mapped, part).equal(getattr(memory, part))
    assert not list(cache.glob("*.safetensors"))
    Image.fromarray(random(8, 8, 3)).save(root / "train" / "cat" / "9.png")
    larger = data.load_dataset(f"folder:{root}", cache=cache)
    assert len(larger.train_labels) == 7
    assert len([one for one in cache.iterdir() if one.is_dir()]) == 1  # the old one is gone
    assert numbers(tiny_run(mapped, batch_size=4)) == numbers(tiny_run(memory, batch_size=4))


def test_a_large_folder_needs_room(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "set")
    monkeypatch.setattr(folder_module, "IN_MEMORY", 1)
    with monkeypatch.context() as patch:
        patch.setattr(folder_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(InputError, match=r"take 0.0 GB decoded, but .* has 0.0 GB free: make"):
            data.load_dataset(f"folder:{root}", cache=cache)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written .*PDSEARCH_CACHE.*image_size"):
        data.load_dataset(f"folder:{root}", cache=blocked / "cache")
    (root / "test" / "cat" / "1.png").write_text("no image")
    with pytest.raises(InputError, match=r"1.png cannot be read as an image"):
        data.load_dataset(f"folder:{root}", cache=cache)
    assert not [one for one in cache.iterdir() if one.suffix != ".lock"]  # nothing half done


# --- named data sets in another form --------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), [(None, 1), (28, 3), (64, 3), (20, 1)])
def test_named_ones_are_resized_as_by_pillow(cache: Path, size: int | None, channels: int) -> None:
    plain = data.load_dataset("digits")
    own = data.load_dataset("digits", image_size=size, channels=channels, cache=cache)
    side = size or 32
    assert own.shape == (channels, side, side) and not own.mirror
    assert own.train_labels.equal(plain.train_labels) and own.fingerprint != plain.fingerprint
    for number in (0, 700, 1437):
        image = Image.fromarray(plain.train_images[number, 0].numpy())
        wanted = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
        # Both are in fixed-point arithmetic, which rounds a few values to the other side.
        assert np.abs(own.train_images[number].numpy() - wanted[None]).max() <= 1
    again = data.load_dataset("digits", image_size=size, channels=channels, cache=cache)
    assert again.fingerprint == own.fingerprint and len(list(cache.iterdir())) >= 1
    same = data.load_dataset("digits", image_size=32, channels=3, cache=cache)
    assert same.fingerprint == plain.fingerprint


def test_grey_is_pillows() -> None:
    from pdsearch.data.convert import grey

    images = random(7, 3, 40, 40)
    wanted = [np.asarray(Image.fromarray(i.transpose(1, 2, 0)).convert("L")) for i in images]
    assert np.array_equal(grey(torch.from_numpy(images))[:, 0].numpy(), np.stack(wanted))


# --- torchvision's, in their own layouts ----------------------------------------------------------


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx(path: Path, array: np.ndarray) -> None:
    """A file of MNIST: a magic number with type and dimensions, the sizes, the bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def fashion_mnist(root: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, Any]:
    content = {}
    resources = []
    for part, count in (("train", 30), ("t10k", 20)):
        images, labels = random(count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        idx(root / f"{part}-images-idx3-ubyte.gz", images)
        idx(root / f"{part}-labels-idx1-ubyte.gz", labels)
        content[part] = images[:, None], labels
    for name, _ in torchvision.datasets.FashionMNIST.resources:
        resources.append((name, md5(root / name)))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"{url}/"])
    return {"train": content["train"], "test": content["t10k"]}


def svhn(root: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, Any]:
    content, parts = {}, dict(torchvision.datasets.SVHN.split_list)
    for part, count in (("train", 30), ("test", 20)):
        images, labels = random(count, 3, 32, 32), np.arange(count) % 10
        name = parts[part][1]
        stored = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels, labels, 10)[:, None]}
        scipy.io.savemat(root / name, stored)
        parts[part] = [f"{url}/{name}", name, md5(root / name)]
        content[part] = images, labels
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", parts)
    return content


def stl10(root: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, Any]:
    kind = torchvision.datasets.STL10
    base = root / "raw" / kind.base_folder
    base.mkdir(parents=True)
    content = {}
    for part, count in (("train", 20), ("test", 20)):
        images, labels = random(count, 3, 96, 96), np.arange(count, dtype=np.uint8) % 10
        # Column by column, labels from 1.
        (base / f"{part}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (base / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        content[part] = images, labels
    (base / "unlabeled_X.bin").write_bytes(random(7, 3, 96, 96).tobytes())
    (base / "class_names.txt").write_text("\n".join(f"thing{i}" for i in range(10)))
    archive = root / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(base, arcname=kind.base_folder)
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(kind, key, [[name, md5(base / name)] for name, _ in getattr(kind, key)])
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    monkeypatch.setattr(kind, "url", f"{url}/{kind.filename}")
    return content


@pytest.mark.parametrize("make", [fashion_mnist, svhn, stl10])
def test_torchvisions_are_downloaded_and_cached(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Path], str],
    make: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    content, name = make(tmp_path, monkeypatch, serve(tmp_path)), make.__name__
    own = data.load_dataset(name, cache=cache)
    assert capsys.readouterr().out == ""
    for part, (images, labels) in content.items():
        assert np.array_equal(getattr(own, f"{part}_images").numpy(), images)
        assert getattr(own, f"{part}_labels").tolist() == labels.tolist()
    assert own.train_labels.dtype == torch.int64
    first = {"fashion_mnist": "T-shirt/top", "svhn": "0", "stl10": "thing0"}
    assert own.classes[0] == first[name] and len(own.classes) == 10
    assert own.mirror == (name != "svhn")  # a mirrored 2 is no 2
    (cache / "torchvision").rename(cache / "moved")  # the downloaded files are needed no more
    again = data.load_dataset(name, cache=cache)
    assert again.fingerprint == own.fingerprint and again.mirror == own.mirror


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion_mnist", r"train-images-idx3-ubyte.gz, .* http.* into FashionMNIST/raw"),
        ("svhn", r"put http\S+train_32x32.mat and http\S+test_32x32.mat there"),
        ("stl10", r"put stl10_binary.tar.gz from http\S+ there \(MD5"),
    ],
)  # fmt: skip
def test_torchvisions_without_a_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    nowhere = "http://127.0.0.1:9"
    files = {part: f"{part}_32x32.mat" for part in ("train", "test")}
    parts = {part: [f"{nowhere}/{file}", file, "0"] for part, file in files.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", parts)
    monkeypatch.setattr(torchvision.datasets.STL10, "url", f"{nowhere}/stl10_binary.tar.gz")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"{nowhere}/"])
    with pytest.raises(InputError, match=rf"cannot be downloaded .*refused.*{message}") as caught:
        data.load_dataset(name, cache=cache)
    assert "\n" not in str(caught.value)


def test_a_wrong_checksum_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], str]
) -> None:
    svhn(tmp_path, monkeypatch, serve(tmp_path))
    with (tmp_path / "test_32x32.mat").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"'svhn' .*cannot be read .*corrupted"):
        data.load_dataset("svhn", cache=cache)


# --- what a trial does with them ------------------------------------------------------------------


def test_mirror_overrides_the_data_set() -> None:
    digits = data.load_dataset("digits")
    for given, wanted in ((None, False), (True, True), (False, False)):
        settings = TrialSettings(mirror=given)
        own = loop.TrialData.of(digits, settings, seed=0, split="test", device=torch.device("cpu"))
        assert own.mirror is wanted


def test_defaults_are_not_stored() -> None:
    assert not {"image_size", "channels", "mirror"} & TrialSettings().model_dump().keys()
    kept = TrialSettings(image_size=64, channels=1, mirror=False).model_dump(mode="json")
    assert TrialSettings.model_validate(json.loads(json.dumps(kept))).image_size == 64


def test_images_stay_on_the_cpu_if_the_gpu_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, images = torch.device("cuda"), torch.zeros(1000, dtype=torch.uint8)
    for free, wanted in ((2000, "cuda"), (1999, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**9))
        assert loop._home(images, cuda).type == wanted
    assert loop._home(images, torch.device("cpu")).type == "cpu"


STUDY = """
[study]
name = "kinds"
families = ["leaky"]
references = []
trials = {trials}
workers = 1
[trial]
model = "mlp"
width = 8
depth = 1
dataset = "{dataset}"
epochs = 1
batch_size = 16
precision = "float32"
memory_format = "contiguous"
{form}
[confirm]
seeds = 1
epochs = 1
"""


@pytest.mark.parametrize(
    ("dataset", "form", "inputs"),
    [("digits", "image_size = 12\nchannels = 1\nmirror = true", 144), ("arrays:set", "", 1200)],
)
def test_a_study_is_searched_resumed_and_confirmed(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, form: str, inputs: int
) -> None:
    from pdsearch.confirm import confirm
    from pdsearch.study import search
    from pdsearch.trial import run

    monkeypatch.setenv("PDSEARCH_CACHE", str(workdir / "cache"))
    save_arrays(workdir / "set")
    built: list[int] = []
    build = run.build_model

    def spy(*given: Any, **options: Any) -> Any:
        model = build(*given, **options)
        built.append(model[1].in_features)
        return model

    monkeypatch.setattr(run, "build_model", spy)
    for trials in (2, 3):
        text = STUDY.format(trials=trials, dataset=dataset, form=form)
        (workdir / "s.toml").write_text(text)
        done = search("s.toml", device="cpu", progress=False)
        assert done.to_dict()["trials"]["complete"] == trials
    assert set(built) == {inputs}
    outcome = confirm(done.stored, top=1, device="cpu", workers=1)
    assert [row.seeds for row in outcome.rows] == [1, 1]
    assert set(built) == {inputs}
    changed = text.replace("image_size = 12", "image_size = 13")
    if changed != text:
        (workdir / "s.toml").write_text(changed)
        with pytest.raises(InputError, match=r"trial\.image_size 12 → 13"):
            search("s.toml", device="cpu", progress=False)
