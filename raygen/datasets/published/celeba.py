"""CelebA: faces of celebrities with 40 attributes, any of which can be the label, and any other the spurious attribute.

Publication: Liu et al. 2015, "Deep Learning Face Attributes in the Wild" (arXiv 1411.7766),
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; as a benchmark of spurious correlation (hair and gender): Sagawa et
al. 2020 (arXiv 1911.08731).
Split: `list_eval_partition`, 0 train, 1 validation, 2 test (162,770, 19,867 and 19,962 of 202,599 pictures).
Input: `img_align_celeba`, 178 x 218 pixels. Three frames of it are in circulation: the 178 x 178 in the middle,
brought to 224 (group DRO, JTT, MaskTune); all of it squashed to 256, of which 224 in the middle (DFR, AFR, SELF, NSF);
and all of it squashed to 224 (HSFM). They are the classifier's, `classifier.framing`, not the dataset's: rows hold
whole pictures.
Label: by default Blond_Hair (non-blond 0, blond 1). Attribute: by default Male (female 0, male 1).
Licence: research that is not commercial.

The annotation is read as the authors give it (.txt) or as Kaggle does (.csv), beside the pictures or in `Anno/` and
`Eval/`; no merged table is needed. The class-balanced subset of DaC and DBB, of which the papers say the size only (as
many of each class as the rarer one has in training), is `subset: class_balanced`.
"""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from raygen.config import Seed
from raygen.datasets.entries import Entry, Listing
from raygen.datasets.folder import OpenFolder
from raygen.datasets.known import KNOWN, NAMES
from raygen.datasets.names import shown
from raygen.datasets.published.layout import (
    Files,
    PublishedConfig,
    check_columns,
    compare,
    files_of,
    listing_of,
    missing,
    named,
    nearest,
    read_csv,
    with_words,
)
from raygen.datasets.table import check_prompts
from raygen.errors import ConfigError, DataError

ATTRIBUTES = ("list_attr_celeba.txt", "list_attr_celeba.csv", "Anno/list_attr_celeba.txt", "Anno/list_attr_celeba.csv")
PARTITIONS = (
    "list_eval_partition.txt",
    "list_eval_partition.csv",
    "Eval/list_eval_partition.txt",
    "Eval/list_eval_partition.csv",
)
PICTURES = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")
SPLITS = {"0": "train", "1": "val", "2": "test"}
VALUES = {"1": 1, "-1": 0, "0": 0}
# What the value 0 and 1 of some attributes are called; of all others "not smiling" and "smiling".
WORDS = {"Blond_Hair": NAMES["celeba"].class_names, "Male": NAMES["celeba"].attribute_names}


class CelebAConfig(PublishedConfig):
    """CelebA.

    Attributes:
        label: The attribute that is to be told, by its name in the annotation; Blond_Hair as in Sagawa et al.
        attribute: The one that it goes with; Male as there. None: pictures have no attribute.
        subset: "all"; or "class_balanced": of the training pictures as many of each class as the rarer one has, drawn
            without return.
        subset_seed: Seed of that draw; 10 as in DaC's code. Theirs draws from a state that the seed alone does not
            give, so the subset here is of the same size and not the same pictures.
    """

    name: Literal["celeba"] = "celeba"
    label: str = "Blond_Hair"
    attribute: str | None = "Male"
    subset: Literal["all", "class_balanced"] = "all"
    subset_seed: Seed = 10


def told_by(files: Files) -> str | None:
    """The annotation's file, if it is there."""
    return files.first(*ATTRIBUTES)


def list_celeba(config: CelebAConfig) -> Listing:
    """Lists the pictures.

    Raises:
        ConfigError: Label and attribute are the same.
        DataError: A file or folder of the layout is not there or not as published, or an attribute has an unknown name.
    """
    if config.label == config.attribute:
        raise ConfigError(f"dataset.label and dataset.attribute are both '{config.label}'; name two, or no attribute")
    files = files_of(config)
    annotation = _found(files, ATTRIBUTES, "the 40 attributes")
    partition = _found(files, PARTITIONS, "which picture is in which split")
    pictures = _found(files, PICTURES, "the pictures")
    wanted = [config.label, *([] if config.attribute is None else [config.attribute])]
    values, problems = _values(files, annotation, wanted), list[str]()
    splits, entries = _splits(files, partition), list[Entry]()
    for where, name, cells in values:
        split = splits.pop(name, None)
        if split is None:
            problems.append(f"{where}: {name} is not in {partition}; take both from the same release")
        elif not files.has(f"{pictures}/{name}"):
            problems.append(missing(where, f"{pictures}/{name}"))
        else:
            attribute = cells[1] if len(cells) > 1 else None
            entries.append(
                Entry(name.rsplit(".", 1)[0], cells[0], attribute, split, files.path(f"{pictures}/{name}"), None, where)
            )
    if splits:
        problems.append(f"{partition} names {len(splits)} pictures that {annotation} has not: {shown(list(splits))}")
    if config.subset == "class_balanced":
        entries = _balanced(entries, config.subset_seed)
    info = named(config, _names(config.label), () if config.attribute is None else _names(config.attribute))
    is_blond = config.label == "Blond_Hair"
    prompts = (
        NAMES["celeba"].prompts if is_blond else tuple(f"a photo of a person, {word}" for word in info.class_names)
    )
    info = with_words(info, "hair" if is_blond else "face", check_prompts(config.prompts or prompts, info.class_names))
    note = f"label {config.label}, attribute {config.attribute or 'none'}; pictures of {pictures}/"
    listing = listing_of(
        info, entries, f"{annotation}, {partition}", problems=problems, notes=[note], place=files.place
    )
    if (config.label, config.attribute, config.subset) == ("Blond_Hair", "Male", "all"):
        compare(listing, KNOWN["celeba"])
    return listing


