"""The masker's stage of counterfactual and factual pictures: the object is replaced in one, all but it in the other."""

from collections.abc import Mapping
from typing import Any, ClassVar

from raygen.errors import RowError
from raygen.inpainters.fills import Role, Shape, region
from raygen.maskers.base import Repaint
from raygen.stages.mask import Masks, MaskStage
from raygen.stages.spec import Batch, Prepared


class RegionStage(MaskStage):
    """Repaint mask of each row, by its role; a row whose region is nothing or everything fails.

    Args:
        masker: Fields of `MaskerConfig`: what it would repaint is taken for the object.
        regions: Shape of the object by role; another role's rows get the object itself.
        classifier_folder: The classifier that CAM maskers look into.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = MaskStage.reads | {"role"}

    def __init__(
        self, *, masker: Mapping[str, Any], regions: Mapping[Role, Shape], classifier_folder: str, device: str = "cpu"
    ) -> None:
        super().__init__(masker=masker, classifier_folder=classifier_folder, device=device)
        self._regions: dict[str, Shape] = {str(role): shape for role, shape in regions.items()}

    def finish(self, prepared: Prepared[Any], outputs: Masks) -> Batch:
        """The rows with repaint masks; a row that fails has none."""
        roles = prepared.batch["role"]
        found = [self._region(mask, str(roles[i])) for i, mask in enumerate(outputs)]
        return super().finish(prepared, found)

    def _region(self, mask: Repaint | RowError, role: str) -> Repaint | RowError:
        if isinstance(mask, RowError):
            return mask
        is_factual = role == "factual"
        try:
            shape = self._regions.get(role, "segmentation")
            repaint_HW = region(mask.mask_HW, "factual" if is_factual else "counterfactual", shape)
        except RowError as error:
            return error
        return Repaint(repaint_HW, mask.mask_HW if mask.object_HW is None else mask.object_HW)
