"""Search spaces: the default one of each recipe, their checks, and the config that a point stands for.

A parameter is named by the path of its field in a run's config, such as "synthesis.k". One that is searched per class
becomes a parameter for each: "algorithm.gamma.0", "algorithm.gamma.1".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raygen.algorithms import ALGORITHMS
from raygen.algorithms.loop import LoopConfig
from raygen.config import Decides, validate
from raygen.errors import ConfigError
from raygen.run.config import RunConfig
from raygen.run.names import find_recipe
from raygen.synthesis import SYNTHESES
from tune.domains import Domain, Value

Space = Mapping[str, Domain]
# A point of a space: value by parameter, per class where the domain says so.
Params = Mapping[str, Any]

# What else a config holds is the same for all trials: dataset, seed, ERM, pools, workers.
SEARCHED = ("synthesis", "algorithm", "inpainter")
# What of these says what the others mean: another one is another sweep.
NOT_SEARCHED = ("synthesis.name", "algorithm.name", "inpainter.kind")


def default_space(recipe: Any, *, where: str) -> dict[str, Domain]:
    """The default space of a recipe's name; of a pair such as "dbb+group_dro": of its synthesis alone.

    Raises:
        ConfigError: There is no such recipe, or none to search.
    """
    try:
        _, found = find_recipe(recipe)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if found.synthesis is None:
        known = ", ".join(sorted(SYNTHESES))
        raise ConfigError(f"{where}: recipe {recipe!r} has no search; known: {known}")
    paper = SYNTHESES[found.synthesis].Config
    spaces = {"synthesis": paper.space}
    if found.algorithm == paper.algorithm:
        spaces["algorithm"] = ALGORITHMS[found.algorithm].Config.space
    return {f"{part}.{name}": Domain(**fields) for part, space in spaces.items() for name, fields in space.items()}


def former_space(run: RunConfig) -> dict[str, Domain]:
    """Domains of the recipe's default space that were others before, as they were."""
    former = ALGORITHMS[run.algorithm.name].Config.former_space
    return {f"algorithm.{name}": Domain(**fields) for name, fields in former.items()}


def check_algorithm(run: RunConfig) -> None:
    """Checks that a trial can fit by the run's algorithm.

    Raises:
        ConfigError: It is no single fit that goes from epoch to epoch: jtt has another fit before it, dfr no epochs;
            or it selects by groups that a sweep does not score by.
    """
    first = run.algorithm.first_fits(run.erm, has_extra=True)
    if first or not isinstance(run.algorithm, LoopConfig):
        raise ConfigError(
            f"recipe {run.recipe} cannot be searched: a trial is one fit with a validation accuracy after every epoch, "
            f"and {run.algorithm.name} is not. Search the synthesis with another algorithm, and give what it finds to "
            f"`raygen run {run.recipe}`"
        )
    if run.algorithm.selects_by() not in ("auto", None):
        raise ConfigError(
            "algorithm.select_by is not auto, and a sweep scores its trials by known groups, or by classes where there "
            "are none; leave it out"
        )


def loop_of(run: RunConfig) -> LoopConfig:
    """The algorithm's config, which has epochs (`check_algorithm`)."""
    assert isinstance(run.algorithm, LoopConfig)
    return run.algorithm


def expand(space: Space, *, num_classes: int) -> dict[str, Domain]:
    """One domain for each parameter that is drawn: those per class once for each class."""
    expanded: dict[str, Domain] = {}
    for path, domain in space.items():
        names = [f"{path}.{label}" for label in range(num_classes)] if domain.per_class else [path]
        expanded |= dict.fromkeys(names, domain)
    return expanded


def exact(params: Params, *, space: Space) -> dict[str, Value]:
    """A point as a sampler gave it, with the values of its domains: 0.3 for 0.30000000000000004."""
    found = {}
    for name, value in params.items():
        parent, _, last = name.rpartition(".")
        found[name] = space[parent if last.isdigit() else name].nearest(value)
    return found


