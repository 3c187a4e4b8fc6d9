"""A split that is drawn, where a table has none: the same for the same seed, whatever the order of the rows."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from raygen.schema import SPLITS
from raygen.seeding import row_seed


def draw_splits(
    names: Sequence[str], strata: Sequence[Hashable], *, fractions: tuple[float, float, float], seed: int
) -> list[str]:
    """The split of each row; every stratum is divided by the fractions, as nearly as whole rows can be.

    Args:
        names: Of each row, all different: with the seed they decide.
        strata: Of each row, such as its label and attribute.
        fractions: Of train, val and test; together 1.
        seed: Of the draw.
    """
    rows_of: dict[Hashable, list[int]] = defaultdict(list)
    for row, stratum in enumerate(strata):
        rows_of[stratum].append(row)
    splits = [""] * len(names)
    for rows in rows_of.values():
        rows.sort(key=lambda row: (row_seed(seed, f"split/{names[row]}"), names[row]))
        sizes = _sizes(len(rows), fractions)
        for row, split in zip(
            rows, (name for name, size in zip(SPLITS, sizes, strict=True) for _ in range(size)), strict=True
        ):
            splits[row] = split
    return splits


def _sizes(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that come to `total`, by largest remainder: what is left goes to the largest fractions cut off."""
    exact = [total * fraction for fraction in fractions]
    sizes = [int(size + 1e-9) for size in exact]
    left = sorted(range(len(sizes)), key=lambda i: (sizes[i] - exact[i], i))
    for i in left[: total - sum(sizes)]:
        sizes[i] += 1
    return sizes
