"""What schemathesis cannot know from the OpenAPI document: bytes of pictures and tokens, and sums over fields."""

import base64
import re
import uuid
from typing import Any

import jsonschema
import numpy as np
import schemathesis
from edit_forms import encoded, token_file
from hypothesis import strategies as st

from serve.http.conditions import CONDITIONS
from serve.http.fields import MAX_FORM_SEED
from serve.http.limits import MAX_NUM_IMAGES

SIDE = 64


def _picture(seed: int) -> bytes:
    """A picture that is a good mask too, in every mode: transparent and opaque, dark and light pixels."""
    rng = np.random.default_rng(seed)
    rgba = rng.integers(256, size=(SIDE, SIDE, 4), dtype=np.uint8)
    rgba[:8, :8] = (255, 255, 255, 0)
    rgba[8:16, :8] = (0, 0, 0, 255)
    return encoded(rgba)


_GOOD_KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")
_CONDITIONS = jsonschema.Draft202012Validator({"allOf": CONDITIONS})
pictures = st.integers(0, 5).map(_picture)
schemathesis.openapi.format("binary", pictures)
schemathesis.openapi.format(
    "data-url", pictures.map(lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}")
)
schemathesis.openapi.format("safetensors", st.integers(1, 64).map(token_file))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Makes each good Idempotency-Key a new one: a key that came before with another body is refused, rightly."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and _GOOD_KEY.fullmatch(key):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leaves out what the document says in words only: what fields of a form, or a field and a header, say together."""
    body = case.body if isinstance(case.body, dict) else {}
    if case.media_type == "multipart/form-data" and not _CONDITIONS.is_valid(
        {name: "" if name in {"image", "mask"} else value for name, value in body.items()}
    ):
        return False
    headers = {name.lower() for name in (case.headers or {})}
    steps, strength = body.get("num_inference_steps"), body.get("strength")
    if isinstance(strength, int | float) and not isinstance(strength, bool) and 0 < strength <= 1:
        quality = {"low": 15, "medium": 30, "standard": 30, "high": 50}.get(str(body.get("quality")), 12)
        if int((steps if isinstance(steps, int) else quality) * strength) < 1:
            return False
    n, seed = body.get("n"), body.get("seed")
    if isinstance(n, int) and isinstance(seed, int) and n <= MAX_NUM_IMAGES and seed <= MAX_FORM_SEED < seed + n - 1:
        return False
    # One answer has one form: neither a job nor a kept answer is a stream.
    return not (body.get("stream") is True and headers & {"prefer", "idempotency-key"})
