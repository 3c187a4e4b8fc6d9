"""One fit from a run's folders: which images, which start, which algorithm; on `raygen.fits.running`."""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen import algorithms
from raygen.algorithms import AlgorithmConfig
from raygen.algorithms.base import FindErrors
from raygen.algorithms.compilation import check_compiler
from raygen.algorithms.decoding import Loading
from raygen.algorithms.features import Role, feature_table
from raygen.algorithms.heads import HeadConfig, head_of
from raygen.algorithms.loop import GENERATED_SHARE
from raygen.algorithms.pictures import open_pictures
from raygen.algorithms.selection import needs_first_fit, resolved, selection_groups
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.datasets.rows import RowIndex
from raygen.fits import running
from raygen.fits.extra_pictures import ExtraRows, extra_pictures
from raygen.fits.object_masks import MaskPictures, MaskRows
from raygen.fits.running import FitConfig
from raygen.fits.worker_group import WarmWorkers
from raygen.inpainters.fills import Infilling
from raygen.storage import progress
from raygen.storage.progress import Say, quiet
from raygen.storage.writing import atomic, write_json
from raygen.synthesis.folds import assign_folds
from raygen.worker import Numerics, Worker

# An error set, beside the classifier that it is of: position in the training set, image_id (null for a generated
# picture), label.
ERRORS_FILE = "error_set.parquet"


@dataclass(frozen=True, slots=True)
class FitRequest:
    """A fit as plain data.

    Attributes:
        data: Dataset folder.
        classifier: Fields of `ClassifierConfig`.
        algorithm: How. An object, not its fields: a worker that unpickles it has imported its module.
        seed: Seed of weights, order and augmentation.
        init: Folder of the ERM classifier, for algorithms that go on from it.
        extra: Pictures to add.
        max_failed_fraction: More unreadable pictures than this share are an error.
        errors: Folder of the error set that the algorithm reads, written by a fit with `find_errors`.
        find_errors: What fits in place of the algorithm's own `fit`, and finds an error set.
        without_fold: (number, of how many): leave out the training images of one fold.
        only_fold: (number, of how many): take the training images of that fold alone.
        beside: Folder of another classifier that the algorithm reads.
        weights: The file that `classifier.weights` names, in full: workers have another working directory.
        numerics: How the steps are computed.
        loading: Where decoded pictures are kept, and who decodes them; None: in memory, in the fit's process.
        masks: Object masks of the training images; None where nothing needs them.
        infilling: What is done with counterfactual and factual pictures; None: there are none.
    """

    data: str
    classifier: dict[str, Any]
    algorithm: AlgorithmConfig
    seed: int
    init: str | None
    extra: ExtraRows | None
    max_failed_fraction: float
    errors: str | None = None
    find_errors: FindErrors | None = None
    without_fold: tuple[int, int] | None = None
    only_fold: tuple[int, int] | None = None
    beside: str | None = None
    weights: str | None = None
    numerics: Numerics = field(default_factory=Numerics)
    loading: Loading | None = None
    masks: MaskRows | None = None
    infilling: Infilling | None = None


def fit(
    request: FitRequest,
    folder: Path,
    *,
    resources: FitConfig,
    engine: str,
    say: Say = quiet,
    workers: WarmWorkers | None = None,
) -> dict[str, Any]:
    """Fits into a classifier folder; gives back counts for the manifest.

    Raises:
        RaygenError: See `raygen.fits.running.run` and the algorithms.
    """
    try:
        running.run(
            fit_on_worker, asdict(request), folder=folder, resources=resources, engine=engine, say=say, workers=workers
        )
    finally:
        for line in progress.noted(folder):
            say(line)
    running.tidy(folder)
    counts: dict[str, Any] = json.loads((folder / "history.json").read_text(encoding="utf-8"))["counts"]
    return counts


def fit_on_worker(worker: Worker, payload: dict[str, Any]) -> None:
    """What a worker does: loads, fits, and, if it leads, saves."""
    extra, loading, numerics = payload["extra"], payload["loading"], Numerics(**payload.get("numerics", {}))
    masks, infilling = payload.get("masks"), payload.get("infilling")
    objects = {
        "extra": None if extra is None else ExtraRows(**extra),
        "numerics": numerics,
        "loading": None if loading is None else Loading(**loading),
        "masks": None if masks is None else MaskRows(**masks),
        "infilling": None if infilling is None else Infilling(**infilling),
    }
    request = FitRequest(**{**payload, **objects})
    worker = replace(worker, numerics=numerics, beside=None if request.beside is None else Path(request.beside))
    if numerics.compile:
        check_compiler(worker.device)  # before any picture is read
    config, found = request.algorithm, {}
    classifier, train, val = _prepare(request, worker)
    val = selecting(config, val, init=request.init, seed=request.seed, worker=worker)
    if request.find_errors is not None:
        error_N, history = request.find_errors(config, classifier, train, val, seed=request.seed, worker=worker)
        found["errors"] = int(error_N.sum())
        if worker.leads:
            _write_errors(error_N, train, worker.folder)
    else:
        history = algorithms.of(config).fit(config, classifier, train, val, seed=request.seed, worker=worker)
    if worker.leads:
        _save(classifier, train, history, worker.folder, **found)


