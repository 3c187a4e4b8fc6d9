"""What pruning of dbb does on the scenes: full fits on subsets of the same pictures, judged by shape and colour too.

For each seed one pool of pictures is made as `raygen run dbb` makes it; then fits that differ in which of them they
add: all, what rho above its quantile 0.25 and psi keep, as many at random, as many of the same colours at random, those
of lowest rho, what psi keeps by algorithm 2 and by eq. (3), what the authors' thresholds keep. Two judges look at the
pictures, which no fit sees: the shape oracle of the tiny model's card, and a forest that tells the colour family of a
bird from its body's pixels.
Everything is done by the steps of a run, in one run folder a seed: an interrupted study goes on where it stopped.

    python benchmarks/pruning.py --set fit.num_threads=1 --set pools.inpainter.actors=1  # runs/pruning, three seeds
    python benchmarks/pruning.py --set dataset.bias=paper --out runs/pruning_paper
    python benchmarks/pruning.py --recorded  # the tables again of what is there
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from _judges import Judged, Judges, colour_of_scenes
from _pools import POOL_SETTINGS, with_candidates
from _records import add_arguments, kept, records_of, seeds_of
from _runs import spread

from raygen import synthesis
from raygen.datasets.rows import RowIndex
from raygen.fits.extra_pictures import ExtraRows
from raygen.pruners import PruneThresholds, verdicts
from raygen.run.added_pictures import added_pictures
from raygen.run.evaluation import evaluation
from raygen.run.fit_steps import fits
from raygen.run.results import results
from raygen.run.steps import Run
from raygen.seeding import row_seed
from raygen.storage.parts import CANDIDATE_SCORES, read_parts
from raygen.storage.picture_store import remove_stores
from raygen.synthesis.dbb import DbbConfig

# N pictures of a pool, C classes

# The authors' threshold on rho for Waterbirds (their paper's table 10, and the default of their code).
AUTHORS_RHO = 1.0
NAMES = {
    "erm": "ERM",
    "dbb_unpruned": "all",
    "dbb": "rho above its quantile 0.25, psi of algorithm 2",
    "random": "random, as many as that keeps",
    "colour": "random, of the colours that it keeps",
    "lowest_rho": "lowest rho, as many",
    "psi": "psi of algorithm 2: below the mean of the selected",
    "eq3": "psi below the mean of all training images, eq. (3)",
    "eq3_random": "random, as many as eq. (3) keeps",
    "authors": "rho above 1 and eq. (3), the authors' thresholds",
    "absolute": "rho above 1",
}


def main() -> None:
    """Makes what is missing, then prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, out="pruning", first=100, seeds=3)
    parser.add_argument("--oracles", type=Path, help="folder of the shape oracle; default: trained into OUT/oracle")
    parser.add_argument("--reuse", type=Path, nargs="*", default=[], help="runs whose finished steps are taken")
    parser.add_argument("--subsets", nargs="+", choices=SUBSETS, default=list(SUBSETS), metavar="NAME")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    oracles = arguments.oracles or arguments.out / "oracle"
    found = []
    for seed in seeds_of(arguments):
        make = partial(study, arguments.out / f"seed_{seed}", seed, arguments, oracles)
        path = records_of(arguments) / f"seed_{seed}.json"
        if one := kept(path, arguments.overrides, make, recorded=arguments.recorded):
            found.append(one)
    if not found:
        parser.error(f"{records_of(arguments)} has no record of any of these seeds")
    text = table(found)
    (arguments.out / "pruning.md").write_text(text, encoding="utf-8")
    print(text)


# --- Subsets of a pool ---


@dataclass(frozen=True)
class Pool:
    """The pictures of a finished pass that are ok, and what is known of them.

    Attributes:
        keys: Of the candidates.
        target_N: The class that each was asked to be.
        rho_N: See the paper, eq. (5).
        kept_N: What rho above its quantile 0.25 keeps.
        psi_N: What psi below the mean of the selected images keeps.
        eq3_N: What psi below the mean of all training images keeps.
        judged: What the judges see.
        seed: The run's.
    """

    keys: np.ndarray
    target_N: np.ndarray
    rho_N: np.ndarray
    kept_N: np.ndarray
    psi_N: np.ndarray
    eq3_N: np.ndarray
    judged: Judged
    seed: int

    def like(self, like_N: np.ndarray, strata_N: np.ndarray, name: str) -> np.ndarray:
        """As many at random of each stratum as `like_N` has, (N,) bool."""
        rng = np.random.default_rng(row_seed(self.seed, f"pruning/{name}"))
        chosen_N = np.zeros(len(self.keys), dtype=bool)
        for stratum in np.unique(strata_N):
            of_stratum = np.flatnonzero(strata_N == stratum)
            chosen_N[rng.permutation(of_stratum)[: int(like_N[of_stratum].sum())]] = True
        return chosen_N

    def lowest(self) -> np.ndarray:
        """As many as rho keeps of each class, those of lowest rho, (N,) bool."""
        chosen_N = np.zeros(len(self.keys), dtype=bool)
        for target in np.unique(self.target_N):
            of_class = np.flatnonzero(self.target_N == target)
            order = np.argsort(self.rho_N[of_class], kind="stable")
            chosen_N[of_class[order[: int(self.kept_N[of_class].sum())]]] = True
        return chosen_N


