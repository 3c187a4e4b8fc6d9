"""The run folder: config, steps with manifests, log.

A step's folder is complete when its `manifest.json` is there, and only then; the manifest is written last, by
temporary name and rename. It holds the counts, the files with their sizes and digests, the versions of the libraries
that made them, and what the step depends on: the config fields that matter to it, the format version and the digests
of the steps above it. Running again skips a step whose dependencies are equal.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raygen.config import differing_fields, dump_yaml, fingerprint
from raygen.errors import RunFolderError, unreadable
from raygen.storage.run_lock import HOLDER_FILE, LOCK_FILE, run_lock
from raygen.storage.versions import versions
from raygen.storage.writing import disk_errors, remove, write_json, write_text

# 2: files in manifests have digests, and steps depend on the digests of those above them.
# 3: candidates have `object_iou`.
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
MARKER = ".raygen.json"
# In an unfinished step's folder: its fingerprint.
BEGUN = ".begun"


class Step:
    """One step of a run and its folder.

    Args:
        folder: The step's folder; made when the step begins.
        depends: Plain data that decides the step's output.
    """

    def __init__(self, folder: Path, depends: Mapping[str, Any]) -> None:
        self.folder = folder
        self.depends: dict[str, Any] = json.loads(json.dumps({"format_version": FORMAT_VERSION, **depends}))
        self.fingerprint = fingerprint(self.depends)

    @property
    def is_complete(self) -> bool:
        """Whether the folder holds the finished output of exactly these dependencies.

        Raises:
            RunFolderError: The manifest is damaged, of a newer format, or does not match the files.
        """
        manifest = read_manifest(self.folder)
        if manifest is None or manifest["fingerprint"] != self.fingerprint:
            return False
        check_files(self.folder, manifest)
        return True

    @property
    def digest(self) -> str:
        """Digest of the finished output, for the steps that depend on it."""
        manifest = read_manifest(self.folder)
        assert manifest is not None, f"{self.folder} is not finished"
        return output_digest(manifest)

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds unfinished work on exactly these dependencies."""
        path = self.folder / BEGUN
        return path.is_file() and path.read_text(encoding="utf-8") == self.fingerprint

    def begin(self, *, keep_parts: bool = False) -> Path:
        """The step's folder, emptied unless its parts are to be resumed."""
        with disk_errors(self.folder):
            if not keep_parts:
                remove(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MANIFEST).unlink(missing_ok=True)
        write_text(self.folder / BEGUN, self.fingerprint)
        return self.folder

    def take_over(self, donor: "Step") -> None:
        """Makes the finished output of another run's step this one's: by hard links, where the disk is the same.

        Finished files are never written to again, only replaced, so that neither run can change the other.
        """
        with disk_errors(self.folder):
            remove(self.folder)
            # The manifest is the last to come, as ever: without it the step is not complete.
            shutil.copytree(
                donor.folder, self.folder, copy_function=_link_or_copy, ignore=shutil.ignore_patterns(MANIFEST)
            )
            _link_or_copy(donor.folder / MANIFEST, self.folder / MANIFEST)

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Writes the manifest: from now on the step is complete."""
        # Hidden files are notes and what killed writers left: never output.
        names = sorted(
            path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file() and path.name != MANIFEST
        )
        names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        with ThreadPoolExecutor() as pool:  # reading and hashing both leave Python's lock
            digests = pool.map(file_digest, [self.folder / name for name in names])
            files = {
                name.as_posix(): {"bytes": (self.folder / name).stat().st_size, "digest": digest}
                for name, digest in zip(names, digests, strict=True)
            }
        manifest = {
            "fingerprint": self.fingerprint,
            "depends": self.depends,
            "counts": dict(counts),
            "versions": versions(),
            "files": files,
        }
        write_json(self.folder / MANIFEST, manifest)
        (self.folder / BEGUN).unlink(missing_ok=True)


def _link_or_copy(source: str | Path, target: str | Path) -> str | Path:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target)
    return target


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A step's manifest, or None when the step is not complete.

    Raises:
        RunFolderError: The file is damaged or of a newer format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(manifest["depends"]["format_version"])
        damaged = not isinstance(manifest["fingerprint"], str) or not isinstance(manifest["files"], dict)
    except (ValueError, KeyError, TypeError, PermissionError) as error:
        raise RunFolderError(unreadable(path, error, f"Delete {folder} to make it again.")) from error
    if damaged:
        raise RunFolderError(f"{path} is damaged (wrong kinds of values). Delete {folder} to make it again.")
    _check_format(version, path)
    return manifest


def output_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of what a step's manifest lists."""
    return fingerprint({name: entry["digest"] for name, entry in manifest["files"].items()})


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks a finished step's files against its manifest.

    A file is read again only if it is newer than the manifest: what was written before it, the manifest covers.

    Raises:
        RunFolderError: A file is gone, was changed, or is a table that the manifest does not list.
    """
    way_out = f"Delete {folder} to make it again, or put the file back as it was."
    written_ns = (folder / MANIFEST).stat().st_mtime_ns
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise RunFolderError(f"{path} is gone, but {folder / MANIFEST} lists it. {way_out}")
        status = path.stat()
        if status.st_size != entry["bytes"]:
            raise RunFolderError(
                f"{path} has {status.st_size} bytes, but {folder / MANIFEST} says {entry['bytes']}. {way_out}"
            )
        if status.st_mtime_ns > written_ns and file_digest(path) != entry["digest"]:
            raise RunFolderError(f"{path} was changed after {folder / MANIFEST} was written. {way_out}")
    for path in folder.glob("*.parquet"):
        if path.name not in manifest["files"]:
            raise RunFolderError(f"{path} is not in {folder / MANIFEST}: it came from elsewhere. Take it away.")


def file_digest(path: Path) -> str:
    """Digest of a file's bytes, 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _check_format(version: int, path: Path) -> None:
    if version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        way_out = "use a newer raygen" if newer else "use the older raygen, or --fresh to start over"
        raise RunFolderError(
            f"{path} has format {version}; this raygen reads format {FORMAT_VERSION}: {way_out}, or give another --out."
        )


