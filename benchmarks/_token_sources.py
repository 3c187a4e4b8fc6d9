"""Which images tokens are learned from, and what becomes of the pictures: a part of `tokens.py`.

The sources of `textual_inversion.source`, plain prompts ("none"), and training images drawn from each class's smaller
group ("minority"), which takes labels that no run with `high_loss` has. The pictures are not pruned; the judges of
`_judges.py` look at them.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from _judges import Judges, colour_of_scenes
from _pools import POOL_SETTINGS, with_candidates
from _records import kept, records_of, seeds_of
from _runs import spread

from raygen.config import fingerprint
from raygen.fits import tokens as token_fits
from raygen.pruners import PruneThresholds, verdicts
from raygen.run.added_pictures import added_pictures
from raygen.run.evaluation import evaluation
from raygen.run.fit_steps import fits
from raygen.run.picture_steps import learning
from raygen.run.results import results
from raygen.run.steps import Run, RunStep
from raygen.seeding import row_seed
from raygen.storage.parts import read_parts
from raygen.storage.picture_store import remove_stores
from raygen.storage.progress import labelled
from raygen.storage.run_folder import Step

SOURCES = ("none", "high_loss", "val_groups", "minority")
FIT = "dbb_unpruned"


def compare(arguments: argparse.Namespace, learning_settings: Sequence[str]) -> None:
    """Makes what is missing, then prints and writes the table."""
    oracles = arguments.oracles or arguments.out / "oracle"
    found: dict[str, list[dict[str, Any]]] = {source: [] for source in arguments.sources}
    for seed in seeds_of(arguments):
        for source in arguments.sources:
            folder = arguments.out / f"sources_{seed}" / source
            make = partial(study, source, seed, folder, arguments, oracles, learning_settings)
            path = records_of(arguments) / f"source_{source}_{seed}.json"
            if one := kept(path, arguments.overrides, make, recorded=arguments.recorded):
                found[source].append(one)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = table(found)
    (arguments.out / "sources.md").write_text(text, encoding="utf-8")
    print(text)


def study(
    source: str, seed: int, folder: Path, arguments: argparse.Namespace, oracles: Path, learns: Sequence[str]
) -> dict[str, Any]:
    """What the judges say of the pictures of one source and seed."""
    overrides = [*POOL_SETTINGS, *arguments.overrides]
    if source == "none":
        overrides = [override for override in overrides if not override.startswith("textual_inversion.")]
    else:
        own = "high_loss" if source == "minority" else source
        overrides = [*POOL_SETTINGS, *learns, f"textual_inversion.source={own}", *arguments.overrides]
    with with_candidates(
        {"recipe": "dbb", "dataset": {"name": "scenes"}},
        [*overrides, f"seed={seed}"],
        folder,
        reuse=[*arguments.reuse, *sorted(folder.parent.glob("*"))],
        in_place_of={"tokens": from_minority} if source == "minority" else None,
    ) as begun:
        made = begun.done["candidates"]
        candidates = read_parts(made.folder, columns=["status", "source_label", "target_label"])
        ok_N = verdicts(candidates, PruneThresholds())[0]
        target_N = candidates["target_label"].to_numpy()[ok_N]
        judged = Judges(oracles).judge(made.folder, ok_N, seed=seed, file=folder / "judged.npz")
        shares = [[float(flag_N[target_N == target].mean()) for flag_N in judged] for target in (0, 1)]
        found: dict[str, Any] = {"pictures": int(ok_N.sum()), "shares": shares, "images": learned_from(begun)}
        if arguments.fits:
            for step in fits(begun, FIT, added_pictures(begun)[FIT]):
                begun.do(step)
            evaluated = begun.do(evaluation(begun, {FIT: begun.done[f"fit/{FIT}"]}))
            predictions = pq.read_table(evaluated.folder / "predictions.parquet")
            test = results(predictions, begun.index, names=[FIT])[FIT]["test"]
            found["test"] = {name: test[name] for name in ("worst_group", "group_mean", "average")}
    remove_stores(folder)
    return found


def from_minority(begun: Run) -> RunStep:
    """The step of the tokens, learned from training images of each class's smaller group, drawn by the seed."""
    (step,) = learning(begun)
    config, settings, model = begun.config, begun.config.textual_inversion, begun.opened.learner
    assert settings is not None
    assert model is not None
    request = token_fits.make_request(
        begun.index,
        read_parts(begun.done["scores"].folder),
        settings,
        model=model,
        painter=begun.opened.painter,
        seed=config.seed_of_pictures,
    )
    images = minority_images(begun, settings.num_images)
    request = replace(request, images=images)

    def learn(own: Step) -> dict[str, Any]:
        say = labelled("tokens", begun.say)
        return token_fits.fit(request, own.folder, resources=config.fit, engine=config.engine, say=say)

    return replace(step, settings={**step.settings, "images": fingerprint(images)}, body=learn)


def minority_images(begun: Run, num: int) -> tuple[tuple[str, ...], ...]:
    """Ids of training images of each class's smaller group, sorted."""
    train = begun.index.split("train")
    id_N, label_N, attribute_N = (np.array(train[name].to_pylist()) for name in ("image_id", "label", "attribute"))
    chosen = []
    for label in np.unique(label_N):
        counts_A = np.bincount(attribute_N[label_N == label])
        ids = id_N[(label_N == label) & (attribute_N == counts_A.argmin())]
        rng = np.random.default_rng(row_seed(begun.config.seed, f"minority/{label}"))
        chosen.append(tuple(sorted(rng.permutation(ids)[:num].tolist())))
    return tuple(chosen)


def learned_from(begun: Run) -> list[dict[str, float]]:
    """Of the images that each class's token was learned from: how many, share of typical colours, share of minority."""
    if "tokens" not in begun.done:
        return []
    path = begun.done["tokens"].folder / token_fits.TABLE
    entries = json.loads(path.read_text(encoding="utf-8"))
    rows = begun.index.table
    attribute_of = dict(zip(rows["image_id"].to_pylist(), rows["attribute"].to_pylist(), strict=True))
    found = []
    for label, entry in enumerate(entries):
        ids = entry["images"]
        pictures = begun.index.fetch(ids, ["image_png"])["image_png"].to_pylist()
        typical_N = colour_of_scenes(ids, pictures, np.full(len(ids), label), seed=begun.config.seed)
        minority = np.mean([attribute_of[image_id] != label for image_id in ids])
        found.append({"num": len(ids), "typical": float(typical_N.mean()), "minority": float(minority)})
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: one row a source, landbirds and waterbirds, means over the seeds."""
    lines = [
        "| tokens from | images: typical colours, % | images of the smaller group, % "
        "| pictures: typical colours, % | right shape, % | worst group | average |",
        "|---" * 7 + "|",
    ]
    for source, runs in found.items():
        if not runs:
            continue
        cells = [f"{source}, {len(runs)} seed(s)"]
        for what in ("typical", "minority"):
            by_class = [np.mean([100 * run["images"][c][what] for run in runs]) for c in (0, 1) if runs[0]["images"]]
            cells.append(", ".join(f"{value:.0f}" for value in by_class))
        for which in (0, 1):
            by_class = [np.mean([100 * run["shares"][c][which] for run in runs]) for c in (0, 1)]
            cells.append(", ".join(f"{value:.0f}" for value in by_class))
        fitted = [run["test"] for run in runs if "test" in run]
        cells += [spread([100 * one[name] for one in fitted]) if fitted else "" for name in ("worst_group", "average")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
