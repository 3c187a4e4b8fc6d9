"""The fits of a run, each a step of its own: some methods need several fits for one classifier."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raygen.algorithms import AlgorithmConfig
from raygen.algorithms.base import FirstFit
from raygen.classifier import weights_file
from raygen.config import fingerprint
from raygen.fits import classifiers
from raygen.run.config import RunConfig
from raygen.storage.progress import Say, labelled
from raygen.storage.run_folder import RunFolder, Step, file_digest

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
        epochs = None if config.synthesis is None else config.synthesis.identification_epochs()
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
        first = algorithm.first_fit(self._config.erm, has_extra=extra is not None)
        if first is not None:
            made = self._first(first, name, data, extra)
            init, errors = (made, None) if first.find_errors is None else (erm, made)
        request = replace(self._request(algorithm, data), extra=extra)
        return self._fit(f"fit/{name}", name, request, data, init=init, errors=errors)

    def original_first(self, data: Step) -> None:
        """What the recipe's algorithm has to be fitted first, if that is on the original images, for all fits."""
        first = self._config.algorithm.first_fit(self._config.erm, has_extra=True)
        if first is not None and first.of_original:
            self._first(first, "", data, None)

    def _first(self, first: FirstFit, name: str, data: Step, extra: classifiers.ExtraRows | None) -> Step:
        """What an algorithm needs to be fitted first; of the original images, one for all fits, in .../original/."""
        if first.of_original:
            name, extra = "original", None
        request = replace(self._request(first.config, data), extra=extra, find_errors=first.find_errors)
        return self._fit(f"{first.folder}/{name}", f"{first.what} of {name}", request, data)

    def _request(self, algorithm: AlgorithmConfig, data: Step) -> classifiers.FitRequest:
        config = self._config
        return classifiers.FitRequest(
            data=str(data.folder.resolve()),
            classifier=config.classifier.model_dump(mode="json"),
            algorithm=algorithm,
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
    ) -> Step:
        config, extra = self._config, request.extra
        request = replace(request, init=_place(init), errors=_place(errors))
        depends: dict[str, Any] = {
            "data": data.digest,
            "init": None if init is None else init.digest,
            "classifier": request.classifier,
            "algorithm": request.algorithm.model_dump(mode="json"),
            "seed": config.seed,
            "workers": config.fit.model_dump(mode="json", include={"num_workers", "num_threads"}),
            "device": config.fit.torch_device,
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
                step.finish(classifiers.fit(request, begun, resources=config.fit, engine=config.engine, say=say))
        return step


def _place(step: Step | None) -> str | None:
    return None if step is None else str(step.folder.resolve())
