"""Pictures and masks that the Python client is given: what is painted, and what is refused before it is sent."""

# H height and W width of the picture, C colour channels

import asyncio
from typing import Any

import numpy as np
import pytest
from edit_forms import hole, picture
from paint_backend import Running
from PIL import Image

from raygen.errors import EndpointError
from serve.client import Client

IMAGE, MASK = picture(), hole()


def edit(endpoint: Running, **changes: Any) -> Any:
    request = {"image": IMAGE, "mask": MASK, "prompt": "a landbird", "seed": 5, **changes}
    return asyncio.run(Client(endpoint.url).edit(**request))


@pytest.mark.parametrize(
    "mask", [MASK.astype(np.uint8), MASK.astype(np.uint8) * 255, MASK.astype(float), MASK.astype(np.int64) * 255]
)
def test_numbers_that_stand_for_a_mask(endpoint: Running, mask: np.ndarray) -> None:
    edits = [edit(endpoint, mask=MASK), edit(endpoint, mask=mask)]
    assert edits[0].request_hash == edits[1].request_hash
    for request in endpoint.backend.requests:
        assert np.array_equal(request.repaint_HW, MASK)


@pytest.mark.parametrize(
    ("changes", "code", "found"),
    [
        ({"mask": ~MASK.astype(int)}, "invalid_mask", "other than 0 and 1"),
        ({"mask": MASK * np.uint8(128)}, "invalid_mask", "other than 0 and 1"),
        ({"mask": np.where(MASK, np.nan, 0.0)}, "invalid_mask", "other than 0 and 1"),
        ({"mask": MASK[..., None]}, "invalid_type", "shape (64, 64, 1) and dtype bool"),
        ({"mask": MASK.astype(object)}, "invalid_type", "dtype object"),
        ({"mask": MASK.tolist()}, "invalid_type", "a builtins.list"),
        ({"mask": None}, "invalid_type", "NoneType"),
        ({"mask": MASK[:32]}, "mask_size_mismatch", "(32, 64)"),
        ({"mask": MASK.T[:, :32]}, "mask_size_mismatch", "(64, 32)"),
        ({"image": IMAGE / 255}, "invalid_type", "dtype float64"),
        ({"image": IMAGE.astype(int)}, "invalid_type", "dtype int64"),
        ({"image": IMAGE[..., 0]}, "invalid_type", "shape (64, 64)"),
        ({"image": IMAGE.transpose(2, 0, 1)}, "invalid_type", "shape (3, 64, 64)"),
        ({"image": np.dstack([IMAGE, IMAGE[..., :1]])}, "invalid_type", "shape (64, 64, 4)"),
        ({"image": IMAGE[:0]}, "invalid_type", "shape (0, 64, 3)"),
        ({"image": Image.fromarray(IMAGE)}, "invalid_type", "a PIL.Image.Image"),
        ({"image": "bird.png"}, "invalid_type", "a builtins.str"),
    ],
)
def test_arrays_that_are_none(endpoint: Running, changes: dict[str, Any], code: str, found: str) -> None:
    (name,) = changes
    request = {"image": IMAGE, "mask": MASK, "prompt": "a landbird", "seed": 5, **changes}
    for ask in (lambda: edit(endpoint, **changes), lambda: [*Client(endpoint.url).map([request])]):
        with pytest.raises(EndpointError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == (code, name)
        assert found in str(caught.value)
    assert not endpoint.backend.requests


@pytest.mark.parametrize("n", [0, -1, 1001, 2**32 + 1, 2**70])
def test_more_pictures_than_a_call_may_have(endpoint: Running, n: int) -> None:
    for changes in ({"n": n}, {"n": n, "seed": None}):
        with pytest.raises(EndpointError, match=rf"n is {n}; ask for 1 to 1000 pictures") as caught:
            edit(endpoint, **changes)
        assert (caught.value.code, caught.value.param) == ("out_of_range", "n")
    assert endpoint.backend.requests == []
