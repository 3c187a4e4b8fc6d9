"""What the distribution is worth that the tiny inpainting model was trained on, which is not biased.

The tiny model has seen 24,000 scenes of the benchmark's own renderer, all four groups equally often: what DBB with it
knows is not in the biased training set alone. Three rows for each level of bias:

- erm: fitted on the benchmark's training set;
- erm on the tiny model's scenes: fitted on those 24,000 in its place, and tested on the benchmark's test images;
- dbb's fit with real scenes: `dbb_unpruned` (its weights, gamma, steps, and start from ERM) with 1,000 scenes from the
  renderer in place of the painted ones: 500 landbirds on water and 500 waterbirds on land, in none of which the
  inpainter has a part. No seed of a scene is one of the benchmark's or of the tiny model's.

Every part leaves its result in a file, so that an interrupted study goes on where it stopped, and more seeds can be
added. A seed costs about eight CPU minutes for both levels, the first one some two more.

    python benchmarks/unbiased.py                                         # runs/unbiased, five seeds, both levels
    python benchmarks/unbiased.py --bias paper --first 100 --seeds 2 --set fit.num_threads=1
    python benchmarks/unbiased.py --reuse runs/effect/*                   # data and ERM from runs that have them
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _records import add_arguments, kept, records_of, seeds_of
from _runs import run, spread

from raygen.config import fingerprint
from raygen.datasets.rows import RowIndex
from raygen.datasets.scene_rendering import ATTRIBUTE_NAMES, CLASS_NAMES, render_scene
from raygen.datasets.scenes import TRAIN_COUNTS
from raygen.datasets.table import DatasetInfo, write_source
from raygen.fits import classifiers
from raygen.fits.extra_pictures import ExtraRows
from raygen.images import encode_image
from raygen.run.config import RunConfig, make_config
from raygen.run.evaluation import evaluate_classifier
from raygen.schema import plan_key
from raygen.seeding import row_seed
from raygen.storage.run_folder import file_digest
from raygen.storage.writing import atomic
from raygen.tiny.train import NUM_SCENES

# How `raygen.tiny.train` calls its scenes, and the seed of the model that ships.
WORLD, WORLD_SEED = "tiny", 0
NUM_HELD_OUT = 400
ERM, TINY, REAL = "erm", "erm on the tiny model's scenes", "dbb's fit with real scenes"


def main() -> None:
    """Runs what is missing, then prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, out="unbiased", first=0, seeds=5)
    parser.add_argument("--bias", nargs="+", choices=TRAIN_COUNTS, default=list(TRAIN_COUNTS), help="levels")
    parser.add_argument("--scenes", type=int, default=NUM_SCENES, help="those of the tiny model, from the first on")
    parser.add_argument("--k", type=int, default=500, help="real scenes a class")
    parser.add_argument("--reuse", nargs="+", type=Path, default=[], help="runs that may have the same data and ERM")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for seed in seeds_of(arguments):
        for bias in arguments.bias:
            for name, result in study(bias, seed, arguments):
                if result is not None:
                    found[bias, name].append(result)
        (arguments.out / "unbiased.md").write_text(table(found), encoding="utf-8")
    print(table(found))


