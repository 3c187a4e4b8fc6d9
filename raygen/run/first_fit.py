"""The first fit of a run: ERM, or in its place a classifier that somebody brings."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, Field

from raygen.algorithms import ALGORITHMS
from raygen.algorithms.base import AlgorithmBase, FirstFit
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.loop import LoopConfig
from raygen.classifier.preprocessing import with_own_framing
from raygen.classifier.start import with_start
from raygen.config import Identity
from raygen.run.names import Recipe


class FirstFitConfig(ErmConfig):
    """ERM, as the first fit of a run is.

    Attributes:
        from_: `from` in files and on the command line: a classifier that is taken as it is, in place of the fit: a
            folder that a fit wrote, a folder of transformers (or `hf:OWNER/NAME`), or a file of weights, whose network
            `classifier` says. "Before" is then that classifier, and what goes on from ERM goes on from it. The other
            fields hold for what still has to be fitted as ERM is (docs/recipes.md). null: ERM is fitted.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    from_: Annotated[str | None, Identity.ABSENT_BY_DEFAULT] = Field(None, alias="from")


def with_own_classifier(data: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A run's config as it was given, with what somebody's own classifier says of itself where nothing was given.

    Where a first classifier is given, what can start from it does, and SCGS looks at what that one gets wrong: new
    weights would be of another network than the one to be debiased.

    Args:
        data: The config, not checked yet.
        recipe: Its recipe.

    Raises:
        ConfigError: What was given contradicts the classifier.
        ModelError: It is not there.
    """
    data = dict(data)
    fields, first = data.get("classifier") or {}, data.get("erm") or {}
    if not isinstance(fields, Mapping) or not isinstance(first, Mapping):
        return data  # said where the whole config is read
    start = first.get("from", first.get("from_"))
    if not isinstance(start, str):
        data["classifier"] = with_own_framing(fields)
        return data
    data["classifier"], path = with_start(fields, start)
    data["erm"] = {**{name: value for name, value in first.items() if name != "from_"}, "from": path}
    field = ALGORITHMS[recipe.algorithm].Config.model_fields.get("init")
    if field is not None and {"scratch", "erm"} <= {*get_args(field.annotation)}:
        data["algorithm"] = _with_default(data.get("algorithm"), "init", "erm")
    if recipe.synthesis == "scgs":
        data["synthesis"] = _with_default(data.get("synthesis"), "mis_source", "erm")
    return data


def first_fits(algorithm: AlgorithmBase, erm: FirstFitConfig, *, has_extra: bool) -> Sequence[FirstFit]:
    """The fits that have to come before an algorithm's own.

    With a classifier of somebody's, features that have seen pictures come of fitting that one on with them; features
    without pictures are its own. An early classifier is still fitted beside, from new weights: there is no earlier
    state of somebody's.

    Args:
        algorithm: The algorithm.
        erm: How the run fits "as usual".
        has_extra: Whether its fit has pictures beside the dataset's.
    """
    if erm.from_ is None:
        return algorithm.first_fits(erm, has_extra=has_extra)
    found = []
    for first in algorithm.first_fits(ErmConfig.model_validate(_erm_fields(erm)), has_extra=has_extra):
        is_features = first.find_errors is None and not first.beside
        if not is_features:
            found.append(first)
        elif has_extra:
            config = first.config.model_copy(update={"init": "erm"})
            found.append(FirstFit(config, first.folder, first.what, first.of_original))
    return found


def lines_of_start(algorithm: AlgorithmBase, erm: FirstFitConfig) -> list[str]:
    """What has to be said of a run that begins with somebody's classifier; nothing where ERM is fitted."""
    if erm.from_ is None:
        return []
    found, given = [], algorithm.model_fields_set
    if isinstance(algorithm, LoopConfig) and algorithm.init == "erm" and "learning_rate" not in given:
        found.append(
            f"warning: algorithm.learning_rate is {algorithm.learning_rate:g}, the default for the small ResNet of the "
            "scenes. A classifier that is fitted already is usually gone on with at a hundredth of the rate of its own "
            "fit, or less; set it"
        )
    if algorithm.held_out_fold() is not None:
        found.append(
            f"warning: algorithm {algorithm.name} weighs training images by how unsure the first classifier is of "
            f"images that it has not seen. Where {erm.from_} was fitted on these, it is sure of all; give others as "
            "training images"
        )
    if any(first.beside for first in algorithm.first_fits(erm, has_extra=False)):
        found.append(
            f"{erm.from_} has no earlier state: the early classifier that {algorithm.name} reads is fitted beside, "
            "from what `classifier` starts from (algorithm.score=misclassification and dropout_disagreement need none)"
        )
    return found


def _erm_fields(erm: FirstFitConfig) -> dict[str, Any]:
    return {name: getattr(erm, name) for name in ErmConfig.model_fields}


def _with_default(value: Any, name: str, default: Any) -> Any:
    # What is not a mapping stays, for pydantic to complain about it by name.
    return {name: default, **(value or {})} if value is None or isinstance(value, Mapping) else value
