"""Spawrious: generated pictures of four breeds of dogs in six surroundings, in six benchmarks of rising difficulty.

Publication: Lynch et al. 2023, "Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases" (arXiv
2303.05470), https://github.com/aengusl/spawrious, which distributes `spawrious224`: `<0 or
1>/<surroundings>/<breed>/`, 3,168 pictures in each folder.
Split: a benchmark says in which surroundings each breed is in training and in test, and how many pictures of a folder
are taken, in order of their names. One to one (o2o): each breed in surroundings of its own, but for 3% (folder 0) and
13% (folder 1) in others that all share; many to many (m2m): each of two breeds in each of two surroundings. Validation
is a share of the training pictures, drawn by their names, as it is of the same distribution in the authors' code.
Input: 224 x 224 pixels. Label: bulldog 0, dachshund 1, labrador 2, corgi 3. Attribute: the surroundings.
Licence: CC BY 4.0.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from raygen.config import Seed
from raygen.datasets.entries import Entry, Listing
from raygen.datasets.folder import OpenFolder
from raygen.datasets.published.layout import Files, PublishedConfig, files_of, listing_of, named, with_words
from raygen.errors import DataError
from raygen.seeding import row_seed

CLASS_NAMES = ("bulldog", "dachshund", "labrador", "corgi")
ATTRIBUTE_NAMES = ("desert", "jungle", "dirt", "snow", "beach", "mountain")
ABOVE = ("", "spawrious224/")
ENVIRONMENTS = ("0", "1")
PER_FOLDER = 3_168
# Of one-to-one benchmarks: pictures of a folder in each environment that are in the breed's own surroundings.
OWN = (int(0.97 * PER_FOLDER), int(0.87 * PER_FOLDER))
Benchmark = Literal["o2o_easy", "o2o_medium", "o2o_hard", "m2m_easy", "m2m_medium", "m2m_hard"]
# Surroundings of the four breeds in training, in test, and those that all share in training.
_PLANS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "o2o_easy": (("desert", "jungle", "dirt", "snow"), ("dirt", "snow", "desert", "jungle"), "beach"),
    "o2o_medium": (("mountain", "beach", "dirt", "jungle"), ("jungle", "dirt", "beach", "snow"), "desert"),
    "o2o_hard": (("jungle", "mountain", "snow", "desert"), ("mountain", "snow", "desert", "jungle"), "beach"),
    "m2m_easy": (("desert", "mountain", "dirt", "jungle"), ("dirt", "jungle", "mountain", "desert"), None),
    "m2m_medium": (("beach", "snow", "mountain", "desert"), ("desert", "mountain", "beach", "snow"), None),
    "m2m_hard": (("dirt", "jungle", "snow", "beach"), ("snow", "beach", "dirt", "jungle"), None),
}
# In many-to-many benchmarks the two breeds of a pair change places between the environments.
_SWAPPED = (1, 0, 3, 2)


class SpawriousConfig(PublishedConfig):
    """Spawrious, or a folder laid out like it.

    Attributes:
        benchmark: Which breed is where.
        val_fraction: Share of the training pictures that are validation. Assumption: a tenth is ours.
        val_seed: Seed of that draw.
    """

    name: Literal["spawrious"] = "spawrious"
    benchmark: Benchmark = "o2o_easy"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    val_seed: Seed = 0


def told_by(files: Files) -> str | None:
    """The first folder of surroundings and breed; None where there is none."""
    found = (f"{above}0/{place}/{breed}" for above in ABOVE for place in ATTRIBUTE_NAMES for breed in CLASS_NAMES)
    return files.first(*found)


def list_spawrious(config: SpawriousConfig) -> Listing:
    """Lists the pictures of a benchmark.

    Raises:
        DataError: A folder that it needs is not there.
    """
    files = files_of(config)
    above = next((above for above in ABOVE if files.has(f"{above}0")), "")
    entries, gone, small = list[Entry](), list[str](), list[str]()
    for split, environment, label, place, most in _folders(config.benchmark):
        folder = f"{above}{environment}/{place}/{CLASS_NAMES[label]}"
        if not files.has(folder):
            gone.append(folder)
            continue
        paths = files.pictures(folder)
        small += [f"{folder} ({len(paths)})"] if len(paths) != PER_FOLDER else []
        for path in paths[: round(most * len(paths) / PER_FOLDER)]:
            image_id, picture = path.removeprefix(above).rsplit(".", 1)[0], files.path(path)
            here = "val" if split == "train" and _is_validation(image_id, config) else split
            entries.append(Entry(image_id, label, ATTRIBUTE_NAMES.index(place), here, picture, None, picture))
    if gone:
        raise DataError(
            f"{config.path} has no {', '.join(gone[:5])}, which dataset.benchmark={config.benchmark} needs; expected "
            "spawrious224 with <0 or 1>/<surroundings>/<breed>/"
        )
    info = with_words(named(config, CLASS_NAMES, ATTRIBUTE_NAMES), "dog")
    listing = listing_of(info, entries, f"{above}0/…", notes=[f"benchmark {config.benchmark}"], place=files.place)
    if small:
        listing.warnings.append(
            f"{len(small)} folders have not the published {PER_FOLDER} pictures: {', '.join(small[:5])}; shares of "
            "what is there are taken. The usual cause is a filtered or unfinished copy; numbers are not to be compared "
            "with the papers'"
        )
    return listing


def _folders(benchmark: str) -> Iterator[tuple[str, str, int, str, int]]:
    """Split, environment, label and surroundings of each folder, and how many of PER_FOLDER are taken."""
    own, others, shared = _PLANS[benchmark]
    for number, environment in enumerate(ENVIRONMENTS):
        for label in range(len(CLASS_NAMES)):
            swapped = _SWAPPED[label] if shared is None and number == 1 else label
            most = PER_FOLDER if shared is None else OWN[number]
            yield "train", environment, label, own[swapped], most
            if shared is not None:
                yield "train", environment, label, shared, PER_FOLDER - most
            yield "test", environment, label, others[swapped], PER_FOLDER


def _is_validation(image_id: str, config: SpawriousConfig) -> bool:
    return row_seed(config.val_seed, f"spawrious/{image_id}") % 10**6 < config.val_fraction * 10**6


def open_spawrious(config: SpawriousConfig) -> OpenFolder:
    """The dataset, opened once."""
    return OpenFolder(config, list_spawrious(config))


Config, Open = SpawriousConfig, open_spawrious
