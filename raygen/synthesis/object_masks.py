"""Syntheses that repaint an object: how a config's `mask` finds it, whatever the paper."""

from typing import TYPE_CHECKING, Any, Self

from pydantic import field_validator

from raygen.datasets.table import DatasetInfo
from raygen.maskers.language import AnyFinder, object_texts
from raygen.synthesis.base import SynthesisBase


class ObjectMaskSynthesis(SynthesisBase):
    """Base of a config whose `mask` says where the object is: "language", "cam", or a masker with no other setting."""

    if TYPE_CHECKING:  # fields that each declares itself, and so at a place of its own in a config's file
        mask: str
        language: AnyFinder
        tau: float
        dilation_px: int

    @field_validator("language", mode="before", check_fields=False)
    @classmethod
    def _clipseg_by_default(cls, value: Any) -> Any:
        return {"kind": "clipseg", **value} if isinstance(value, dict) else value

    def object_growth_px(self) -> int:
        """As the config says."""
        return self.dilation_px

    def finder(self) -> AnyFinder | None:
        """Those of mask "language"."""
        return self.language if self.mask == "language" else None

    def with_absolute_models(self) -> Self:
        """With these."""
        models = self.finder()
        return self if models is None else self.model_copy(update={"language": models.absolute()})

    def map_setting(self) -> str:
        """The mask."""
        return f"synthesis.mask={self.mask}"


def object_masker(config: ObjectMaskSynthesis, dataset: DatasetInfo) -> dict[str, Any]:
    """Fields of the config of the masker that `mask` names; what it would repaint is the object.

    Raises:
        ConfigError: What is looked for does not fit the dataset's classes.
    """
    if config.mask == "language":
        return {
            "name": "language",
            "finder": config.language.model_dump(mode="json"),
            "texts": object_texts(config.language, dataset),
            "dilation_px": config.dilation_px,
        }
    if config.mask != "cam":
        return {"name": config.mask, "dilation_px": config.dilation_px}
    return {
        "name": "cam",
        "tau": config.tau,
        "repaint": "attended",
        "explain": "source_label",
        "dilation_px": config.dilation_px,
    }
