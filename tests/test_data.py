"""Data sets: against scikit-learn's and Pillow's own arrays, and per-image loops in NumPy."""

import hashlib
import logging
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pdsearch import data
from pdsearch.data import folder as folder_module
from pdsearch.errors import InputError

RANDOM = np.random.default_rng(0)


def pixels(height: int = 32, width: int = 32) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_folder(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Path:
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(pixels()).save(root / part / name / f"{number}.png")
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# --- digits ---------------------------------------------------------------------------------------


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    own = data.load_dataset("digits")
    images = torch.cat([own.train_images, own.test_images])
    labels = torch.cat([own.train_labels, own.test_labels])
    assert images.shape == (1797, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert (len(own.train_labels), len(own.test_labels)) == (1438, 359)
    # Each pixel fills a 4×4 block of each channel.
    assert (images == images[:, :1]).all()
    small = images[:, 0, ::4, ::4]
    assert (images[:, 0] == small.repeat_interleave(4, 1).repeat_interleave(4, 2)).all()
    found = sorted((int(n), bytes(i.numpy())) for n, i in zip(labels, small, strict=True))
    truth = load_digits()
    wanted = sorted(
        (int(n), bytes(np.floor(i * 255 / 16 + 0.5).astype(np.uint8)))
        for n, i in zip(truth.target, truth.images, strict=True)
    )
    assert found == wanted
    assert own.classes == tuple("0123456789")
    assert not own.mirror


def test_digits_split_is_stratified() -> None:
    own = data.load_dataset("digits")
    train = torch.bincount(own.train_labels)
    test = torch.bincount(own.test_labels)
    assert ((test / (train + test) - 0.2).abs() < 0.5 / (train + test) + 1e-6).all()


def test_fingerprint_follows_content() -> None:
    one, two = data.load_dataset("digits"), data.load_dataset("digits")
    assert one.fingerprint == two.fingerprint
    images = one.train_images.clone()
    images[5, 1, 3, 3] ^= 1
    other = data.Dataset(
        "digits", images, one.train_labels, one.test_images, one.test_labels, one.classes
    )
    assert other.fingerprint != one.fingerprint


# --- splits ---------------------------------------------------------------------------------------


def test_split_by_hand() -> None:
    # 5 of class 0, 2 of class 1, 3 of class 2; a third: 1.67 → 2, 0.67 → 1, 1 → 1.
    labels = torch.tensor([0, 1, 0, 2, 0, 2, 0, 1, 2, 0])
    train, held = data.stratified_split(labels, share=1 / 3, seed=0)
    assert torch.bincount(labels[held]).tolist() == [2, 1, 1]
    assert sorted(torch.cat([train, held]).tolist()) == list(range(10))
    assert train.tolist() == sorted(train.tolist())
    # What NumPy's frozen RandomState gives: permutation([0, 2, 4, 6, 9]), ([1, 7]), ([3, 5, 8]).
    random = np.random.RandomState(0)
    wanted = [
        *random.permutation([0, 2, 4, 6, 9])[:2],
        *random.permutation([1, 7])[:1],
        *random.permutation([3, 5, 8])[:1],
    ]
    assert held.tolist() == sorted(wanted)


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**40),
)
def test_split_properties(counts: list[int], share: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    train, held = data.stratified_split(labels, share=share, seed=seed)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        given_up = int((labels[held] == label).sum())
        assert 1 <= given_up <= count - 1
        assert abs(given_up - share * count) <= 1
    again = data.stratified_split(labels, share=share, seed=seed)
    assert again[1].equal(held)


def test_split_depends_on_the_seed() -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    one = data.stratified_split(labels, share=0.1, seed=0)[1]
    two = data.stratified_split(labels, share=0.1, seed=1)[1]
    assert not one.equal(two)


def test_split_refuses() -> None:
    with pytest.raises(InputError, match=r"in \(0, 1\), got 1.5"):
        data.stratified_split(torch.tensor([0, 0]), share=1.5, seed=0)
    with pytest.raises(InputError, match="class 'cat' has a single training image"):
        data.stratified_split(torch.tensor([0, 0, 1]), share=0.5, seed=0, classes=("dog", "cat"))
    with pytest.raises(InputError, match="class 1 has a single training image"):
        data.stratified_split(torch.tensor([0, 0, 1]), share=0.5, seed=0)


# --- batches --------------------------------------------------------------------------------------


def reference_augment(images: np.ndarray, shifts: data.Shifts) -> np.ndarray:
    """One image after the other, in NumPy."""
    out = np.empty_like(images)
    _, height, width = images.shape[1:]
    below, beside = {32: 4, 28: 4, 96: 12, 6: 1, 9: 1}[height], {32: 4, 28: 4, 96: 12, 9: 1}[width]
    for number, image in enumerate(images):
        padded = np.pad(image, ((0, 0), (below, below), (beside, beside)))
        row, column = int(shifts.rows[number]), int(shifts.columns[number])
        crop = padded[:, row : row + height, column : column + width]
        out[number] = crop[:, :, ::-1] if shifts.mirrored[number] else crop
    return out


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize(
    "shape", [(70, 3, 32, 32), (40, 1, 28, 28), (30, 2, 96, 96), (40, 1, 6, 9)]
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augment_is_the_loop_over_images(
    mirror: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, shape, generator=generator).to(dtype)
    shifts = data.draw_shifts(
        shape[0], size=(shape[2], shape[3]), mirror=mirror, generator=generator
    )
    assert shifts.mirrored.any() == mirror
    made = data.augment(images, shifts)
    assert made.dtype == dtype
    assert np.array_equal(made.numpy(), reference_augment(images.numpy(), shifts))


def test_shifts_are_uniform_and_own_their_randomness() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    options: dict[str, Any] = {"size": (32, 32), "mirror": True}
    shifts = data.draw_shifts(90_000, generator=torch.Generator().manual_seed(0), **options)
    assert torch.random.get_rng_state().equal(before)
    for part in (shifts.rows, shifts.columns):
        counts = torch.bincount(part, minlength=9)
        # 10 000 each; the standard deviation is about 94.
        assert len(counts) == 9
        assert (counts - 10_000).abs().max() < 500
    assert abs(shifts.mirrored.double().mean().item() - 0.5) < 0.01
    again = data.draw_shifts(90_000, generator=torch.Generator().manual_seed(0), **options)
    assert again.rows.equal(shifts.rows)
    assert again.mirrored.equal(shifts.mirrored)


def test_statistics_are_numpys() -> None:
    images = torch.from_numpy(RANDOM.integers(0, 200, (5000, 3, 8, 8), dtype=np.uint8))
    images[:, 2] = 7
    mean, deviation = data.channel_statistics(images)
    array = images.numpy().astype(np.float64)
    assert mean.numpy() == pytest.approx(array.mean((0, 2, 3)), rel=1e-6)
    assert deviation[:2].numpy() == pytest.approx(array.std((0, 2, 3))[:2], rel=1e-6)
    assert deviation[2] == 1  # a channel without variation is not divided by 0
    normal = data.normalise(images, mean, deviation)
    assert normal[:, :2].double().mean((0, 2, 3)).numpy() == pytest.approx(0, abs=1e-5)
    assert normal[:, :2].double().std((0, 2, 3)).numpy() == pytest.approx(1, abs=1e-4)


# --- folders of images ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp"])
def test_folder_is_pixel_exact(tmp_path: Path, cache: Path, suffix: str) -> None:
    images = {}
    for part in ("train", "test"):
        for name in ("b", "a"):
            where = tmp_path / part / name
            where.mkdir(parents=True)
            for number in range(2):
                images[part, name, number] = pixels()
                options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
                Image.fromarray(images[part, name, number]).save(
                    where / f"{number}.{suffix}", **options
                )
    own = data.load_dataset(f"folder:{tmp_path}", cache=cache)
    assert own.classes == ("a", "b")
    assert own.mirror
    assert own.train_labels.tolist() == own.test_labels.tolist() == [0, 0, 1, 1]
    for part, tensor in (("train", own.train_images), ("test", own.test_images)):
        wanted = [images[part, name, number] for name in ("a", "b") for number in range(2)]
        assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), np.stack(wanted))


