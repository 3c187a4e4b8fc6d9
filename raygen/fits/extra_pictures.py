"""The pictures that a fit adds to the training set: candidates, or a control made from the same sources.

No Ray here: loader processes import this.
"""

# M extra pictures, H height, W width, S side of the square picture

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.algorithms.decoding import Loading
from raygen.algorithms.pictures import Pictures, find_pictures, open_pictures
from raygen.algorithms.training_set import ExtraPictures
from raygen.config import fingerprint
from raygen.datasets.row_pictures import RowPictures
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError, RowError, or_row_error
from raygen.images import decode_image, decode_mask
from raygen.schema import ROLE
from raygen.storage.parquet_bytes import ParquetBytes
from raygen.storage.progress import Say, quiet
from raygen.synthesis.controls import ControlKind, control_label, control_picture, draw_colour, object_colours

# Training objects whose colours `control_flat` draws from, per class.
COLOUR_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class ExtraRows:
    """Pictures to add to the training set.

    Attributes:
        kind: "generated", or a control's kind.
        keys: Keys of the candidates, sorted.
        candidates: Their folder.
        digest: Digest of what that folder holds.
    """

    kind: Literal["generated"] | ControlKind
    keys: tuple[str, ...]
    candidates: str
    digest: str


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


class GeneratedPictures:
    """What the inpainter made of candidates."""

    label = "generated"

    def __init__(self, rows: CandidateRows) -> None:
        self._keys = pa.array(rows.keys, pa.string())
        self.columns = (rows.column("generated_png"),)
        self.key = {"candidates": rows.digest, "kind": self.label, "keys": fingerprint(rows.keys)}

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, row: int) -> str:
        """The candidate's key."""
        return str(self._keys[row].as_py())

    def prepare(self) -> None:
        """Nothing more is needed."""

    def chunks(self) -> list[np.ndarray]:
        """Those of a part together."""
        return self.columns[0].runs()

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray | RowError]:
        """Each picture, (H, W, 3) uint8, or why there is none: the candidate failed."""
        yield from (or_row_error(decode_image, data or b"") for data in self.columns[0].read(rows))


class ControlPictures:
    """What stands for each generated picture in a control, made from the same source."""

    def __init__(self, kind: ControlKind, rows: CandidateRows, index: RowIndex, *, seed: int) -> None:
        self.label: str = kind
        self._kind, self._seed, self._keys = kind, seed, rows.keys
        self._target_M = rows.table["target_label"].to_numpy()
        self._counterfactual_M = _counterfactual(kind, rows.table)
        self._sources = RowPictures(index, rows.table["image_id"].to_pylist(), label=kind)
        self._repaint = rows.column("repaint_png")
        self.columns = (*self._sources.columns, self._repaint)
        kept = {"candidates": rows.digest, "kind": kind, "keys": fingerprint(rows.keys), "seed": seed}
        self.key = {**kept, "sources": self._sources.key}
        self._index: RowIndex | None = index
        self._colour_M3: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def __getstate__(self) -> dict[str, Any]:
        """Without the index, which is large and of use only to `prepare`."""
        return {**self.__dict__, "_index": None}

    def name(self, row: int) -> str:
        """The candidate's key."""
        return self._keys[row]

    def prepare(self) -> None:
        """Draws the colours, which takes pictures of every class."""
        if self._kind == "flat" and self._colour_M3 is None:
            assert self._index is not None
            colours = flat_colours(self._index, seed=self._seed)
            # A picture that is to show anything but its class gets a colour of another class's objects.
            others = {
                label: np.concatenate([colours[other] for other in colours if other != label]) for label in colours
            }
            chosen = zip(self._keys, self._target_M.tolist(), self._counterfactual_M.tolist(), strict=True)
            drawn = [
                draw_colour((others if is_not_label else colours)[target], run_seed=self._seed, key=key)
                for key, target, is_not_label in chosen
            ]
            self._colour_M3 = np.array(drawn, dtype=np.uint8).reshape(-1, 3)

    def chunks(self) -> list[np.ndarray]:
        """Those of a part together."""
        return self._repaint.runs()

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray | RowError]:
        """Each picture, (H, W, 3) uint8, or why there is none."""
        for row, source, repaint in zip(rows, self._sources.data(rows), self._repaint.read(rows), strict=True):
            yield or_row_error(self._picture, row, source, repaint or b"")

    def _picture(self, row: int, source: bytes, repaint: bytes) -> np.ndarray:
        colour = None if self._colour_M3 is None else self._colour_M3[row]
        return control_picture(self._kind, decode_image(source), decode_mask(repaint), colour=colour)


