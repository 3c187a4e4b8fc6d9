"""The run folder: config, steps with manifests, log.

A step's folder is complete when its `manifest.json` is there, and only then; the manifest is written last, by
temporary name and rename. It holds the counts, the files with their sizes, and what the step depends on: the config
fields that matter to it, the format version and the fingerprints of the steps above it. Running again skips a step
whose dependencies are equal.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raygen.config import differing_fields, fingerprint
from raygen.errors import RunFolderError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


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
            RunFolderError: The manifest is damaged, of a newer format, or its files are gone or of another size.
        """
        manifest = read_manifest(self.folder)
        if manifest is None or manifest["fingerprint"] != self.fingerprint:
            return False
        for name, size in manifest["files"].items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                state = "is gone" if found is None else f"has {found} bytes"
                raise RunFolderError(
                    f"{path} {state}, but {self.folder / MANIFEST} says {size} bytes. "
                    f"Delete {self.folder} to make it again, or put the file back."
                )
        return True

    def begin(self, *, keep_parts: bool = False) -> Path:
        """The step's folder, emptied unless its parts are to be resumed."""
        if not keep_parts and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        return self.folder

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Writes the manifest: from now on the step is complete."""
        files = {
            path.relative_to(self.folder).as_posix(): path.stat().st_size
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        manifest = {
            "fingerprint": self.fingerprint,
            "depends": self.depends,
            "counts": dict(counts),
            "files": files,
        }
        write_json(self.folder / MANIFEST, manifest)


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
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is damaged ({error}). Delete {folder} to make it again.") from error
    if damaged:
        raise RunFolderError(f"{path} is damaged (wrong kinds of values). Delete {folder} to make it again.")
    if version > FORMAT_VERSION:
        raise RunFolderError(
            f"{path} has format {version}; this raygen reads up to {FORMAT_VERSION}. Use a newer raygen."
        )
    return manifest


class RunFolder:
    """One run's folder.

    Args:
        path: The folder; made when absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, config: Mapping[str, Any], *, identity: Mapping[str, Any], fresh: bool) -> None:
        """Takes the folder for a config and writes `config.yaml`.

        Args:
            config: The resolved config, plain data.
            identity: The part of the config that decides results (without actors, engine and the like).
            fresh: Whether to delete what an earlier run left.

        Raises:
            RunFolderError: The folder belongs to another config, or holds files that raygen did not write.
        """
        import yaml

        identity = json.loads(json.dumps(identity))
        marker = self.path / ".raygen.json"
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; give a folder for --out")
        if marker.is_file():
            lines = [] if fresh else differing_fields(_read_marker(marker), identity)
            if fresh:
                shutil.rmtree(self.path)
            elif lines:
                raise RunFolderError(
                    f"{self.path} belongs to a run with another config:\n"
                    + "\n".join(f"  {line}" for line in lines)
                    + "\nGive another --out, or --fresh to delete what is there and start over."
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise RunFolderError(f"{self.path} is not empty and not a raygen run; give another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(marker, identity)
        text = yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True)
        write_text(self.path / "config.yaml", text)

    def step(self, name: str, depends: Mapping[str, Any]) -> Step:
        """The step of that name (a path below the run's folder, such as "fit/dbb")."""
        return Step(self.path / name, depends)

    def log(self, event: str, **fields: Any) -> None:
        """Adds a line to `log.jsonl`."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Logs a step's seconds; a step that is skipped logs nothing, so that earlier times stay true."""
        start = time.monotonic()
        yield
        self.log("step", step=step, seconds=round(time.monotonic() - start, 3))

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
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged ({error}); use --fresh to start over, or another --out") from error
    if not isinstance(marker, dict):
        raise RunFolderError(f"{path} is damaged (not a mapping); use --fresh to start over, or another --out")
    return marker


def write_json(path: Path, value: Any) -> None:
    """Writes JSON by temporary name and rename."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text by temporary name and rename, so that a reader sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
