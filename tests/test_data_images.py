"""Image files of every mode, against arrays written by hand; folders as others leave them."""

import logging
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from pdsearch import data
from pdsearch.data.images import read_image
from pdsearch.errors import InputError

RAMP = np.arange(32 * 32, dtype=np.float64).reshape(32, 32) / (32 * 32 - 1)  # black to white
RANDOM = np.random.default_rng(1)


def read(path: Path) -> np.ndarray:
    """The image as (32, 32, 3)."""
    return read_image(str(path), size=32, channels=3).transpose(1, 2, 0)


def grey(path: Path) -> np.ndarray:
    """The image's one grey, if its channels agree."""
    found = read(path)
    assert found.shape == (32, 32, 3) and found.dtype == np.uint8
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()
    alone = read_image(str(path), size=32, channels=1)
    assert alone.shape == (1, 32, 32) and np.array_equal(alone[0], found[..., 0])
    return found[..., 0].astype(int)


def tiff(path: Path, values: np.ndarray, *, bits: int, photometric: int = 1, form: int = 1) -> None:
    """A TIFF 6.0 of one strip, uncompressed, written here so that Pillow has no part in it."""
    import struct

    raw = values.tobytes()
    tags = [
        (256, 4, values.shape[1]), (257, 4, values.shape[0]), (258, 3, bits), (259, 3, 1),
        (262, 3, photometric), (273, 4, 8), (277, 3, 1), (278, 4, values.shape[0]),
        (279, 4, len(raw)), (339, 3, form),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + directory)


@pytest.mark.parametrize(
    ("dtype", "bits", "form"),
    [
        (np.float32, 32, 3), (np.float64, 64, 3), (np.int32, 32, 2), (np.uint32, 32, 1),
        (np.int16, 16, 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("top", [1.0, 255.0, 30000.0])
def test_a_tiff_without_a_known_range_is_refused_by_name(
    tmp_path: Path, dtype: type, bits: int, form: int, top: float
) -> None:
    path = tmp_path / "deep.tif"
    tiff(path, (RAMP * top).astype(dtype), bits=bits, form=form)
    with pytest.raises(InputError, match=r"deep\.tif ") as caught:
        read(path)
    said = str(caught.value)
    assert "\n" not in said and ("8 or 16 bits" in said or "cannot be read as an image" in said)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.pgm"])
def test_16_bits_are_scaled(tmp_path: Path, name: str) -> None:
    values = (RAMP * 65535).round().astype(np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert np.abs(grey(tmp_path / name) - values / 257).max() <= 0.5


def test_12_bits_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    values = (RAMP * 4095).round().astype(int).ravel()
    packed = bytearray()
    for one, two in zip(values[::2], values[1::2], strict=True):
        packed += bytes([one >> 4, (one & 15) << 4 | two >> 8, two & 255])
    path = tmp_path / "a.tif"
    tiff(path, np.frombuffer(bytes(packed), np.uint8).reshape(32, 48), bits=12)
    # The tag tells of pixels, the array above of bytes.
    content = path.read_bytes().replace(b"\x00\x01\x04\0\x01\0\0\0\x30\0\0\0",
                                        b"\x00\x01\x04\0\x01\0\0\0\x20\0\0\0")  # fmt: skip
    path.write_bytes(content)
    assert np.abs(grey(path).ravel() - values / 4095 * 255).max() <= 0.51


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16)])
def test_a_tiff_in_which_white_is_zero(tmp_path: Path, dtype: type, bits: int) -> None:
    values = (RAMP * (2**bits - 1)).round()
    tiff(tmp_path / "a.tif", values.astype(dtype), bits=bits, photometric=0)
    assert np.abs(grey(tmp_path / "a.tif") - (255 - values / (2**bits - 1) * 255)).max() <= 0.51


@pytest.mark.parametrize("high", [False, True])
def test_big_endian_16_bits(tmp_path: Path, high: bool) -> None:
    values = (RAMP * 65535).round().astype(">u2" if high else "<u2")
    mode = "I;16B" if high else "I;16"
    Image.frombytes(mode, (32, 32), values.tobytes()).save(tmp_path / "a.tif")
    assert np.abs(grey(tmp_path / "a.tif") - values.astype(float) / 257).max() <= 0.5


@pytest.mark.parametrize("size", [32, 40])
def test_transparency_is_white_at_every_size_and_mode(tmp_path: Path, size: int) -> None:
    colour = (10, 20, 30)
    Image.new("RGB", (size, size), colour).save(tmp_path / "rgb.png", transparency=colour)
    Image.new("L", (size, size), 7).save(tmp_path / "l.png", transparency=7)
    Image.new("1", (size, size), 0).save(tmp_path / "one.png", transparency=0)
    Image.new("LA", (size, size), (0, 0)).save(tmp_path / "la.png")
    Image.new("RGBA", (size, size), (*colour, 0)).save(tmp_path / "rgba.png")
    palette = Image.new("P", (size, size), 1)
    palette.putpalette([0, 0, 0, *colour])
    palette.save(tmp_path / "p.png", transparency=1)
    palette.save(tmp_path / "p-bytes.png", transparency=b"\xff\x00")
    deep = Image.fromarray(np.full((size, size), 500, np.uint16))
    deep.save(tmp_path / "deep.png", transparency=500)
    Image.new("RGBA", (size, size), (*colour, 0)).save(tmp_path / "a.webp", lossless=True)
    for path in sorted(tmp_path.iterdir()):
        assert (read(path) == 255).all(), path.name


def test_half_transparent_grey_is_half_white(tmp_path: Path) -> None:
    Image.new("LA", (32, 32), (0, 128)).save(tmp_path / "a.png")
    assert np.abs(grey(tmp_path / "a.png") - 127).max() <= 1


def test_cmyk_and_bits(tmp_path: Path) -> None:
    """Cyan, magenta, yellow, black: R = 255·(1 − C)(1 − K) and so on."""
    for suffix in (".tif", ".jpg"):
        Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / f"red{suffix}")
        assert np.abs(read(tmp_path / f"red{suffix}") - np.array([255, 0, 0])).max() <= 3
    bits = RAMP > 0.5
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(bits).save(tmp_path / name)
        assert np.array_equal(grey(tmp_path / name), bits * 255)


