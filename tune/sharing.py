"""Decodes a sweep's pictures once, into the object store, where every trial reads them without a copy of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import ray

from raygen.algorithms.training_set import MAX_CACHED_BYTES, TrainingSet
from raygen.classifier import weights_file
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError, ResourceError
from tune.candidate_sets import Base, CandidateSet, PlannedSet, generated_pictures
from tune.scoring import halvings
from tune.sweep_config import SweepConfig
from tune.trial import SharedRows, SharedSet, Task, groups

# Share of a node's object store that decoded pictures may take; beyond it Ray would spill them to disk, and read them
# from there for every trial.
STORE_SHARE = 0.8


def check_memory(sweep: SweepConfig, base: Base, planned: Sequence[PlannedSet]) -> None:
    """Checks that the decoded pictures fit the object store of every node, before any picture is generated.

    Raises:
        ResourceError: They do not.
    """
    picture_bytes = 3 * sweep.run.classifier.frame.whole_px**2
    index = RowIndex(base["data"].folder)
    sizes = [index.split(split).num_rows * picture_bytes for split in ("train", "val")]
    # A split beyond that limit is not decoded ahead, by a run neither.
    needed = sum(size for size in sizes if size <= MAX_CACHED_BYTES)
    needed += sum(candidate_set.num_planned for candidate_set in planned) * picture_bytes
    stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
    there = min(store for store in stores if store > 0)
    if needed > STORE_SHARE * there:
        raise ResourceError(
            f"the decoded pictures take {needed / 1e9:.2f} GB, and a node's object store has {there / 1e9:.2f} GB, of "
            f"which they may take {STORE_SHARE:.0%}: start Ray with a larger --object-store-memory, or search a "
            "smaller amount, fewer pools or a smaller classifier.image_size_px"
        )


def share(sweep: SweepConfig, base: Base, candidate_sets: Sequence[CandidateSet], out: Path) -> Task:
    """Decodes rows and candidate sets; gives back what trials need.

    Raises:
        DataError: Too many pictures cannot be decoded.
        ConfigError: Validation is too small to be halved.
    """
    run = sweep.run
    index, size_px = RowIndex(base["data"].folder), run.classifier.frame.whole_px
    train, val = (
        TrainingSet(index, split, size_px=size_px, max_failed_fraction=run.max_failed_fraction)
        for split in ("train", "val")
    )
    group_N = groups(val)
    if sweep.search.validation_splits and min((group_N == group).sum() for group in set(group_N.tolist())) < 2:
        raise ConfigError("tune.validation_splits: a group has a single validation image, which cannot be halved")
    halves_RN = halvings(group_N, num=sweep.search.validation_splits, seed=sweep.search.seed)
    shared = {}
    for candidate_set in candidate_sets:
        scores, candidates = candidate_set.tables()
        images_NHWC = generated_pictures(candidate_set, size_px=size_px)
        sources = index.fetch(candidates["image_id"].to_pylist(), ["attribute"])["attribute"]
        attribute_M = np.array([-1 if value is None else value for value in sources.to_pylist()], dtype=np.int64)
        shared[candidate_set.name] = ray.put(SharedSet(scores, candidates.combine_chunks(), images_NHWC, attribute_M))
    trials = out.resolve() / "trials"
    trials.mkdir(exist_ok=True)
    return Task(
        sweep=sweep,
        trials=trials,
        erm=base["erm"].folder.resolve(),
        weights=None if (path := weights_file(run.classifier)) is None else str(path),
        digests={
            "data": base["data"].digest,
            "erm": base["erm"].digest,
            **{candidate_set.name: candidate_set.candidates.digest for candidate_set in candidate_sets},
        },
        rows=ray.put(SharedRows(train, val, index.dataset, halves_RN)),
        candidate_sets=shared,
    )
