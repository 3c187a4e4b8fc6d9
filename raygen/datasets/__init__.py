"""Datasets: a registry of configs, each opened once and written as SOURCE rows (`raygen.schema.SOURCE`)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import SerializeAsAny

from raygen.config import HasConfig, Strict, apply_overrides, one_of, validate
from raygen.datasets import folder, hub_dataset, picture_table, scenes, scenes3
from raygen.datasets.opened import DatasetBase, OpenDataset
from raygen.datasets.published import (
    cct20,
    celeba,
    chexpert,
    dominoes,
    imagenet9,
    metashift,
    recognise,
    spawrious,
    waterbirds,
)
from raygen.errors import ConfigError, DataError
from raygen.storage.progress import Say, quiet
from raygen.storage.remote import is_url
from raygen.storage.writing import disk_errors


class DatasetModule(HasConfig[DatasetBase], Protocol):
    """What a dataset's module has."""

    @property
    def Open(self) -> Callable[[Any], OpenDataset]:
        """Opens the dataset of such a config: what is known before any picture is read.

        Raises:
            DataError: The dataset as a whole cannot be used, or another number of prompts than of classes.
        """
        ...


# The registry, by the `name` of the config; what is put into it later counts too.
DATASETS: dict[str, DatasetModule] = {
    "scenes": scenes,
    "folder": folder,
    "scenes3": scenes3,
    "table": picture_table,
    "hf": hub_dataset,
    "waterbirds": waterbirds,
    "celeba": celeba,
    "metashift": metashift,
    "imagenet9": imagenet9,
    "cct20": cct20,
    "chexpert": chexpert,
    "dominoes": dominoes,
    "spawrious": spawrious,
}
DatasetConfig = Annotated[SerializeAsAny[DatasetBase], one_of(DATASETS)]


def named_config(name: str) -> dict[str, Any]:
    """The config of a dataset that is given by a word.

    That is one that needs nothing but its name, such as "scenes"; a table; a folder of Hugging Face's datasets; any
    other folder. A folder of such a name is meant by its path, "./scenes".
    """
    module = DATASETS.get(name)
    if module is not None and not any(field.is_required() for field in module.Config.model_fields.values()):
        return {"name": name}
    if picture_table.is_table(name):
        return {"name": "table", "path": name}
    return {"name": "hf", "path": name} if hub_dataset.is_saved(name) else folder_config(name)


def dataset_config(data: dict[str, Any], overrides: Sequence[str] = ()) -> DatasetBase:
    """The config of a dataset.

    Args:
        data: As `named_config` gives it.
        overrides: Of its fields: "class_names=[cat, dog]", or as a run takes them, "dataset.class_names=[cat, dog]".

    Raises:
        ConfigError: A wrong field.
    """

    class Wrapped(Strict):
        dataset: DatasetConfig

    fields = apply_overrides(data, [override.removeprefix("dataset.") for override in overrides])
    return validate(Wrapped, {"dataset": fields}, where="dataset").dataset


def listed_config(name: str, overrides: Sequence[str] = ()) -> DatasetBase:
    """The config of the dataset of a path or URL.

    Args:
        name: See `named_config`. A folder is meant where there is one, also of a built-in dataset's name.
        overrides: See `dataset_config`.

    Raises:
        ConfigError: A wrong field.
    """
    here = name in DATASETS and Path(name).exists()
    return dataset_config(named_config(f"./{name}" if here else name), overrides)


def open_listed(config: DatasetBase) -> folder.OpenFolder:
    """The dataset of a config, with what is wrong with it.

    Raises:
        ConfigError: A built-in dataset, which has no files.
        DataError: The dataset as a whole cannot be used.
    """
    opened = open_dataset(config)
    if not isinstance(opened, folder.OpenFolder):
        raise ConfigError(
            f"dataset {config.name} is drawn, not read; give a folder or a table, or a folder of its rows"
        )
    return opened


def open_dataset(config: DatasetBase) -> OpenDataset:
    """The dataset of a config; a folder is listed here, and only here. See `DatasetModule.Open`."""
    return DATASETS[config.name].Open(config)


def folder_config(path: str) -> dict[str, Any]:
    """The config of a dataset in a folder: of the published layout that it has, else of any folder of pictures.

    Args:
        path: The folder: a path, or a URL.
    """
    try:
        found = recognise(path if is_url(path) else Path(path).expanduser())
    except RuntimeError:  # no such user, or no home of this one: the config says so
        found = None
    return {"name": "folder" if found is None else found[0], "path": path}


def make_dataset(
    data: dict[str, Any], overrides: Sequence[str], out: Path, *, seed: int, say: Say = quiet
) -> dict[str, int]:
    """Writes a dataset folder; gives back rows per split.

    Raises:
        ConfigError: A wrong field.
        DataError: The folder is not empty, or the dataset is wrong.
    """
    config = dataset_config(data, overrides)
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} is there already and not an empty folder; give another --out")
    dataset = open_dataset(config)
    for line in dataset.lines:
        say(line)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return dataset.write(out, run_seed=seed)