def _prepare(request: FitRequest, worker: Worker) -> tuple[Classifier, TrainingSet, TrainingSet]:
    """What the fit starts from, training set and validation set."""
    index = RowIndex(Path(request.data))
    classifier_config = ClassifierConfig.model_validate(request.classifier)
    classifier = first_classifier(
        request.algorithm,
        classifier_config,
        num_classes=index.num_classes,
        seed=request.seed,
        init=request.init,
        weights=request.weights,
    )
    keep_N = None
    if (fold := request.without_fold or request.only_fold) is not None:
        label_N = index.split("train")["label"].to_numpy()
        is_in_fold_N = assign_folds(label_N, num_folds=fold[1], seed=request.seed) == fold[0]
        keep_N = is_in_fold_N if request.without_fold is None else ~is_in_fold_N
    options: dict[str, Any] = {
        "size_px": classifier.frame.whole_px,
        "resizing": classifier.frame.resizing,
        "loading": request.loading,
        "say": worker.tell,
        "warn": partial(progress.note, worker.folder),
    }
    limit = request.max_failed_fraction
    train = TrainingSet(index, "train", keep_N=keep_N, max_failed_fraction=limit, **options)
    if request.extra is not None:
        train = train.with_extra(extra_pictures(request.extra, index, seed=request.seed, **options))
    if request.masks is not None:
        source = MaskPictures(request.masks)
        train = train.with_masks(open_pictures(source, **options), source.image_ids)
    if request.infilling is not None:
        train = train.with_infilling(request.infilling)
    if request.errors is not None:
        train = train.with_errors(_read_errors(Path(request.errors), num_images=len(train)))
    return classifier, train, TrainingSet(index, "val", max_failed_fraction=limit, **options)


def selecting(
    algorithm: AlgorithmConfig, val: TrainingSet, *, init: str | None, seed: int, worker: Worker
) -> TrainingSet:
    """Validation, told apart as the algorithm selects by it; all workers agree.

    Args:
        algorithm: What selects.
        val: Validation.
        init: Folder of the first fit's classifier, which infers the groups where they are to be inferred.
        seed: Of clusters.
        worker: Where this runs.

    Raises:
        DataError: The groups are asked for and not known.
    """
    by = algorithm.selects_by()
    if by is None or isinstance(algorithm, HeadConfig):  # a head has rows of its own to select by
        return val
    by = resolved(by, has_groups=val.group_N is not None)
    if by in ("classes", "average"):
        return val.selecting_by(val.label_N if by == "classes" else np.zeros_like(val.label_N))
    if not needs_first_fit(by):
        return val
    assert init is not None, "what selects by inferred groups has a fit before it"
    first = load_classifier(Path(init))
    rows = feature_table(first, val, worker, split="val").use(Role.SELECT)
    return val.selecting_by(selection_groups(by, rows, head_of(first).logits(rows.features_ND), seed=seed))


def _save(
    classifier: Classifier, train: TrainingSet, history: list[dict[str, float]], folder: Path, **found: int
) -> None:
    save_classifier(classifier, folder)
    counts: dict[str, Any] = {"images": len(train), "extra": int(train.generated_N.sum()), "epochs": len(history)}
    if shares := [entry[GENERATED_SHARE] for entry in history if GENERATED_SHARE in entry]:
        counts[GENERATED_SHARE] = float(np.mean(shares))
    write_json(folder / "history.json", {"counts": {**counts, **found}, "epochs": history})


def _write_errors(error_N: np.ndarray, train: TrainingSet, folder: Path) -> None:
    rows = np.flatnonzero(error_N)
    columns = {
        "position": pa.array(rows, pa.int64()),
        "image_id": pa.array(train.image_ids(rows), pa.string()),
        "label": pa.array(train.label_N[rows], pa.int32()),
    }
    with atomic(folder / ERRORS_FILE) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _read_errors(folder: Path, *, num_images: int) -> np.ndarray:
    """An error set, (N,) bool; generated pictures, which come last, are not in one of the original images."""
    error_N = np.zeros(num_images, dtype=bool)
    error_N[pq.read_table(folder / ERRORS_FILE)["position"].to_numpy()] = True
    return error_N


def first_classifier(
    algorithm: AlgorithmConfig,
    classifier: ClassifierConfig,
    *,
    num_classes: int,
    seed: int,
    init: str | None,
    weights: str | None = None,
) -> Classifier:
    """What an algorithm starts from: the ERM classifier in the folder `init` if it goes on from it, else a new one.

    Args:
        algorithm: The algorithm.
        classifier: The config of a new one.
        num_classes: C.
        seed: Of its random weights.
        init: Folder of the ERM classifier.
        weights: Where the file is that `classifier.weights` names; by default it is looked for by that name.

    Raises:
        ModelError: The weights cannot be had or do not fit.
    """
    if algorithm.init == "erm" and init is not None:
        return load_classifier(Path(init))
    started = build_classifier(
        classifier if weights is None else classifier.model_copy(update={"weights": weights}), num_classes, seed=seed
    )
    started.config = classifier  # as the run's config has it: what is saved must not tell from where a run was started
    return started
