"""What an export takes of a run: its generated pictures with what is known of each, split by what they may be used for.

The verdicts are those that the run's own fits went by. Tables here hold no picture; `read_pictures` reads them part by
part.
"""

# N candidates

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.config import fingerprint
from raygen.datasets.rows import RowIndex
from raygen.datasets.table import DatasetInfo
from raygen.errors import DataError, RunFolderError, unreadable
from raygen.pruners import PruneThresholds, nothing_kept, verdicts
from raygen.report.collect import load_candidates, load_config, load_thresholds
from raygen.schema import CANDIDATE, ROLE, widened
from raygen.storage.run_folder import check_files, output_digest, read_manifest

# Pictures that were kept and show their label; that were kept and show anything but their label (`role` of those of
# the synthesis infill); that were pruned.
SPLITS = ("train", "counterfactual", "pruned")

METADATA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # of its files, without a suffix; the same in every export
        pa.field("key", pa.string(), nullable=False),  # of the candidate in the run
        pa.field("label", pa.int32(), nullable=False),  # the class that it was made as, 0..C-1
        pa.field("label_name", pa.string(), nullable=False),
        pa.field("source_label", pa.int32(), nullable=False),  # class of the image that it was made from
        pa.field("source_label_name", pa.string(), nullable=False),
        pa.field("attribute", pa.int32()),  # of the source image, 0..A-1; null where unknown
        pa.field("attribute_name", pa.string()),
        pa.field("source_image_id", pa.string(), nullable=False),
        pa.field("role", pa.string()),  # counterfactual: anything but its label; null where it shows its label
        pa.field("kept", pa.bool_(), nullable=False),  # whether the run fitted with it
        pa.field("prune_reason", pa.string()),  # the tests that it failed; null where kept
        *(CANDIDATE.field(name) for name in ("prompt", "seed", "sample", "loss_rank", "cluster", "predicted_label")),
        *(CANDIDATE.field(name) for name in ("source_probability", "attribution_inside", "convergence_delta")),
        *(CANDIDATE.field(name) for name in ("repaint_fraction", "object_iou", "model_id", "model_revision")),
    ]
)
# What candidates call otherwise.
_RENAMED = {"label": "target_label", "source_image_id": "image_id"}
_PLACE = ("part", "row")


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run that are exported, without their pixels.

    Attributes:
        run: The run's folder.
        config: Its resolved config.
        info: Names of its dataset.
        thresholds: What kept pictures passed.
        versions: Of the libraries that made them.
        by_split: METADATA rows in order of key, and where each picture is (`part`, `row`); splits without any are left
            out.
        failed: METADATA rows that have no picture, and `error`.
        counts: generated, kept, pruned and failed candidates of the run, whatever is exported.
        key: Changes with anything that decides the export's bytes.
    """

    run: Path
    config: Mapping[str, Any]
    info: DatasetInfo
    thresholds: PruneThresholds
    versions: Mapping[str, str | None]
    by_split: Mapping[str, pa.Table]
    failed: pa.Table
    counts: Mapping[str, int]
    key: str

    @property
    def num_exported(self) -> int:
        """How many pictures are exported."""
        return sum(table.num_rows for table in self.by_split.values())


def kept_pictures(run: Path) -> Pictures:
    """The pictures that a run's fits were made with.

    Raises:
        RunFolderError: Not a run's folder, one that has not judged its pictures yet or was changed, or a recipe that
            generates none.
        DataError: None is kept.
    """
    found = every_picture(run)
    by_split = {split: table for split, table in found.by_split.items() if split != "pruned"}
    if not by_split:
        candidates = _candidates(run)
        raise DataError(f"{run}: {nothing_kept(candidates, verdicts(candidates, found.thresholds)[1])}")
    return _with(found, by_split=by_split, failed=found.failed.slice(0, 0), what="kept")


def every_picture(run: Path) -> Pictures:
    """All pictures of a run, the pruned ones in a split of their own; raises as `kept_pictures` does."""
    config, manifest = load_config(run), _manifest(run)
    candidates = _candidates(run)
    if not (run / "fit" / "thresholds.json").is_file():
        raise RunFolderError(f"{run} has not judged its pictures yet. Run it again; it goes on where it stopped")
    thresholds, rows = load_thresholds(run), RowIndex(run / "data")
    kept_N, reasons = verdicts(candidates, thresholds)
    table = _metadata(candidates, rows, kept_N, reasons)
    ok_N = pc.equal(candidates["status"], "ok").to_numpy()
    by_split = {split: table.filter(pa.array(ok_N & part_N)) for split, part_N in _split(table, kept_N).items()}
    failed = table.append_column("error", candidates["error"]).filter(pa.array(~ok_N)).drop_columns(list(_PLACE))
    counts = Counter(kept=int(kept_N.sum()), failed=int((~ok_N).sum()), generated=int(ok_N.sum()))
    counts["pruned"] = counts["generated"] - counts["kept"]
    found = Pictures(
        run,
        config,
        rows.dataset,
        thresholds,
        manifest["versions"],
        {split: part for split, part in by_split.items() if part.num_rows},
        failed,
        counts,
        fingerprint([output_digest(manifest), rows.digest(), thresholds.model_dump(mode="json")]),
    )
    return _with(found, by_split=found.by_split, failed=failed, what="every")


def read_pictures(run: Path, table: pa.Table) -> Iterator[pa.Table]:
    """METADATA rows with `image_png` and `mask_png`, PNG (255 in a mask = generated anew), those of a part at once.

    Args:
        run: The run's folder.
        table: Rows of `Pictures.by_split`; those of a part follow each other.

    Raises:
        RunFolderError: A part is gone or damaged.
    """
    part_N = table["part"].to_numpy(zero_copy_only=False)
    starts = [i for i, part in enumerate(part_N) if i == 0 or part != part_N[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(part_N)], strict=True):
        rows = table.slice(start, end - start)
        path = run / "candidates" / str(part_N[start])
        try:
            with pq.ParquetFile(path) as file:
                found = widened(file.read(columns=["generated_png", "repaint_png"])).take(rows["row"])
        except (pa.ArrowInvalid, OSError) as error:
            raise RunFolderError(unreadable(path, error, "Delete it and run again.")) from error
        rows = rows.drop_columns(list(_PLACE))
        yield rows.append_column("image_png", found["generated_png"]).append_column("mask_png", found["repaint_png"])


def mean_bytes(pictures: Pictures) -> float:
    """Mean bytes of a picture with its mask; no pixel is read."""
    num_bytes = num_rows = 0
    for path in (pictures.run / "candidates").glob("part-*.parquet"):
        metadata = pq.read_metadata(path)
        num_rows += metadata.num_rows
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            num_bytes += sum(c.total_compressed_size for c in columns if c.path_in_schema.endswith("_png"))
    return num_bytes / max(1, num_rows)


def _manifest(run: Path) -> dict[str, Any]:
    """That of the candidates, which are as it says."""
    folder = run / "candidates"
    if not any(folder.glob("part-*.parquet")):
        raise RunFolderError(
            f"{run} has no generated pictures to export (recipe {load_config(run).get('recipe')}). To take a "
            "classifier, give --classifier; a run that was interrupted before it generated goes on when it is run again"
        )
    manifest = read_manifest(folder)
    if manifest is None:
        raise RunFolderError(f"{run} is still generating: {folder} has no manifest. Run it again; it goes on")
    check_files(folder, manifest)
    return manifest


def _candidates(run: Path) -> pa.Table:
    table = load_candidates(run)
    assert table is not None, "the manifest says that there are some"
    return table


def _metadata(candidates: pa.Table, rows: RowIndex, kept_N: np.ndarray, reasons: list[str | None]) -> pa.Table:
    """METADATA rows and their places, in order of the candidates."""
    num = candidates.num_rows
    rows.locate(candidates["image_id"].to_pylist())
    places = pc.index_in(candidates["image_id"], value_set=rows.table["image_id"].combine_chunks())
    attribute = rows.table["attribute"].take(places)
    made: dict[str, Any] = {
        "name": pa.array([f"{i:08d}" for i in range(num)]),
        "label_name": _named(candidates["target_label"], rows.dataset.class_names),
        "source_label_name": _named(candidates["source_label"], rows.dataset.class_names),
        "attribute": attribute,
        "attribute_name": _named(attribute, rows.dataset.attribute_names),
        "role": candidates[ROLE.name] if ROLE.name in candidates.column_names else pa.nulls(num, pa.string()),
        "kept": pa.array(kept_N),
        "prune_reason": pa.array(reasons, pa.string()),
    }
    found = {name: made[name] if name in made else candidates[_RENAMED.get(name, name)] for name in METADATA.names}
    table = pa.table([found[field.name].cast(field.type) for field in METADATA], schema=METADATA)
    for name in _PLACE:
        table = table.append_column(name, candidates[name])
    return table


def _named(numbers: pa.ChunkedArray, names: tuple[str, ...]) -> pa.ChunkedArray:
    return pa.array(names, pa.string()).take(numbers.combine_chunks())


def _split(table: pa.Table, kept_N: np.ndarray) -> dict[str, np.ndarray]:
    other_N = pc.fill_null(pc.equal(table["role"], "counterfactual"), False).to_numpy()
    return dict(zip(SPLITS, (kept_N & ~other_N, kept_N & other_N, ~kept_N), strict=True))


def _with(found: Pictures, *, by_split: Mapping[str, pa.Table], failed: pa.Table, what: str) -> Pictures:
    return replace(found, by_split=by_split, failed=failed, key=fingerprint([found.key, what]))
