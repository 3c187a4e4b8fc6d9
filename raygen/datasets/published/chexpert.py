"""CheXpert: radiographs of the chest with 14 observations that were read out of the reports.

Publication: Irvin et al. 2019, "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert
Comparison" (arXiv 1901.07031), https://stanfordmlgroup.github.io/competitions/chexpert/.
Split: `valid.csv` (234 radiographs that radiologists labelled) is test. `train.csv` (223,414) is training, but for the
patients of validation: a share of them, drawn by their names, so that no patient is in two splits. The authors publish
no validation split of this size.
Input: radiographs of any size; by default those from the front. Label: one of the observations, by default
Pneumothorax.
Attribute: another, or Sex, Frontal/Lateral or AP/PA; by default Support Devices, since chest drains are the sign of a
pneumothorax that is being treated (Oakden-Rayner et al. 2020, arXiv 1909.12475). 1 is present, 0 is absent.
Values: 1.0 is present, 0.0 absent, an empty cell "not mentioned", which counts as absent. -1.0 is uncertain and
follows `dataset.uncertain`, the rules of the paper: "zeros" (U-Zeros), "ones" (U-Ones) or "leave_out" (U-Ignore).
Licence: Stanford University School of Medicine's research use agreement; not commercial, not to be passed on.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from raygen.config import Seed
from raygen.datasets.entries import Entry, Listing
from raygen.datasets.folder import OpenFolder
from raygen.datasets.published.layout import (
    Files,
    PublishedConfig,
    compare_totals,
    files_of,
    listing_of,
    missing,
    named,
    nearest,
    read_csv,
    with_words,
)
from raygen.errors import ConfigError, DataError
from raygen.seeding import row_seed

TABLES = {"train": "train.csv", "test": "valid.csv"}
COUNTS = {"train.csv": 223_414, "valid.csv": 234}
ABOVE = ("", "CheXpert-v1.0-small/", "CheXpert-v1.0/")
OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
# Values of the columns that are no observations, in order of their number.
WORDS = {"Sex": ("Female", "Male"), "Frontal/Lateral": ("Frontal", "Lateral"), "AP/PA": ("AP", "PA")}
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS)
Uncertain = Literal["zeros", "ones", "leave_out"]
_RULES: Mapping[str, int | None] = {"zeros": 0, "ones": 1, "leave_out": None}
_NUMBERS = {"1.0": 1, "0.0": 0, "1": 1, "0": 0, "": 0}
_PATIENT = re.compile(r"patient\d+")


class CheXpertConfig(PublishedConfig):
    """CheXpert, in either size.

    Attributes:
        label: The observation that is to be told.
        attribute: The observation or column that it goes with; None: radiographs have no attribute.
        uncertain: What becomes of -1: absent, present, or left out.
        views: Radiographs from the front only, or from the side too.
        val_fraction: Share of the training patients that are validation. Assumption: a tenth is ours.
        val_seed: Seed of that draw.
    """

    name: Literal["chexpert"] = "chexpert"
    label: str = "Pneumothorax"
    attribute: str | None = "Support Devices"
    uncertain: Uncertain = "leave_out"
    views: Literal["frontal", "all"] = "frontal"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    val_seed: Seed = 0


def told_by(files: Files) -> str | None:
    """The table of training, if its header begins as CheXpert's; None where the folder is none of it."""
    for above in ABOVE:
        path = f"{above}{TABLES['train']}"
        if files.has(path) and files.place.why_no_file(path) is None:
            try:
                line = files.place.read(path)[:400].decode("utf-8-sig", "replace").split("\n", 1)[0]
            except OSError:
                continue
            if {"Path", "Frontal/Lateral", "No Finding"} <= {name.strip() for name in line.split(",")}:
                return path
    return None