# What each fit adds beside "dbb" (kept by rho) and "dbb_unpruned" (all), which are the run's own.
SUBSETS: dict[str, Callable[[Pool], np.ndarray]] = {
    "random": lambda pool: pool.like(pool.kept_N, pool.target_N, "random"),
    "colour": lambda pool: pool.like(pool.kept_N, 2 * pool.target_N + pool.judged.typical_N, "colour"),
    "lowest_rho": Pool.lowest,
    "psi": lambda pool: pool.psi_N,
    "eq3": lambda pool: pool.eq3_N,
    "eq3_random": lambda pool: pool.like(pool.eq3_N, pool.target_N, "eq3_random"),
    "authors": lambda pool: pool.eq3_N & (pool.rho_N > AUTHORS_RHO),
    "absolute": lambda pool: pool.rho_N > AUTHORS_RHO,
}


def open_pool(begun: Run, judges: Judges, judged_file: Path) -> Pool:
    """The pool of a run whose candidates are there; the judges' verdicts are kept in a file."""
    paper, step = begun.config.synthesis, begun.done["candidates"]
    assert isinstance(paper, DbbConfig)
    candidates = read_parts(step.folder, columns=CANDIDATE_SCORES)
    scores = read_parts(begun.done["scores"].folder, columns=paper.score_columns())
    ok_N = verdicts(candidates, PruneThresholds())[0]

    def kept_by(**fields: Any) -> np.ndarray:
        config = paper.model_copy(update=fields)
        return verdicts(candidates, synthesis.of(config).thresholds(config, scores, candidates))[0][ok_N]

    return Pool(
        keys=np.array(candidates["key"].to_pylist())[ok_N],
        target_N=candidates["target_label"].to_numpy()[ok_N],
        rho_N=candidates["attribution_inside"].to_numpy()[ok_N].astype(np.float64),
        kept_N=kept_by(),
        psi_N=kept_by(attribution_test="off"),
        eq3_N=kept_by(source_probability_test="train", attribution_test="off"),
        judged=judges.judge(step.folder, ok_N, seed=begun.config.seed, file=judged_file),
        seed=begun.config.seed,
    )


# --- A seed ---


def study(folder: Path, seed: int, arguments: argparse.Namespace, oracles: Path) -> dict[str, Any]:
    """The numbers of one seed's run, with a fit for each subset."""
    data = {"recipe": "dbb", "dataset": {"name": "scenes"}}
    overrides = [*POOL_SETTINGS, *arguments.overrides, f"seed={seed}"]
    with with_candidates(data, overrides, folder, reuse=arguments.reuse) as begun:
        pool = open_pool(begun, Judges(oracles), folder / "judged.npz")
        made = begun.done["candidates"]
        chosen = {name: SUBSETS[name](pool) for name in arguments.subsets}
        rows_of = partial(ExtraRows, "generated", candidates=str(made.folder.resolve()), digest=made.digest)
        extra = {name: rows_of(keys=tuple(pool.keys[N].tolist())) for name, N in chosen.items() if N.any()}
        added: Mapping[str, ExtraRows | None] = {**added_pictures(begun), **extra}
        fitted, of_rows = {"erm": begun.done["erm"]}, {}
        for name, rows in added.items():
            if rows not in of_rows:  # the same pictures would be the same fit again
                for step in fits(begun, name, rows):
                    of_rows[rows] = begun.do(step)
            fitted[name] = of_rows[rows]
        begun.do(evaluation(begun, fitted))
        of_fits = {"dbb_unpruned": np.ones(len(pool.keys), dtype=bool), "dbb": pool.kept_N, **chosen}
        found = numbers(begun, pool, of_fits)
    remove_stores(folder)
    return found


