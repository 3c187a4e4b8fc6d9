"""Seeds that depend on names, never on order, batches or the number of actors."""

import hashlib

# The largest that torch's generators take.
MAX_SEED = 2**64 - 1
# The least of a draw that is seeded by `row_seed` alone.
LEAST_SEED = -(2**63)


def row_seed(run_seed: int, key: str) -> int:
    """63-bit seed of one row of one run.

    Args:
        run_seed: The run's `seed`.
        key: What is seeded: a plan row's `key`, or a path-like name such as "scenes/train/17".

    Returns:
        An integer in [0, 2**63), equal for equal arguments on every machine.
    """
    digest = hashlib.blake2b(f"{run_seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
