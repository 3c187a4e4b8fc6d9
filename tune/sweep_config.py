"""The config of a sweep: a run's config, and under `tune` how to search it."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from raygen.config import Decides, PositiveInt, Seed, Strict, apply_overrides, validate
from raygen.errors import ConfigError
from raygen.run.config import RunConfig, make_config
from raygen.seeding import MAX_SEED
from tune.domains import Domain
from tune.spaces import Space, check_algorithm, default_space, former_space

Metric = Literal["worst_group", "average"]


class AshaConfig(Strict, decides=Decides.RESULTS):
    """Early stopping by asynchronous successive halving (Li et al. 2018, arXiv 1810.05934).

    Attributes:
        grace_epochs: Epochs that every trial gets.
        reduction_factor: Of the trials that reach a rung (after grace_epochs, that times the factor, ...) the best
            one in this many goes on.
    """

    grace_epochs: PositiveInt = 2
    reduction_factor: float = Field(3, gt=1)


class SearchConfig(Strict, decides=Decides.RESULTS):
    """How to search.

    Attributes:
        trials: Points that are tried.
        sampler: "optuna": its tree-structured Parzen estimator; "random"; "grid": every point, once.
        seed: Of the sampler and of `validation_splits`. Trials are fitted with the run's own seed.
        metric: Accuracy on validation that is maximised, ties by the other one.
        asha: Early stopping; null for none.
        validation_splits: How often validation is halved at random: one half chooses the epoch, the other measures, and
            the mean decides. 0: the whole of it does both.
        max_concurrent: Most trials at once; by default as many as the cluster holds.
        max_pools: Most candidate sets that the space may ask for; each is generated whole before the trials.
        num_refits: Seeds that the chosen point is fitted with at the end, for test.
        space: Domain by parameter, over the recipe's default space; null takes a parameter out of it.
    """

    trials: Annotated[PositiveInt, Decides.NOTHING] = 32
    sampler: Literal["optuna", "random", "grid"] = "optuna"
    seed: Seed = 0
    metric: Metric = "worst_group"
    asha: AshaConfig | None = AshaConfig()
    validation_splits: int = Field(0, ge=0)
    max_concurrent: Annotated[PositiveInt | None, Decides.NOTHING] = None
    max_pools: Annotated[PositiveInt, Decides.NOTHING] = 4
    num_refits: Annotated[PositiveInt, Decides.NOTHING] = 3
    space: dict[str, Domain | None]


class _Wrapped(Strict):
    tune: SearchConfig


@dataclass(frozen=True)
class SweepConfig:
    """A sweep.

    Attributes:
        run: Where it starts from: what is not searched is the same for every trial.
        search: How it searches.
    """

    run: RunConfig
    search: SearchConfig

    @property
    def space(self) -> Space:
        """Domain by parameter."""
        return {path: domain for path, domain in self.search.space.items() if domain is not None}

    def dump(self) -> dict[str, Any]:
        """Plain data; `make_sweep` of it gives an equal sweep."""
        return {**self.run.model_dump(mode="json"), "tune": self.search.model_dump(mode="json", exclude_unset=False)}

    def identity(self) -> dict[str, Any]:
        """What two sweeps that share a folder must have in common: not how many trials, nor where they run.

        A default domain that was another one before is known by that: see `as_begun`.
        """
        search = self._with_space(self._former())
        return {**self.run.deciding(), "tune": search.deciding()}

    def as_begun(self, begun: Mapping[str, Any]) -> "SweepConfig":
        """The sweep with the former default domains that a folder was begun with, in place of today's.

        Args:
            begun: The config of the folder's sweep, plain data.
        """
        found = (begun.get("tune") or {}).get("space") or {}
        former = {path: d for path, d in self._former().items() if found.get(path) == d.model_dump(mode="json")}
        return SweepConfig(self.run, self._with_space(former))

    def _former(self) -> dict[str, Domain]:
        """Former domains of parameters that are searched as they are by default."""
        default = default_space(self.run.recipe, where="tune.space")
        return {
            path: d for path, d in former_space(self.run).items() if self.search.space.get(path) == default.get(path)
        }

    def _with_space(self, domains: Mapping[str, Domain]) -> SearchConfig:
        return self.search.model_copy(update={"space": {**self.search.space, **domains}})


def make_sweep(data: Mapping[str, Any], overrides: Sequence[str], *, where: str) -> SweepConfig:
    """The config of a recipe's name and whatever else is given, with overrides applied.

    Trials have one torch thread unless the config says otherwise: side by side that is faster than more threads each.

    Raises:
        ConfigError: Any wrong field; all of a part are named.
    """
    data = apply_overrides(data, overrides)
    search = data.pop("tune", None) or {}
    if not isinstance(search, dict):
        raise ConfigError(f"{where}: tune is {search!r}; expected a group of fields")
    default = default_space(data.get("recipe"), where=where)
    if not isinstance(data.get("fit"), dict | None):
        raise ConfigError(f"{where}: fit is {data['fit']!r}; expected a group of fields")
    data["fit"] = {"num_cpus": 1, "num_threads": 1, **(data.get("fit") or {})}
    run = make_config(data, [], where=where)
    check_algorithm(run)
    if (run.synthesis is not None and run.synthesis.in_training() is not None) or run.algorithm.needs_masks():
        raise ConfigError(
            f"{where}: a sweep's trials have neither counterfactual pictures nor object masks, and recipe {run.recipe} "
            "fits with them; take another recipe, or compare runs of this one (raygen run, raygen report)"
        )
    if run.fit_seed is not None:
        raise ConfigError(
            f"{where}: fit_seed is {run.fit_seed}, and a sweep's fits are drawn from seed; leave it out, and set "
            "tune.num_refits for more fits of the chosen point"
        )
    if run.fit.num_workers != 1:
        raise ConfigError(f"{where}: fit.num_workers is {run.fit.num_workers}; a trial is fitted by one worker")
    defaults = {path: domain.model_dump(exclude_none=True) for path, domain in default.items()}
    search["space"] = {**defaults, **_flat(search.get("space") or {}, where=where)}
    found = validate(_Wrapped, {"tune": search}, where=where).tune
    if run.seed > MAX_SEED - (found.num_refits - 1):
        raise ConfigError(
            f"{where}: seed is {run.seed}, and the chosen point is fitted with the {found.num_refits - 1} seeds after "
            f"it too (tune.num_refits), but the largest is {MAX_SEED}; take a smaller one"
        )
    return SweepConfig(run, found)


def _flat(space: Any, *, where: str, prefix: str = "") -> dict[str, Any]:
    """A space that is nested as a config is, with the paths of its parameters; a list is short for `values`."""
    if not isinstance(space, Mapping):
        raise ConfigError(f"{where}: tune.space is {space!r}; expected parameters with their domains")
    found: dict[str, Any] = {}
    for key, value in space.items():
        path = f"{prefix}{key}"
        if isinstance(value, list):
            found[path] = {"values": value}
        elif isinstance(value, Mapping) and not set(value) & set(Domain.model_fields) and value:
            found |= _flat(value, where=where, prefix=f"{path}.")
        elif value is None or isinstance(value, Mapping):
            found[path] = value
        else:
            close = difflib.get_close_matches(str(key), Domain.model_fields, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(
                f"{where}: tune.space.{path} is {value!r}; expected a list of values, a mapping with low and high, or "
                f"null{hint}"
            )
    return found
