"""Files of a user's folder as the disk has them: their names, kinds and bytes. No picture is decoded here."""

import errno
import os
import stat
import unicodedata
from pathlib import Path

from PIL import Image

from raygen.images import FORMATS

# A picture of the most pixels that are read is 512 MB at 16 bits a channel; what is larger is no picture of these.
MAX_FILE_BYTES = 1 << 30
# Not pictures and not classes, whatever they hold: what systems and tools leave in folders of pictures. Names with a
# dot (.ipynb_checkpoints, .git, .DS_Store, AppleDouble's ._img.png) or @ (a NAS's @eaDir) in front are others' too.
SYSTEM_NAMES = {
    "__macosx",  # zip files that macOS made
    "__pycache__",
    "$recycle.bin",  # Windows
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "lost+found",  # ext4's root
    "#recycle",  # a NAS's
    "#snapshot",
}
_KINDS = {
    stat.S_IFDIR: "is a folder, not a file",
    stat.S_IFIFO: "is a named pipe, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
}


def _image_suffixes() -> frozenset[str]:
    # MPO is what phones call a JPEG with a second picture behind it, and is read as JPEG.
    formats = {*FORMATS, "MPO"}
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


# All that Pillow writes or reads in the formats that `raygen.images` decodes: .jpg, .jfif, .ppm and so on.
IMAGE_SUFFIXES = _image_suffixes()


def is_left_behind(name: str) -> bool:
    """Whether a name is a system's or a tool's, or hidden: never a class and never a picture."""
    return name.startswith((".", "@")) or name.casefold() in SYSTEM_NAMES


def printable(text: str | os.PathLike[str]) -> str:
    r"""Text on one line that any UTF-8 output takes: bytes that are not UTF-8 as \xfc, line breaks and such as \n."""
    return "".join(
        _escaped(letter) if unicodedata.category(letter) in {"Cc", "Cs"} else letter for letter in os.fspath(text)
    )


def is_text(name: str | os.PathLike[str]) -> bool:
    """Whether a name is text: Parquet, YAML and JSON cannot hold names that are not UTF-8."""
    try:
        os.fspath(name).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def not_text(path: str | os.PathLike[str]) -> str:
    """What to say of a name that `is_text` denies."""
    return (
        f"{printable(path)}: the name is not UTF-8, as names in old archives are not; rename it, such as with "
        "`convmv -f latin1 -t utf8 -r --notest FOLDER`"
    )


def why_no_file(path: Path) -> str | None:
    """What is there in place of a regular file, links followed, such as "does not exist"; None where one is there."""
    mode = _mode(path, "file")
    if isinstance(mode, str):
        return mode
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "is not a file")


def why_no_folder(path: Path) -> str | None:
    """What is there in place of a folder, links followed; None where one is there."""
    mode = _mode(path, "folder")
    if isinstance(mode, str):
        return mode
    if stat.S_ISDIR(mode):
        return None
    return "is a file" if stat.S_ISREG(mode) else _KINDS[stat.S_IFMT(mode)].replace("not a file", "not a folder")


def _mode(path: Path, wanted: str) -> int | str:
    """What kind of thing is there, as `stat` says it, or why nothing can be."""
    try:
        return path.stat().st_mode
    except ValueError:
        return f"cannot be a {wanted}: the name holds a null character"
    except OSError as error:
        return _no_way(path, error)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Bytes of a regular file; never waits for the other end of a pipe.

    Raises:
        OSError: It is gone, is no regular file, has more than MAX_FILE_BYTES, or cannot be read.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
        return file.read()


def state(path: Path) -> tuple[int, int] | None:
    """Size and time of change in ns; None if the file is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _no_way(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a link that leads in a circle"
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        link = path.is_symlink()
        return f"is a link to {printable(os.readlink(path))}, which does not exist" if link else "does not exist"
    return f"cannot be reached: {error.strerror}"


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python keeps a byte of a name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
