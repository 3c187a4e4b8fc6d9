"""The fits of a run, each a step of its own: some methods need several fits for one classifier."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raygen.algorithms import AnyAlgorithm
from raygen.algorithms.dfr import DfrConfig
from raygen.algorithms.jtt import JttConfig
from raygen.classifier import weights_file
from raygen.config import fingerprint
from raygen.fits import classifiers
from raygen.fits.ray_train import FitConfig
from raygen.run.config import RunConfig
from raygen.storage.progress import Say, labelled
from raygen.storage.run_folder import RunFolder, Step, file_digest
from raygen.synthesis import identification_epochs

# (step, its name, what it is about to do) -> whether it has to be done
Needed = Callable[[Step, str, str], bool]


class FitSteps:
    """The fits of one run in progress.

    Args:
        config: The run's config.
        folder: Its folder.
        needed: Says a step, and whether it has to be done.
        say: Called now and then with how far a long fit is.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, needed: Needed, say: Say) -> None:
        self._config, self._folder, self._needed, self._say = config, folder, needed, say

    def erm(self, data: Step) -> Step:
        """The biased classifier, in erm/."""
        return self._fit("erm", "erm", self._request(self._config.erm, data), data)

    def identifier(self, data: Step, erm: Step) -> Step:
        """The classifier whose features a synthesis reads: ERM, or ERM stopped early, in identification/."""
        config = self._config
        epochs = None if config.synthesis is None else identification_epochs(config.synthesis)
        if epochs is None:
            return erm
        early = config.erm.model_copy(update={"epochs": epochs, "select": "last"})
        return self._fit("identification", "identification", self._request(early, data), data)

    def folds(self, data: Step, *, num_folds: int) -> list[Step]:
        """ERM classifiers that each have not seen one fold of the training images, in folds/<number>/."""
        request = self._request(self._config.erm, data)
        return [
            self._fit(f"folds/{number}", f"fold {number}", replace(request, without_fold=(number, num_folds)), data)
            for number in range(num_folds)
        ]

    def by_algorithm(self, name: str, data: Step, erm: Step, *, extra: classifiers.ExtraRows | None) -> Step:
        """A classifier by the recipe's algorithm, in fit/<name>/, and before it what that algorithm needs."""
        algorithm = self._config.algorithm
        init, errors = erm, None
        if isinstance(algorithm, DfrConfig) and extra is not None:
            request = replace(self._request(self._config.erm, data), extra=extra)
            init = self._fit(f"dfr_features/{name}", f"features of {name}", request, data)
        if isinstance(algorithm, JttConfig):
            errors = self._errors(name, algorithm, data, extra)
        request = replace(self._request(algorithm, data), extra=extra)
        return self._fit(f"fit/{name}", name, request, data, init=init, errors=errors)

    def original_errors(self, data: Step) -> None:
        """JTT's error set of the original images, if that is what the recipe's algorithm reads."""
        algorithm = self._config.algorithm
        if isinstance(algorithm, JttConfig) and algorithm.identify_on == "original":
            self._errors("original", algorithm, data, None)

    def _errors(self, name: str, algorithm: JttConfig, data: Step, extra: classifiers.ExtraRows | None) -> Step:
        """JTT's error set; of the original images, one for all fits, in jtt_errors/original/."""
        if algorithm.identify_on == "original" or extra is None:
            name, extra = "original", None
        # What only the second fit reads must not make the first one again; both start from new weights.
        second = {"epochs": 1, "select": "last", "up_weight": 0, "init": "scratch"}
        request = replace(self._request(algorithm.model_copy(update=second), data), extra=extra)
        return self._fit(f"jtt_errors/{name}", f"errors of {name}", request, data, run=classifiers.find_errors)

    def _request(self, algorithm: AnyAlgorithm, data: Step) -> classifiers.FitRequest:
        config = self._config
        return classifiers.FitRequest(
            data=str(data.folder.resolve()),
            classifier=config.classifier.model_dump(mode="json"),
            algorithm=algorithm.model_dump(mode="json"),
            seed=config.seed,
            init=None,
            extra=None,
            max_failed_fraction=config.max_failed_fraction,
            weights=None if (path := weights_file(config.classifier)) is None else str(path),
        )

    def _fit(
        self,
        folder: str,
        name: str,
        request: classifiers.FitRequest,
        data: Step,
        *,
        init: Step | None = None,
        errors: Step | None = None,
        run: Callable[..., dict[str, Any]] = classifiers.fit,
    ) -> Step:
        config, extra = self._config, request.extra
        request = replace(request, init=_place(init), errors=_place(errors))
        depends: dict[str, Any] = {
            "data": data.digest,
            "init": None if init is None else init.digest,
            "classifier": request.classifier,
            "algorithm": request.algorithm,
            "seed": config.seed,
            **workers_of(config.fit),
            "extra": None if extra is None else [extra.kind, extra.digest, fingerprint(list(extra.keys))],
        }
        # Each is named only where there is one, so that folders without it stay valid.
        if errors is not None:
            depends["errors"] = errors.digest
        weights = weights_file(config.classifier)
        if weights is not None and weights.is_file():
            depends["weights"] = file_digest(weights)
        if request.without_fold is not None:
            depends["without_fold"] = request.without_fold
        step = self._folder.step(folder, depends)
        count = "" if extra is None else f" with {len(extra.keys)} extra images"
        if self._needed(step, f"fit {name}", f"fitting {name}{count}"):
            with self._folder.timed(f"fit {name}"):
                # A checkpoint of another training set or algorithm is not gone on from.
                begun: Path = step.begin(keep_parts=step.is_begun)
                say = labelled(f"fit {name}", self._say)
                step.finish(run(request, begun, resources=config.fit, engine=config.engine, say=say))
        return step


def workers_of(fit: FitConfig) -> dict[str, Any]:
    """What of a fit's workers decides its bits; the device stands beside them in a step's manifest."""
    workers = fit.deciding()
    return {"device": workers.pop("device"), "workers": workers}


def _place(step: Step | None) -> str | None:
    return None if step is None else str(step.folder.resolve())