def list_chexpert(config: CheXpertConfig) -> Listing:
    """Lists the radiographs.

    Raises:
        ConfigError: Label and attribute are the same.
        DataError: A table is not there or not as published, or an observation has an unknown name.
    """
    if config.label == config.attribute:
        raise ConfigError(f"dataset.label and dataset.attribute are both '{config.label}'; name two, or no attribute")
    _check_known(config)
    files = files_of(config)
    above = next((above for above in ABOVE if files.has(f"{above}{TABLES['train']}")), "")
    entries, problems, counts, left = list[Entry](), list[str](), dict[str, int](), Counter[str]()
    for split, table in TABLES.items():
        if not files.has(above + table):
            raise DataError(f"{config.path} has no {table}; give the folder that holds train.csv and valid.csv")
        needed = ["Path", "Frontal/Lateral", config.label, *([] if config.attribute is None else [config.attribute])]
        _, lines = read_csv(files, above + table, needed)
        counts[table] = len(lines)
        for number, cells in lines:
            where = f"{files.place.address}/{above}{table}, line {number}"
            path, patient = _picture(files, above, cells["Path"]), _PATIENT.search(cells["Path"])
            if patient is None:
                problems.append(f"{where}: no patient in '{cells['Path'][:80]}'; expected …/patient00001/study1/…")
                continue
            if config.views == "frontal" and cells["Frontal/Lateral"] != "Frontal":
                left["from the side"] += 1
                continue
            label = _value(cells, config.label, config.uncertain, where)
            attribute = None if config.attribute is None else _value(cells, config.attribute, config.uncertain, where)
            if label is None or (config.attribute is not None and attribute is None):
                left["uncertain"] += 1
            elif path is None:
                problems.append(missing(where, cells["Path"]))
            else:
                here = "val" if split == "train" and _is_validation(patient[0], config) else split
                image_id = path.removeprefix(above).rsplit(".", 1)[0]
                entries.append(Entry(image_id, label, attribute, here, files.path(path), None, where))
    words = () if config.attribute is None else _names(config.attribute)
    info = with_words(named(config, _names(config.label), words), "chest")
    note = f"label {config.label}, attribute {config.attribute or 'none'}; uncertain: {config.uncertain}"
    note += "".join(f"; {num} radiographs {why} are left out" for why, num in sorted(left.items()))
    told = f"{above}{TABLES['train']}, {TABLES['test']}"
    listing = listing_of(info, entries, told, problems=problems, notes=[note], place=files.place)
    compare_totals(listing, COUNTS, counts, what="lines")
    return listing


def _check_known(config: CheXpertConfig) -> None:
    if config.label not in OBSERVATIONS:
        raise DataError(
            f"dataset.label: no observation '{config.label}'{nearest(config.label, OBSERVATIONS)}; there are "
            f"{', '.join(OBSERVATIONS)}"
        )
    there = (*OBSERVATIONS, *WORDS)
    if config.attribute is not None and config.attribute not in there:
        raise DataError(
            f"dataset.attribute: no column '{config.attribute}'{nearest(config.attribute, there)}; there are "
            f"{', '.join(there)}"
        )


def _names(column: str) -> tuple[str, str]:
    first, second = WORDS.get(column, (f"no {column.lower().removeprefix('no ')}", column.lower()))
    return ("some finding", "no finding") if column == "No Finding" else (first.lower(), second.lower())


def _value(cells: Mapping[str, str], column: str, uncertain: Uncertain, where: str) -> int | None:
    """0, 1, or None where the value is uncertain and such are left out; so is an unknown sex or view."""
    cell = cells[column]
    if column in WORDS:
        return WORDS[column].index(cell) if cell in WORDS[column] else None
    if cell in {"-1.0", "-1"}:
        return _RULES[uncertain]
    if cell not in _NUMBERS:
        raise DataError(f"{where}: {column} is '{cell[:40]}'; expected 1.0, 0.0, -1.0 or nothing")
    return _NUMBERS[cell]


def _picture(files: Files, above: str, path: str) -> str | None:
    """Where a radiograph is: the tables' paths begin with the name of the archive, which the folder may not have."""
    return files.first(path, *(above + path.removeprefix(prefix) for prefix in ABOVE[1:] if path.startswith(prefix)))


def _is_validation(patient: str, config: CheXpertConfig) -> bool:
    return row_seed(config.val_seed, f"chexpert/{patient}") % 10**6 < config.val_fraction * 10**6


def open_chexpert(config: CheXpertConfig) -> OpenFolder:
    """The dataset, opened once."""
    return OpenFolder(config, list_chexpert(config))


Config, Open = CheXpertConfig, open_chexpert
