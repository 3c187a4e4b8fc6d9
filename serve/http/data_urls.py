"""Data URLs (RFC 2397) in base64: the pictures of the JSON form. Nothing is ever fetched.

Read as browsers and mail programs write them: any case of `data:` and `;base64`, any parameters before it, percent
escapes, lines of any length (MIME's have 76 columns), no padding. Base64's other alphabet (RFC 4648, section 5) is
another encoding, and a space inside a line is most often a "+" that some form took for one: both would decode to
another picture or to none, so both are refused.
"""

import base64
import re
from urllib.parse import unquote

from serve.http.limits import MAX_FILE_BYTES

# What the schema says of it; the first characters are those of PNG, JPEG and WebP files.
PATTERN = r"^[dD][aA][tT][aA]:[^,]*;\s*[bB][aA][sS][eE]64,\s*(iVBORw0KGgo|/9j/|UklGR)[A-Za-z0-9+/\s]{8,}={0,2}\s*$"
# Characters of a file of the largest size, with a line break of two every 76 columns and the head.
MAX_LENGTH = MAX_FILE_BYTES * 4 // 3 * 78 // 76 + 1024

_LINE_BREAKS = re.compile(r"[\r\n]+")
_SPACES = " \t\f"
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_URL_SAFE = re.compile(r"[A-Za-z0-9_-]*={0,2}")


def bytes_of(url: str) -> bytes:
    """What a data URL holds.

    Raises:
        ValueError: It is none, or not one in base64; the message says why.
    """
    head, comma, data = url.strip().partition(",")
    scheme, _, media = head.partition(":")
    if scheme.lower() != "data" or not comma:
        raise ValueError("only data URLs in base64 are read (data:…;base64,…); nothing is fetched")
    parameters = [part.strip().lower() for part in media.split(";")[1:]]
    if parameters[-1:] != ["base64"]:
        reason = "';base64' stands right before the comma" if "base64" in parameters else "it lacks ';base64'"
        raise ValueError(f"only data URLs in base64 are read (data:…;base64,…); {reason}")
    return _decoded(unquote(data, encoding="latin-1") if "%" in data else data)


def _decoded(text: str) -> bytes:
    lines = [line.strip(_SPACES) for line in _LINE_BREAKS.split(text)]
    if any(space in line for line in lines for space in _SPACES):
        raise ValueError("the data URL is not base64: a space stands inside a line; was it a '+'?")
    encoded = "".join(lines)
    if not _BASE64.fullmatch(encoded):
        reason = "it has characters of no base64, or '=' before its end"
        if _URL_SAFE.fullmatch(encoded):
            reason = "'-' and '_' are of base64url, another encoding (RFC 4648, section 5); send plain base64"
        raise ValueError(f"the data URL is not base64: {reason}")
    digits = encoded.rstrip("=")
    if len(digits) % 4 == 1 or (len(digits) < len(encoded) and len(encoded) % 4):
        raise ValueError("the data URL is not base64: it is cut off, or its '=' are too few or too many")
    return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
