"""Object masks that follow from other files or from numbers: segmentations of many hands, arrays, cut-outs, boxes."""

# H height, W width, C colour channels

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from raygen.datasets.references import read_reference
from raygen.errors import RowError
from raygen.images import decode_image, encode_mask

# Half of the brightest value: in CUB's segmentations a pixel's value is the share of people who took it for bird.
HALF = 128


@dataclass(frozen=True, slots=True)
class Votes:
    """A segmentation whose pixels say how many took them for the object, such as CUB's: half or more is the object.

    Attributes:
        file: A picture of grey values, 0 to 255.
    """

    file: str

    @property
    def files(self) -> Sequence[str]:
        """See `MaskSource.files`."""
        return (self.file,)

    def png(self, picture: bytes) -> bytes:
        """See `MaskSource.png`."""
        return encode_mask(decode_image(read_reference(self.file)).max(axis=-1) >= HALF)


@dataclass(frozen=True, slots=True)
class CutOut:
    """The object is where a copy of the picture without it is black and the picture is not, in every channel.

    How ImageNet-9's "no_fg" pictures show their foregrounds.

    Attributes:
        file: The copy.
    """

    file: str

    @property
    def files(self) -> Sequence[str]:
        """See `MaskSource.files`."""
        return (self.file,)

    def png(self, picture: bytes) -> bytes:
        """See `MaskSource.png`."""
        without_HWC, image_HWC = decode_image(read_reference(self.file)), decode_image(picture)
        if without_HWC.shape != image_HWC.shape:
            raise RowError(f"{self.file} is {without_HWC.shape[:2]}, the picture {image_HWC.shape[:2]}")
        return encode_mask(((without_HWC == 0) & (without_HWC != image_HWC)).all(axis=-1))


@dataclass(frozen=True, slots=True)
class Array:
    """A mask in NumPy's own format: (H, W), or (H, W, C) with the same in every channel; the object is not zero.

    Attributes:
        file: The .npy file; one that holds Python objects is refused.
    """

    file: str

    @property
    def files(self) -> Sequence[str]:
        """See `MaskSource.files`."""
        return (self.file,)

    def png(self, picture: bytes) -> bytes:
        """See `MaskSource.png`."""
        try:
            mask = np.load(io.BytesIO(read_reference(self.file)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise RowError(f"{self.file} is no array of numbers: {error}") from error
        if mask.ndim not in {2, 3}:
            raise RowError(f"{self.file} has shape {mask.shape}; expected (height, width)")
        return encode_mask(mask != 0 if mask.ndim == 2 else (mask != 0).any(axis=-1))


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes around objects, in the pixels of a picture that the file is perhaps a smaller copy of.

    Attributes:
        boxes: Left, top, width and height of each, in the original's pixels.
        width: The original's width in pixels.
        height: Its height.
    """

    boxes: tuple[tuple[float, float, float, float], ...]
    width: int
    height: int

    @property
    def files(self) -> Sequence[str]:
        """None: boxes are numbers."""
        return ()

    def png(self, picture: bytes) -> bytes:
        """See `MaskSource.png`; every pixel that a box touches is in the mask."""
        width, height = _size(picture)
        mask_HW = np.zeros((height, width), dtype=bool)
        for left, top, across, down in self.boxes:
            x, y = width / self.width, height / self.height
            columns = slice(max(0, int(np.floor(left * x))), int(np.ceil((left + across) * x)))
            mask_HW[max(0, int(np.floor(top * y))) : int(np.ceil((top + down) * y)), columns] = True
        return encode_mask(mask_HW)


def _size(picture: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RowError(f"the picture's size cannot be read: {error}") from error
