"""Pictures, masks and forms that tests of the endpoint send, and how they read what comes back."""

# H height and W width of the picture, C colour channels

import base64
import io
import json
import struct
import zlib
from typing import Any

import httpx2
import numpy as np
from PIL import Image
from safetensors.numpy import save

EDITS = "/v1/images/edits"
SIDE = 64


def picture(seed: int = 0, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Noise, (H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def hole(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """A repaint mask with a rectangle in it, (H, W) bool."""
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[height // 4 : height // 2, width // 8 : width // 2] = True
    return mask_HW


def encoded(array: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Bytes of a picture."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def alpha_mask(mask_HW: np.ndarray) -> bytes:
    """OpenAI's kind of mask: transparent where it is True, and grey everywhere."""
    rgba = np.full((*mask_HW.shape, 4), 128, dtype=np.uint8)
    rgba[..., 3] = np.where(mask_HW, 0, 255)
    return encoded(rgba)


def white_mask(mask_HW: np.ndarray) -> bytes:
    """Stable Diffusion's kind: white where it is True."""
    return encoded(np.where(mask_HW, 255, 0).astype(np.uint8))


def form(**fields: Any) -> dict[str, Any]:
    """A good form; a field that is None is left out, bytes and tuples are files."""
    default = {"image": encoded(picture()), "mask": alpha_mask(hole()), "prompt": "a landbird"}
    fields = {name: value for name, value in {**default, **fields}.items() if value is not None}
    files = {name: (name, value) for name, value in fields.items() if isinstance(value, bytes)}
    return {"data": {name: str(value) for name, value in fields.items() if name not in files}, "files": files}


def post(url: str, *, headers: dict[str, str] | None = None, timeout_s: float = 30, **fields: Any) -> httpx2.Response:
    """Sends a form."""
    return httpx2.post(f"{url}{EDITS}", headers=headers, timeout=timeout_s, **form(**fields))


def post_json(url: str, body: Any, *, headers: dict[str, str] | None = None) -> httpx2.Response:
    """Sends JSON; a str goes as it is."""
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    more = {"content-type": "application/json", **(headers or {})}
    return httpx2.post(f"{url}{EDITS}", headers=more, content=text, timeout=30)


def data_url(data: bytes, kind: str = "image/png") -> dict[str, str]:
    """A picture as the JSON form has it."""
    return {"image_url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}


def json_form(**fields: Any) -> dict[str, Any]:
    """A good JSON form."""
    default = {
        "images": [data_url(encoded(picture()))],
        "mask": data_url(alpha_mask(hole())),
        "prompt": "a landbird",
    }
    return {name: value for name, value in {**default, **fields}.items() if value is not ...}


def decoded(b64: str) -> np.ndarray:
    """A picture of a response, (H, W, C)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64, validate=True))))


def images_of(response: httpx2.Response) -> list[np.ndarray]:
    """The pictures of a 200 response."""
    assert response.status_code == 200, response.text[:500]
    return [decoded(data["b64_json"]) for data in response.json()["data"]]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with a chunk more after its header."""
    return png[:33] + chunk(kind, data) + png[33:]


def bomb(width: int, height: int) -> bytes:
    """A small PNG that decodes to much."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    row = b"\0" * (1 + 3 * width)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(min(height, 2000))) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def token_file(num_vectors: int = 2, width: int = 4, value: float = 0.5) -> bytes:
    """A learned token, as safetensors."""
    return save({"emb_params": np.full((num_vectors, width), value, dtype=np.float32)})
