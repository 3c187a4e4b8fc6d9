"""The fits of a run: some methods need several for one classifier."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from raygen.algorithms import AlgorithmConfig
from raygen.algorithms.base import FirstFit
from raygen.algorithms.selection import WORDS, resolved
from raygen.classifier import save_classifier, weights_file
from raygen.classifier.start import network_digest, open_start, start_digest
from raygen.config import fingerprint
from raygen.fits import classifiers
from raygen.fits.extra_pictures import ExtraRows
from raygen.fits.object_masks import MaskRows
from raygen.fits.running import FitConfig
from raygen.inpainters.fills import Infilling
from raygen.run.first_fit import first_fits
from raygen.run.steps import Run, RunStep
from raygen.storage.progress import labelled
from raygen.storage.run_folder import Step, file_digest
from raygen.storage.writing import write_json
from raygen.worker import Numerics


def erm(run: Run) -> RunStep:
    """The biased classifier, in erm/: fitted, or somebody's."""
    if run.config.erm.from_ is not None:
        return _brought(run, run.config.erm.from_)
    return _fit(run, "erm", "erm", _request(run, run.config.erm))


def identification(run: Run) -> Iterator[RunStep]:
    """ERM stopped early, in identification/, where a synthesis selects by such a classifier."""
    config = run.config
    assert config.synthesis is not None
    if (epochs := config.synthesis.identification_epochs()) is not None:
        early = config.erm.model_copy(update={"epochs": epochs, "select": "last"})
        yield _fit(run, "identification", "identification", _request(run, early))


def identifier(run: Run) -> Step:
    """The classifier whose scores and features a synthesis selects by."""
    synthesis = run.config.synthesis
    is_early = synthesis is not None and synthesis.identification_epochs() is not None
    return run.done["identification" if is_early else "erm"]


def folds(run: Run, *, num_folds: int) -> Iterator[RunStep]:
    """ERM classifiers that each have not seen one fold of the training images, in folds/<number>/."""
    request = _request(run, run.config.erm)
    for number in range(num_folds):
        yield _fit(run, f"folds/{number}", f"fold {number}", replace(request, without_fold=(number, num_folds)))


def original_first(run: Run) -> Iterator[RunStep]:
    """What the algorithm needs fitted on the original images, such as JTT's error set: before hours of generation."""
    for first in first_fits(run.config.algorithm, run.config.erm, has_extra=True):
        if first.of_original:
            yield _first(run, first, "", None)


def fits(run: Run, name: str, extra: ExtraRows | None) -> Iterator[RunStep]:
    """A classifier by the recipe's algorithm, in fit/<name>/, and before it what that algorithm needs."""
    algorithm = run.config.algorithm
    request = replace(
        _request(run, algorithm),
        seed=run.config.seed_of_fits,
        extra=extra,
        infilling=infilling(run),
        only_fold=algorithm.held_out_fold(),
    )
    has_extra = extra is not None or request.infilling is not None
    read: dict[str, Step] = {"init": run.done["erm"]}
    for first in first_fits(algorithm, run.config.erm, has_extra=has_extra):
        step = _first(run, first, name, extra)
        yield step
        use = "beside" if first.beside else "init" if first.find_errors is None else "errors"
        read[use] = run.done[step.name]
    yield _fit(run, f"fit/{name}", name, request, **read)


def infilling(run: Run) -> Infilling | None:
    """What the fits after the first do with counterfactual and factual pictures; None: they meet none."""
    return None if run.config.synthesis is None else run.config.synthesis.in_training()


def workers_of(fit: FitConfig, *, of_classifier: bool) -> dict[str, Any]:
    """What of a fit's workers decides its bits; the device stands beside them in a step's manifest.

    Args:
        fit: The workers.
        of_classifier: Whether a classifier is fitted. Tokens are always learned in the model's own precision.
    """
    workers = fit.deciding()
    if not of_classifier:
        workers = {name: value for name, value in workers.items() if name not in Numerics.__dataclass_fields__}
    return {"device": workers.pop("device"), "workers": workers}


def _first(run: Run, first: FirstFit, name: str, extra: ExtraRows | None) -> RunStep:
    """What an algorithm needs to be fitted first; of the original images, one for all fits, in .../original/."""
    if first.of_original:
        name, extra = "original", None
    without = run.config.algorithm.held_out_fold()
    request = replace(
        _request(run, first.config),
        seed=run.config.seed_of_fits,
        extra=extra,
        find_errors=first.find_errors,
        without_fold=without,
    )
    if not first.of_original:
        request = replace(request, infilling=infilling(run))
    goes_on = run.config.erm.from_ is not None and first.config.init == "erm" and first.find_errors is None
    init = run.done["erm"] if goes_on else None
    return _fit(run, f"{first.folder}/{name}", f"{first.what} of {name}", request, init=init)