class RunFolder:
    """One run's folder.

    Args:
        path: The folder; made when absent.
        reuse: Folders of other runs: a step that one of them has finished from the same config and inputs is taken from
            there.

    Raises:
        RunFolderError: One of `reuse` holds no run.
    """

    def __init__(self, path: Path, reuse: Sequence[Path] = ()) -> None:
        self.path = path
        self._reuse = tuple(reuse)
        for other in self._reuse:
            if not (other / MARKER).is_file():
                raise RunFolderError(f"{other} holds no run to take finished steps from")

    @contextlib.contextmanager
    def claimed(
        self, config: Mapping[str, Any], *, identity: Mapping[str, Any], fresh: bool
    ) -> Iterator[dict[str, tuple[str | None, str | None]]]:
        """Holds the folder for a config and writes `config.yaml`.

        Args:
            config: The resolved config, plain data.
            identity: The part of the config that decides results (without actors, engine and the like).
            fresh: Whether to delete what an earlier run left.

        Yields:
            Libraries whose version is not the one that the folder was begun with: (then, now).

        Raises:
            RunFolderError: Another run holds the folder, it belongs to another config, it holds files that raygen did
                not write, or it cannot be written to.
        """
        with disk_errors(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise RunFolderError(f"{self.path} is a file; give a folder for --out")
            if self.path.is_dir() and not (self.path / MARKER).is_file() and self._others():
                raise RunFolderError(f"{self.path} is not empty and not a raygen run; give another --out")
            self.path.mkdir(parents=True, exist_ok=True)
        with run_lock(self.path):
            yield self._take(config, json.loads(json.dumps(identity)), fresh=fresh)

    def _take(
        self, config: Mapping[str, Any], identity: Mapping[str, Any], *, fresh: bool
    ) -> dict[str, tuple[str | None, str | None]]:
        marker = self.path / MARKER
        begun = now = versions()
        if fresh:
            with disk_errors(self.path):
                for path in self._others():
                    if path != marker:  # so that a folder stays raygen's if this is interrupted
                        remove(path)
        elif marker.is_file():
            found = _read_marker(marker)
            if lines := differing_fields(found["identity"], identity):
                raise RunFolderError(
                    f"{self.path} belongs to a run with another config:\n"
                    + "\n".join(f"  {line}" for line in lines)
                    + "\nGive another --out, or --fresh to delete what is there and start over. Fields that you did "
                    f"not set may have had another default when it was begun: to go on so, run {self.path}/config.yaml."
                )
            begun = found["versions"]
        write_json(marker, {"format_version": FORMAT_VERSION, "identity": identity, "versions": begun})
        write_text(self.path / "config.yaml", dump_yaml(json.loads(json.dumps(config))))
        return {name: (begun.get(name), value) for name, value in now.items() if begun.get(name) != value}

    def _others(self) -> list[Path]:
        """What is in the folder beside the lock."""
        return [path for path in self.path.iterdir() if path.name not in {LOCK_FILE, HOLDER_FILE}]

    def step(self, name: str, depends: Mapping[str, Any]) -> Step:
        """The step of that name (a path below the run's folder, such as "fit/dbb")."""
        step = Step(self.path / name, depends)
        for other in self._reuse:
            if step.is_complete:
                break
            donor = Step(other / name, depends)
            if donor.is_complete:
                step.take_over(donor)
                self.log("reuse", step=name, run=str(other))
        return step

    def log(self, event: str, **fields: Any) -> None:
        """Adds a line to `log.jsonl`."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False)
        path = self.path / "log.jsonl"
        with disk_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @contextlib.contextmanager
    def timed(self, step: str, **fields: Any) -> Iterator[None]:
        """Logs a step's seconds, and `fields`; a step that is skipped logs nothing, so that earlier times stay true."""
        start = time.monotonic()
        yield
        self.log("step", step=step, seconds=round(time.monotonic() - start, 3), **fields)

    def events(self) -> list[dict[str, Any]]:
        """Lines of `log.jsonl`, oldest first; a line that a crash cut off is left out."""
        path = self.path / "log.jsonl"
        if not path.is_file():
            return []
        events = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    events.append(event)
        return events

    def seconds(self) -> dict[str, float]:
        """Seconds per step, the newest of each, from the log."""
        return {event["step"]: event["seconds"] for event in self.events() if event["event"] == "step"}


def _read_marker(path: Path) -> dict[str, Any]:
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, PermissionError) as error:
        raise RunFolderError(unreadable(path, error, "Use --fresh to start over, or another --out.")) from error
    version = marker.get("format_version", 1) if isinstance(marker, dict) else None
    if not isinstance(version, int):
        raise RunFolderError(f"{path} is damaged (not a mapping); use --fresh to start over, or another --out")
    _check_format(version, path)
    if not isinstance(marker.get("identity"), dict) or not isinstance(marker.get("versions"), dict):
        raise RunFolderError(f"{path} is damaged (fields missing); use --fresh to start over, or another --out")
    return dict(marker)
