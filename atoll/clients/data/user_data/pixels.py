"""Images of a user's own as pixels: uint8, shape (height, width, channels)."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from atoll.errors import InvalidExperimentError

CHANNELS = (1, 2, 3, 4)
GREY_MODES = ("L", "1")


def pixels_of_array(images: Any, *, channels_first: bool = False) -> NDArray[np.uint8]:
    """Return an array of images as pixels, shape (n, height, width, channels).

    Parameters
    ----------
    images : array
        Shape (n, height, width), (n, height, width, channels) or (n, channels, height, width);
        whole numbers from 0 to 255, or numbers from 0 to 1.
    channels_first : bool
        Which of the last two it is where the shape leaves that open: torch has channels first.

    Raises
    ------
    InvalidExperimentError
        If it is none of these.
    """
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4:
        first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
        if not first and not last:
            raise InvalidExperimentError(
                f"images of shape {array.shape}; expected 1 to 4 channels, (n, height, width, "
                "channels) or (n, channels, height, width)"
            )
        if first and (channels_first or not last):
            array = array.transpose(0, 2, 3, 1)
    else:
        raise InvalidExperimentError(
            f"images of shape {array.shape}; expected (n, height, width), (n, height, width, "
            "channels) or (n, channels, height, width)"
        )
    return _as_uint8(array)


def pixels_of_image(image: Any) -> NDArray[np.uint8]:
    """Return one image as pixels, shape (height, width, channels).

    Parameters
    ----------
    image : object
        A Pillow image, an encoded one (bytes, or Hugging Face's table of ``bytes`` and ``path``),
        the path of one, an array or a tensor.
    """
    if isinstance(image, dict) and set(image) == {"bytes", "path"}:
        image = image["bytes"] if image["bytes"] is not None else image["path"]
    if isinstance(image, bytes | str | Path):
        image = _opened(image)
    if isinstance(image, Image.Image):
        kept = image if image.mode in (*GREY_MODES, "RGB") else image.convert("RGB")
        image = np.asarray(kept)
    pixels: NDArray[np.uint8] = pixels_of_array(
        np.asarray(image)[None], channels_first=is_tensor(image)
    )[0]
    return pixels


def is_tensor(value: Any) -> bool:
    """Tell whether a value is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def in_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return an image with that many channels: a grey one gets three equal ones."""
    return np.repeat(pixels, channels, -1) if pixels.shape[-1] == 1 else pixels


def _opened(image: bytes | str | Path) -> Image.Image:
    source = io.BytesIO(image) if isinstance(image, bytes) else image
    try:
        with Image.open(source) as opened:
            opened.load()
            return opened
    except (UnidentifiedImageError, OSError, ValueError) as error:
        what = "an image's bytes" if isinstance(image, bytes) else f"the image {str(image)!r}"
        raise InvalidExperimentError(f"{what} that cannot be read ({error})") from error


def _as_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InvalidExperimentError(f"pixels of dtype {array.dtype}; expected uint8, or 0 to 1")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    is_whole = np.issubdtype(array.dtype, np.integer)
    # Not a number is neither.
    if not (low >= 0 and high <= (255 if is_whole else 1)):
        wanted = "0 to 255" if is_whole else "0 to 1 (a model's input is normalised later)"
        raise InvalidExperimentError(
            f"pixels from {low:g} to {high:g}, of dtype {array.dtype}; expected {wanted}"
        )
    return array.astype(np.uint8) if is_whole else np.rint(array * 255).astype(np.uint8)
