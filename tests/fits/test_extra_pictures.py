"""The pictures that a fit adds, against making each by hand; kept and read like a dataset's own."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.algorithms.decoding import Loading
from raygen.algorithms.pictures import open_pictures
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier.framing import squash
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.fits.candidate_rows import candidate_rows
from raygen.fits.extra_pictures import ExtraRows, GeneratedPictures, extra_pictures
from raygen.fits.training_objects import flat_colours
from raygen.images import decode_image, decode_mask, encode_image, encode_mask
from raygen.synthesis.controls import control_picture, draw_colour

SIDE = 16
# Bytes of all stores, loader processes, and seconds of decoding that are worth those.
WAYS = {
    "stored": (1e9, 0, 5),
    "stored by two processes": (1e9, 2, 0),
    "streamed": (0, 0, 5),
    "streamed by one process": (0, 1, 5),
}


def candidates(index: RowIndex, folder: Path) -> list[dict[str, Any]]:
    """Twelve candidates in two parts; one of them failed."""
    rng = np.random.default_rng(0)
    train = index.split("train").to_pylist()[:60:5]
    rows = [
        {
            "key": f"{row['image_id']}/{1 - row['label']}/0000",
            "image_id": row["image_id"],
            "source_label": row["label"],
            "target_label": 1 - row["label"],
            "generated_png": None if i == 4 else encode_image(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)),
            "repaint_png": encode_mask(rng.random((64, 64)) < 0.3),
        }
        for i, row in enumerate(train)
    ]
    folder.mkdir()
    for number, compression in enumerate(("zstd", "none")):
        part = pa.Table.from_pylist(rows[6 * number : 6 * number + 6])
        pq.write_table(part, folder / f"part-{number:06d}.parquet", compression=compression, use_dictionary=False)
    return rows


@pytest.mark.parametrize("kind", ["generated", "duplicate", "hole", "flat"])
def test_extra_pictures_are_in_a_store_too(scenes_folder: Path, tmp_path: Path, kind: Any) -> None:
    index = RowIndex(scenes_folder)
    rows = candidates(index, tmp_path / "candidates")
    kept = [row for i, row in enumerate(rows) if i not in (0, 4)]
    sources = index.fetch([row["image_id"] for row in kept], ["image_png", "attribute"]).to_pylist()
    colours = flat_colours(index, seed=3)
    expected = []
    for row, source in zip(kept, sources, strict=True):
        colour = draw_colour(colours[row["target_label"]], run_seed=3, key=row["key"])
        picture = (
            decode_image(row["generated_png"])
            if kind == "generated"
            else control_picture(
                kind, decode_image(source["image_png"]), decode_mask(row["repaint_png"]), colour=colour
            )
        )
        expected.append(squash(picture, SIDE))
    extra = ExtraRows(kind, tuple(row["key"] for row in kept), str(tmp_path / "candidates"), "digest")
    train = TrainingSet(index, "train", size_px=SIDE)
    for name in (None, *WAYS):
        place = None if name is None else Loading(str(tmp_path / name), *WAYS[name])
        found = extra_pictures(extra, index, seed=3, size_px=SIDE, loading=place)
        both = train.with_extra(found)
        (images,) = both.batches([np.arange(160, 170)])
        assert np.array_equal(images.numpy(), np.stack(expected)), name
        wanted = "source_label" if kind == "duplicate" else "target_label"
        assert both.label_N[160:].tolist() == [row[wanted] for row in kept]
        assert found.attribute_M.tolist() == [source["attribute"] for source in sources]
        if name is not None and name.startswith("stored"):
            # Small without its pictures, of which there are none in memory.
            assert len(pickle.dumps(found)) < 9_000
            assert len(list((tmp_path / name).glob("*/pictures.npy"))) == 1
    if kind == "generated":
        failed = ExtraRows(kind, (rows[4]["key"],), str(tmp_path / "candidates"), "digest")
        with pytest.raises(DataError, match=rf"the generated picture {rows[4]['key']} cannot be read: not a picture"):
            extra_pictures(failed, index, seed=3, size_px=SIDE)


def test_a_store_is_of_these_candidates_of_these_keys_and_of_this_seed(scenes_folder: Path, tmp_path: Path) -> None:
    index, place = RowIndex(scenes_folder), Loading(str(tmp_path / "store"), 1e9, 0)
    of_digest = {"one": candidates(index, tmp_path / "one"), "other": candidates(index, tmp_path / "other")}
    for part in (tmp_path / "other").iterdir():  # the same keys, other pictures
        table = pq.read_table(part)
        at = table.schema.get_field_index("generated_png")
        turned = [png and encode_image(decode_image(png)[::-1].copy()) for png in table["generated_png"].to_pylist()]
        pq.write_table(table.set_column(at, table.schema.field(at), pa.array(turned, pa.binary())), part)
    numbers: tuple[tuple[int, ...], ...] = ((0, 1, 2), (5, 6, 11))

    def found(digest: str, kept: tuple[int, ...], *, kind: Any = "generated", seed: int = 3) -> np.ndarray:
        keys = tuple(of_digest[digest][i]["key"] for i in kept)
        extra = ExtraRows(kind, keys, str(tmp_path / digest), digest)
        pictures = extra_pictures(extra, index, seed=seed, size_px=SIDE, loading=place)
        return pictures.pictures.read(pictures.row_M)

    def expected(digest: str, kept: tuple[int, ...]) -> np.ndarray:
        pngs = [pq.read_table(tmp_path / digest)["generated_png"][i].as_py() for i in kept]
        return np.stack([squash(decode_image(png), SIDE) for png in pngs])

    for digest in of_digest:
        for kept in numbers:
            assert np.array_equal(found(digest, kept), expected(digest, kept))
    assert not np.array_equal(found("one", numbers[0], kind="flat"), found("one", numbers[0], kind="flat", seed=4))
    # A sweep's store, of all of them: a part is taken from there.
    place = Loading(str(tmp_path / "sweep"), 1e9, 0)
    open_pictures(GeneratedPictures(candidate_rows(tmp_path / "one", "one")), size_px=SIDE, loading=place)
    for kept in numbers:
        assert np.array_equal(found("one", kept), expected("one", kept))
    assert len(list((tmp_path / "sweep").glob("*/pictures.npy"))) == 1
