import hashlib
import itertools

import numpy as np

from raygen.seeding import row_seed


def test_seed_is_fixed_for_ever():
    """Other seeds would make every old run folder's pictures irreproducible."""
    digest = hashlib.blake2b(b"7/train/0001/1/0000", digest_size=8).digest()
    assert row_seed(7, "train/0001/1/0000") == int.from_bytes(digest, "big") // 2
    assert row_seed(0, "a") == 6612858177627257344


def test_seeds_are_distinct_and_fit_a_signed_64_bit_column():
    seeds = [row_seed(run, f"{i}/1/{j:04d}") for run, i, j in itertools.product(range(3), range(200), range(5))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert np.array(seeds, dtype=np.int64).tolist() == seeds


def test_run_seed_and_key_cannot_be_confused():
    assert row_seed(1, "2/a") != row_seed(12, "/a")
    assert row_seed(1, "2/a") != row_seed(1, "2a")


def test_bits_are_balanced():
    seeds = np.array([row_seed(0, str(i)) for i in range(4000)], dtype=np.uint64)
    share_of_ones = [float(((seeds >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(63)]
    # Standard error 0.5 / sqrt(4000) = 0.008; five of them.
    assert max(abs(share - 0.5) for share in share_of_ones) < 0.04
