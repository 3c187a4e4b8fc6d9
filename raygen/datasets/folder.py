"""A user's own folder of pictures, in one of three layouts, tried in this order.

1. SOURCE shards: `dataset.json` and `part-*.parquet`, as `raygen data make` writes them.
2. `metadata.csv`, with the columns of group_DRO (img_filename, y, split, place) or plainer names (path, label, split,
   attribute), and optionally a column with object masks (mask_filename). Files are relative to the folder.
3. ImageFolder: `train/<class>/*`, `val/<class>/*`, `test/<class>/*`; no attributes.

Files are listed in sorted order and their bytes are kept in the rows, so that a run does not depend on the folder.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from raygen.config import Strict
from raygen.datasets.table import INFO_FILE, DatasetInfo, check_prompts, read_info, write_source
from raygen.errors import DataError
from raygen.schema import SPLITS

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
# Accepted names of each column, the first that is there is taken. group_DRO's `y` comes before `label`, which some
# tables use for a readable name.
COLUMN_NAMES = {
    "file": ("img_filename", "path", "filename", "file_name"),
    "label": ("y", "label"),
    "attribute": ("place", "attribute", "a"),
    "split": ("split",),
    "object": ("mask_filename", "object_filename"),
}
SPLIT_CODES = {"0": "train", "1": "val", "2": "test", **{name: name for name in SPLITS}}


class FolderConfig(Strict):
    """A folder of pictures.

    Attributes:
        path: The folder.
        class_names: Names of labels 0, 1, ...; by default those of the folder, or "class 0", ...
        attribute_names: Names of attribute values; by default those of the folder, or "attribute 0", ...
        prompts: What to ask the inpainter for, per class; by default "a photo of a <class name>".
    """

    name: Literal["folder"] = "folder"
    path: Path
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


def write_folder(config: FolderConfig, folder: Path) -> dict[str, int]:
    """Writes the SOURCE rows of a user's folder; gives back rows per split.

    Raises:
        DataError: The folder is absent, empty or of an unknown layout; a column, label, attribute or split is wrong.
    """
    path = config.path
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise DataError(f"dataset folder {path} {kind}; give a folder of pictures, or 'scenes'")
    if not any(path.iterdir()):
        raise DataError(f"dataset folder {path} is empty; expected metadata.csv, or train/<class>/ with pictures")
    if (path / INFO_FILE).is_file():
        return _write_shards(config, folder)
    if (path / "metadata.csv").is_file():
        return _write_csv(config, folder)
    return _write_class_folders(config, folder)


def _write_shards(config: FolderConfig, folder: Path) -> dict[str, int]:
    shipped = read_info(config.path)
    class_names = config.class_names or shipped.class_names
    prompts = config.prompts or (shipped.prompts if class_names == shipped.class_names else ())
    info = DatasetInfo(
        shipped.name,
        class_names,
        config.attribute_names or shipped.attribute_names,
        check_prompts(prompts, class_names),
    )

    def rows() -> Iterator[dict[str, Any]]:
        for shard in sorted(config.path.glob("part-*.parquet")):
            for batch in pq.ParquetFile(shard).iter_batches(256):
                yield from batch.to_pylist()

    return write_source(rows(), info, folder)


def _write_csv(config: FolderConfig, folder: Path) -> dict[str, int]:
    path = config.path / "metadata.csv"
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        column = {kind: next((n for n in names if n in header), None) for kind, names in COLUMN_NAMES.items()}
        for kind in ("file", "label", "split"):
            if column[kind] is None:
                raise DataError(
                    f"{path}: no column for the {kind} (any of {', '.join(COLUMN_NAMES[kind])}); found {header}"
                )
        rows = [_csv_row(line, column, f"{path}, line {i}") for i, line in enumerate(reader, start=2)]
    if not rows:
        raise DataError(f"{path} has a header and no line")
    attributes = {row["attribute"] for row in rows} - {None}
    info = DatasetInfo(
        config.path.resolve().name,
        class_names := config.class_names or _numbered("class", max(row["label"] for row in rows)),
        config.attribute_names or (_numbered("attribute", max(attributes)) if attributes else ()),
        check_prompts(config.prompts, class_names),
    )
    rows.sort(key=lambda row: str(row["image_id"]))
    return write_source(_with_pictures(rows, config.path), info, folder)


def _csv_row(line: dict[str, str], column: dict[str, str | None], where: str) -> dict[str, Any]:
    def number(kind: str) -> int | None:
        name = column[kind]
        text = (line[name] or "").strip() if name else ""
        if not text:
            return None
        try:
            return int(text)
        except ValueError as error:
            raise DataError(f"{where}: column '{name}' is '{text}'; expected a whole number from 0") from error

    file, split = line[column["file"] or ""], line[column["split"] or ""].strip()
    if split not in SPLIT_CODES:
        raise DataError(f"{where}: split is '{split}'; expected 0, 1, 2 or train, val, test")
    if (label := number("label")) is None:
        raise DataError(f"{where}: column '{column['label']}' is empty; every picture needs a label")
    objects = column["object"]
    return {
        "image_id": Path(file).with_suffix("").as_posix(),
        "file": file,
        "label": label,
        "attribute": number("attribute"),
        "split": SPLIT_CODES[split],
        "object_file": line[objects] if objects else "",
    }


def _with_pictures(rows: list[dict[str, Any]], root: Path) -> Iterator[dict[str, Any]]:
    for row in rows:
        picture = root / row["file"]
        if not picture.is_file():
            raise DataError(f"{picture} is named in {root / 'metadata.csv'} and does not exist")
        mask = root / row["object_file"] if row["object_file"] else None
        yield {
            "image_id": row["image_id"],
            "image_png": picture.read_bytes(),
            "label": row["label"],
            "attribute": row["attribute"],
            "split": row["split"],
            "role": "source",
            "object_png": mask.read_bytes() if mask is not None and mask.is_file() else None,
        }


def _write_class_folders(config: FolderConfig, folder: Path) -> dict[str, int]:
    root = config.path
    found = {
        split: sorted(p.name for p in (root / split).iterdir() if p.is_dir())
        for split in SPLITS
        if (root / split).is_dir()
    }
    if "train" not in found:
        raise DataError(f"{root} has neither {INFO_FILE}, metadata.csv nor train/<class>/ folders: unknown layout")
    for split in SPLITS:
        if split not in found:
            raise DataError(
                f"{root} has no folder {split}/; expected train/, val/ and test/, each with a folder per class"
            )
        if unknown := set(found[split]) - set(found["train"]):
            raise DataError(
                f"{root / split} has classes {sorted(unknown)} that train/ has not ({', '.join(found['train'])})"
            )
    class_names = config.class_names or tuple(found["train"])
    info = DatasetInfo(root.resolve().name, class_names, (), check_prompts(config.prompts, class_names))

    def rows() -> Iterator[dict[str, Any]]:
        files = [
            (
                path.relative_to(root).with_suffix("").as_posix(),
                path,
                split,
                found["train"].index(path.parent.name),
            )
            for split in SPLITS
            for path in (root / split).glob("*/*")
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        for image_id, path, split, label in sorted(files):
            data = path.read_bytes()
            yield {"image_id": image_id, "image_png": data, "label": label, "split": split, "role": "source"}

    return write_source(rows(), info, folder)


def _numbered(noun: str, last: int) -> tuple[str, ...]:
    return tuple(f"{noun} {i}" for i in range(last + 1))
