"""Decodes a sweep's pictures once, into stores that every trial and every refit of a node maps.

The object store has what is small: labels, scores, and where the stores are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from raygen.algorithms.pictures import open_pictures
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import weights_file
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError
from raygen.fits.candidate_rows import candidate_rows
from raygen.fits.extra_pictures import GeneratedPictures, attributes
from raygen.storage.progress import Say
from tune.candidate_sets import Base, CandidateSet
from tune.scoring import halvings
from tune.sweep_config import SweepConfig
from tune.trial import SharedRows, SharedSet, Task, groups


def share(
    sweep: SweepConfig, base: Base, candidate_sets: Sequence[CandidateSet], out: Path, *, say: Say, warn: Say
) -> Task:
    """Decodes rows and candidate sets; gives back what trials need.

    Args:
        sweep: The sweep.
        base: Rows and ERM.
        candidate_sets: What it generated.
        out: Its folder.
        say: Called with how far decoding is, about once a second.
        warn: Called with a line where there is no room for decoded pictures.

    Raises:
        DataError: Too many pictures cannot be decoded.
        ConfigError: Validation is too small to be halved.
    """
    run = sweep.run
    index = RowIndex(base["data"].folder)
    frame, loading = run.classifier.frame, run.fit.loading(out)
    options: dict[str, Any] = {
        "size_px": frame.whole_px,
        "loading": loading,
        "resizing": frame.resizing,
        "say": say,
        "warn": warn,
    }
    train, val = (
        TrainingSet(index, split, max_failed_fraction=run.max_failed_fraction, **options) for split in ("train", "val")
    )
    group_N = groups(val)
    if sweep.search.validation_splits and min((group_N == group).sum() for group in set(group_N.tolist())) < 2:
        raise ConfigError("tune.validation_splits: a group has a single validation image, which cannot be halved")
    halves_RN = halvings(group_N, num=sweep.search.validation_splits, seed=sweep.search.seed)
    shared = {}
    for candidate_set in candidate_sets:
        scores, candidates = candidate_set.tables()
        made = candidate_set.candidates
        source = GeneratedPictures(candidate_rows(made.folder.resolve(), made.digest))
        pictures = open_pictures(source, **options)
        attribute_M = attributes(index, candidates["image_id"])
        shared[candidate_set.name] = ray.put(SharedSet(scores, candidates.combine_chunks(), pictures, attribute_M))
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
