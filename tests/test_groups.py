import itertools

import numpy as np
import pytest

from raygen.errors import DataError
from raygen.groups import group_index, group_name


def test_group_is_label_times_attributes_plus_attribute() -> None:
    pairs = list(itertools.product(range(3), range(2)))
    label_N, attribute_N = np.array(pairs, dtype=np.int32).T
    assert group_index(label_N, attribute_N, num_attributes=2).tolist() == [0, 1, 2, 3, 4, 5]


def test_waterbirds_minority_is_group_two() -> None:
    """Waterbirds on land, by the order of Sagawa et al.; in MaskTune's order it would be group 1."""
    assert group_index(np.array([1]), np.array([0]), num_attributes=2).tolist() == [2]
    names = {"class_names": ("landbird", "waterbird"), "attribute_names": ("land", "water")}
    assert group_name(1, 0, **names) == "waterbird on land"
    assert group_name(0, 1, **names) == "landbird on water"
    assert group_name(1, None, **names) == "waterbird"


@pytest.mark.parametrize(("label", "attribute"), [(0, 2), (0, -1), (-1, 0)])
def test_label_or_attribute_out_of_range_is_an_error(label: int, attribute: int) -> None:
    with pytest.raises(DataError, match="expected 0"):
        group_index(np.array([label]), np.array([attribute]), num_attributes=2)


def test_no_image_has_no_group() -> None:
    assert group_index(np.array([]), np.array([]), num_attributes=2).size == 0


def test_small_integer_types_do_not_overflow() -> None:
    label_N, attribute_N = np.array([100], dtype=np.int8), np.array([3], dtype=np.int8)
    assert group_index(label_N, attribute_N, num_attributes=50).tolist() == [5003]
