import hashlib
import itertools

import numpy as np
import pytest
from typer.testing import CliRunner

from raygen.classifier import ClassifierConfig, build_classifier
from raygen.cli import app
from raygen.errors import ConfigError
from raygen.run.config import make_config
from raygen.seeding import MAX_SEED, row_seed
from tune.spaces import expand
from tune.sweep_config import make_sweep
from tune.trials import sampler_of


def test_seed_is_fixed_for_ever() -> None:
    """Other seeds would make every old run folder's pictures irreproducible."""
    digest = hashlib.blake2b(b"7/train/0001/1/0000", digest_size=8).digest()
    assert row_seed(7, "train/0001/1/0000") == int.from_bytes(digest, "big") // 2
    assert row_seed(0, "a") == 6612858177627257344


def test_seeds_are_distinct_and_fit_a_signed_64_bit_column() -> None:
    seeds = [row_seed(run, f"{i}/1/{j:04d}") for run, i, j in itertools.product(range(3), range(200), range(5))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert np.array(seeds, dtype=np.int64).tolist() == seeds


def test_run_seed_and_key_cannot_be_confused() -> None:
    assert row_seed(1, "2/a") != row_seed(12, "/a")
    assert row_seed(1, "2/a") != row_seed(1, "2a")


def test_bits_are_balanced() -> None:
    seeds = np.array([row_seed(0, str(i)) for i in range(4000)], dtype=np.uint64)
    share_of_ones = [float(((seeds >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(63)]
    # Standard error 0.5 / sqrt(4000) = 0.008; five of them.
    assert max(abs(share - 0.5) for share in share_of_ones) < 0.04


RUN = {"recipe": "dbb", "dataset": {"name": "scenes", "scale": 0.01}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "seed=18446744073709551616",
            "seed: .* less than or equal to 18446744073709551615 .found 18446744073709551616",
        ),
        ("seed=-1", "seed: .* greater than or equal to 0 .found -1"),
        ("tune.seed=18446744073709551616", "tune.seed: .* less than or equal to 18446744073709551615"),
        ("dataset.seed=18446744073709551616", "dataset.seed: .* less than or equal to 18446744073709551615"),
        ("dataset.seed=-9223372036854775809", "dataset.seed: .* greater than or equal to -9223372036854775808"),
        ("seed=18446744073709551615", "fitted with the 2 seeds after it"),
        ("seed=" + "9" * 5000, "not valid YAML"),
    ],
)
def test_a_seed_beyond_what_can_be_drawn_with_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sweep(RUN, [override], where="test")


def test_the_largest_seeds_are_drawn_with() -> None:
    sweep = make_sweep(RUN, [f"seed={MAX_SEED - 2}", f"tune.seed={MAX_SEED}", "tune.sampler=random"], where="test")
    assert make_config(RUN, [f"seed={MAX_SEED}", f"dataset.seed={-(2**63)}"], where="test").seed == MAX_SEED
    build_classifier(ClassifierConfig(), 2, seed=MAX_SEED)
    domains = expand(sweep.space, num_classes=2)
    assert sampler_of(sweep, domains, first=None, known=[], at_most=1).suggest("trial")


@pytest.mark.parametrize("verb", [["data", "make", "scenes", "--out", "x"], ["evaluate", "x", "--dataset", "scenes"]])
@pytest.mark.parametrize("seed", [str(2**64), str(-(2**63) - 1)])
def test_a_seed_on_the_command_line_has_the_same_bounds(verb: list[str], seed: str) -> None:
    found = CliRunner().invoke(app, [*verb, "--seed", seed])
    assert found.exit_code == 2
    assert "should be" in found.output