def study(bias: str, seed: int, arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Test accuracies of each row."""
    out, given = arguments.out, [*arguments.overrides, f"seed={seed}"]
    base, tiny = out / f"erm_{bias}_{seed}", out / f"tiny_{arguments.scenes}_{seed}"

    def fit_erm() -> dict[str, Any]:
        settings = [f"dataset.bias={bias}", "measures.images=0", *given]
        summary = run(["erm", "--dataset", "scenes"], base, settings=settings, reuse=arguments.reuse)
        return dict(summary["results"]["erm"]["test"])

    def fit_tiny() -> dict[str, Any]:
        world = rendered_world(out / f"world_{arguments.scenes}", arguments.scenes)
        own = [setting for setting in given if not setting.startswith("dataset.")]
        run(["erm", "--dataset", str(world)], tiny, settings=["measures.images=0", *own])
        return tested(tiny / "erm", base, seed)

    def fit_real() -> dict[str, Any]:
        dataset = {"name": "scenes", "bias": bias}
        config = make_config({"recipe": "dbb", "dataset": dataset}, given, where="benchmark")
        return fitted_with_real_scenes(config, base, out / f"real_{bias}_{seed}", k=arguments.k)

    def result(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        path = records_of(arguments) / f"{name}_{seed}.json"
        return kept(path, arguments.overrides, lambda: accuracies(make()), recorded=arguments.recorded)

    yield ERM, result(f"erm_{bias}", fit_erm)
    yield REAL, result(f"real_{arguments.k}_{bias}", fit_real)
    # The levels have their test images in common, and so this row.
    yield TINY, result(f"tiny_{arguments.scenes}", fit_tiny)


def accuracies(test: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a classifier on test."""
    return {name: test[name] for name in ("worst_group", "group_mean", "average")}


def rendered_world(folder: Path, num_scenes: int) -> Path:
    """A dataset of the tiny model's scenes, rendered if it is not there."""
    if not (folder / "dataset.json").is_file():  # written last
        folder.mkdir(exist_ok=True)
        prompts = tuple(f"a photo of a {name}" for name in CLASS_NAMES)
        info = DatasetInfo("scenes of the tiny model", CLASS_NAMES, ATTRIBUTE_NAMES, prompts)
        write_source(world_rows(num_scenes), info, folder)
    return folder


def tested(classifier: Path, base: Path, seed: int) -> dict[str, Any]:
    """Test accuracies of a classifier on the rows of a run."""
    return dict(evaluate_classifier(classifier, {"name": "folder", "path": str(base / "data")}, seed=seed)["test"])


def world_rows(num_scenes: int) -> Iterator[dict[str, Any]]:
    """The scenes that the tiny model was trained on, and others to validate by; see `raygen.tiny.world`."""
    held_out = [(split, NUM_HELD_OUT, "unbiased") for split in ("test", "val")]
    for split, num, name in sorted([*held_out, ("train", num_scenes, WORLD)]):
        for i in range(num):
            label, attribute = i % 2, i // 2 % 2
            key = f"{name}/{i}" if split == "train" else f"{name}/{split}/{i}"
            picture = rendered(row_seed(WORLD_SEED, key), label, attribute)
            group = {"label": label, "attribute": attribute, "split": split, "role": "source"}
            yield {"image_id": f"{split}-{i:06d}", "image_png": picture, **group}


def rendered(seed: int, label: int, attribute: int) -> bytes:
    return encode_image(render_scene(seed, label=label, attribute=attribute).image_HWC)


def fitted_with_real_scenes(config: RunConfig, base: Path, folder: Path, *, k: int) -> dict[str, Any]:
    """Test accuracies of the recipe's fit on the training set and on scenes of the groups that it has few of.

    Args:
        config: Of `raygen run dbb`.
        base: A finished run of ERM on the same dataset.
        folder: For the scenes and the classifier.
        k: Scenes a class.
    """
    (folder / "candidates").mkdir(parents=True, exist_ok=True)
    path = folder / "candidates" / "part-00000.parquet"
    rows = real_scenes(base, seed=config.seed, k=k)
    with atomic(path) as temporary:
        pq.write_table(rows, temporary)
    keys, digest = tuple(rows["key"].to_pylist()), fingerprint(file_digest(path))
    request = classifiers.FitRequest(  # as `raygen.run.fit_steps` asks for the recipe's own fit
        data=str((base / "data").resolve()),
        classifier=config.classifier.model_dump(mode="json"),
        algorithm=config.algorithm,
        seed=config.seed,
        init=str((base / "erm").resolve()),
        extra=ExtraRows("generated", keys, str(path.parent.resolve()), digest),
        max_failed_fraction=config.max_failed_fraction,
        numerics=config.fit.numerics,
    )
    fit = folder / "fit"
    fit.mkdir(exist_ok=True)
    classifiers.fit(request, fit, resources=config.fit, engine="local")
    return tested(fit, base, config.seed)


def real_scenes(base: Path, *, seed: int, k: int) -> pa.Table:
    """Scenes of each class before the background that is unusual for it, as candidates, in order of key.

    A candidate has its source's background and another class, and so these stand for training images of the other class
    before that background.
    """
    train, rows = RowIndex(base / "data").split("train"), []
    for label in range(len(CLASS_NAMES)):
        other = 1 - label  # a class's usual background has the class's number
        usual = train.filter((pc.field("label") == other) & (pc.field("attribute") == other))["image_id"].to_pylist()
        for i, image_id in enumerate(usual[:k]):
            picture = rendered(row_seed(seed, f"unbiased/real/{label}/{i}"), label, other)
            key = plan_key(image_id, target_label=label, sample=0)
            group = {"source_label": other, "target_label": label}
            rows.append({"key": key, "image_id": image_id, **group, "generated_png": picture})
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["key"])))


def table(found: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """Markdown: one line for each level and row; mean and standard deviation over the seeds."""
    lines = [
        "| bias | fit | seeds | worst-group accuracy, % | range | average accuracy, % |",
        "|---|---|---|---|---|---|",
    ]
    for (bias, name), results in sorted(found.items(), key=lambda item: item[0][0]):
        worst, average = ([100 * result[key] for result in results] for key in ("worst_group", "average"))
        limits = f"{min(worst):.1f} to {max(worst):.1f}"
        lines.append(f"| {bias} | {name} | {len(results)} | {spread(worst)} | {limits} | {spread(average)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
