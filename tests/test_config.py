from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator

from raygen.config import (
    Strict,
    apply_overrides,
    differing_fields,
    dump_yaml,
    fingerprint,
    fingerprint_of_many,
    load_yaml,
    validate,
)
from raygen.errors import ConfigError
from raygen.pools.config import PoolConfig, PoolsConfig


class Scgs(Strict):
    name: Literal["scgs"]
    tau: float = 0.7


class Dbb(Strict):
    name: Literal["dbb"]
    k: int | float = 1.0
    learning_rate: float = 1e-4

    @model_validator(mode="after")
    def _bounded(self) -> "Dbb":
        if self.learning_rate > 5:
            raise ValueError("learning_rate is above 5")
        return self


class Config(Strict):
    synthesis: Annotated[Scgs | Dbb, Field(discriminator="name")]
    pools: PoolsConfig = PoolsConfig()
    seed: int = 0


def lines_of(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        validate(Config, data, where="config.yaml")
    first, *lines = str(error.value).splitlines()
    assert first == f"config.yaml: {len(lines)} wrong field(s)"
    return [line.strip() for line in lines]


def test_unknown_field_gets_the_nearest_name() -> None:
    assert lines_of({"synthesis": {"name": "dbb", "learning_rat": 1}}) == [
        "synthesis.learning_rat: unknown field; did you mean 'learning_rate'?"
    ]


def test_fields_are_named_as_the_user_wrote_them() -> None:
    """Pydantic puts "dbb" and "constrained-int" into the location, which stand nowhere in the user's file."""
    found = lines_of(
        {
            "synthesis": {"name": "dbb", "learning_rate": 9},
            "pools": {"scorer": {"actors": 0}, "masker": {"actors": [3, 1]}},
            "seed": "x",
        }
    )
    assert [line.partition(":")[0] for line in found] == ["synthesis", "pools.scorer.actors", "pools.masker", "seed"]
    assert "learning_rate is above 5" in found[0]
    assert "found 0" in found[1]
    assert "[3, 1]; the first number is the least" in found[2]


def test_missing_field_is_named() -> None:
    assert lines_of({}) == ["synthesis: is required and missing"]
    assert "unable to extract tag" in lines_of({"synthesis": {}})[0].lower()


def test_number_with_exponent_is_a_number() -> None:
    """YAML 1.1 reads 1e-4, without a dot, as a word."""
    data = apply_overrides({"synthesis": {"name": "dbb"}}, ["synthesis.learning_rate=1e-4"])
    found = validate(Config, data, where="config").synthesis
    assert isinstance(found, Dbb)
    assert found.learning_rate == 1e-4


def test_override_goes_deep_and_leaves_the_original() -> None:
    data = {"pools": {"scorer": {"actors": 1}}}
    changed = apply_overrides(data, ["pools.scorer.actors=[1,3]", "pools.masker.num_cpus=0.5", "seed=7"])
    assert changed == {"pools": {"scorer": {"actors": [1, 3]}, "masker": {"num_cpus": 0.5}}, "seed": 7}
    assert data == {"pools": {"scorer": {"actors": 1}}}


def test_later_override_wins() -> None:
    assert apply_overrides({}, ["a.b=1", "a.b=2"]) == {"a": {"b": 2}}


@pytest.mark.parametrize("override", ["seed", "=1", "a..b=1", ".a=1", "seed.x=1", "a=[1"])
def test_wrong_override_is_an_error(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({"seed": 0}, [override])


def test_off_is_a_word_and_no_truth_value(tmp_path: Path) -> None:
    assert apply_overrides({}, ["test=off", "name=no", "prune=false"]) == {"test": "off", "name": "no", "prune": False}
    (tmp_path / "config.yaml").write_text("test: off\nprune: True\n")
    assert load_yaml(tmp_path / "config.yaml") == {"test": "off", "prune": True}


@pytest.mark.parametrize(
    ("text", "value"),
    [  # YAML 1.2, section 10.3.2 and its examples; PyYAML reads most of these otherwise
        *[("010", 10), ("0o10", 8), ("0x1F", 31), ("-7", -7), ("+12", 12), ("1:30", "1:30"), ("0b11", "0b11")],
        *[("1e-4", 1e-4), ("12e03", 12000.0), ("-2E+05", -200000.0), (".5", 0.5), ("3.", 3.0), ("1_000", "1_000")],
        *[("yes", "yes"), ("off", "off"), ("True", True), ("~", None), ("null", None), ("", None), ("=", "=")],
        *[("2026-01-31", "2026-01-31"), ("12:30:45", "12:30:45"), ("1.2.3", "1.2.3"), ("0o9", "0o9")],
    ],
)
def test_yaml_is_read_as_version_1_2(tmp_path: Path, text: str, value: Any) -> None:
    (tmp_path / "config.yaml").write_text(f"x: {text}\n")
    for found in (load_yaml(tmp_path / "config.yaml")["x"], apply_overrides({}, [f"x={text}"])["x"]):
        assert (found, type(found)) == (value, type(value))


WORDS = [
    "0o10",
    "1e-4",
    "010",
    "off",
    "true",
    "null",
    "~",
    "1:30",
    "2026-01-31",
    "<<",
    "=",
    "",
    " a",
    "a: b",
    "é\n",
    ".inf",
]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    data = {
        "words": WORDS,
        **{word: word for word in WORDS},
        "numbers": [1, 8, -0.5, 1e-9, 1e22],
        "other": [True, None],
    }
    (tmp_path / "config.yaml").write_text(dump_yaml(data), encoding="utf-8")
    assert load_yaml(tmp_path / "config.yaml") == data


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("erm: {epochs: 1}\nseed: 1\nerm: {batch_size: 8}\n", 3, "the key 'erm' stands twice"),
        ("erm:\n  epochs: 1\n  'epochs': 2\n", 3, "the key 'epochs' stands twice"),
        ("pools: {scorer: {actors: 1, actors: 2}}\n", 1, "the key 'actors' stands twice"),
    ],
)
def test_key_that_stands_twice_is_an_error(tmp_path: Path, text: str, line: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s){message}.*line {line}"):
        load_yaml(tmp_path / "config.yaml")


