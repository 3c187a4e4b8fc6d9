"""Worst-group accuracy of every recipe, their controls and plain ERM, over seeds: on the scenes, or on real photos.

Every seed draws another dataset (of photos: other weights, orders and pictures), one `raygen run` each, with all the
controls, and for `dbb` also without pruning. Runs of one seed share what is the same in them (`--reuse`): rows, ERM,
candidates. An interrupted study goes on where it stopped; of a finished run, its record is enough (`--records`). Seeds
may be measured beside each other, by commands that differ in `--first` and `--seeds` alone. A recipe that cannot be run
on the dataset has a row with the reason. Beside accuracy: which labels a recipe reads, what it costs beyond ERM, where
it looks, and, as Chang et al. 2021 report it, test images before the background that is usual for their class in
training (original) and before others (flipped).

    python benchmarks/effect.py                              # all recipes, three seeds, into runs/effect
    python benchmarks/effect.py --recipes dbb jtt scgs+jtt --first 10 --seeds 10 --against jtt
    python benchmarks/effect.py --recipes scgs --set synthesis.tau=0.5 --out runs/effect_tau
    python benchmarks/effect.py --out runs/photos --photos clothes_bg.tar.gz   # packed, or a folder with metadata.csv
"""

import argparse
import tarfile
from dataclasses import dataclass
from pathlib import Path

from _effect_tables import Outcomes, against, overview, table
from _records import Record, add_arguments, record, recorded_run, records_of, seeds_of
from _runs import attempt

from raygen.report import write_comparison
from raygen.run.names import find_recipe, known_recipes

IMAGES_PER_CLASS = 500  # those of `raygen demo`
# Pairs beside the recipes that have a name of their own, as the papers' tables have them; those that are not installed
# are left out.
PAIRS = (
    "scgs+jtt",
    "dbb+afr",
    "dbb+evals",
    "cf(grey)",
    "cf(random)",
    "cf(shuffle)",
    "cf(tile)",
    "cf(telea)",
    "cf(inpaint)",
    "f(random)",
    "f(shuffle)",
    "f(mixed_rand)",
    "f(fgsm)",
    "cf(tile)+sal",
    "f(random)+sal",
    "cf(tile)+f(random)+sal",
    "cf(telea)+f(random)+sal",
    "cf(inpaint)+f(shuffle)+sal",
)
# The scenes: as many pictures of each kind as `raygen demo` makes; on photos the methods' own numbers.
AMOUNTS = {
    "dbb": [f"synthesis.k={IMAGES_PER_CLASS}", "unpruned=true"],
    **{pair: [f"synthesis.k={IMAGES_PER_CLASS}"] for pair in ("dbb+afr", "dbb+evals", "infill")},
}
# As many steps as the algorithm alone takes, which is what the pair is compared with; so have its controls.
EQUAL_STEPS = {"scgs+jtt": ["algorithm.epoch_length=original"]}
# Published steps and rates hold for features of one scale, and not for the small network's. These were chosen by the
# worst group of validation, on the scenes of a seed that is in no table (100); the same on photos.
CHOSEN = {
    "nsf": ["algorithm.scale_free=true"],
    "afr": ["algorithm.gamma=4", "algorithm.l2=0.1", "algorithm.learning_rate=0.03"],
    "hsfm": ["algorithm.learning_rate=0.005"],
    "dac": ["algorithm.learning_rate=0.0005"],
}
# Photos of 128 px and a network from scratch; the dataset's masks, since no model that finds garments is at hand.
PHOTOS = [
    "dataset.class_names=[short sleeves, long sleeves]",
    "dataset.attribute_names=[neutral background, warm background]",
    "classifier.image_size_px=128",
]
PHOTO_MASKS = {"dbb": ["synthesis.mask=truth"], "dac": [], "infill": []}