def extra_pictures(
    extra: ExtraRows,
    index: RowIndex,
    *,
    seed: int,
    size_px: int,
    loading: Loading | None = None,
    say: Say = quiet,
    warn: Say = quiet,
) -> ExtraPictures:
    """The pictures of candidates, or of a control made from the same sources, in order of key.

    Each has its source's attribute, whichever the synthesis: DBB keeps the background, SCGS the region that misled
    the classifier, its img2img baseline the large forms. That is what the attribute is about, and it is still there.

    Args:
        extra: Which.
        index: The dataset.
        seed: Draws a control's colours.
        size_px: S.
        loading: Where they are kept; None: in memory.
        say: Called with how far decoding is, about once a second.
        warn: Called with a line where there is no room for a store.

    Raises:
        DataError: A picture cannot be decoded.
        RaygenError: See `open_pictures`.
    """
    every = candidate_rows(Path(extra.candidates), extra.digest)
    wanted = {*extra.keys}
    row_M = np.flatnonzero([key in wanted for key in every.keys])
    rows = every.take(row_M)
    pictures: Pictures | None = None
    source: GeneratedPictures | ControlPictures
    if extra.kind == "generated":
        # A sweep has stored all candidates for its trials; its refits take theirs from there.
        source = GeneratedPictures(every)
        pictures = find_pictures(source, size_px=size_px, loading=loading)
    if pictures is None:
        row_M = np.arange(len(row_M))
        if extra.kind == "generated":
            source = GeneratedPictures(rows)
        else:
            source = ControlPictures(extra.kind, rows, index, seed=seed)
        pictures = open_pictures(source, size_px=size_px, loading=loading, say=say, warn=warn)
    for row in row_M.tolist():
        if row in pictures.failed:
            raise DataError(f"the {extra.kind} picture {source.name(row)} cannot be read: {pictures.failed[row]}")
    return ExtraPictures(
        pictures,
        row_M,
        _labels(extra.kind, rows.table),
        attributes(index, rows.table["image_id"]),
        _counterfactual(extra.kind, rows.table),
    )


def attributes(index: RowIndex, image_ids: pa.ChunkedArray) -> np.ndarray:
    """Attributes of a dataset's images, (M,) int64; -1 where one has none.

    Raises:
        DataError: An id that the dataset does not have.
    """
    index.locate(image_ids.to_pylist())
    rows = pc.index_in(image_ids, value_set=index.table["image_id"].combine_chunks())
    return np.asarray(pc.fill_null(index.table["attribute"].take(rows), -1).to_numpy(), dtype=np.int64)


def _labels(kind: Literal["generated"] | ControlKind, table: pa.Table) -> np.ndarray:
    if kind == "generated":
        return np.asarray(table["target_label"].to_numpy(), dtype=np.int64)
    pairs = zip(table["source_label"].to_pylist(), table["target_label"].to_pylist(), strict=True)
    return np.array([control_label(kind, source_label=a, target_label=b) for a, b in pairs], dtype=np.int64)


def _counterfactual(kind: Literal["generated"] | ControlKind, table: pa.Table) -> np.ndarray:
    """Whose label is what they do not show, (M,) bool; a plain copy shows it."""
    if kind == "duplicate" or ROLE.name not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    return np.asarray(pc.equal(table[ROLE.name], "counterfactual").to_numpy(), dtype=bool)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def flat_colours(index: RowIndex, *, seed: int) -> dict[int, np.ndarray]:
    """Mean colours of the training objects of each class, (M, 3) uint8, from at most COLOUR_SAMPLES of them.

    Where the dataset ships no object masks, or none of a class that can be used, the whole picture stands for the
    object. Pictures and masks that cannot be read, or do not fit each other, are left out.
    """
    train = index.split("train")
    colours: dict[int, np.ndarray] = {}
    for label in range(index.num_classes):
        ids = np.array(train.filter(pc.equal(train["label"], label))["image_id"].to_pylist())
        chosen = np.sort(np.random.default_rng([seed, label]).permutation(ids)[:COLOUR_SAMPLES])
        pairs = _objects(index, chosen.tolist(), ["image_png", "object_png"])
        first = next(pairs, None)
        pairs = _objects(index, chosen.tolist(), ["image_png"]) if first is None else chain([first], pairs)
        colours[label] = object_colours(pairs)
    return colours


def _objects(index: RowIndex, image_ids: list[str], columns: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures and their objects' masks, one at a time: decoded, those of all would not fit in memory.

    Without the column of masks, and for a picture that has none, the object is the whole picture.
    """
    for table in index.each(image_ids, columns):
        for row in table.to_pylist():
            try:
                image_HWC = decode_image(row["image_png"] or b"")
                whole_HW = np.ones(image_HWC.shape[:2], dtype=bool)
                object_HW = decode_mask(row["object_png"]) if row.get("object_png") else whole_HW
            except RowError:
                continue  # a failed row in scores/ already, or of the masker if it needs the mask
            if object_HW.shape == whole_HW.shape and object_HW.any():
                yield image_HWC, object_HW
