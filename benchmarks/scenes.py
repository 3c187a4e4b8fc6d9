"""What the scenes benchmark can be solved by, over seeds, and what ERM makes of each level of bias.

Shape must be learnable from balanced data; the bias must win on biased data, at the level "paper" as far as it does in
the papers; colour and background alone must not be enough. Classifiers are fitted by `raygen run erm`; an interrupted
study goes on where it stopped.

    python benchmarks/scenes.py                       # runs/scenes_study, five seeds, about an hour on two cores
    python benchmarks/scenes.py --levels-only --set fit.num_threads=1      # the rows of ERM at both levels, no others
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _records import add_arguments, kept, records_of, seeds_of
from sklearn.ensemble import HistGradientBoostingClassifier

from raygen.datasets.scene_drawing import SIZE_PX
from raygen.datasets.scene_rendering import ATTRIBUTE_NAMES, CLASS_NAMES, Scene, render_scene
from raygen.datasets.scenes import TRAIN_COUNTS
from raygen.datasets.table import DatasetInfo, write_source
from raygen.images import encode_image
from raygen.run.evaluation import evaluate_classifier
from raygen.seeding import row_seed

BALANCED = ["dataset.train_counts=[2400,2400,2400,2400]", "dataset.test_counts=[1000,1000,1000,1000]", "erm.epochs=12"]
GREY = 128
PROMPTS = tuple(f"a photo of a {name}" for name in CLASS_NAMES)


def main() -> None:
    """Runs what is missing, then prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, out="scenes_study", first=0, seeds=5)
    parser.add_argument("--levels-only", action="store_true", help="only ERM at both levels of bias")
    arguments = parser.parse_args()
    out, seeds = arguments.out, seeds_of(arguments)
    out.mkdir(parents=True, exist_ok=True)
    study = Study(out, records_of(arguments), arguments.overrides, arguments.recorded)
    rows = {f"as shipped, bias {bias}": [study.level(bias, seed) for seed in seeds] for bias in TRAIN_COUNTS}
    if not arguments.levels_only:
        rows |= {
            "balanced": [study.balanced(seed) for seed in seeds],
            "balanced, colours independent (shape oracle)": [study.shape(seed) for seed in seeds],
            "the shape oracle on the test images of both levels": [study.oracle(seed) for seed in seeds],
            "balanced, object greyed (background only)": [study.background(seed) for seed in seeds],
            "mean and spread of the object's colour (boosted trees)": [study.colour(seed) for seed in seeds],
        }
    lines = ["| trained on | worst-group accuracy, % | average accuracy, % |", "|---|---|---|"]
    for name, found in rows.items():
        if results := [result for result in found if result is not None]:
            lines.append(f"| {name} | {values(results, 'worst_group')} | {values(results, 'average')} |")
    text = "\n".join(lines) + "\n"
    (out / "scenes.md").write_text(text, encoding="utf-8")
    print(text)