def _found(files: Files, paths: tuple[str, ...], what: str) -> str:
    found = files.first(*paths)
    if found is None:
        raise DataError(
            f"{files.place.address} has none of {', '.join(paths)}, which say {what}"
            if what != "the pictures"
            else f"{files.place.address} has no folder img_align_celeba/ with the pictures; unpack img_align_celeba.zip"
        )
    return found


def _names(attribute: str) -> tuple[str, str]:
    word = attribute.replace("_", " ").lower()
    first, second = WORDS.get(attribute, (f"not {word}", word))
    return first, second


def _values(files: Files, path: str, wanted: list[str]) -> Iterator[tuple[str, str, list[int]]]:
    """Where each line is, its picture's name, and the values of the wanted attributes, 0 or 1."""
    address = files.path(path)
    for number, name, cells in _txt(files, path, wanted) if path.endswith(".txt") else _csv(files, path, wanted):
        where = f"{address}, line {number}"
        if bad := [(key, cell) for key, cell in zip(wanted, cells, strict=True) if cell not in VALUES]:
            raise DataError(f"{where}: {bad[0][0]} is '{bad[0][1]}'; expected 1 or -1")
        yield where, name, [VALUES[cell] for cell in cells]


def _txt(files: Files, path: str, wanted: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    where, lines = files.path(path), files.text(path).splitlines()
    if len(lines) < 3 or not lines[0].strip().isdigit():
        raise DataError(f"{where}: expected the number of pictures, the names of the attributes, and a picture a line")
    header = lines[1].split()
    _check_known(header, wanted, where)
    columns = [header.index(name) + 1 for name in wanted]
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if cells and len(cells) != len(header) + 1:
            raise DataError(f"{where}, line {number}: {len(cells) - 1} values for {len(header)} attributes")
        if cells:
            yield number, cells[0], [cells[column] for column in columns]


def _csv(files: Files, path: str, wanted: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    header, lines = read_csv(files, path, ())
    where = files.path(path)
    check_columns(header, ["image_id"], where)
    _check_known(header[1:], wanted, where)
    for number, cells in lines:
        yield number, cells["image_id"], [cells[name] for name in wanted]


def _check_known(header: list[str], wanted: list[str], where: str) -> None:
    for name in wanted:
        if name not in header:
            raise DataError(f"{where} has no attribute '{name}'{nearest(name, header)}; it has {', '.join(header)}")


def _splits(files: Files, path: str) -> dict[str, str]:
    where, lines = files.path(path), files.text(path).splitlines()
    is_csv, splits = path.endswith(".csv"), dict[str, str]()
    for number, line in enumerate(lines[is_csv:], start=1 + is_csv):
        cells = [cell.strip() for cell in (line.split(",") if is_csv else line.split())]
        if any(cells):
            if len(cells) != 2 or cells[1] not in SPLITS:
                raise DataError(f"{where}, line {number}: '{line[:60]}'; expected a picture and 0, 1 or 2")
            if cells[0] in splits:
                raise DataError(f"{where}, line {number}: {cells[0]} comes a second time")
            splits[cells[0]] = SPLITS[cells[1]]
    if not splits:
        raise DataError(f"{where} names no picture")
    return splits


def _balanced(entries: list[Entry], seed: int) -> list[Entry]:
    train = [entry for entry in entries if entry.split == "train"]
    counts = Counter(entry.label for entry in train)
    rng, kept = random.Random(seed), [entry for entry in entries if entry.split != "train"]
    for label in sorted(counts):
        kept += rng.sample([entry for entry in train if entry.label == label], min(counts.values()))
    return kept


def open_celeba(config: CelebAConfig) -> OpenFolder:
    """The dataset, opened once."""
    return OpenFolder(config, list_celeba(config))


Config, Open = CelebAConfig, open_celeba