def test_folder_reads_what_torchvision_reads(tmp_path: Path, cache: Path) -> None:
    make_folder(tmp_path, classes=("z", "a", "m"))
    (tmp_path / "train" / "a" / "deeper").mkdir()
    Image.fromarray(pixels()).save(tmp_path / "train" / "a" / "deeper" / "x.PNG")
    own = data.load_dataset(f"folder:{tmp_path}", cache=cache)
    theirs = torchvision.datasets.ImageFolder(str(tmp_path / "train"))
    assert list(own.classes) == theirs.classes
    mine = sorted(
        (int(n), i.numpy().tobytes())
        for i, n in zip(own.train_images, own.train_labels, strict=True)
    )
    others = sorted((n, np.asarray(i).transpose(2, 0, 1).tobytes()) for i, n in theirs)
    assert mine == others


def test_other_shapes_and_modes(tmp_path: Path, cache: Path) -> None:
    make_folder(tmp_path, count=1)
    where = tmp_path / "train" / "cat"
    (where / "0.png").unlink()
    # In the order of their names; each is a plain colour, so that resizing must keep it.
    Image.new("L", (50, 40), 90).save(where / "a-grey.jpg", quality=100)
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = (10, 200, 30)  # the central square alone is green
    Image.fromarray(wide).save(where / "b-wide.png")
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(where / "c-transparent.png")
    Image.fromarray(np.full((32, 32), 257 * 77, dtype=np.uint16)).save(where / "d-deep.png")
    Image.new("1", (8, 8), 1).save(where / "e-bits.png")
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.save(where / "f-palette.png")
    turned = Image.fromarray(
        np.repeat(np.repeat(np.arange(32, dtype=np.uint8)[None, :, None], 32, 0), 3, 2)
    )
    exif = Image.Exif()
    exif[274] = 6  # "rotate by 90° to view"
    turned.save(where / "g-turned.png", exif=exif)
    images = data.load_dataset(f"folder:{tmp_path}", cache=cache).train_images[:7].numpy()
    assert np.abs(images[0].astype(int) - 90).max() <= 1  # JPEG
    green = np.array([10, 200, 30])[:, None, None]
    assert np.array_equal(images[1][:, 4:-4, 4:-4], np.broadcast_to(green, (3, 24, 24)))
    assert (images[2] == 255).all()
    assert (images[3] == 77).all()
    assert (images[4] == 255).all()
    assert (images[5] == np.array([9, 8, 7])[:, None, None]).all()
    assert np.array_equal(images[6][0], np.repeat(np.arange(32)[:, None], 32, 1))


