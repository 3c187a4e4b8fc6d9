"""Images for learned tokens: of high loss, or of the hardest validation group; tables by hand."""

import numpy as np
import pyarrow as pa
import pytest
from score_tables import score_table, shuffled, with_failed_rows

from raygen.errors import DataError
from raygen.synthesis.minority import high_loss_images, val_group_images

CLASSES = ("cat", "dog")


def scores() -> pa.Table:
    """Four cats whose loss rises with their number, then four dogs whose loss falls."""
    margins = [3.0, 1.0, -1.0, -3.0, 3.0, 1.0, -1.0, -3.0]
    return score_table([0] * 4 + [1] * 4, np.stack([margins, np.zeros(8)], axis=1))


def ids(*numbers: int) -> list[str]:
    return [f"img{n:05d}" for n in numbers]


def test_the_highest_losses_of_each_class_are_taken() -> None:
    for seed in range(3):
        table = with_failed_rows(shuffled(scores(), seed=seed), ["bad"])
        assert high_loss_images(table, class_names=CLASSES, num_images=2) == [ids(2, 3), ids(4, 5)]
    assert high_loss_images(scores(), class_names=CLASSES, num_images=4) == [ids(0, 1, 2, 3), ids(4, 5, 6, 7)]


def test_equal_losses_are_told_apart_by_the_id() -> None:
    table = score_table([0] * 5, np.zeros((5, 2)))
    assert high_loss_images(shuffled(table, seed=1), class_names=("cat",), num_images=2) == [ids(3, 4)]


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'cat' has 4 scored training image\(s\), but .*num_images is 5"):
        high_loss_images(scores(), class_names=CLASSES, num_images=5)
    with pytest.raises(DataError, match="class 'cow' has 0 scored"):
        high_loss_images(scores(), class_names=(*CLASSES, "cow"), num_images=1)


def by_group(attributes: list[int | None], num: int, *, seed: int = 0) -> list[list[str]]:
    return val_group_images(
        scores(), dict(zip(ids(*range(8)), attributes, strict=True)), class_names=CLASSES, num_images=num, run_seed=seed
    )


def test_the_group_of_the_highest_mean_loss_is_the_minority_however_large_it_is() -> None:
    # Cats: attribute 1 has the losses of images 1, 2 and 3. Dogs: image 4 has the highest loss and is alone.
    assert by_group([0, 1, 1, 1, 0, 1, 1, 1], 1)[1] == ids(4)
    assert by_group([0, 1, 1, 1, 1, 1, 0, 0], 2)[1] == ids(4, 5)
    drawn = {tuple(by_group([0, 1, 1, 1, 1, 1, 0, 0], 2, seed=seed)[0]) for seed in range(20)}
    assert drawn == {tuple(ids(*pair)) for pair in ((1, 2), (1, 3), (2, 3))}
    assert by_group([0, 1, 1, 1, 1, 1, 0, 0], 2) == by_group([0, 1, 1, 1, 1, 1, 0, 0], 2)


@pytest.mark.parametrize(
    ("attributes", "num", "message"),
    [
        ([0, 1, 1, None, 0, 1, 1, 1], 1, r"1 of 8 validation images have no attribute"),
        ([0, 0, 0, 0, 0, 1, 1, 1], 1, r"class 'cat' has 1 group\(s\)"),
        ([0, 1, 1, 1, 0, 1, 1, 1], 2, r"minority of class 'dog' \(attribute 0\) has 1 validation image\(s\)"),
    ],
)
def test_what_has_no_minority_is_named(attributes: list[int | None], num: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        by_group(attributes, num)
