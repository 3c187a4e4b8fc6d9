"""Rows of a finished pass of candidates, and where their pictures are. No Ray here: loader processes import this."""

# M candidates

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.schema import ROLE
from raygen.storage.parquet_bytes import ParquetBytes


@dataclass(frozen=True)
class CandidateRows:
    """Rows of a finished pass of candidates, without pictures, and where each is.

    Attributes:
        folder: The pass's folder.
        digest: Digest of what it holds.
        table: key, image_id, source_label and target_label, and role where the synthesis has it, (M,) rows in order of
            key.
        place_M3: File, row group and row in it of each, (M, 3) int.
    """

    folder: Path
    digest: str
    table: pa.Table
    place_M3: np.ndarray

    def take(self, row_M: np.ndarray) -> "CandidateRows":
        """Some of them."""
        return replace(self, table=self.table.take(pa.array(row_M)), place_M3=self.place_M3[row_M])

    @property
    def keys(self) -> list[str]:
        """The keys, in order."""
        return list(self.table["key"].to_pylist())

    def column(self, name: str) -> ParquetBytes:
        """A binary column of them."""
        return ParquetBytes(name, [str(path) for path in _parts(self.folder)], *self.place_M3.T)


def candidate_rows(folder: Path, digest: str) -> CandidateRows:
    """All rows of a finished pass."""
    tables, places = [], []
    for number, path in enumerate(_parts(folder)):  # a plan, and so its parts, is in order of key
        file = pq.ParquetFile(path)
        names = ["key", "image_id", "source_label", "target_label"]
        tables.append(file.read(columns=[*names, *([ROLE.name] if ROLE.name in file.schema_arrow.names else [])]))
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        places += [(number, group, row) for group, size in enumerate(sizes) for row in range(size)]
    return CandidateRows(folder, digest, pa.concat_tables(tables), np.array(places, dtype=np.int32).reshape(-1, 3))


def counterfactual(table: pa.Table) -> np.ndarray:
    """Whose label is what they do not show, (M,) bool."""
    if ROLE.name not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    return np.array(pc.equal(table[ROLE.name], "counterfactual").to_numpy(), dtype=bool)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))