def numbers(begun: Run, pool: Pool, of_fits: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the tables show of one seed, plain data."""
    predictions = pq.read_table(begun.done["evaluation"].folder / "predictions.parquet")
    names = [name for name in NAMES if name in predictions.column_names]
    accuracies = results(predictions, begun.index, names=names)
    colours = colour_of_test(begun.index, seed=begun.config.seed)
    test = predictions.filter(np.array(predictions["split"].to_pylist()) == "test")
    typical_N = np.array([colours[image_id] for image_id in test["image_id"].to_pylist()])
    label_N, attribute_N = test["label"].to_numpy(), test["attribute"].to_numpy()
    found = {}
    for name in names:
        right_N = test[name].to_numpy() == label_N
        one: dict[str, Any] = {"test": plain(accuracies[name]["test"]), "by_colour": {}}
        for group in range(4):
            of_group_N = (label_N == group // 2) & (attribute_N == group % 2)
            one["by_colour"][str(group)] = [float(right_N[of_group_N & (typical_N == t)].mean()) for t in (True, False)]
        if name in of_fits:
            one["pictures"] = judged_as(pool, of_fits[name])
        found[name] = one
    return {"seed": begun.config.seed, "pruned": judged_as(pool, ~pool.kept_N), "results": found}


def plain(test: Mapping[str, Any]) -> dict[str, float]:
    return {name: test[name] for name in ("worst_group", "group_mean", "average")}


def judged_as(pool: Pool, chosen_N: np.ndarray) -> list[dict[str, float]]:
    """Number, share of class-typical colours and of right shapes of a subset, by the class asked for."""
    rows = []
    for target in (0, 1):
        of_class_N = chosen_N & (pool.target_N == target)
        shares = [float(flag_N[of_class_N].mean()) if of_class_N.any() else float("nan") for flag_N in pool.judged]
        rows.append({"num": int(of_class_N.sum()), "typical": shares[0], "right_shape": shares[1]})
    return rows


def colour_of_test(index: RowIndex, *, seed: int) -> dict[str, bool]:
    """Whether each test bird has colours typical of its class, by image_id."""
    rows = index.split("test")
    ids, labels = rows["image_id"].to_pylist(), rows["label"].to_numpy()
    images = index.fetch(ids, ["image_png"])["image_png"].to_pylist()
    return dict(zip(ids, colour_of_scenes(ids, images, labels, seed=seed).tolist(), strict=True))


# --- Tables ---


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row a fit, mean and standard deviation over the seeds, then each seed's worst group."""
    seeds = [one["seed"] for one in found]
    names = [name for name in NAMES if all(name in one["results"] for one in found)]
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; accuracies on test, %.",
        "",
        "| added | landbirds, waterbirds | typical colours, % | right shape, % | worst group | less random "
        "| mean of groups | landbirds on water: typical, atypical colours | waterbirds on land: typical, atypical |",
        "|---" * 9 + "|",
    ]
    for name in names:
        of = [one["results"][name] for one in found]
        worst = [100 * one["test"]["worst_group"] for one in of]
        cells = [NAMES[name], "", "", ""]
        if "pictures" in of[0]:
            cells[1:] = [
                ", ".join(means([[one["pictures"][c]["num"] for one in of] for c in (0, 1)])),
                *(
                    ", ".join(means([[100 * one["pictures"][c][what] for one in of] for c in (0, 1)]))
                    for what in ("typical", "right_shape")
                ),
            ]
        random = (
            [100 * one["results"]["random"]["test"]["worst_group"] for one in found] if "random" in names else worst
        )
        cells += [
            spread(worst),
            "" if name in ("erm", "random") else spread([a - b for a, b in zip(worst, random, strict=True)]),
            spread([100 * one["test"]["group_mean"] for one in of]),
            *(
                ", ".join(means([[100 * one["by_colour"][group][t] for one in of] for t in (0, 1)]))
                for group in ("1", "2")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| worst group of seed | " + " | ".join(map(str, seeds)) + " |", "|---" * (1 + len(seeds)) + "|"]
    for name in names:
        worst = [f"{100 * one['results'][name]['test']['worst_group']:.1f}" for one in found]
        lines.append(f"| {NAMES[name]} | {' | '.join(worst)} |")
    pruned = [means([[100 * one["pruned"][c][w] for one in found] for c in (0, 1)]) for w in ("typical", "right_shape")]
    cut = f"typical colours {', '.join(pruned[0])}%; right shape {', '.join(pruned[1])}%"
    lines += ["", f"Pictures below the quantile 0.25 of rho: {cut}."]
    return "\n".join([*lines, ""])


def means(by_class: Sequence[Sequence[float]]) -> list[str]:
    """The mean of each."""
    return [f"{statistics.mean(values):.0f}" for values in by_class]


if __name__ == "__main__":
    main()
