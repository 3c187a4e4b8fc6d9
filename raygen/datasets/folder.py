"""A user's own folder of pictures, in one of three layouts, tried in this order.

1. SOURCE shards: `dataset.json` and `part-*.parquet`, as `raygen data make` writes them.
2. `metadata.csv`, with the columns of group_DRO (img_filename, y, split, place) or plainer names (path, label, split,
   attribute), and optionally a column with object masks (mask_filename). Files are relative to the folder.
3. ImageFolder: `train/<class>/*`, `val/<class>/*`, `test/<class>/*`; no attributes.

Files are listed in sorted order and their bytes are kept in the rows, so that a run does not depend on the folder.
"""

from pathlib import Path
from typing import Literal

from raygen.config import Strict
from raygen.datasets.listing import Listing, list_folder
from raygen.datasets.table import write_source
from raygen.errors import DataError

SHOWN_PROBLEMS = 5


class FolderConfig(Strict):
    """A folder of pictures.

    Attributes:
        path: The folder.
        class_names: Names of labels 0, 1, ...; by default those of the folder, those of the published dataset that
            the folder is called after (Waterbirds, CelebA), or "class 0", ...
        attribute_names: Names of attribute values; by default likewise, or "attribute 0", ...
        prompts: What to ask the inpainter for, per class; by default "a photo of a <class name>".
    """

    name: Literal["folder"] = "folder"
    path: Path
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


def open_folder(config: FolderConfig) -> Listing:
    """What the folder holds, and what is wrong with it.

    Raises:
        DataError: The folder as a whole cannot be used.
    """
    return list_folder(
        config.path,
        class_names=config.class_names,
        attribute_names=config.attribute_names,
        prompts=config.prompts,
    )


def write_folder(config: FolderConfig, folder: Path) -> dict[str, int]:
    """Writes the SOURCE rows of a user's folder; gives back rows per split.

    Pictures that cannot be decoded are written as they are: they become failed rows with a reason. What the folder
    says of a picture (its label, its split, its file) must be right.

    Raises:
        DataError: The folder is absent, empty or of an unknown layout; labels, attributes, splits, ids or files are
            wrong: the message has the first of them.
    """
    listing = open_folder(config)
    if listing.problems:
        shown = "\n".join(f"  {problem}" for problem in listing.problems[:SHOWN_PROBLEMS])
        raise DataError(
            f"{config.path}: {len(listing.problems)} picture(s) cannot be used:\n{shown}\n"
            f"`raygen data check {config.path}` lists all that is wrong."
        )
    return write_source(listing.rows(), listing.info, folder)