def main() -> None:
    """Runs what is missing, then prints and writes the tables."""
    arguments = read_arguments()
    dataset, out, overrides = "scenes", arguments.out, list(arguments.overrides)
    if arguments.photos is not None:
        if not (arguments.photos.exists() or arguments.recorded):
            print(f"{arguments.photos} is not there: nothing to do without photos")
            return
        dataset, overrides = str(photos_in(arguments.photos, out)), [*PHOTOS, *overrides]
    found: dict[str, Outcomes] = {recipe: {} for recipe in arguments.recipes}
    for seed in seeds_of(arguments):
        for recipe, outcomes in found.items():
            study = Study(recipe, dataset, seed, [out, *arguments.reuse], overrides, arguments.preset)
            one = study.outcome(records_of(arguments), recorded=arguments.recorded)
            if one is not None:
                outcomes[seed] = one
    parts = [overview(found), *(table(recipe, outcomes) for recipe, outcomes in found.items())]
    text = "\n".join([*filter(None, parts), *against(arguments.against, found)])
    out.mkdir(parents=True, exist_ok=True)
    (out / "effect.md").write_text(text, encoding="utf-8")
    folders = [out / f"{recipe}_{seed}" for recipe, outcomes in found.items() for seed in outcomes]
    if finished := [folder for folder in folders if (folder / "summary.json").is_file()]:
        write_comparison(finished, out / "comparison.html")  # with the scatter of saliency AUPR against accuracy
    print(text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, out="effect", first=0, seeds=3)
    parser.add_argument("--recipes", nargs="+", default=all_recipes(), metavar="RECIPE", help="default: all of them")
    parser.add_argument("--against", metavar="RECIPE", help="one of the recipes: what each other gains over it")
    parser.add_argument("--photos", type=Path, help="a folder with metadata.csv, or a .tar.gz of one, not the scenes")
    parser.add_argument("--preset", help="of every run")
    parser.add_argument("--reuse", nargs="+", type=Path, default=[], help="other OUTs, to take the same steps from")
    arguments = parser.parse_args()
    if arguments.against is not None and arguments.against not in arguments.recipes:
        parser.error(f"--against {arguments.against} is none of the recipes")
    try:
        arguments.recipes = [find_recipe(recipe)[0] for recipe in arguments.recipes]
    except ValueError as error:
        parser.error(str(error))
    return arguments


def all_recipes() -> list[str]:
    """Every recipe with a name of its own, those without pictures first, and the pairs; ERM is in all of their runs."""
    named = sorted(known_recipes().items(), key=lambda item: (item[1].synthesis is not None, item[0]))
    found = [name for name, _ in named if name != "erm"]
    for pair in PAIRS:
        try:
            found.append(find_recipe(pair)[0])
        except ValueError:  # of a paper that is not installed here
            continue
    return list(dict.fromkeys(found))


def photos_in(photos: Path, out: Path) -> Path:
    """The folder of photos, unpacked once where it is packed."""
    if not photos.is_file():
        return photos
    target = out / "photos"
    if not target.is_dir():
        unfinished = target.with_name("photos.part")
        with tarfile.open(photos) as archive:
            archive.extractall(unfinished, filter="data")
        unfinished.rename(target)
    (table,) = target.rglob("metadata.csv")
    return table.parent


@dataclass(frozen=True)
class Study:
    """One run; runs of one seed share what is the same in them.

    Attributes:
        recipe: Its name.
        dataset: The name or folder of the dataset.
        seed: The run's.
        outs: Where run folders are: its own, then others'.
        overrides: Of every run.
        preset: Of every run.
    """

    recipe: str
    dataset: str
    seed: int
    outs: list[Path]
    overrides: list[str]
    preset: str | None = None

    def outcome(self, records: Path, *, recorded: bool) -> Record | str | None:
        """What is recorded of it, or why it cannot be run; None where nothing is recorded and no more may be."""
        refused = []

        def make() -> Record | None:
            folder, command = self.outs[0] / f"{self.recipe}_{self.seed}", [self.recipe, "--dataset", self.dataset]
            command += ["--preset", self.preset] if self.preset else []
            reuse = [other for out in self.outs for other in sorted(out.glob(f"*_{self.seed}"))]
            tried = attempt(command, folder, settings=[*self.settings(), f"seed={self.seed}"], reuse=reuse)
            if tried.summary is None:
                refused.append(tried.reason)
                return None
            return record(folder, tried.summary)

        path = records / f"{self.recipe}_{self.seed}.json"
        return recorded_run(path, self.settings(), make, recorded=recorded) or next(iter(refused), None)

    def settings(self) -> list[str]:
        """Overrides of the recipe and of every run, without the seed."""
        synthesis = find_recipe(self.recipe)[1].synthesis
        settings = [*CHOSEN.get(self.recipe, ()), *EQUAL_STEPS.get(self.recipe, ())]
        if self.dataset != "scenes":
            settings += PHOTO_MASKS.get(synthesis or "", ())
        else:
            settings += AMOUNTS.get(self.recipe, AMOUNTS.get(synthesis or "", ()))
        if self.recipe in PAIRS and self.recipe != "scgs+jtt":
            settings.append("controls=[]")  # it is compared with its parts
        return [*settings, *self.overrides]


if __name__ == "__main__":
    main()
