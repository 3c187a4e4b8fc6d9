"""What a recipe needs of a dataset, for `raygen data check --recipe`: what is an error for one is none for another."""

from collections.abc import Callable

import numpy as np

from raygen import synthesis
from raygen.datasets.check import Needs
from raygen.datasets.opened import OpenDataset
from raygen.errors import UserError
from raygen.run import preflight
from raygen.run.config import RunConfig
from raygen.run.opened import Opened

# Groups that a message names.
SHOWN = 5


def needs_of(config: RunConfig, dataset: OpenDataset) -> Needs:
    """What a run of a config would do with a dataset, before any picture is read.

    Args:
        config: Of a run; its own dataset is not looked at.
        dataset: The one that is checked.
    """
    opened, problems = Opened(config, dataset), []
    for check in (preflight.check_classes, preflight.check_groups, preflight.check_masks):
        problems += _problem(check, opened)
    if config.algorithm.needs_groups_of == "val":
        problems += _absent_groups(config, dataset)
    return Needs(reads_masks(config, dataset), problems)


def reads_masks(config: RunConfig, dataset: OpenDataset) -> bool:
    """Whether a run takes the dataset's object masks for the place of an object; `language` and `cam` find it."""
    tokens = config.textual_inversion
    if config.algorithm.needs_masks() or (tokens is not None and tokens.region == "object"):
        return True
    if config.synthesis is None:
        return False
    return synthesis.of(config.synthesis).masker(config.synthesis, dataset.info)["name"] in ("truth", "box")


def _absent_groups(config: RunConfig, dataset: OpenDataset) -> list[str]:
    """What is said of groups that are tested and have no validation image; a run goes on without them, and lower."""
    val_CA, test_CA = dataset.group_counts("val"), dataset.group_counts("test")
    if val_CA is None or test_CA is None:
        return []  # said already
    classes, attributes = dataset.info.class_names, dataset.info.attribute_names
    absent = [
        f"({classes[label]}, {attributes[attribute]}) of {test_CA[label, attribute]} test images"
        for label, attribute in np.argwhere((val_CA == 0) & (test_CA > 0)).tolist()
    ]
    if not absent:
        return []
    more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
    return [
        f"recipe {config.recipe} is fitted on the groups of validation, which has no image of {len(absent)} of them: "
        f"{', '.join(absent[:SHOWN])}{more}"
    ]


def _problem(check: Callable[[Opened], None], opened: Opened) -> list[str]:
    try:
        check(opened)
    except UserError as error:
        return [str(error)]
    return []