def test_lab(tmp_path: Path) -> None:
    """CIE 1976 L*a*b* of sRGB's red, 53.2, 80.1, 67.2 (D65; D50, as in files, a little less)."""
    Image.new("LAB", (32, 32), (136, 128 + 80, 128 + 67)).save(tmp_path / "lab.tif")
    assert np.abs(read(tmp_path / "lab.tif") - np.array([255, 0, 0])).max() <= 12


@pytest.mark.parametrize(
    ("suffix", "deep"),
    [(".jpg", False), (".png", False), (".png", True), (".webp", False), (".tif", False),
     (".tif", True)],
)  # fmt: skip
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path: Path, suffix: str, orientation: int, deep: bool) -> None:
    """By the table of EXIF 2.3, section 4.6.4: which way the stored rows and columns run."""
    stored = np.zeros((32, 32), dtype=np.uint8)
    stored[:12, :20] = 240  # a block at the stored top left, wider than high
    turn: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
        6: lambda a: np.rot90(a, 3), 7: lambda a: np.rot90(a.T, 2), 8: lambda a: np.rot90(a, 1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    array = stored.astype(np.uint16) * 257 if deep else np.stack([stored] * 3, 2)
    options: dict[str, dict[str, Any]] = {".webp": {"lossless": True}, ".jpg": {"quality": 100}}
    keys = options.get(suffix, {})
    path = tmp_path / f"a{suffix}"
    Image.fromarray(array).save(path, exif=exif, **keys)
    assert np.abs(grey(path) - turn[orientation](stored).astype(int)).max() <= 12  # JPEG rings


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_of_an_animated_image_the_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    keys: dict[str, Any] = {".webp": {"lossless": True}}.get(suffix, {})
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **keys)
    assert (read(tmp_path / f"a{suffix}") == np.array([255, 0, 0])).all()


# ----------------------------------------------------------------------------------- folders


def pictures(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            pictures(tmp_path / "set" / part / name)
    return tmp_path / "set"


def load(root: Path) -> data.Dataset:
    return data.load_dataset(f"folder:{root}", cache=root.parent / "cache")


@pytest.mark.parametrize(
    "left", ["@eaDir", "@EADIR", "__MACOSX", ".hidden", "#recycle", "$RECYCLE.BIN", "lost+found",
             "System Volume Information", ".AppleDouble", ".ipynb_checkpoints"],
)  # fmt: skip
def test_folders_of_file_managers_are_passed_over(root: Path, left: str) -> None:
    expected = load(root)
    for place in ("train", "test", "train/cat", "test/dog"):
        pictures(root / place / left)
        pictures(root / place / left / "cat")
    for place in ("train/cat", "test/dog"):
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png", "ehthumbs.db"):
            (root / place / name).write_bytes(b"x")
    found = load(root)
    assert found.classes == ("cat", "dog") and found.fingerprint == expected.fingerprint


Form = Literal["NFC", "NFD"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_class_names_match_in_either_form(tmp_path: Path, forms: tuple[Form, Form]) -> None:
    names = ("café", "Ångström", "한국", "zebra")
    for part, form in zip(("train", "test"), forms, strict=True):
        for name in names:
            pictures(tmp_path / "set" / part / unicodedata.normalize(form, name))
    found = load(tmp_path / "set")
    assert found.classes == tuple(sorted(names))
    assert found.train_labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_one_name_in_both_forms_is_refused(root: Path) -> None:
    for form in ("NFC", "NFD"):
        pictures(root / "train" / unicodedata.normalize(form, "é"))
    with pytest.raises(InputError, match="two class folders called 'é'"):
        load(root)


def test_a_link_back_is_refused(root: Path) -> None:
    (root / "train" / "cat" / "back").symlink_to(root / "train" / "cat")
    with pytest.raises(InputError, match="read already: remove the link"):
        load(root)


def link(root: Path) -> None:
    shutil.rmtree(root / "test")
    (root / "test").symlink_to(root / "train")


def link_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        shutil.rmtree(root / "test" / name)
        (root / "test" / name).symlink_to(root / "train" / name)


def link_hard(root: Path) -> None:
    for name in ("cat", "dog"):
        for file in (root / "train" / name).iterdir():
            (root / "test" / name / file.name).unlink()
            os.link(file, root / "test" / name / file.name)


def copy(root: Path) -> None:
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")


def save_anew(root: Path) -> None:
    """The same pixels in other files."""
    for name in ("cat", "dog"):
        for file in (root / "train" / name).iterdir():
            (root / "test" / name / file.name).unlink()
            with Image.open(file) as image:
                image.save(root / "test" / name / f"copy-of-{file.stem}.bmp")


@pytest.mark.parametrize("spoil", [link, link_classes, link_hard, copy, save_anew])
def test_a_test_folder_that_is_the_training_folder_is_warned_about(
    root: Path, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(root)
    assert caplog.text == ""
    spoil(root)
    for _ in range(2):  # from the cache too
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load(root)
        assert "each test image is a training image too" in caplog.text


def test_some_shared_images_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(root / "train" / "cat" / "0.png", root / "test" / "dog" / "9.png")
    with caplog.at_level(logging.WARNING):
        load(root)
    assert "1 of 7 test images are training images too" in caplog.text
