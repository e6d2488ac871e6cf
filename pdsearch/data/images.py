"""An image file of any mode as square RGB or grey, if its range of values is known."""

from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from pdsearch.errors import InputError, one_line

DECODING = 2  # raise it when decoding changes: cached folders are then built again

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, sections 3 and 4


def read_image(path: str, *, size: int, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read an image, or the first of its frames, as ``(channels, size, size)``, uint8.

    Args:
        path: of the file.
        size: side of the result, in pixels.
        channels: 3 (RGB) or 1 (grey, ITU-R 601-2 luma).

    Raises:
        InputError: it is not an image, is damaged, or has an unknown range (float and 32-bit TIFF).
    """
    try:
        with Image.open(path) as file:
            file.load()
            mode = "RGB" if channels == 3 else "L"
            plain = file.mode == mode and file.size == (size, size)
            if plain and not file.getexif() and not file.has_transparency_data:
                return _planes(file)
            deep = file.mode == "F" or file.mode.startswith("I")
            upright = ImageOps.exif_transpose(_eight_bits(file, path) if deep else file)
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            square = ImageOps.fit(
                upright.convert(mode), (size, size), method=Image.Resampling.BICUBIC
            )
            return _planes(square)
    except InputError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise InputError(
            f"{path} cannot be read as an image ({one_line(error)}): repair or remove it"
        ) from error


def _planes(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bits(image: ImageFile.ImageFile, path: str) -> Image.Image:
    """Grey of more than 8 bits, which Pillow would clip rather than scale, as 8-bit grey."""
    signed = image.mode == "I" and image.format == "TIFF"
    if image.mode == "F" or signed:
        held = "signed or 32-bit whole numbers" if signed else "floating-point numbers"
        raise InputError(
            f"{path} holds {held}, and nothing says which value is black and which is white: "
            "save it with 8 or 16 bits, scaled to their whole range"
        )
    tags = getattr(image, "tag_v2", {})
    # Unsigned. Pillow scales a PGM's maximum to 65535, but not a TIFF of 12 bits.
    bits = tags.get(_BITS, (16,))[0]
    values = np.asarray(image)
    grey = (values / ((2**bits - 1) / 255)).round().clip(0, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    found = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # a PNG's one transparent value
        found.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    found.getexif().update(dict(image.getexif()))
    return found