@dataclass(frozen=True)
class Study:
    """Classifiers, each in a run folder below `out`; each method gives back test accuracies, None if not recorded.

    Attributes:
        out: The study's folder.
        records: Where accuracies are kept.
        overrides: Of every run.
        recorded: Fit nothing.
    """

    out: Path
    records: Path
    overrides: list[str]
    recorded: bool

    def kept(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any] | None:
        """What is recorded under a name."""

        def accuracies() -> dict[str, Any]:
            made = make()
            return {what: float(made[what]) for what in ("worst_group", "average")}

        return kept(self.records / f"{name}.json", self.overrides, accuracies, recorded=self.recorded)

    def fit(self, dataset: str, name: str, settings: list[str], seed: int) -> dict[str, Any]:
        """A classifier fitted by ERM."""
        raygen, folder = str(Path(sys.executable).with_name("raygen")), self.out / name
        command = [raygen, "run", "erm", "--dataset", dataset, "--out", str(folder)]
        for override in [*settings, *self.overrides, f"seed={seed}"]:
            command += ["--set", override]
        if not (folder / "summary.json").is_file():
            print("$", " ".join(command), flush=True)
            subprocess.run(command, check=True)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return dict(summary["results"]["erm"]["test"])

    def level(self, bias: str, seed: int) -> dict[str, Any] | None:
        """ERM on the scenes as they ship."""
        name = f"{bias}_{seed}"
        return self.kept(name, lambda: self.fit("scenes", name, [f"dataset.bias={bias}"], seed))

    def balanced(self, seed: int) -> dict[str, Any] | None:
        """ERM where all groups are equally frequent."""
        name = f"balanced_{seed}"
        return self.kept(name, lambda: self.fit("scenes", name, BALANCED, seed))

    def shape(self, seed: int) -> dict[str, Any] | None:
        """A classifier that can go by the shape alone, on scenes of its kind."""
        return self.kept(f"shape_{seed}", lambda: self._shape(seed))

    def oracle(self, seed: int) -> dict[str, Any] | None:
        """That classifier on the test images of the benchmark, which all levels have in common."""

        def evaluated() -> dict[str, Any]:
            self._shape(seed)
            self.fit("scenes", f"paper_{seed}", ["dataset.bias=paper"], seed)
            data = {"name": "folder", "path": str(self.out / f"paper_{seed}" / "data")}
            return dict(evaluate_classifier(self.out / f"shape_{seed}" / "erm", data, seed=seed)["test"])

        return self.kept(f"oracle_{seed}", evaluated)

    def background(self, seed: int) -> dict[str, Any] | None:
        """A classifier that sees only what is around the bird."""

        def fitted() -> dict[str, Any]:
            folder = self.out / f"greyed_{seed}"
            if not (folder / "dataset.json").is_file():
                folder.mkdir(exist_ok=True)
                info = DatasetInfo("greyed scenes", CLASS_NAMES, ATTRIBUTE_NAMES, PROMPTS)
                write_source(greyed_rows(seed), info, folder)
            return self.fit(str(folder), f"background_{seed}", ["erm.epochs=12"], seed)

        return self.kept(f"background_{seed}", fitted)

    def colour(self, seed: int) -> dict[str, Any] | None:
        """The best guess from the object's colours."""
        return self.kept(f"colour_{seed}", lambda: colour_accuracies(seed))

    def _shape(self, seed: int) -> dict[str, Any]:
        return self.fit("scenes", f"shape_{seed}", [*BALANCED, "dataset.plumage=independent"], seed)


def greyed_rows(seed: int) -> Iterator[dict[str, Any]]:
    """Balanced scenes whose bird is under a grey box that would hold a bird of either kind."""
    for split, num in (("test", 4000), ("train", 9600), ("val", 1200)):
        for i in range(num):
            label, attribute = i % 2, i // 2 % 2
            scene = render_scene(row_seed(seed, f"greyed/{split}/{i}"), label=label, attribute=attribute)
            yield {
                "image_id": f"{split}-{i:06d}",
                "image_png": encode_image(greyed(scene)),
                "label": label,
                "attribute": attribute,
                "split": split,
                "role": "source",
            }


def greyed(scene: Scene) -> np.ndarray:
    """The picture with a grey box over both silhouettes and a pixel around them, (64, 64, 3) uint8."""
    rows, columns = np.nonzero(scene.object_HW | scene.counterpart_HW)
    top, left = max(0, rows.min() - 1), max(0, columns.min() - 1)
    bottom, right = min(SIZE_PX, rows.max() + 2), min(SIZE_PX, columns.max() + 2)
    image_HWC = scene.image_HWC.copy()
    image_HWC[top:bottom, left:right] = GREY
    return image_HWC


def colour_accuracies(seed: int, *, num_train: int = 9600, num_test: int = 4000) -> dict[str, float]:
    """Accuracies of the best guess from the mean and standard deviation of the object's RGB."""
    splits = []
    for split, num in (("train", num_train), ("test", num_test)):
        labels = np.arange(num) % 2
        features = []
        for i in range(num):
            scene = render_scene(row_seed(seed, f"colour/{split}/{i}"), label=i % 2, attribute=i // 2 % 2)
            pixels = scene.image_HWC[scene.object_HW].astype(float)
            features.append(np.concatenate([pixels.mean(0), pixels.std(0)]))
        splits.append((np.array(features), labels))
    classifier = HistGradientBoostingClassifier(random_state=seed).fit(*splits[0])
    correct = classifier.predict(splits[1][0]) == splits[1][1]
    return {"average": correct.mean(), "worst_group": min(correct[group::4].mean() for group in range(4))}


def values(results: list[dict[str, Any]], name: str) -> str:
    """One number per seed, then their mean."""
    numbers = [100 * result[name] for result in results]
    return " ".join(f"{number:.1f}" for number in numbers) + f" (mean {statistics.mean(numbers):.1f})"


if __name__ == "__main__":
    main()