def test_merge_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n")
    assert load_yaml(tmp_path / "config.yaml")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: !!binary aGk=\n", "a: !!set {x, y}\n", "? [1, 2]\n: x\n"])
def test_more_than_plain_data_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("synthesis", "message"),
    [
        ({"k": True}, "k is true, and true and false are no numbers"),
        ({"learning_rate": False}, "learning_rate is false"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"learning_rate": ".nan"}, "learning_rate"),
    ],
)
def test_number_is_a_finite_number(synthesis: Any, message: str) -> None:
    (line,) = lines_of({"synthesis": {"name": "dbb", **synthesis}})
    assert message in line


def test_truth_value_in_a_list_of_numbers_is_an_error() -> None:
    (line,) = lines_of({"synthesis": {"name": "scgs"}, "pools": {"scorer": {"actors": [1, True]}}})
    assert "actors is [1, true]" in line


def test_pool_bounds() -> None:
    assert (PoolConfig(actors=2).min_actors, PoolConfig(actors=2).max_actors) == (2, 2)
    assert (PoolConfig(actors=(1, 3)).min_actors, PoolConfig(actors=(1, 3)).max_actors) == (1, 3)


def test_fingerprint_ignores_order_and_sees_values() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    values = [{"a": 1}, {"a": 2}, {"a": None}, {"a": "1"}, {"a": [1]}, {"b": 1}, {"a": 1, "b": None}, {}]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_differing_fields_are_leaves() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert differing_fields(old, new) == ["a.c: 2 -> 5", "d: 3 -> '(absent)'", "e: '(absent)' -> 4"]
    assert differing_fields(new, new) == []


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "", "\tx: 1\n"])
def test_yaml_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_yaml(path)


def test_yaml_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(tmp_path / "binary.yaml")


@pytest.mark.parametrize("lists", [[[]], [[1], []], [[("ä", 2, None), ["b\udcff", {"z": 1, "a": 2.5}]], [3]]])
def test_a_fingerprint_of_many_is_that_of_the_lists(lists: list[list[Any]]) -> None:
    first = {"b": [1, "x"], "a": None}
    assert fingerprint_of_many(first, *map(iter, lists)) == fingerprint([first, *lists])
