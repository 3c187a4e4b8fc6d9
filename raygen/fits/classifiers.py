"""One fit from a run's folders: which images, which start, which algorithm; on `raygen.fits.ray_train`'s workers."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen import algorithms
from raygen.algorithms import AlgorithmConfig
from raygen.algorithms.base import FindErrors
from raygen.algorithms.training_set import ExtraImage, TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import RowError
from raygen.fits import ray_train
from raygen.fits.ray_train import FitConfig
from raygen.fits.worker_group import WarmWorkers
from raygen.images import decode_image, decode_mask
from raygen.storage.parts import each_part
from raygen.storage.progress import Say, quiet
from raygen.storage.writing import atomic, write_json
from raygen.synthesis.controls import ControlKind, control_label, control_picture, draw_colour, object_colours
from raygen.synthesis.folds import assign_folds
from raygen.worker import Worker

# Training objects whose colours `control_flat` draws from, per class.
COLOUR_SAMPLES = 400
# An error set, beside the classifier that it is of: position in the training set, image_id (null for a generated
# picture), label.
ERRORS_FILE = "error_set.parquet"


@dataclass(frozen=True, slots=True)
class ExtraRows:
    """Pictures to add to the training set.

    Attributes:
        kind: "generated", or a control's kind.
        keys: Keys of the candidates, sorted.
        candidates: Their folder.
        digest: Digest of what that folder holds.
    """

    kind: Literal["generated"] | ControlKind
    keys: tuple[str, ...]
    candidates: str
    digest: str


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
        weights: The file that `classifier.weights` names, in full: workers have another working directory.
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
    weights: str | None = None


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
        RaygenError: See `raygen.fits.ray_train.run` and the algorithms.
    """
    ray_train.run(
        fit_on_worker, asdict(request), folder=folder, resources=resources, engine=engine, say=say, workers=workers
    )
    ray_train.tidy(folder)
    counts: dict[str, Any] = json.loads((folder / "history.json").read_text(encoding="utf-8"))["counts"]
    return counts


def fit_on_worker(worker: Worker, payload: dict[str, Any]) -> None:
    """What a worker does: loads, fits, and, if it leads, saves."""
    extra = payload["extra"]
    request = FitRequest(**{**payload, "extra": None if extra is None else ExtraRows(**extra)})
    config, found = request.algorithm, {}
    classifier, train, val = _prepare(request)
    if request.find_errors is not None:
        error_N, history = request.find_errors(config, classifier, train, val, seed=request.seed, worker=worker)
        found["errors"] = int(error_N.sum())
        if worker.leads:
            _write_errors(error_N, train, worker.folder)
    else:
        history = algorithms.of(config).fit(config, classifier, train, val, seed=request.seed, worker=worker)
    if worker.leads:
        _save(classifier, train, history, worker.folder, **found)


def _prepare(request: FitRequest) -> tuple[Classifier, TrainingSet, TrainingSet]:
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
    size_px = classifier.config.image_size_px
    pictures = () if request.extra is None else extra_pictures(request.extra, index, seed=request.seed)
    keep_N = None
    if request.without_fold is not None:
        number, num_folds = request.without_fold
        label_N = index.split("train")["label"].to_numpy()
        keep_N = assign_folds(label_N, num_folds=num_folds, seed=request.seed) != number
    limit = request.max_failed_fraction
    train = TrainingSet(index, "train", size_px=size_px, extra=pictures, keep_N=keep_N, max_failed_fraction=limit)
    if request.errors is not None:
        train = train.with_errors(_read_errors(Path(request.errors), num_images=len(train)))
    return classifier, train, TrainingSet(index, "val", size_px=size_px, max_failed_fraction=limit)


def _save(
    classifier: Classifier, train: TrainingSet, history: list[dict[str, float]], folder: Path, **counts: int
) -> None:
    save_classifier(classifier, folder)
    counts = {"images": len(train), "extra": int(train.generated_N.sum()), "epochs": len(history), **counts}
    write_json(folder / "history.json", {"counts": counts, "epochs": history})


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


def extra_pictures(extra: ExtraRows, index: RowIndex, *, seed: int) -> Iterator[ExtraImage]:
    """The pictures of candidates, or of a control made from the same sources, in order of key; a part at a time.

    Each has its source's attribute, whichever the synthesis: DBB keeps the background, SCGS the region that misled
    the classifier, its img2img baseline the large forms. That is what the attribute is about, and it is still there.
    """
    column = "generated_png" if extra.kind == "generated" else "repaint_png"
    columns = ("key", "image_id", "source_label", "target_label", column)
    colours = flat_colours(index, seed=seed) if extra.kind == "flat" else {}
    wanted = {*extra.keys}
    for part in each_part(Path(extra.candidates), columns=columns):  # a plan, and so its parts, is in order of key
        rows = part.filter(pa.array([key in wanted for key in part["key"].to_pylist()], pa.bool_())).to_pylist()
        image_ids = [row["image_id"] for row in rows]
        needs_source = extra.kind != "generated"
        fetched = index.fetch(image_ids, ["attribute", *(["image_png"] if needs_source else [])]).to_pylist()
        for row, source in zip(rows, fetched, strict=True):
            if extra.kind == "generated":
                yield ExtraImage(decode_image(row["generated_png"]), row["target_label"], source["attribute"])
            else:
                yield _control(extra.kind, row, source, colours, seed=seed)


def _control(
    kind: ControlKind, row: dict[str, Any], source: dict[str, Any], colours: dict[int, np.ndarray], *, seed: int
) -> ExtraImage:
    source_label, target = row["source_label"], row["target_label"]
    colour = draw_colour(colours[target], run_seed=seed, key=row["key"]) if kind == "flat" else None
    picture = control_picture(kind, decode_image(source["image_png"]), decode_mask(row["repaint_png"]), colour=colour)
    label = control_label(kind, source_label=source_label, target_label=target)
    return ExtraImage(picture, label, source["attribute"])


def flat_colours(index: RowIndex, *, seed: int) -> dict[int, np.ndarray]:
    """Mean colours of the training objects of each class, (M, 3) uint8, from at most COLOUR_SAMPLES of them.

    Where the dataset ships no object masks, or none of a class that can be used, the whole picture stands for the
    object. Pictures and masks that cannot be read, or do not fit each other, are left out.
    """
    train = index.split("train")
    colours: dict[int, np.ndarray] = {}
    for label in range(index.num_classes):
        ids = np.array(train.filter(pc.equal(train["label"], label))["image_id"].to_pylist())
        chosen = np.sort(np.random.default_rng([seed, label]).permutation(ids)[:COLOUR_SAMPLES])
        pairs = _objects(index, chosen.tolist(), ["image_png", "object_png"])
        first = next(pairs, None)
        pairs = _objects(index, chosen.tolist(), ["image_png"]) if first is None else chain([first], pairs)
        colours[label] = object_colours(pairs)
    return colours


def _objects(index: RowIndex, image_ids: list[str], columns: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures and their objects' masks, one at a time: decoded, those of all would not fit in memory.

    Without the column of masks, and for a picture that has none, the object is the whole picture.
    """
    for table in index.each(image_ids, columns):
        for row in table.to_pylist():
            try:
                image_HWC = decode_image(row["image_png"] or b"")
                whole_HW = np.ones(image_HWC.shape[:2], dtype=bool)
                object_HW = decode_mask(row["object_png"]) if row.get("object_png") else whole_HW
            except RowError:
                continue  # a failed row in scores/ already, or of the masker if it needs the mask
            if object_HW.shape == whole_HW.shape and object_HW.any():
                yield image_HWC, object_HW
