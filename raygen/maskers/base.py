"""The base of the maskers' configs."""

from raygen.config import Strict


class MaskerBase(Strict):
    """Base of every masker's config.

    Attributes:
        name: That of the registry.
    """

    name: str
