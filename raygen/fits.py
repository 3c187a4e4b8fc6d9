"""One fit from a run's folders: which images, which start, which algorithm; runs on `raygen.training`'s workers."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from raygen import algorithms, training
from raygen.algorithms import AlgorithmConfig, AnyAlgorithm
from raygen.algorithms.training_set import ExtraImage, TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.images import decode_image, decode_mask
from raygen.parts import read_parts
from raygen.rows import RowIndex
from raygen.synthesis.controls import ControlKind, control_label, control_picture, draw_colour, object_colours
from raygen.training import FitConfig
from raygen.worker import Worker
from raygen.writing import TEMPORARY_SUFFIX, write_json

# Training objects whose colours `control_flat` draws from, per class.
COLOUR_SAMPLES = 400


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
        algorithm: Fields of an `AlgorithmConfig`.
        seed: Seed of weights, order and augmentation.
        init: Folder of the ERM classifier, for algorithms that go on from it.
        extra: Pictures to add.
        max_failed_fraction: More unreadable pictures than this share are an error.
    """

    data: str
    classifier: dict[str, Any]
    algorithm: dict[str, Any]
    seed: int
    init: str | None
    extra: ExtraRows | None
    max_failed_fraction: float


def fit(request: FitRequest, folder: Path, *, resources: FitConfig, engine: str) -> dict[str, Any]:
    """Fits into a classifier folder; gives back counts for the manifest.

    Raises:
        RaygenError: See `raygen.training.run` and the algorithms.
    """
    training.run(fit_job, asdict(request), folder=folder, resources=resources, engine=engine)
    for leftover in (folder / "checkpoint.pt", *folder.glob(f".*{TEMPORARY_SUFFIX}")):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(folder / training.SCRATCH_FOLDER, ignore_errors=True)  # of an interrupted fit, perhaps
    counts: dict[str, Any] = json.loads((folder / "history.json").read_text(encoding="utf-8"))["counts"]
    return counts


def fit_job(worker: Worker, payload: dict[str, Any]) -> None:
    """What a worker does: loads, fits, and, if it leads, saves."""
    extra = payload["extra"]
    request = FitRequest(**{**payload, "extra": None if extra is None else ExtraRows(**extra)})
    config: Any = TypeAdapter(AlgorithmConfig).validate_python(request.algorithm)
    index = RowIndex.open(Path(request.data))
    classifier_config = ClassifierConfig.model_validate(request.classifier)
    classifier = first_classifier(
        config, classifier_config, num_classes=index.num_classes, seed=request.seed, init=request.init
    )
    size_px = classifier.config.image_size_px
    pictures = [] if request.extra is None else extra_pictures(request.extra, index, seed=request.seed)
    train = TrainingSet(
        index, "train", size_px=size_px, extra=pictures, max_failed_fraction=request.max_failed_fraction
    )
    val = TrainingSet(index, "val", size_px=size_px, max_failed_fraction=request.max_failed_fraction)
    history = algorithms.fit(config, classifier, train, val, seed=request.seed, worker=worker)
    if worker.leads:
        save_classifier(classifier, worker.folder)
        counts = {"images": len(train), "extra": int(train.generated_N.sum()), "epochs": len(history)}
        write_json(worker.folder / "history.json", {"counts": counts, "epochs": history})


def first_classifier(
    algorithm: AnyAlgorithm, classifier: ClassifierConfig, *, num_classes: int, seed: int, init: str | None
) -> Classifier:
    """What an algorithm starts from: the ERM classifier in the folder `init` if it goes on from it, else a new one.

    Raises:
        ModelError: The weights cannot be had or do not fit.
    """
    if algorithm.init == "erm" and init is not None:
        return load_classifier(Path(init))
    return build_classifier(classifier, num_classes, seed=seed)


def extra_pictures(extra: ExtraRows, index: RowIndex, *, seed: int) -> list[ExtraImage]:
    """The pictures of candidates, or of a control made from the same sources, in order of key."""
    table = read_parts(
        Path(extra.candidates), columns=("key", "image_id", "source_label", "target_label", "repaint_png")
    )
    if extra.kind == "generated":
        table = read_parts(Path(extra.candidates), columns=("key", "target_label", "generated_png"))
    rows = table.filter(pc.is_in(table["key"], pa.array(extra.keys))).sort_by("key").to_pylist()
    if extra.kind == "generated":
        return [ExtraImage(decode_image(row["generated_png"]), row["target_label"]) for row in rows]
    kind: ControlKind = extra.kind
    sources = index.fetch([row["image_id"] for row in rows], ["image_png"])["image_png"].to_pylist()
    colours = _colours(index, seed) if kind == "flat" else {}
    images = []
    for row, data in zip(rows, sources, strict=True):
        source, target = row["source_label"], row["target_label"]
        colour = draw_colour(colours[target], run_seed=seed, key=row["key"]) if kind == "flat" else None
        picture = control_picture(kind, decode_image(data), decode_mask(row["repaint_png"]), colour=colour)
        images.append(ExtraImage(picture, control_label(kind, source_label=source, target_label=target)))
    return images


def _colours(index: RowIndex, seed: int) -> dict[int, np.ndarray]:
    """Mean colours of the training objects of each class, (M, 3) uint8, from at most COLOUR_SAMPLES of them.

    Where the dataset ships no object masks, the whole picture stands for the object.
    """
    train = index.split("train")
    colours: dict[int, np.ndarray] = {}
    for label in range(index.num_classes):
        ids = np.array(train.filter(pc.equal(train["label"], label))["image_id"].to_pylist())
        chosen = np.sort(np.random.default_rng([seed, label]).permutation(ids)[:COLOUR_SAMPLES])
        pairs = []
        for row in index.fetch(chosen.tolist(), ["image_png", "object_png"]).to_pylist():
            image_HWC = decode_image(row["image_png"])
            whole_HW = np.ones(image_HWC.shape[:2], dtype=bool)
            pairs.append((image_HWC, decode_mask(row["object_png"]) if row["object_png"] else whole_HW))
        colours[label] = object_colours(pairs)
    return colours
