"""Pictures between the world's bytes and the model's tensors, and sheets of pictures to look at."""

# N images, H height, W width, C colour channels

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Of the sheets on the models' cards.
CARD_COLUMNS = 16


def to_tensor_NCHW(images_NHWC: np.ndarray, *, device: torch.device) -> Tensor:
    """Pictures of (N, H, W, 3) uint8 as floats in [-1, 1], the range of the autoencoder, channels last in memory."""
    images = torch.from_numpy(np.ascontiguousarray(images_NHWC)).to(device)
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def to_uint8_NHWC(images_NCHW: Tensor) -> np.ndarray:
    """Inverse of `to_tensor_NCHW`, with values outside [-1, 1] clipped."""
    bytes_NCHW = images_NCHW.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return np.asarray(bytes_NCHW.permute(0, 2, 3, 1).cpu().numpy())


def sheet(images_NHWC: np.ndarray, *, num_columns: int) -> Image.Image:
    """Pictures row by row in one, twice enlarged; a last row that is not full is left out."""
    num_rows = len(images_NHWC) // num_columns
    height, width, channels = images_NHWC.shape[1:]
    cells = images_NHWC[: num_rows * num_columns].reshape(num_rows, num_columns, height, width, channels)
    joined_HWC = cells.transpose(0, 2, 1, 3, 4).reshape(num_rows * height, num_columns * width, channels)
    joined = Image.fromarray(joined_HWC)
    return joined.resize((2 * joined.width, 2 * joined.height), Image.Resampling.NEAREST)


def pairs(above_NHWC: np.ndarray, below_NHWC: np.ndarray, *, num_columns: int) -> np.ndarray:
    """The first pictures in two pairs of rows for a sheet: some above, what became of them below."""
    rows = [a[i : i + num_columns] for i in (0, num_columns) for a in (above_NHWC, below_NHWC)]
    return np.concatenate(rows)


def save_pairs(path: Path, above_NHWC: np.ndarray, below_NHWC: np.ndarray) -> None:
    """Saves two pairs of rows of 12 pictures as PNG, twice enlarged."""
    temporary = path.with_suffix(".tmp.png")
    sheet(pairs(above_NHWC, below_NHWC, num_columns=12), num_columns=12).save(temporary, optimize=True)
    os.replace(temporary, path)


def save_for_card(path: Path, images_NHWC: np.ndarray) -> None:
    """Saves a sheet of 16 columns in 256 colours: true colour would take three times the space.

    That is more than the inpainter's text encoder takes.
    """
    sheet(images_NHWC, num_columns=CARD_COLUMNS).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
