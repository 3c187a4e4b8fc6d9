"""A dataset of Hugging Face's library `datasets`: `dataset.name=hf`, from a folder or by its id on their hub.

A folder is what `save_to_disk` wrote, Parquet files with pictures in them, or an ImageFolder with or without their
metadata files. Pictures are a column with the feature Image, labels one with ClassLabel, or of words, numbers or truth
values as in any table. Needs the extra `hf` (`pip install 'raygen[hf]'`). A hub id is fetched once and kept where that
library keeps things (HF_HOME); a token comes from HF_TOKEN or `hf auth login`, never from the config.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygen.datasets.codes import Codes, read_codes
from raygen.datasets.csv_table import MIN_VALUES
from raygen.datasets.drawn_split import draw_splits
from raygen.datasets.entries import Entry, Listing, take_usable
from raygen.datasets.files import printable, read_file, state
from raygen.datasets.folder import OpenFolder
from raygen.datasets.hub_config import HubConfig
from raygen.datasets.known import Names
from raygen.datasets.names import SPLIT_WORDS, check_names, check_not_swapped, shown
from raygen.datasets.table import DatasetInfo, check_prompts, numbered
from raygen.errors import ConfigError, DataError
from raygen.schema import SPLITS

# What save_to_disk leaves in a folder: of several splits, of one.
_SAVED = ("dataset_dict.json", "state.json")
# Accepted names of each column, the first that is there is taken.
_NAMES = {
    "image": ("image", "img", "picture"),
    "label": ("label", "y", "labels"),
    "attribute": ("attribute", "place", "a"),
    "mask": ("mask", "object_mask"),
}


@dataclass(frozen=True)
class HubRows:
    """Rows of a dataset by their ids.

    Attributes:
        tables: The dataset's splits by their own names, pictures not decoded.
        image: Name of the column of pictures.
        mask: Of object masks, or None.
        at: Split and number of each id.
    """

    tables: Mapping[str, Any]
    image: str
    mask: str | None
    at: Mapping[str, tuple[str, int]]

    def rows(self, entries: Sequence[Entry], unread: dict[str, str]) -> Iterator[dict[str, Any]]:
        """SOURCE rows; what cannot be read gives empty bytes and its reason in `unread`."""
        for entry in entries:
            split, number = self.at[entry.image_id]
            row = self.tables[split][number]
            yield {
                "image_id": entry.image_id,
                "image_png": _bytes(row[self.image], entry.image_id, unread) or b"",
                "label": entry.label,
                "attribute": entry.attribute,
                "split": entry.split,
                "role": "source",
                "object_png": None if self.mask is None else _bytes(row[self.mask], entry.image_id, unread),
            }

    def state(self) -> Any:
        """Changes with the files that the library reads the rows from."""
        files = sorted({file["filename"] for table in self.tables.values() for file in table.cache_files})
        return [[file, *(state(Path(file)) or ())] for file in files]


def is_saved(name: str) -> bool:
    """Whether a path is that of a folder that `save_to_disk` wrote."""
    return any((Path(name).expanduser() / file).is_file() for file in _SAVED)


def open_hub_dataset(config: HubConfig) -> OpenFolder:
    """The dataset of a config, opened once.

    Raises:
        DataError: See `list_rows`.
    """
    return OpenFolder(config, list_rows(config))


def list_rows(config: HubConfig) -> Listing:
    """What the dataset holds and what is wrong with it, before any picture is decoded.

    Raises:
        ConfigError: The library is not installed.
        DataError: It cannot be had, lacks a column or a split, or names do not fit.
    """
    tables, image_feature = _load(config), _library().Image(decode=False)
    features = next(iter(tables.values())).features
    column = _columns(features, config)
    split_of = _splits(tables, config)
    tables = {name: tables[name] for name in split_of}
    images = [name for kind in ("image", "mask") if (name := column[kind]) is not None]
    for name in images:
        tables = {split: table.cast_column(name, image_feature) for split, table in tables.items()}
    given = Names(config.class_names, config.attribute_names, config.prompts)
    labels = _codes(tables, column["label"], given.class_names, "dataset.class_names", config)
    attributes = _codes(tables, column["attribute"], given.attribute_names, "dataset.attribute_names", config)
    at = {f"{split}/{number:08d}": (split, number) for split, table in tables.items() for number in range(len(table))}
    splits = [split_of[split] for split, _ in at.values()]
    if config.split is not None:
        strata = list(zip(labels.values, attributes.values, strict=True))
        splits = draw_splits(list(at), strata, fractions=config.split, seed=config.split_seed)
    class_names = labels.names or given.class_names or numbered("class", labels.count, first=labels.first)
    attribute_names = attributes.names or given.attribute_names
    attribute_names = attribute_names or numbered("attribute", attributes.count, first=attributes.first)
    info = DatasetInfo(config.path.name, class_names, attribute_names, check_prompts(given.prompts, class_names))
    image, mask = column["image"], column["mask"]
    assert image is not None
    listing = Listing(info, notes=[*labels.notes, *attributes.notes], source=HubRows(tables, image, mask, at))
    entries = []
    for row, image_id in enumerate(at):
        where, label = f"{config.path}, row {image_id}", labels.values[row]
        problem = labels.problems.get(row) or attributes.problems.get(row)
        if problem is not None or label is None:
            listing.problems.append(f"{where}: {problem or 'it has no label; every picture needs one'}")
            continue
        path = str(config.path)
        masked = None if mask is None else path
        entries.append(Entry(image_id, label, attributes.values[row], splits[row], path, masked, where))
    take_usable(listing, entries)
    return listing


def _library() -> Any:
    """Hugging Face's library; imported when it is used, for it is an extra."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError("dataset.name=hf needs the library `datasets`: pip install 'raygen[hf]'") from error
    return datasets


