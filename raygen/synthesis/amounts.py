"""How many images of each class a synthesis takes: a count, a share of the class, or a list with one of them each."""

# C classes

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from raygen.errors import ConfigError

# A whole number is a count, a fraction a share of the class; 1.0 is all of it, 1 is one image.
Amount = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]


def num_selected(k: int | float | Sequence[int | float], counts_C: Sequence[int] | np.ndarray) -> list[int]:
    """Images of each class that k asks for; a fraction of a class is rounded and is at least one image.

    Raises:
        ConfigError: A list with another number of entries than there are classes.
    """
    amounts = list(k) if isinstance(k, Sequence) else [k] * len(counts_C)
    if len(amounts) != len(counts_C):
        raise ConfigError(f"synthesis.k has {len(amounts)} entries, but the dataset has {len(counts_C)} classes")
    return [
        max(1, round(amount * int(count))) if isinstance(amount, float) else amount
        for amount, count in zip(amounts, counts_C, strict=True)
    ]
