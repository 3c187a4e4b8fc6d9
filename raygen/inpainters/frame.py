"""Where in a picture the model paints, and how what it painted goes back.

The model sees a canvas: the whole picture, or a box of it brought to the picture's size, padded to a multiple of the
autoencoder's stride. So a picture of any size comes back in its own size.
"""

# H height and W width of the picture, C colour channels

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from raygen.errors import RowError
from raygen.images import resize_image, resize_mask


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture prepared for the model.

    Attributes:
        image_HWC: The picture, (H, W, 3) uint8.
        paste_HW: How much of the painted picture goes in at each pixel, (H, W) uint8, 255 = all.
        box: Left, top, right, bottom of the part that the canvas shows.
        canvas_HWC: What the model sees, uint8; its sides are multiples of the stride.
        canvas_repaint_HW: What it paints anew, bool.
    """

    image_HWC: np.ndarray
    paste_HW: np.ndarray
    box: tuple[int, int, int, int]
    canvas_HWC: np.ndarray
    canvas_repaint_HW: np.ndarray

    def put_back(self, painted_HWC: np.ndarray, *, preserve_unmasked: bool) -> np.ndarray:
        """The whole picture with what was painted on the canvas, (H, W, 3) uint8.

        Args:
            painted_HWC: The canvas after painting.
            preserve_unmasked: Keep every pixel whose `paste_HW` is 0 as it was, to the bit; False takes all that the
                canvas shows.
        """
        height, width = self.image_HWC.shape[:2]
        left, top, right, bottom = self.box
        shown_HWC = resize_image(painted_HWC[:height, :width], height=bottom - top, width=right - left)
        part = (slice(top, bottom), slice(left, right))
        result_HWC = self.image_HWC.copy()
        if not preserve_unmasked:
            result_HWC[part] = shown_HWC
            return result_HWC
        alpha_HW1 = self.paste_HW[part][..., None].astype(np.float32) / 255
        blended_HWC = alpha_HW1 * shown_HWC + (1 - alpha_HW1) * self.image_HWC[part]
        # At 0 and 255 nothing is rounded: the pixel is the one or the other.
        result_HWC[part] = np.rint(blended_HWC).astype(np.uint8)
        return result_HWC


def frame_picture(
    image_HWC: np.ndarray,
    repaint_HW: np.ndarray,
    *,
    stride_px: int,
    mask_blur: int = 0,
    padding_mask_crop: int | None = None,
) -> Frame:
    """A picture and its repaint mask, prepared.

    Args:
        image_HWC: (H, W, 3) uint8 RGB.
        repaint_HW: (H, W) bool; something must be True.
        stride_px: Pixels of one latent cell.
        mask_blur: Radius of the Gaussian that widens the pasted edge; the model paints wherever it reaches.
        padding_mask_crop: Show the model only the mask's box with so many pixels around it; None: everything.

    Raises:
        RowError: The blur leaves nothing of the mask.
    """
    height, width = repaint_HW.shape
    paste_HW = repaint_HW.astype(np.uint8) * 255
    if mask_blur:
        paste_HW = np.asarray(Image.fromarray(paste_HW).filter(ImageFilter.GaussianBlur(mask_blur)))
        repaint_HW = paste_HW > 0
        if not repaint_HW.any():  # a few pixels under a wide blur round to nothing
            raise RowError(f"a blur of {mask_blur} pixels leaves nothing of the repaint mask; lower mask_blur")
    box = (0, 0, width, height)
    canvas_HWC, canvas_repaint_HW = image_HWC, repaint_HW
    if padding_mask_crop is not None:
        box = _crop_box(repaint_HW, padding_mask_crop)
        part = (slice(box[1], box[3]), slice(box[0], box[2]))
        canvas_HWC = resize_image(image_HWC[part], height=height, width=width)
        canvas_repaint_HW = resize_mask(repaint_HW[part], height=height, width=width)
    below, right = -height % stride_px, -width % stride_px
    canvas_HWC = np.pad(canvas_HWC, ((0, below), (0, right), (0, 0)), mode="edge")
    canvas_repaint_HW = np.pad(canvas_repaint_HW, ((0, below), (0, right)))
    if not canvas_repaint_HW[::stride_px, ::stride_px].any():
        # The latent mask takes one pixel a cell; a mask that lies between them is grown to whole cells.
        canvas_repaint_HW = _whole_cells(canvas_repaint_HW, stride_px)
    return Frame(image_HWC, paste_HW, box, canvas_HWC, canvas_repaint_HW)


def _crop_box(repaint_HW: np.ndarray, padding_px: int) -> tuple[int, int, int, int]:
    from diffusers.image_processor import VaeImageProcessor

    height, width = repaint_HW.shape
    mask = Image.fromarray(repaint_HW.astype(np.uint8) * 255)
    box: tuple[int, int, int, int] = VaeImageProcessor.get_crop_region(mask, width, height, padding_px)
    return box


def _whole_cells(mask_HW: np.ndarray, stride_px: int) -> np.ndarray:
    height, width = mask_HW.shape
    cells_hw = mask_HW.reshape(height // stride_px, stride_px, width // stride_px, stride_px).any((1, 3))
    return cells_hw.repeat(stride_px, 0).repeat(stride_px, 1)
