"""One run at a time in a run folder.

The lock is the operating system's: it goes with the process that holds it, however that ends, and where several
machines share a disk it holds between them if the disk's file system has locks (NFS 4, Lustre with -o flock, EFS do).
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from raygen.errors import RunFolderError
from raygen.storage.writing import disk_errors, write_json

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock.json"
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds a run folder.

    Raises:
        RunFolderError: Another process holds it; the message names its host, process and since when.
    """
    # No soft lock where there is none of the system's: that would outlive its process.
    lock = FileLock(folder / LOCK_FILE, fallback_to_soft=False)
    try:
        with disk_errors(folder / LOCK_FILE):
            lock.acquire(timeout=0)
    except Timeout as error:  # an OSError too, so it comes first
        raise RunFolderError(
            f"{folder} is in use by {_holder(folder)}. Wait for it, stop it, or give another --out."
        ) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        raise RunFolderError(
            f"the file system of {folder} has no locks ({error}), so two runs could spoil each other there. Mount it "
            "with them (NFS 4; Lustre with -o flock), or give an --out elsewhere."
        ) from error
    try:
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_json(folder / HOLDER_FILE, holder)
        yield
    finally:
        (folder / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER_FILE).read_text(encoding="utf-8"))
        return f"another run: host {holder['host']}, process {holder['process']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run that has just begun"
