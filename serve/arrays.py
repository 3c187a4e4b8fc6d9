"""Pictures and masks that come from Python: checked before a request is made of them, as forms are at the endpoint."""

# H height and W width of the picture, C colour channels

from typing import Any

import numpy as np

from raygen.errors import EndpointError


def check_image(image: Any) -> None:
    """Checks a picture.

    Raises:
        EndpointError: invalid_type: it is no (H, W, 3) uint8 array.
    """
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or not image.size
    ):
        raise EndpointError(
            f"image is {_described(image)}; expected RGB as a NumPy array of shape (H, W, 3) and dtype uint8",
            code="invalid_type",
            param="image",
        )


def as_mask(mask: Any, *, size: tuple[int, int] | None) -> np.ndarray:
    """A mask, (H, W) bool, True = paint anew.

    Args:
        mask: Of bools, or of numbers that are all 0 and 1, or all 0 and 255.
        size: (H, W) of the picture, if that is known.

    Raises:
        EndpointError: invalid_type, invalid_mask, mask_size_mismatch.
    """
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise EndpointError(
            f"mask is {_described(mask)}; expected a NumPy array of shape (H, W) and dtype bool, True = paint anew",
            code="invalid_type",
            param="mask",
        )
    if size is not None and mask.shape != size:
        raise EndpointError(
            f"mask has the shape {mask.shape} and image {size}; the sizes must be equal",
            code="mask_size_mismatch",
            param="mask",
        )
    if mask.dtype == bool:
        return mask
    selected_HW = mask != 0
    if not any((mask[selected_HW] == white).all() for white in (1, 255)):
        raise EndpointError(
            "mask has numbers other than 0 and 1, or 0 and 255; compare it with a threshold first: mask > 127",
            code="invalid_mask",
            param="mask",
        )
    return selected_HW


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"
