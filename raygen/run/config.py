"""What a run does: the config of one run with everything it may set."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from raygen.algorithms import AlgorithmConfig
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.selection import needs_first_fit
from raygen.classifier import ClassifierConfig
from raygen.config import Decides, PositiveInt, Seed, Strict, apply_overrides, validate
from raygen.datasets import DatasetConfig
from raygen.datasets.scenes import ScenesConfig
from raygen.errors import ConfigError
from raygen.fits.running import FitConfig
from raygen.inpainters import InpainterConfig
from raygen.pools.config import PoolsConfig
from raygen.pools.pipeline import Engine
from raygen.run.names import find_recipe
from raygen.synthesis import SYNTHESES, SynthesisConfig
from raygen.synthesis.controls import CONTROL_KINDS, ControlKind
from raygen.textual_inversion.config import TextualInversionConfig


class RunConfig(Strict, decides=Decides.RESULTS):
    """One run: a recipe on a dataset with one seed.

    Attributes:
        recipe: A recipe, or a synthesis and an algorithm, such as "scgs+jtt" (`raygen.run.names`).
        seed: Seed of everything that is drawn: dataset, fits, selection, pictures; 0 to 2**64 - 1.
        engine: "ray" streams through actor pools; "local" does the same in one process, for debugging.
        dataset: What to debias on.
        classifier: The classifier's architecture.
        erm: The first fit, which falls for the bias; its last epoch is taken, unless `erm.select` says otherwise.
        synthesis: What is generated; null for none.
        algorithm: How the classifier is fitted at the end.
        inpainter: The inpainting model.
        textual_inversion: How a token is learned for each class, which its prompt then names; null for plain prompts.
            `--set textual_inversion.num_images=30`, or any other field, switches it on.
        pools: Actors, CPUs, GPUs and batch sizes of the four pools.
        fit: Workers of a fit.
        controls: Which controls are fitted beside the recipe, with as many extra rows from the same sources.
        unpruned: Also fit with every generated picture, kept or pruned, as "<recipe>_unpruned".
        unit_rows: Rows that are committed at once; a multiple of pools.inpainter.batch_size.
        max_failed_fraction: A pass stops when more than this share of its rows fails.
    """

    recipe: str
    seed: Seed = 0
    engine: Annotated[Engine, Decides.NOTHING] = "ray"
    dataset: DatasetConfig = ScenesConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    erm: ErmConfig = ErmConfig(select="last")
    synthesis: SynthesisConfig | None = None
    algorithm: Annotated[AlgorithmConfig, Decides.FIT]
    inpainter: InpainterConfig = InpainterConfig()
    textual_inversion: TextualInversionConfig | None = None
    pools: PoolsConfig = PoolsConfig()
    fit: FitConfig = FitConfig()
    controls: tuple[ControlKind, ...] = CONTROL_KINDS
    unpruned: bool = False
    unit_rows: PositiveInt = 64
    max_failed_fraction: Annotated[float, Decides.NOTHING] = Field(0.05, ge=0, le=1)

    @field_validator("recipe")
    @classmethod
    def _known(cls, value: str) -> str:
        return find_recipe(value)[0]

    @model_validator(mode="after")
    def _is_what_the_recipe_says(self) -> "RunConfig":
        recipe = find_recipe(self.recipe)[1]
        synthesis = None if self.synthesis is None else self.synthesis.name
        for field, found, expected in (
            ("synthesis", synthesis, recipe.synthesis),
            ("algorithm", self.algorithm.name, recipe.algorithm),
        ):
            if found != expected:
                raise ValueError(
                    f"recipe {self.recipe} has {field} {expected or 'null'}, but {field}.name is {found or 'null'}; "
                    "give the pair as the recipe, such as scgs+jtt"
                )
        return self

    @model_validator(mode="after")
    def _the_first_fit_has_none_before_it(self) -> "RunConfig":
        if needs_first_fit(self.erm.selects_by()):
            raise ValueError(
                f"erm.select_by is {self.erm.select_by}, which a fit before tells apart, and erm is the first; take "
                "classes, or groups where validation has attributes"
            )
        return self

    @model_validator(mode="after")
    def _pictures_can_be_painted(self) -> "RunConfig":
        if self.synthesis is not None:
            self.synthesis.check_inpainter(self.inpainter)
        return self

    @model_validator(mode="after")
    def _local_fits_have_one_worker(self) -> "RunConfig":
        if self.engine == "local" and self.fit.num_workers > 1:
            raise ValueError(
                f"engine is local, which fits with one worker, but fit.num_workers is {self.fit.num_workers}"
            )
        return self

    @model_validator(mode="after")
    def _tokens_have_a_use_and_a_model(self) -> "RunConfig":
        if self.textual_inversion is None:
            return self
        if self.synthesis is None:
            raise ValueError(f"textual_inversion is set, but recipe {self.recipe} generates nothing; leave it null")
        if self.inpainter.kind == "served" and self.textual_inversion.model is None:
            raise ValueError(
                "inpainter.kind is served, and an endpoint does not learn tokens; set textual_inversion.model to a "
                "folder or hub id of the served model, or of one with the same text encoder"
            )
        return self

    @model_validator(mode="after")
    def _units_hold_whole_batches(self) -> "RunConfig":
        rows = self.pools.inpainter.batch_size
        if self.unit_rows % rows:
            raise ValueError(f"unit_rows is {self.unit_rows}, not a multiple of pools.inpainter.batch_size ({rows})")
        return self


def make_config(data: dict[str, Any], overrides: Sequence[str], *, where: str) -> RunConfig:
    """The config of a recipe's name and whatever else is given, with overrides applied.

    Raises:
        ConfigError: An unknown recipe, or any wrong field; all of them are named.
    """
    data = apply_overrides(data, overrides)
    try:
        data["recipe"], recipe = find_recipe(data.get("recipe"))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    # "Fitted as usual" uses no groups, and where the worst group is at 0 its accuracy would choose an epoch by chance.
    data["erm"] = _with_defaults(data.get("erm"), select="last")
    data["algorithm"] = _with_defaults(data.get("algorithm"), name=recipe.algorithm)
    if recipe.synthesis is not None:
        data["synthesis"] = _with_defaults(data.get("synthesis"), name=recipe.synthesis)
        if isinstance(data["synthesis"], dict):
            defaults = SYNTHESES[recipe.synthesis].Config.inpainter_defaults(data["synthesis"])
            if defaults:
                data["inpainter"] = _with_defaults(data.get("inpainter"), **defaults)
    if isinstance(data.get("dataset"), str):
        data["dataset"] = {"name": data["dataset"]}
    if isinstance(data.get("dataset"), dict):
        data["dataset"] = {"name": "scenes", **data["dataset"]}
    return validate(RunConfig, data, where=where)


def _with_defaults(value: Any, **defaults: Any) -> Any:
    # What is not a mapping stays, for pydantic to complain about it by name.
    return {**defaults, **(value or {})} if value is None or isinstance(value, dict) else value