def spoil(root: Path) -> None:
    file = root / "train" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:400])


def lie(root: Path) -> None:
    (root / "test" / "cat" / "9.jpg").write_text("no image")


def add_text(root: Path) -> None:
    (root / "train" / "cat" / "notes.txt").write_text("hello")


def empty(root: Path) -> None:
    for file in (root / "train" / "dog").iterdir():
        file.unlink()


def add_class(root: Path) -> None:
    (root / "test" / "emu").mkdir()


def one_class(root: Path) -> None:
    import shutil

    for part in ("train", "test"):
        shutil.rmtree(root / part / "dog")


def no_test(root: Path) -> None:
    (root / "test").rename(root / "Test2")


def dangle(root: Path) -> None:
    (root / "train" / "cat" / "x.png").symlink_to(root / "nowhere.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil, r"train/dog/1.png cannot be read as an image \(.+\): repair or remove it"),
        (lie, r"test/cat/9.jpg cannot be read as an image"),
        (add_text, r"train/cat/notes.txt is no image file: valid are .bmp, .jpeg"),
        (empty, r"class folder .*train/dog holds no image"),
        (add_class, r"train and test have different classes: 'emu' only in test"),
        (one_class, r"at least 2 class folders are needed in .*train, found only 'cat'"),
        (no_test, r"has no folder 'test'; the layout is train/<class>/"),
        (dangle, r"train/cat/x.png cannot be read: No such file"),
    ],
)
def test_broken_folders(tmp_path: Path, cache: Path, damage: object, message: str) -> None:
    root = make_folder(tmp_path / "set")
    damage(root)
    with pytest.raises(InputError, match=message) as caught:
        data.load_dataset(f"folder:{root}", cache=cache)
    assert "\n" not in str(caught.value)
    assert not list(cache.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "mnist",
            "no data set 'mnist': valid are digits, cifar10, .*stl10, folder:PATH and arrays:PATH",
        ),
        ("folder", "no data set 'folder'"),
        ("folder:", "names no folder"),
        ("folder:/no/such/place", "/no/such/place does not exist"),
        ("folder:a\0b", "NUL"),
        (f"folder:{__file__}", "is not a folder"),
    ],
)
def test_wrong_names(cache: Path, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load_dataset(spec, cache=cache)


def test_relative_folders_and_left_out_files(tmp_path: Path, cache: Path) -> None:
    root = make_folder(tmp_path / "sets" / "pets")
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "cat" / ".DS_Store").write_text("")
    (root / "train" / "cat" / "Thumbs.db").write_text("")
    own = data.load_dataset("folder:pets", directory=tmp_path / "sets", cache=cache)
    assert own.classes == ("cat", "dog")
    assert len(own.train_labels) == 6


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded so far."""
    seen: list[str] = []
    read = folder_module._read_image

    def spy(path: str, **form: int) -> np.ndarray:
        seen.append(path)
        return read(path, **form)

    monkeypatch.setattr(folder_module, "_read_image", spy)
    return seen


def same(one: data.Dataset, two: data.Dataset) -> bool:
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    equal = all(getattr(one, part).equal(getattr(two, part)) for part in parts)
    return equal and one.classes == two.classes and one.fingerprint == two.fingerprint


def test_decoded_once(tmp_path: Path, cache: Path, decoded: list[str]) -> None:
    root = make_folder(tmp_path / "set")
    first = data.load_dataset(f"folder:{root}", cache=cache)
    assert len(decoded) == 12
    second = data.load_dataset(f"folder:{root}", cache=cache)
    assert len(decoded) == 12
    assert same(first, second)


def test_a_changed_file_is_seen_whatever_its_times_say(
    tmp_path: Path, cache: Path, decoded: list[str]
) -> None:
    root = make_folder(tmp_path / "set")
    file = root / "train" / "cat" / "0.bmp"
    Image.fromarray(pixels()).save(file)
    data.load_dataset(f"folder:{root}", cache=cache)
    before = file.stat()
    new = pixels()
    Image.fromarray(new).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    decoded.clear()
    own = data.load_dataset(f"folder:{root}", cache=cache)
    assert len(decoded) == 13
    assert any(np.array_equal(i.permute(1, 2, 0).numpy(), new) for i in own.train_images)
    assert len(list(cache.glob("*.safetensors"))) == 1  # the stale one is gone


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_cache_is_rebuilt_and_said_so(
    tmp_path: Path, cache: Path, decoded: list[str], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(tmp_path / "set")
    first = data.load_dataset(f"folder:{root}", cache=cache)
    (file,) = cache.glob("*.safetensors")
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[-1000] ^= 1
    wrong = {"truncated": content[:-50], "flipped": bytes(flipped), "empty": b""}
    if damage == "other":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, file)
    else:
        file.unlink()
        file.write_bytes(wrong[damage])
    decoded.clear()
    with caplog.at_level(logging.WARNING):
        own = data.load_dataset(f"folder:{root}", cache=cache)
    assert "is damaged" in caplog.text
    assert len(decoded) == 12
    assert same(first, own)
    caplog.clear()
    data.load_dataset(f"folder:{root}", cache=cache)
    assert not caplog.text


def test_without_a_writable_cache(
    tmp_path: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(tmp_path / "set")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    own = data.load_dataset(f"folder:{root}", cache=blocked / "cache")
    assert len(own.train_labels) == 6
    assert "used but not cached" in caplog.text
    assert "PDSEARCH_CACHE" in caplog.text


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PDSEARCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data.cache_directory() == tmp_path / ".cache" / "pdsearch"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert data.cache_directory() == tmp_path / "x" / "pdsearch"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data.cache_directory() == tmp_path / ".cache" / "pdsearch"
    monkeypatch.setenv("PDSEARCH_CACHE", str(tmp_path / "own"))
    assert data.cache_directory() == tmp_path / "own"


BESIDE = """
import sys, time
from pathlib import Path
from pdsearch import data
from pdsearch.data import folder
count = 0
read = folder._read_image
def slow(path, **form):
    global count
    count += 1
    time.sleep(0.02)
    return read(path, **form)
