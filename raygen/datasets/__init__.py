"""Datasets: a registry of configs, each opened once and written as SOURCE rows (`raygen.schema.SOURCE`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, assert_never

from pydantic import Field

from raygen.config import Strict, apply_overrides, validate
from raygen.datasets.folder import FolderConfig, OpenFolder
from raygen.datasets.opened import OpenDataset
from raygen.datasets.scenes import OpenScenes, ScenesConfig
from raygen.errors import DataError
from raygen.storage.progress import Say, quiet
from raygen.storage.writing import disk_errors

DatasetConfig = Annotated[ScenesConfig | FolderConfig, Field(discriminator="name")]


def open_dataset(config: ScenesConfig | FolderConfig) -> OpenDataset:
    """The dataset of a config; a folder is listed here, and only here. No picture is read.

    Raises:
        DataError: The dataset's folder as a whole cannot be used, or another number of prompts than of classes.
    """
    match config:
        case ScenesConfig():
            return OpenScenes(config)
        case FolderConfig():
            return OpenFolder(config)
        case _:
            assert_never(config)


def make_dataset(
    data: dict[str, Any], overrides: Sequence[str], out: Path, *, seed: int, say: Say = quiet
) -> dict[str, int]:
    """Writes a dataset folder; gives back rows per split.

    Raises:
        ConfigError: A wrong field.
        DataError: The folder is not empty, or the dataset is wrong.
    """

    class Wrapped(Strict):
        dataset: DatasetConfig

    config = validate(Wrapped, {"dataset": apply_overrides(data, overrides)}, where="dataset").dataset
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} is there already and not an empty folder; give another --out")
    dataset = open_dataset(config)
    for line in dataset.lines:
        say(line)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return dataset.write(out, run_seed=seed)
