"""What a user's folder holds and what is wrong with it, before any picture is read.

Everything wrong is collected, not just the first: a run stops with all of it, and `raygen data check` reports it.
The three layouts have a file each: `shards`, `csv_table` (and `csv_text`), `class_folders`.
"""

import os
from pathlib import Path

from raygen.datasets.class_folders import list_class_folders
from raygen.datasets.csv_table import list_table
from raygen.datasets.entries import Entry, Listing
from raygen.datasets.files import is_text, not_text, printable, why_no_file, why_no_folder
from raygen.datasets.known import Names
from raygen.datasets.shards import list_shards
from raygen.datasets.table import INFO_FILE
from raygen.errors import DataError

__all__ = ["Entry", "Listing", "list_folder"]

LAYOUTS = {INFO_FILE: list_shards, "metadata.csv": list_table}


def list_folder(path: Path, given: Names) -> Listing:
    """Lists a folder in one of three layouts; see `raygen.datasets.folder`.

    Args:
        path: The folder.
        given: Names and prompts; where they are empty, the folder's own are taken.

    Raises:
        DataError: The folder as a whole cannot be used: absent, empty, of an unknown layout, without a column, or
            names that do not fit it.
    """
    if (reason := why_no_folder(path)) is not None:
        raise DataError(f"dataset folder {printable(path)} {reason}; give a folder of pictures, or 'scenes'")
    if not is_text(path) or not is_text(path.resolve().name):
        raise DataError(f"dataset folder {not_text(path.resolve())}")
    try:
        names = set(os.listdir(path))
    except OSError as error:
        raise DataError(f"dataset folder {printable(path)} cannot be listed: {error.strerror}") from error
    if not names:
        raise DataError(f"dataset folder {path} is empty; expected metadata.csv, or train/<class>/ with pictures")
    for text in (*given.class_names, *given.attribute_names, *given.prompts):
        if not is_text(text):  # YAML can hold half a letter, which no file that is written from it can
            raise DataError(f"'{printable(text)}' among the dataset's names or prompts is no text; write it anew")
    for name, list_layout in LAYOUTS.items():
        if name in names:
            if (reason := why_no_file(path / name)) is not None:
                raise DataError(f"{printable(path / name)} {reason}; expected the file that says what the folder holds")
            return list_layout(path, given)
    return list_class_folders(path, given)
