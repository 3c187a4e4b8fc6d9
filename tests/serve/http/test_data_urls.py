"""Data URLs of the JSON form: what RFC 2397 and its readers allow holds the same bytes, the rest is refused by name."""

import base64
import textwrap
from urllib.parse import quote

import jsonschema
import numpy as np
import pytest
from edit_forms import alpha_mask, data_url, encoded, hole, images_of, json_form, picture, post_json
from paint_backend import Running, colour_of

from serve.http.data_urls import PATTERN, bytes_of

PNG = encoded(picture())
TEXT = base64.b64encode(PNG).decode()
MIME = "\r\n".join(textwrap.wrap(TEXT, 76))
GOOD = {
    "plain": f"data:image/png;base64,{TEXT}",
    "MIME's lines": f"data:image/png;base64,{MIME}",
    "lines that end in one": f"data:image/png;base64,\n{MIME}\r\n",
    "indented lines": "data:image/png;base64," + "".join(f"\n\t  {line} " for line in MIME.split()),
    "capitals": f"DATA:IMAGE/PNG;BASE64,{TEXT}",
    "a parameter": f"data:image/png;charset=utf-8;base64,{TEXT}",
    "two parameters": f'data:image/png;name="a b.png"; charset=x; base64,{TEXT}',
    "no type": f"data:;base64,{TEXT}",
    "a wrong type": f"data:text/html;base64,{TEXT}",
    "percent escapes": f"data:image/png;base64,{quote(TEXT, safe='')}",
    "escaped line breaks": f"data:image/png;base64,{MIME.replace(chr(13) + chr(10), '%0D%0A')}",
    "no padding": f"data:image/png;base64,{TEXT.rstrip('=')}",
    "space around": f" data:image/png;base64,{TEXT}\n",
}
TWO_MORE = base64.b64encode(PNG[: len(PNG) // 3 * 3] + b"\xfb\xff").decode()  # ends in "+/8="
BAD = {
    "": "nothing is fetched",
    "http://127.0.0.1:1/x.png": "nothing is fetched",
    "data:image/png;base64": "nothing is fetched",
    f"image/png;base64,{TEXT}": "nothing is fetched",
    "data:image/png,%89PNG": "lacks ';base64'",
    f"data:base64,{TEXT}": "lacks ';base64'",
    f"data:image/png;base64;charset=x,{TEXT}": "right before the comma",
    f"data:image/png;base64,{TEXT[:40]} {TEXT[40:]}": r"a space stands inside a line; was it a '\+'",
    f"data:image/png;base64,{TWO_MORE.replace('+', '-').replace('/', '_')}": "are of base64url",
    f"data:image/png;base64,{TEXT[:40]}!{TEXT[41:]}": "characters of no base64",
    f"data:image/png;base64,{TEXT[:40]}é{TEXT[41:]}": "characters of no base64",
    f"data:image/png;base64,{TEXT[:40]}={TEXT[41:]}": "'=' before its end",
    "data:image/png;base64,iVBORw0KG": "cut off",
    "data:image/png;base64,iVBORw0=KGgo": "'=' before its end",
    "data:image/png;base64,iVBORw0KGg=": "too few",
    "data:image/png;base64,iVBORw0KGgo==": "too few or too many",
}


@pytest.mark.parametrize("url", GOOD.values(), ids=GOOD)
def test_every_spelling_holds_the_same_bytes(url: str) -> None:
    assert bytes_of(url) == PNG


@pytest.mark.parametrize(("url", "reason"), BAD.items(), ids=range(len(BAD)))
def test_what_is_refused_has_its_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bytes_of(url)
    assert not jsonschema.Draft202012Validator({"pattern": PATTERN}).is_valid(url) or "iVBOR" in url


def test_a_mime_picture_is_painted_as_any_other(endpoint: Running) -> None:
    body = json_form(images=[{"image_url": GOOD["MIME's lines"]}], seed=5)
    (painted,) = images_of(post_json(endpoint.url, body))
    assert np.array_equal(painted, np.where(hole()[..., None], colour_of(5), picture()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_schema_takes_every_format_and_nothing_else(kind: str) -> None:
    schema = jsonschema.Draft202012Validator({"pattern": PATTERN})
    assert schema.is_valid(data_url(encoded(picture(), kind))["image_url"])
    assert schema.is_valid(data_url(alpha_mask(hole()))["image_url"])
    assert all(
        schema.is_valid(url) for name, url in GOOD.items() if not name.startswith(("percent", "escaped", "space"))
    )
    for other in ("", "data:image/png;base64,", data_url(b"GIF89a" + PNG)["image_url"], "https://a.b/c.png"):
        assert not schema.is_valid(other)