def config_at(run: RunConfig, params: Params, *, space: Space) -> RunConfig:
    """The run's config with a point's values.

    Args:
        run: The config that the sweep starts from.
        params: Values of expanded parameters; those that are left out keep the run's own value.
        space: Where the parameters come from.

    Raises:
        ConfigError: A value that its field does not take.
    """
    data = run.model_dump(mode="json")
    for path, domain in space.items():
        if not domain.per_class:
            if path in params:
                _put(data, path, params[path])
            continue
        values = {int(name.rpartition(".")[2]): params[name] for name in params if name.rpartition(".")[0] == path}
        if values:
            _put(data, path, [values[label] for label in sorted(values)])
    return validate(RunConfig, data, where="tune.space")


def point_of(run: RunConfig, *, space: Space, num_classes: int) -> dict[str, Value] | None:
    """The point that stands for the run's own config; None when that is outside the space."""
    data = run.model_dump(mode="json")
    point: dict[str, Value] = {}
    for path, domain in space.items():
        own = _get(data, path)
        values = own if domain.per_class and isinstance(own, list) else [own] * num_classes
        if len(values) != num_classes or not all(domain.holds(value) for value in values):
            return None
        names = [f"{path}.{label}" for label in range(num_classes)] if domain.per_class else [path]
        point |= {name: domain.nearest(value) for name, value in zip(names, values, strict=False)}
    return point


def check_space(run: RunConfig, space: Space, *, num_classes: int) -> None:
    """Checks that every parameter is a field that may be searched, and that it takes the domain's values.

    Raises:
        ConfigError: It does not; the message names the key.
    """
    if run.synthesis is None:
        raise ConfigError(f"recipe {run.recipe} generates nothing to tune; known: {', '.join(sorted(SYNTHESES))}")
    if not space:
        raise ConfigError("tune.space is empty: there is nothing to search")
    for path, domain in space.items():
        root = path.partition(".")[0]
        if root not in SEARCHED or path in NOT_SEARCHED or run.decides(path) is Decides.NOTHING:
            raise ConfigError(
                f"tune.space.{path}: cannot be searched; a parameter is a field of {', '.join(SEARCHED)} that decides "
                "results. All else is the same for every trial: give it outside of tune.space"
            )
        if run.decides(path) is Decides.AMOUNT and len({type(value) for value in domain.extremes()}) > 1:
            raise ConfigError(f"tune.space.{path}: mixes counts and fractions; 1 is one image, 1.0 is all of the class")
        for value in domain.extremes():
            _check_value(run, path, domain, value, num_classes=num_classes)


def largest(domain: Domain) -> Value:
    """The greatest value of a domain of numbers."""
    return max(domain.extremes(), key=float)


def check_amount(run: RunConfig, counts: Mapping[str, int]) -> None:
    """Checks that no class is asked for more images than it has.

    Args:
        run: The config with the largest amount.
        counts: Training images by class name.

    Raises:
        ConfigError: A class has fewer.
    """
    assert run.synthesis is not None
    amounts_C = run.synthesis.num_sources(np.array(list(counts.values())))
    for (name, count), amount in zip(counts.items(), amounts_C or [], strict=False):
        if amount > count:
            (field,) = run.synthesis.fields_of(Decides.AMOUNT)
            raise ConfigError(
                f"tune.space.synthesis.{field}: the largest value asks for {amount} images of "
                f"class '{name}', which has {count} training images"
            )


def _check_value(run: RunConfig, path: str, domain: Domain, value: Value, *, num_classes: int) -> None:
    names = list(expand({path: domain}, num_classes=num_classes))
    try:
        config_at(run, dict.fromkeys(names, value), space={path: domain})
    except ConfigError as error:
        reason = " ".join(str(error).splitlines()[1:]).strip()
        raise ConfigError(f"tune.space.{path}: {value!r} is not possible: {reason}") from error


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
    data[last] = value


def _get(data: Mapping[str, Any], path: str) -> Any:
    place: Any = data
    for name in path.split("."):
        place = place.get(name) if isinstance(place, Mapping) else None
    return place