folder._read_image = slow
print("ready", flush=True)
sys.stdin.readline()
own = data.load_dataset(sys.argv[1], cache=Path(sys.argv[2]))
print(own.fingerprint, count)
"""


def test_two_processes_at_once(tmp_path: Path, cache: Path) -> None:
    root = make_folder(tmp_path / "set", count=10)
    command = [sys.executable, "-c", BESIDE, f"folder:{root}", str(cache)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = []
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        outputs.append(process.communicate(timeout=60)[0].split())
        assert process.returncode == 0
    assert outputs[0][0] == outputs[1][0]
    assert sorted(int(count) for _, count in outputs) == [0, 40]  # one decodes, the other waits
    assert len(list(cache.glob("*.safetensors"))) == 1
    assert not list(cache.glob(".*"))


def test_two_processes_without_locks_still_leave_a_whole_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a file system has no locks, a second writer renames its file over the first one's.
    root = make_folder(tmp_path / "set")
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first = data.load_dataset(f"folder:{root}", cache=cache)
    from pdsearch.data import cache as cache_module

    monkeypatch.setattr(cache_module, "_read_cache", lambda *_, **__: None)
    data.load_dataset(f"folder:{root}", cache=cache)
    monkeypatch.undo()
    assert same(first, data.load_dataset(f"folder:{root}", cache=cache))


# --- CIFAR in torchvision's own layout ------------------------------------------------------------


def make_cifar(
    root: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], str], *, name: str
) -> dict[str, tuple[np.ndarray, list[int]]]:
    """A tiny archive in the layout of the real one, its checksums put in torchvision's table."""
    source = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        name
    ]
    base = root / "raw" / source.base_folder
    base.mkdir(parents=True)
    key, classes = ("labels", 10) if name == "cifar10" else ("fine_labels", 100)
    content = {}
    sums = {}

    def write(file: str, value: object) -> str:
        raw = pickle.dumps(value, protocol=2)
        (base / file).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    for file, _ in (*source.train_list, *source.test_list):
        images = RANDOM.integers(0, 256, (classes, 3072), dtype=np.uint8)
        labels = list(range(classes))
        content[file] = (images, labels)
        sums[file] = write(file, {"data": images, key: labels})
    meta = dict(source.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: [f"class{i}" for i in range(classes)]})
    archive = root / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(base, arcname=source.base_folder)
    monkeypatch.setattr(source, "train_list", [[f, sums[f]] for f, _ in source.train_list])
    monkeypatch.setattr(source, "test_list", [[f, sums[f]] for f, _ in source.test_list])
    monkeypatch.setattr(source, "meta", meta)
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(source, "url", f"{serve(root)}/{source.filename}")
    return content


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_downloaded_checked_and_cached(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Path], str],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = make_cifar(tmp_path, monkeypatch, serve, name=name)
    own = data.load_dataset(name, cache=cache)
    assert capsys.readouterr().out == ""
    *train, test = content
    images = np.concatenate([content[f][0] for f in train]).reshape(-1, 3, 32, 32)
    assert np.array_equal(own.train_images.numpy(), images)
    assert own.train_labels.tolist() == [n for f in train for n in content[f][1]]
    assert np.array_equal(own.test_images.numpy(), content[test][0].reshape(-1, 3, 32, 32))
    assert own.classes[3] == "class3"
    assert own.train_labels.dtype == torch.int64
    # From the cache: the downloaded files are needed no more.
    (cache / "torchvision").rename(cache / "moved")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/nothing")
    assert same(own, data.load_dataset(name, cache=cache))


def test_cifar_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz"
    )
    with pytest.raises(
        InputError, match=r"cannot be downloaded .*refused.* put cifar-10-python"
    ) as e:
        data.load_dataset("cifar10", cache=cache)
    assert "\n" not in str(e.value)
    assert "folder:PATH" in str(e.value)


def test_cifar_with_a_wrong_checksum_is_never_unpickled(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Path], str],
) -> None:
    make_cifar(tmp_path, monkeypatch, serve, name="cifar10")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", "0" * 32)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(torchvision.datasets.cifar.pickle, "load", never)
    with pytest.raises(InputError, match=r"cannot be read .*not found or corrupted"):
        data.load_dataset("cifar10", cache=cache)
