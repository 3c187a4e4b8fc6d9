"""Pictures with the same bytes: in two splits they leak, under two labels they contradict each other."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

from raygen.datasets.entries import Entry

# Copies that a warning names.
NUM_EXAMPLES = 5
# Of a picture's bytes. 16 bytes: two of a billion different pictures are alike once in 10**20 datasets.
_DIGEST_BYTES = 16


def digest(data: bytes) -> bytes:
    """Short hash of a picture's file."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def copy_warnings(entries: Sequence[Entry], digests: dict[str, bytes]) -> list[str]:
    """One line for each kind of copies, with their number and examples.

    Args:
        entries: All pictures.
        digests: Of those that could be read, by image_id.
    """
    seen, twice = set[bytes](), set[bytes]()
    for found in digests.values():
        (twice if found in seen else seen).add(found)
    by_digest: dict[bytes, list[Entry]] = defaultdict(list)
    for entry in entries if twice else ():
        if (found := digests.get(entry.image_id, b"")) in twice:
            by_digest[found].append(entry)
    sets = list(by_digest.values())
    leaks = [same for same in sets if _differ(same, "split")]
    disputes = [same for same in sets if _differ(same, "label")]
    plain = [same for same in sets if not _differ(same, "split") and not _differ(same, "label")]
    warnings = []
    if leaks:
        warnings.append(
            f"{len(leaks)} pictures are in two splits, with the same bytes: {_examples(leaks, lambda e: e.split)}; "
            "what is measured on the second was seen in the first. Take them out of one"
        )
    if disputes:
        warnings.append(
            f"{len(disputes)} pictures have two labels, with the same bytes: "
            f"{_examples(disputes, lambda e: f'label {e.label}')}; one of them is wrong"
        )
    if plain:
        warnings.append(
            f"{len(plain)} pictures are in the same split more than once, with the same bytes: "
            f"{_examples(plain, lambda e: e.split)}"
        )
    return warnings


def _differ(same: Sequence[Entry], field: str) -> bool:
    return len({getattr(entry, field) for entry in same}) > 1


def _examples(sets: Sequence[Sequence[Entry]], say: Callable[[Entry], str]) -> str:
    shown = [" = ".join(f"{entry.image_id} ({say(entry)})" for entry in same[:3]) for same in sets[:NUM_EXAMPLES]]
    return ", ".join([*shown, *(["…"] if len(sets) > NUM_EXAMPLES else [])])