def _brought(run: Run, start: str) -> RunStep:
    """A classifier that somebody brings, in the place of the first fit: nothing is trained."""
    config, names = run.config.classifier, run.opened.dataset.info.class_names

    def take(step: Step) -> Mapping[str, Any]:
        save_classifier(open_start(config, start, names), step.folder)
        counts = {"images": 0, "extra": 0, "epochs": 0}
        write_json(step.folder / "history.json", {"counts": counts, "epochs": []})
        return counts

    return RunStep(
        "erm",
        inputs={"data": run.done["data"]},
        settings={"classifier": config.deciding(), "from": start_digest(start) or start, "classes": list(names)},
        doing=f"taking {start} as it is, in place of a fit",
        body=take,
        label="fit erm",
    )


def _request(run: Run, algorithm: AlgorithmConfig) -> classifiers.FitRequest:
    config, masks = run.config, run.done.get("objects")
    return classifiers.FitRequest(
        data=str(run.done["data"].folder.resolve()),
        classifier=config.classifier.model_dump(mode="json"),
        algorithm=algorithm,
        seed=config.seed,
        init=None,
        extra=None,
        max_failed_fraction=config.max_failed_fraction,
        weights=None if (path := weights_file(config.classifier)) is None else str(path),
        numerics=config.fit.numerics,
        loading=run.loading,
        masks=None if masks is None else MaskRows(str(masks.folder.resolve()), masks.digest),
    )


def _fit(
    run: Run,
    name: str,
    what: str,
    request: classifiers.FitRequest,
    *,
    init: Step | None = None,
    errors: Step | None = None,
    beside: Step | None = None,
) -> RunStep:
    config, extra, label = run.config, request.extra, f"fit {what}"
    settings: dict[str, Any] = {
        "classifier": config.classifier.deciding(),
        "algorithm": request.algorithm.deciding(),
        "seed": request.seed,
        **workers_of(config.fit, of_classifier=True),
        "extra": None if extra is None else [extra.kind, extra.digest, fingerprint(list(extra.keys))],
        **request.algorithm.fitted_anew(has_extra=extra is not None),
    }
    if extra is not None and extra.grown_px is not None:
        settings["extra_grown_px"] = extra.grown_px
    # Each is named only where there is one, so that folders without it stay valid.
    weights = weights_file(config.classifier)
    if weights is not None and weights.is_file():
        settings["weights"] = file_digest(weights)
    elif config.classifier.kind == "hf" and (digest := network_digest(config.classifier)) is not None:
        settings["weights"] = digest
    if request.masks is not None:
        settings["masks"] = request.masks.digest
    if request.infilling is not None:
        settings["infilling"] = asdict(request.infilling)
    if request.without_fold is not None:
        settings["without_fold"] = request.without_fold
    if request.only_fold is not None:
        settings["only_fold"] = request.only_fold
    request = replace(request, init=_place(init), errors=_place(errors), beside=_place(beside))
    others = {name: found for name, found in (("errors", errors), ("beside", beside)) if found is not None}
    return RunStep(
        name,
        inputs={"data": run.done["data"], "init": init, **others},
        settings=settings,
        doing=f"fitting {what}" + ("" if extra is None else f" with {len(extra.keys)} extra images"),
        body=lambda step: {
            **classifiers.fit(
                request,
                step.folder,
                resources=config.fit,
                engine=config.engine,
                say=labelled(label, run.say),
                workers=run.workers,
            ),
            "selected_by": _selected_by(run, request.algorithm),
        },
        label=label,
        is_fit=True,
        keeps="own",  # a checkpoint of another training set or algorithm is not gone on from
    )


def _selected_by(run: Run, algorithm: AlgorithmConfig) -> str | None:
    """What a fit is selected by on validation, in words; None: nothing is, such as where the last epoch is taken."""
    by, attributes = algorithm.selects_by(), run.index.split("val")["attribute"]
    has_groups = bool(run.index.dataset.attribute_names) and not attributes.null_count
    return None if by is None else WORDS[resolved(by, has_groups=has_groups)]


def _place(step: Step | None) -> str | None:
    return None if step is None else str(step.folder.resolve())
