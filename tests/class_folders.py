"""ImageFolders that tests make, and what becomes of them."""

from pathlib import Path

import numpy as np

from raygen import recipes
from raygen.datasets import open_dataset
from raygen.datasets.folder import FolderConfig, open_folder
from raygen.datasets.rows import RowIndex
from raygen.images import encode_image

PICTURE = encode_image(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
SPLITS = ("train", "val", "test")
PLAIN = {f"{split}/{name}/0": name for split in SPLITS for name in ("cat", "dog")}


def make(root: Path, classes: tuple[str, ...] = ("cat", "dog"), splits: tuple[str, ...] = SPLITS) -> Path:
    for split in splits:
        for name in classes:
            put(root / split / name / "0.png")
    return root


def put(path: Path, data: bytes | None = None) -> None:
    """Writes a file; by default a picture that no other name has, since copies are warned of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = [*"/".join(path.parts[-3:]).encode("utf-8", "surrogateescape")]
    noise_HWC = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path.write_bytes(encode_image(noise_HWC) if data is None else data)


def labels(root: Path, **names: tuple[str, ...]) -> dict[str, str]:
    """Class of each image."""
    listing = open_folder(FolderConfig(path=root, **names))
    assert listing.problems == []
    return {entry.image_id: listing.info.class_names[entry.label] for entry in listing.entries}


def write(root: Path, **names: tuple[str, ...]) -> RowIndex:
    out = root.with_name(root.name + "_rows")
    out.mkdir()
    open_dataset(FolderConfig(path=root, **names)).write(out, run_seed=0)
    return RowIndex(out)


def config(root: Path, recipe: str, **names: tuple[str, ...]) -> recipes.RunConfig:
    data = {"recipe": recipe, "engine": "local", "dataset": {"name": "folder", "path": str(root), **names}}
    return recipes.make_config(data, [], where="config")
