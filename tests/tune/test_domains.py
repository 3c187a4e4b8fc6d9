"""What a domain holds, and which cannot be."""

import pytest
from pydantic import ValidationError

from tune.domains import Domain


def test_steps_are_exact_decimals() -> None:
    assert Domain(low=0.1, high=1.0, step=0.1).points() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_a_range_of_whole_numbers_has_them_all_and_both_ends() -> None:
    assert Domain(low=1, high=10).points() == list(range(1, 11))
    assert Domain(low=1, high=10, step=4).points() == [1, 5, 9]
    assert all(isinstance(point, int) for point in Domain(low=1, high=10).points() or [])


def test_a_range_without_steps_has_no_end_of_values() -> None:
    assert Domain(low=0.1, high=1.0).points() is None
    assert Domain(low=1, high=1000, log=True).points() is None


def test_a_samplers_number_stands_for_the_point_next_to_it() -> None:
    assert 0.1 + 0.2 != 0.3
    assert Domain(low=0.1, high=1.0, step=0.1).nearest(0.1 + 0.2) == 0.3
    assert repr(Domain(low=1, high=10).nearest(3.0)) == "3"


def test_what_a_domain_holds() -> None:
    stepped = Domain(low=0.1, high=1.0, step=0.1)
    assert stepped.holds(0.5)
    assert not stepped.holds(0.55)
    assert not stepped.holds(1.1)
    assert not stepped.holds("selected")
    # In a list of amounts 1 is one image and 1.0 is all of them.
    assert Domain(values=(0.5, 1.0)).holds(1.0)
    assert not Domain(values=(0.5, 1.0)).holds(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": ()}, "at least 1 item"),
        ({"values": (1, 1)}, "given twice"),
        ({"low": 3, "high": 3}, "the range from 3 to 3 is empty"),
        ({"low": 3, "high": 1}, "the range from 3 to 1 is empty"),
        ({"low": 3}, "give either"),
        ({}, "give either"),
        ({"values": (1,), "low": 1, "high": 2}, "give either"),
        ({"values": (1, 2), "step": 1}, "belong to a range"),
        ({"low": 0.0, "high": 0.5, "step": 0.6}, "wider than the range"),
        ({"low": 0.0, "high": 0.5, "step": 0.0}, "greater than 0"),
        ({"low": 0.0, "high": 0.5, "log": True}, "`low` above 0"),
        ({"low": 0.1, "hgih": 0.5}, "Extra inputs"),
    ],
)
def test_what_no_domain_can_be_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Domain.model_validate(fields)
