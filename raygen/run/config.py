"""What a run does: the config of one run with everything it may set."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from raygen.algorithms import AlgorithmConfig
from raygen.algorithms.selection import needs_first_fit
from raygen.classifier import ClassifierConfig
from raygen.config import Decides, Identity, PositiveInt, Seed, Strict, apply_overrides, validate
from raygen.datasets import DatasetConfig
from raygen.datasets.scenes import ScenesConfig
from raygen.errors import ConfigError
from raygen.fits.running import FitConfig
from raygen.inpainters import InpainterConfig
from raygen.maskers.cam import CamMethod
from raygen.pools.config import PoolsConfig
from raygen.pools.pipeline import Engine
from raygen.run.first_fit import FirstFitConfig, with_own_classifier
from raygen.run.names import TERMS, find_recipe, terms_of
from raygen.run.presets import preset_overrides
from raygen.synthesis import SYNTHESES, SynthesisConfig
from raygen.synthesis.controls import CONTROL_KINDS, FIRST_KINDS, ControlKind
from raygen.textual_inversion.config import TextualInversionConfig


class MeasuresConfig(Strict, decides=Decides.NOTHING):
    """What fits are measured by beside accuracy; no fit depends on it, so it may be set anew for a finished run.

    Attributes:
        images: Images of each split that are looked at, drawn from the run's seed; 0 for no measures.
        splits: Which splits; validation where the dataset has no test images.
        cam: The class activation map of the pointing game.
        deep_lift: Also the saliency measure by DeepLiftShap, which takes some 40 passes an image.
        baselines: Pictures of the same split that DeepLiftShap compares with; 20 in Chang et al. 2021.
    """

    images: int = Field(256, ge=0)
    splits: tuple[Literal["val", "test"], ...] = Field(("test",), min_length=1)
    cam: CamMethod = "gradcam"
    deep_lift: bool = False
    baselines: int = Field(20, ge=2)


class RunConfig(Strict, decides=Decides.RESULTS):
    """One run: a recipe on a dataset with one seed.

    Attributes:
        recipe: A recipe, or a synthesis and an algorithm, such as "scgs+jtt" (`raygen.run.names`).
        seed: Seed of everything that is drawn: dataset, fits, selection, pictures; 0 to 2**64 - 1.
        picture_seed: In its place for what is generated: which images, masks, tokens and pixels; null: `seed`.
        fit_seed: In its place for every fit that can meet generated pictures; null: `seed`. ERM and other fits that
            scores are taken from keep `seed`, so that runs which differ in this only fit on the same pictures.
        engine: "ray" streams through actor pools; "local" does the same in one process, for debugging.
        dataset: What to debias on.
        classifier: The classifier's architecture.
        erm: The first fit, which falls for the bias; its last epoch is taken, unless `erm.select` says otherwise. With
            `erm.from` a classifier of one's own is taken in its place.
        synthesis: What is generated; null for none.
        algorithm: How the classifier is fitted at the end.
        inpainter: The inpainting model.
        textual_inversion: How a token is learned for each class, which its prompt then names; null for plain prompts.
            `--set textual_inversion.num_images=30`, or any other field, switches it on.
        pools: Actors, CPUs, GPUs and batch sizes of the four pools.
        fit: Workers of a fit.
        controls: Which controls are fitted beside the recipe, with as many extra rows from the same sources
            (`raygen.synthesis.controls`). By default all that the dataset allows: "reweight" needs the groups of the
            training images, "paste" objects.
        unpruned: Also fit with every generated picture, kept or pruned, as "<recipe>_unpruned", and with the controls
            of as many rows, as "unpruned_control_<kind>".
        measures: What fits are measured by beside accuracy.
        unit_rows: Rows that are committed at once; a multiple of pools.inpainter.batch_size.
        max_failed_fraction: A pass stops when more than this share of its rows fails.
    """

    recipe: str
    seed: Seed = 0
    picture_seed: Annotated[Seed | None, Identity.ABSENT_BY_DEFAULT] = None
    fit_seed: Annotated[Seed | None, Identity.ABSENT_BY_DEFAULT] = None
    engine: Annotated[Engine, Decides.NOTHING] = "ray"
    dataset: DatasetConfig = ScenesConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    erm: FirstFitConfig = FirstFitConfig(select="last")
    synthesis: SynthesisConfig | None = None
    algorithm: Annotated[AlgorithmConfig, Decides.FIT]
    inpainter: InpainterConfig = InpainterConfig()
    textual_inversion: TextualInversionConfig | None = None
    pools: PoolsConfig = PoolsConfig()
    fit: FitConfig = FitConfig()
    controls: tuple[ControlKind, ...] = CONTROL_KINDS
    unpruned: bool = False
    measures: Annotated[MeasuresConfig, Decides.NOTHING] = MeasuresConfig()
    unit_rows: PositiveInt = 64
    max_failed_fraction: Annotated[float, Decides.NOTHING] = Field(0.05, ge=0, le=1)

    @property
    def seed_of_pictures(self) -> int:
        """What pictures are drawn from."""
        return self.seed if self.picture_seed is None else self.picture_seed

    @property
    def seed_of_fits(self) -> int:
        """What fits that can meet generated pictures are drawn from."""
        return self.seed if self.fit_seed is None else self.fit_seed

    @property
    def needs_model(self) -> bool:
        """Whether an inpainting model paints: something is generated, and not by the synthesis itself."""
        return self.synthesis is not None and self.synthesis.own_painter() is None and self.synthesis.paints()

    def deciding(self, *without: Decides) -> dict[str, Any]:
        """As for every config; of the controls, those that came first. The later ones change nothing of the others."""
        found = super().deciding(*without)
        return {**found, "controls": [kind for kind in self.controls if kind in FIRST_KINDS]}

    @field_validator("recipe")
    @classmethod
    def _known(cls, value: str) -> str:
        return find_recipe(value)[0]

    @model_validator(mode="after")
    def _is_what_the_recipe_says(self) -> "RunConfig":
        recipe = find_recipe(self.recipe)[1]
        synthesis = None if self.synthesis is None else self.synthesis.name
        for name, value in recipe.synthesis_fields.items():
            if (given := getattr(self.synthesis, name)) != value:
                raise ValueError(
                    f"recipe {self.recipe} has synthesis.{name} {value or 'null'}, but it is {given or 'null'}; give "
                    "the values in the recipe's name, or take the recipe infill"
                )
        for name in recipe.algorithm_fields:
            if not getattr(self.algorithm, name):
                raise ValueError(f"recipe {self.recipe} has the term algorithm.{name}, but it is 0; leave it out")
        if self.recipe == "erm" and (terms := terms_of(self.algorithm.model_dump())):
            raise ValueError(
                f"recipe erm is the first fit alone, and algorithm.{TERMS[terms[0]][0]} is set; name the recipe "
                f"{'+'.join(terms)}"
            )
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
    def _terms_can_be_fitted(self) -> "RunConfig":
        infilling = None if self.synthesis is None else self.synthesis.in_training()
        if self.erm.needs_masks():
            raise ValueError(
                "erm.saliency_penalty is set, but object masks are looked for after the first fit, which is fitted as "
                "usual; set algorithm.saliency_penalty, or take the recipe sal"
            )
        try:
            self.algorithm.check_numerics(self.fit.numerics)
            if infilling is not None:
                self.algorithm.check_infilling(infilling)
                if self.algorithm.first_fit(self.erm, has_extra=True) is not None:
                    self.erm.check_infilling(infilling)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _controls_have_places(self) -> "RunConfig":
        if self.synthesis is None:
            return self
        if self.controls and not self.synthesis.plans():
            raise ValueError(
                "controls are set, but this synthesis makes its pictures while a classifier is fitted: there are no "
                "candidates whose places controls could take. Leave controls empty, or set synthesis.when=candidates"
            )
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
        if not self.needs_model:
            raise ValueError(f"textual_inversion is set, but recipe {self.recipe} asks no model for pictures; leave it")
        if not self.synthesis.asks_by_class:
            raise ValueError(
                f"textual_inversion is set, but synthesis {self.synthesis.name} asks the inpainter for no class, so "
                "learned tokens would not be used; leave it null"
            )
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


def make_config(data: dict[str, Any], overrides: Sequence[str], *, where: str, preset: str | None = None) -> RunConfig:
    """The config of a recipe's name and whatever else is given, with overrides applied.

    Args:
        data: Plain data, as read from YAML.
        overrides: Such as "synthesis.k=200"; the last word.
        where: Where the data came from, for messages.
        preset: Name of settings of the recipe's synthesis; what they set replaces what the data says.

    Raises:
        ConfigError: An unknown recipe or preset, or any wrong field; all of them are named.
    """
    if preset is not None:
        overrides = [*preset_overrides(apply_overrides(data, overrides), preset), *overrides]
    data = apply_overrides(data, overrides)
    try:
        data["recipe"], recipe = find_recipe(data.get("recipe"))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    data = with_own_classifier(data, recipe)
    # "Fitted as usual" uses no groups, and where the worst group is at 0 its accuracy would choose an epoch by chance.
    data["erm"] = _with_defaults(data.get("erm"), select="last")
    given = data.get("algorithm")
    data["algorithm"] = _with_defaults(given, name=recipe.algorithm, **recipe.algorithm_fields)
    if data["recipe"] == "erm" and isinstance(given, dict) and (terms := terms_of(given)):
        data["recipe"] = "+".join(terms)  # beside the first fit there is one more, and it has a name of its own
    if recipe.synthesis is not None:
        data["synthesis"] = _with_defaults(data.get("synthesis"), name=recipe.synthesis, **recipe.synthesis_fields)
        data["controls"] = _controls(data, recipe.synthesis)
        if isinstance(data["synthesis"], dict):
            defaults = SYNTHESES[recipe.synthesis].Config.inpainter_defaults(data["synthesis"])
            if defaults:
                data["inpainter"] = _with_defaults(data.get("inpainter"), **defaults)
    if isinstance(data.get("dataset"), str):
        data["dataset"] = {"name": data["dataset"]}
    if isinstance(data.get("dataset"), dict):
        data["dataset"] = {"name": "scenes", **data["dataset"]}
    return validate(RunConfig, data, where=where)


def _controls(data: Mapping[str, Any], synthesis: str) -> Any:
    """The controls that are given, or all of them; none where a synthesis makes no candidates."""
    if "controls" in data or not isinstance(data["synthesis"], dict):
        return data.get("controls", CONTROL_KINDS)
    config = SYNTHESES[synthesis].Config
    try:
        return CONTROL_KINDS if config.model_validate(data["synthesis"]).plans() else ()
    except ValidationError:
        return CONTROL_KINDS  # what is wrong is said where the whole config is read


def _with_defaults(value: Any, **defaults: Any) -> Any:
    # What is not a mapping stays, for pydantic to complain about it by name.
    return {**defaults, **(value or {})} if value is None or isinstance(value, dict) else value
