"""The files of one pass: one Parquet part a unit, each wholly there or not at all."""

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.errors import DataError, RunFolderError, StageError, TooManyFailedRowsError, unreadable
from raygen.schema import ARRAY_BYTES, CANDIDATE, cast
from raygen.storage.writing import TEMPORARY_SUFFIX, atomic, disk_errors

# Below a pass's folder, while it runs: what its workers tell each other. Gone when it is done.
WORK_FOLDER = ".work"
# How long a part that another machine has written may stay unseen: NFS keeps listings for up to a minute.
PATIENCE_S = 90.0
# Threads that read parts: the disk may be a file server, which answers many at once.
READERS = 8
# Columns of a candidate that are small: all but the two pictures, which are most of the bytes.
CANDIDATE_SCORES = tuple(name for name in CANDIDATE.names if not name.endswith("_png"))


def read_parts(folder: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """All parts of a finished pass, in order of unit; see `each_part`."""
    files = _part_files(folder)
    with ThreadPoolExecutor(READERS) as pool:
        return pa.concat_tables(pool.map(lambda path: _read_part(path, columns, use_threads=False), files))


def each_part(folder: Path, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The parts of a finished pass one after the other, in order of unit: pictures of all would not fit in memory.

    Raises:
        DataError: No part at all.
    """
    for path in _part_files(folder):
        yield _read_part(path, columns)


def _part_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("part-*.parquet"))
    if not files:
        raise DataError(f"{folder} holds no part-*.parquet")
    return files


def _read_part(path: Path, columns: Sequence[str] | None, *, use_threads: bool = True) -> pa.Table:
    # Not read_table, which takes about twice as long for a small file.
    with pq.ParquetFile(path) as file:
        if columns is None:
            return file.read(use_threads=use_threads)
        return file.read(columns=list(columns), use_threads=use_threads).select(list(columns))


def failure_reasons(folder: Path) -> Counter[str]:
    """How many rows of a pass failed, by reason."""
    table = read_parts(folder, columns=["status", "error"])
    return Counter(table.filter(pc.equal(table["status"], "failed"))["error"].to_pylist())


@dataclass(frozen=True, slots=True)
class Parts:
    """Where a pass's parts go.

    Attributes:
        folder: Existing folder.
        schema: Columns of a part.
        fingerprint: What the parts depend on, kept in each file; a part with another one is refused.
        num_rows: Rows of the whole pass.
        max_failed_fraction: More failed rows than this share of `num_rows` stop the pass.
        array_bytes: Most that one array of a part holds; see `raygen.schema.cast`.
    """

    folder: Path
    schema: pa.Schema
    fingerprint: str
    num_rows: int
    max_failed_fraction: float
    array_bytes: int = ARRAY_BYTES

    @property
    def attempts_folder(self) -> Path:
        """Where workers note what they are about to do; see `raygen.storage.attempts`."""
        return self.folder / WORK_FOLDER / "attempts"

    def write(self, table: pa.Table) -> None:
        """Writes one unit, without its padding.

        Raises:
            TooManyFailedRowsError: With this unit too many rows have failed; the part is written.
            ResourceError: The disk is full.
        """
        number = table["unit"][0].as_py()
        # Padding comes last. A slice, not a filter, which would copy every picture.
        table = table.slice(0, pc.sum(pc.not_equal(table["status"], "padding")).as_py())
        num_failed = pc.sum(pc.equal(table["status"], "failed")).as_py() or 0
        path = self._path(number)
        metadata = {"fingerprint": self.fingerprint, "num_failed": str(num_failed)}
        if "unet_rows" in table.column_names:  # may be fewer than the config's: inpainter.on_out_of_memory
            metadata["unet_rows"] = str(table["unet_rows"][0].as_py())
        result = cast(table, self.schema, what=path.name, array_bytes=self.array_bytes)
        result = result.replace_schema_metadata(metadata)
        # Pictures are compressed already, and as they are, a fit can read a single one of them.
        codecs = {name: "none" if name.endswith("_png") else "zstd" for name in self.schema.names}
        with atomic(path) as temporary:
            pq.write_table(result, temporary, compression=codecs, use_dictionary=False)
        if num_failed:
            self._note_failures(number, num_failed)
            if self._failures_noted() > self.max_failed_fraction * self.num_rows:
                paths = [*self.folder.glob("part-*.parquet")]
                self._check(sum(num_failed for _, num_failed in self._all_counts(paths)))

    def num_written(self) -> int:
        """How many parts are there; whose they are is not looked at."""
        return sum(1 for _ in self.folder.glob("part-*.parquet"))

    def open(self) -> set[int]:
        """Numbers of the units whose part is there; what a killed writer left is removed.

        Raises:
            RunFolderError: A part was made by another pass.
        """
        self._remove_leftovers()
        shutil.rmtree(self.folder / WORK_FOLDER, ignore_errors=True)
        paths = sorted(self.folder.glob("part-*.parquet"))
        numbers = [int(path.stem.removeprefix("part-")) for path in paths]
        for number, (_, num_failed) in zip(numbers, self._all_counts(paths), strict=True):
            if num_failed:
                self._note_failures(number, num_failed)
        return {*numbers}

    def close(self, units: Iterable[int], *, patience_s: float = PATIENCE_S) -> Counter[str]:
        """Rows by status, once all parts are there.

        Args:
            units: Numbers of all units of the pass.
            patience_s: How long to wait for a part that is not seen yet.

        Raises:
            StageError: A part is not there, or they hold another number of rows than the pass.
            RunFolderError: A part was made by another pass.
            TooManyFailedRowsError: More than `max_failed_fraction` of the pass's rows failed.
        """
        shutil.rmtree(self.folder / WORK_FOLDER, ignore_errors=True)
        self._remove_leftovers()
        deadline = time.monotonic() + patience_s
        paths = [self._path(number) for number in units]
        for path in paths:  # by name, which a file server looks up anew, not from a listing that may be old
            while not path.is_file():
                if time.monotonic() > deadline:
                    raise StageError(f"{path} was written and is not there; run the same command again")
                time.sleep(0.2)
        counts = self._all_counts(paths)
        num_rows, num_failed = (sum(column) for column in zip(*counts, strict=True))
        if num_rows != self.num_rows:
            raise StageError(f"the parts in {self.folder} hold {num_rows} rows, the pass has {self.num_rows}")
        self._check(num_failed)
        return Counter(ok=num_rows - num_failed, failed=num_failed)

    def _check(self, num_failed: int) -> None:
        if num_failed <= self.max_failed_fraction * self.num_rows:
            return
        reasons = failure_reasons(self.folder)
        raise TooManyFailedRowsError(
            f"{num_failed} of {self.num_rows} rows failed; max_failed_fraction is {self.max_failed_fraction}. What is "
            "there stays: mend the input, or go on with --set max_failed_fraction=… above that share. Commonest "
            "reasons:\n" + "\n".join(f"  {n} x {reason}" for reason, n in reasons.most_common(5))
        )

    def _path(self, unit: int) -> Path:
        return self.folder / f"part-{unit:06d}.parquet"

    def _all_counts(self, paths: Sequence[Path]) -> list[tuple[int, int]]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self._counts, paths))

    def _counts(self, path: Path) -> tuple[int, int]:
        """Rows and failed rows of a part, which must be this pass's."""
        try:
            metadata = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise RunFolderError(unreadable(path, error, "Delete it and run again.")) from error
        own = metadata.metadata or {}
        found = own.get(b"fingerprint", b"").decode()
        if found != self.fingerprint:
            raise RunFolderError(
                f"{path} was made with other settings (fingerprint {found or 'none'}, now {self.fingerprint}). "
                f"Delete {self.folder} to make it again, or use another --out."
            )
        return metadata.num_rows, int(own[b"num_failed"])

    def _remove_leftovers(self) -> None:
        for leftover in self.folder.glob(f".part-*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)  # a writer that outlived its driver may just have renamed it

    def _note_failures(self, unit: int, num_failed: int) -> None:
        """Notes a unit's failed rows for the writers beside this one.

        Empty files whose names hold the numbers: a writer lists one folder instead of reading every part.
        """
        folder = self.folder / WORK_FOLDER / "failed"
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{unit:06d}-{num_failed}").touch()

    def _failures_noted(self) -> int:
        return sum(int(path.name.partition("-")[2]) for path in (self.folder / WORK_FOLDER / "failed").iterdir())
