"""What is said of a dataset of Hugging Face's library: where it is, and what its columns and splits are called."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from raygen.config import Decides, Strict
from raygen.datasets.opened import DatasetBase
from raygen.seeding import LEAST_SEED, MAX_SEED

Fraction = Annotated[float, Field(ge=0, le=1)]


class HubColumns(Strict, decides=Decides.RESULTS):
    """Names of the columns, where they are others than raygen knows.

    Attributes:
        image: Of the pictures, with the feature Image.
        label: Of the class.
        attribute: Of the spurious attribute.
        mask: Of the object mask, with the feature Image.
    """

    image: str | None = None
    label: str | None = None
    attribute: str | None = None
    mask: str | None = None


class HubSplits(Strict, decides=Decides.RESULTS):
    """What the dataset calls its splits, where they are not called train, val or validation, and test.

    Attributes:
        train: To fit on.
        val: To choose by.
        test: To report.
    """

    train: str | None = None
    val: str | None = None
    test: str | None = None


class HubConfig(DatasetBase):
    """A dataset of Hugging Face's library.

    Attributes:
        path: Folder, or id on their hub, such as "org/birds".
        subset: The config of a dataset that has several, such as "default".
        revision: Branch, tag or commit of a hub id; by default the newest.
        columns: Names of its columns.
        splits: Names of its splits.
        split: Fractions of train, val and test, together 1, by which a split is drawn from the rows of all of its
            splits, stratified by label and attribute.
        split_seed: Seed of that draw.
        class_names: Names of labels 0, 1, ...; by default those of its ClassLabel, or its words.
        attribute_names: Names of attribute values, likewise.
        prompts: What to ask the inpainter for, per class; by default "a photo of a <class name>".
    """

    name: Literal["hf"] = "hf"
    path: Path
    subset: str | None = None
    revision: str | None = None
    columns: HubColumns = HubColumns()
    splits: HubSplits = HubSplits()
    split: tuple[Fraction, Fraction, Fraction] | None = None
    split_seed: int = Field(0, ge=LEAST_SEED, le=MAX_SEED)
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()

    @property
    def inline(self) -> bool:
        """A run always keeps the pictures: they are no files of their own."""
        return True

    @field_validator("split")
    @classmethod
    def _whole(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and abs(sum(value) - 1) > 1e-6:
            raise ValueError(f"fractions of train, val and test come to {sum(value):g}; expected 1, as in 0.8,0.1,0.1")
        return value
