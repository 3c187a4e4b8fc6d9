"""Datasets: a registry of configs, each of which writes SOURCE rows (`raygen.schema.SOURCE`) into a folder."""

# C classes, A attributes

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, assert_never

import numpy as np
from pydantic import Field

from raygen.datasets.folder import FolderConfig, open_folder, start_lines, usable_folder, write_folder
from raygen.datasets.scene_rendering import CLASS_NAMES
from raygen.datasets.scenes import ScenesConfig, scenes_info, write_scenes
from raygen.datasets.table import DatasetInfo
from raygen.errors import DataError

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


def dataset_state(config: ScenesConfig | FolderConfig, run_seed: int) -> dict[str, Any]:
    """What decides a dataset's rows beside its config: the seed, or what the folder holds now; no picture is read.

    Raises:
        DataError: The dataset's folder as a whole cannot be used.
    """
    match config:
        case ScenesConfig():
            return {"seed": run_seed}
        case FolderConfig():
            return {"listing": open_folder(config).digest()}
        case _:
            assert_never(config)


def dataset_info(config: ScenesConfig | FolderConfig) -> DatasetInfo:
    """The names of classes and attributes, and the prompts; no picture is read.

    Raises:
        DataError: The dataset's folder as a whole cannot be used, or another number of prompts than of classes.
    """
    match config:
        case ScenesConfig():
            return scenes_info(config)
        case FolderConfig():
            return open_folder(config).info
        case _:
            assert_never(config)


def check_usable(config: ScenesConfig | FolderConfig) -> None:
    """Checks before any work what `write_dataset` or the first fit would refuse; no picture is read.

    Raises:
        DataError: The dataset's files, labels or counts are wrong.
    """
    match config:
        case ScenesConfig():
            pass
        case FolderConfig():
            if missing := usable_folder(config).missing_splits():
                raise DataError(f"{config.path}: {missing[0]}")
        case _:
            assert_never(config)


def dataset_lines(config: ScenesConfig | FolderConfig) -> list[str]:
    """What to say of a dataset before work starts; no picture is read.

    Raises:
        DataError: The dataset's folder as a whole cannot be used.
    """
    match config:
        case ScenesConfig():
            return []
        case FolderConfig():
            return start_lines(config)
        case _:
            assert_never(config)


def class_counts(config: ScenesConfig | FolderConfig, split: str) -> dict[str, int]:
    """Images of each class of a split by the class's name, in order of label; no picture is read.

    Raises:
        DataError: The dataset's folder as a whole cannot be used.
    """
    match config:
        case ScenesConfig():
            names: tuple[str, ...] = CLASS_NAMES
            counts_C = np.array(config.counts(split)).reshape(len(names), -1).sum(axis=1)
        case FolderConfig():
            listing = open_folder(config)
            names = listing.info.class_names
            found = Counter(entry.label for entry in listing.entries if entry.split == split)
            counts_C = np.array([found[label] for label in range(len(names))])
        case _:
            assert_never(config)
    return {name: int(count) for name, count in zip(names, counts_C, strict=True)}


def group_counts(config: ScenesConfig | FolderConfig, split: str) -> np.ndarray | None:
    """Images of each class (rows) with each attribute (columns) of a split, (C, A) int; no picture is read.

    None where an image of the split has no attribute.

    Raises:
        DataError: The dataset's folder as a whole cannot be used.
    """
    match config:
        case ScenesConfig():
            return np.array(config.counts(split)).reshape(len(CLASS_NAMES), -1)
        case FolderConfig():
            listing = open_folder(config)
            counts_CA = np.zeros((len(listing.info.class_names), len(listing.info.attribute_names)), dtype=np.int64)
            for entry in listing.entries:
                if entry.split == split:
                    if entry.attribute is None:
                        return None
                    counts_CA[entry.label, entry.attribute] += 1
            return counts_CA
        case _:
            assert_never(config)
