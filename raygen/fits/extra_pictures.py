"""The pictures that a fit adds to the training set: candidates, or a control made from the same sources.

No Ray here: loader processes import this.
"""

# M extra pictures, H height, W width, S side of the square picture

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.algorithms.decoding import Loading
from raygen.algorithms.pictures import Pictures, find_pictures, open_pictures
from raygen.algorithms.training_set import ExtraPictures
from raygen.classifier.framing import SQUASHING, Resizing
from raygen.config import fingerprint
from raygen.datasets.row_pictures import RowPictures
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError, RowError, or_row_error
from raygen.fits.candidate_rows import CandidateRows, candidate_rows, counterfactual
from raygen.fits.control_pictures import ControlPictures, PastePictures
from raygen.images import decode_image
from raygen.schema import ROLE
from raygen.storage.progress import Say, quiet
from raygen.synthesis.controls import ControlKind, control_label, minority_rows, shuffled_labels

ExtraKind = Literal["generated"] | ControlKind
# Whose pictures are the generated ones.
_GENERATED = ("generated", "shuffled")


@dataclass(frozen=True, slots=True)
class ExtraRows:
    """Pictures to add to the training set.

    Attributes:
        kind: "generated", or a control's kind.
        keys: Keys of the candidates, sorted.
        candidates: Their folder.
        digest: Digest of what that folder holds.
        grown_px: For "paste": how far repaint masks reach beyond the object; None: what is repainted is no object.
    """

    kind: ExtraKind
    keys: tuple[str, ...]
    candidates: str
    digest: str
    grown_px: int | None = None


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


def extra_pictures(
    extra: ExtraRows,
    index: RowIndex,
    *,
    seed: int,
    size_px: int,
    loading: Loading | None = None,
    resizing: Resizing = SQUASHING,
    say: Say = quiet,
    warn: Say = quiet,
) -> ExtraPictures:
    """The pictures of candidates, or of a control made from the same sources, in order of key.

    Each has its source's attribute, whichever the synthesis: DBB keeps the background, SCGS the region that misled
    the classifier, its img2img baseline the large forms. That is what the attribute is about, and it is still there.
    Pictures of "reweight" are training images, with attributes of their own.

    Args:
        extra: Which.
        index: The dataset.
        seed: Draws a control's colours, objects, labels and images.
        size_px: S.
        loading: Where they are kept; None: in memory.
        resizing: How they become squares.
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
    image_ids = rows.table["image_id"]
    if extra.kind == "reweight":
        image_ids = _minority_ids(rows.table, index, seed=seed)
    pictures: Pictures | None = None
    source: GeneratedPictures | ControlPictures | PastePictures | RowPictures
    if extra.kind in _GENERATED:
        # A sweep has stored all candidates for its trials; its refits take theirs from there.
        source = GeneratedPictures(every)
        pictures = find_pictures(source, size_px=size_px, loading=loading, resizing=resizing)
    if pictures is None:
        row_M = np.arange(len(row_M))
        if extra.kind in _GENERATED:
            source = GeneratedPictures(rows)
        elif extra.kind == "reweight":
            source = RowPictures(index, image_ids.to_pylist(), label=extra.kind)
        elif extra.kind == "paste":
            source = PastePictures(rows, every, index, grown_px=extra.grown_px, seed=seed)
        else:
            assert extra.kind != "generated"
            source = ControlPictures(extra.kind, rows, index, seed=seed)
        pictures = open_pictures(source, size_px=size_px, loading=loading, resizing=resizing, say=say, warn=warn)
    failed = [row for row in row_M.tolist() if row in pictures.failed]
    # A training image that cannot be read is left out of the training set too.
    if failed and (extra.kind != "reweight" or len(failed) == len(row_M)):
        name, reason = source.name(failed[0]), pictures.failed[failed[0]]
        raise DataError(f"the {extra.kind} picture {name} cannot be read: {reason}")
    there_M = ~np.isin(row_M, failed)
    counterfactual_M = counterfactual(rows.table)
    if extra.kind in ("duplicate", "reweight"):  # a plain copy, and a training image, show their class
        counterfactual_M[:] = False
    return ExtraPictures(
        pictures,
        row_M[there_M],
        _labels(extra.kind, rows.table, seed=seed)[there_M],
        attributes(index, image_ids)[there_M],
        counterfactual_M[there_M],
    )


def attributes(index: RowIndex, image_ids: pa.ChunkedArray) -> np.ndarray:
    """Attributes of a dataset's images, (M,) int64; -1 where one has none.

    Raises:
        DataError: An id that the dataset does not have.
    """
    index.locate(image_ids.to_pylist())
    rows = pc.index_in(image_ids, value_set=index.table["image_id"].combine_chunks())
    return np.asarray(pc.fill_null(index.table["attribute"].take(rows), -1).to_numpy(), dtype=np.int64)


def _labels(kind: ExtraKind, table: pa.Table, *, seed: int) -> np.ndarray:
    if kind in _GENERATED:
        label_M = np.asarray(table["target_label"].to_numpy(), dtype=np.int64)
        roles = table[ROLE.name].to_pylist() if ROLE.name in table.column_names else None
        return shuffled_labels(label_M, run_seed=seed, roles=roles) if kind == "shuffled" else label_M
    assert kind != "generated"
    pairs = zip(table["source_label"].to_pylist(), table["target_label"].to_pylist(), strict=True)
    return np.array([control_label(kind, source_label=a, target_label=b) for a, b in pairs], dtype=np.int64)


def _minority_ids(table: pa.Table, index: RowIndex, *, seed: int) -> pa.ChunkedArray:
    """For each row a training image of the target class's rarest group."""
    train = index.split("train")
    target_M = np.asarray(table["target_label"].to_numpy(), dtype=np.int64)
    chosen = minority_rows(target_M, train["label"].to_numpy(), train["attribute"].to_numpy(), run_seed=seed)
    return train["image_id"].take(pa.array(chosen))