def _load(config: HubConfig) -> dict[str, Any]:
    datasets = _library()
    path = config.path.expanduser()
    try:
        if is_saved(str(path)):
            found = datasets.load_from_disk(str(path))
        elif path.exists() or config.path.is_absolute():
            if not path.is_dir():
                raise DataError(f"dataset folder {printable(path)} is not there, or no folder; give one or a hub id")
            found = datasets.load_dataset(str(path), config.subset)
        else:
            found = datasets.load_dataset(str(config.path), config.subset, revision=config.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_why_not(config, path, error)) from error
    return {str(name): table for name, table in found.items()} if isinstance(found, dict) else {"train": found}


def _why_not(config: HubConfig, path: Path, error: Exception) -> str:
    said = f"{type(error).__name__}: {printable(str(error).split(chr(10), maxsplit=1)[0])[:300]}"
    if path.exists():
        return f"{printable(path)} cannot be loaded by Hugging Face's datasets: {said}"
    return (
        f"'{config.path}' is no folder here, and cannot be had from Hugging Face's hub: {said}. Without a "
        "network give the path of a folder, such as save_to_disk writes where there is one; for a private dataset set "
        "HF_TOKEN or run `hf auth login`"
    )


def _columns(features: Mapping[str, Any], config: HubConfig) -> dict[str, str | None]:
    """The column of each kind: as given, by its name, or the only one of its feature.

    Raises:
        DataError: One that is needed or given is not there, or is no picture.
    """
    library = _library()
    features_of = {"image": library.Image, "label": library.ClassLabel, "mask": library.Image}
    found: dict[str, str | None] = {}
    for kind, names in _NAMES.items():
        asked = getattr(config.columns, kind)
        if asked is not None and asked not in features:
            there = shown([*features])
            raise DataError(f"{config.path}: dataset.columns.{kind} is '{asked}', which is no column; found {there}")
        name = asked or next((name for name in names if name in features), None)
        if name is None and kind in ("image", "label"):
            wanted = features_of[kind]
            fits = [name for name, feature in features.items() if isinstance(feature, wanted)]
            if len(fits) != 1:
                raise DataError(
                    f"{config.path}: no column for the {kind} (any of {', '.join(names)}, or the only one with the "
                    f"feature {wanted.__name__}); found {shown([*features])}. Name it: dataset.columns.{kind}=NAME"
                )
            name = fits[0]
        if kind in ("image", "mask") and name is not None and not isinstance(features[name], library.Image):
            raise DataError(
                f"{config.path}: column '{name}' is {type(features[name]).__name__}; the {kind} needs the feature "
                "Image: cast_column(name, datasets.Image())"
            )
        found[kind] = name
    return found


def _splits(tables: Mapping[str, Any], config: HubConfig) -> dict[str, str]:
    """What each of its splits is here.

    Raises:
        DataError: One that is given is not there, or two are the same.
    """
    asked = {split: getattr(config.splits, split) for split in SPLITS}
    given = {str(name): split for split, name in asked.items() if name is not None}
    for name, split in given.items():
        if name not in tables:
            raise DataError(f"{config.path}: dataset.splits.{split} is '{name}', no split; found {shown([*tables])}")
    found = dict(given)
    for name in tables:
        word = SPLIT_WORDS.get(name.casefold())
        if word is not None and name not in found and word not in given.values():
            found[name] = word
    if config.split is not None:
        return {name: found.get(name, "train") for name in tables}
    for split in ("train", "val"):
        held = [name for name, here in found.items() if here == split]
        if len(held) != 1:
            has = f"its splits {shown(held)} are both {split}" if held else f"none of its splits is {split}"
            raise DataError(
                f"{config.path}: {has}; found {shown([*tables])}. Name it: dataset.splits.{split}=NAME; or have a "
                "split drawn from all rows: dataset.split=[0.8,0.1,0.1]"
            )
    return found


def _codes(tables: Mapping[str, Any], column: str | None, given: Sequence[str], what: str, config: HubConfig) -> Codes:
    if column is None:
        return Codes([None] * sum(map(len, tables.values())))
    values = [value for table in tables.values() for value in table[column]]
    feature = next(iter(tables.values())).features[column]
    if isinstance(feature, _library().ClassLabel):
        names = tuple(feature.names)
        check_names(given, what=what, expected=len(names), of=f"the ClassLabel {column}: {shown(names)}")
        check_not_swapped(given, names, of=f"the names of {column}", what=what)
        # The library writes -1 where no label is known, as in test splits of competitions.
        return Codes([None if value is None or value < 0 else int(value) for value in values], tuple(given) or names)
    texts = ["" if value is None else str(value).strip() for value in values]
    limit = max(MIN_VALUES, len(texts), len(given))
    return read_codes(texts, column=column, given=given, what=what, limit=limit, path=str(config.path))


def _bytes(picture: Mapping[str, Any] | None, image_id: str, unread: dict[str, str]) -> bytes | None:
    if picture is None:
        return None
    if picture["bytes"] is not None:
        return bytes(picture["bytes"])
    try:
        return read_file(picture["path"])
    except OSError as error:
        unread[image_id] = f"{printable(picture['path'])} cannot be read: {error.strerror}"
        return b""


Config, Open = HubConfig, open_hub_dataset
