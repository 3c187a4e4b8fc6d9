"""Datasets: a registry of configs, each of which writes SOURCE rows (`raygen.schema.SOURCE`) into a folder."""

from pathlib import Path
from typing import Annotated, assert_never

from pydantic import Field

from raygen.datasets.folder import FolderConfig, write_folder
from raygen.datasets.scenes import ScenesConfig, write_scenes

DatasetConfig = Annotated[ScenesConfig | FolderConfig, Field(discriminator="name")]


def write_dataset(config: ScenesConfig | FolderConfig, folder: Path, *, run_seed: int) -> dict[str, int]:
    """Writes a dataset's SOURCE rows into an existing folder; gives back rows per split.

    Raises:
        DataError: The dataset's files, labels or counts are wrong.
    """
    match config:
        case ScenesConfig():
            return write_scenes(config, folder, run_seed=run_seed)
        case FolderConfig():
            return write_folder(config, folder)
        case _:
            assert_never(config)
