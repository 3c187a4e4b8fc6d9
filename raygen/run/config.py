"""What a run does: the config of one run with everything it may set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from raygen.algorithms import AlgorithmConfig
from raygen.algorithms.erm import ErmConfig
from raygen.classifier import ClassifierConfig
from raygen.config import PoolsConfig, PositiveInt, Seed, Strict, apply_overrides, validate
from raygen.datasets import DatasetConfig, dataset_info
from raygen.datasets.scene_rendering import CLASS_NAMES
from raygen.datasets.scenes import ScenesConfig
from raygen.errors import ConfigError
from raygen.fits.ray_train import FitConfig
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import EXAMPLE
from raygen.maskers.language import TINY_DATASET
from raygen.model_files import TINY
from raygen.pools.pipeline import Engine
from raygen.run.names import find_recipe
from raygen.storage.run_folder import MARKER
from raygen.synthesis import SYNTHESES, SynthesisConfig
from raygen.synthesis.controls import CONTROL_KINDS, ControlKind
from raygen.textual_inversion.config import TextualInversionConfig


class RunConfig(Strict):
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
    engine: Engine = "ray"
    dataset: DatasetConfig = ScenesConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    erm: ErmConfig = ErmConfig(select="last")
    synthesis: SynthesisConfig | None = None
    algorithm: AlgorithmConfig
    inpainter: InpainterConfig = InpainterConfig()
    textual_inversion: TextualInversionConfig | None = None
    pools: PoolsConfig = PoolsConfig()
    fit: FitConfig = FitConfig()
    controls: tuple[ControlKind, ...] = CONTROL_KINDS
    unpruned: bool = False
    unit_rows: PositiveInt = 64
    max_failed_fraction: float = Field(0.05, ge=0, le=1)

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


def check_painter(config: RunConfig, out: Path, *, fresh: bool) -> None:
    """Checks that the shipped model, which knows only the scenes, does not paint other pictures without being asked.

    A folder that was begun goes on: its `config.yaml` names the model.

    Args:
        config: What to do.
        out: The folder that it is done in.
        fresh: Whether what the folder holds is deleted first.

    Raises:
        ConfigError: Nobody said which model paints pictures of something else.
    """
    inpainter, info = config.inpainter, dataset_info(config.dataset)
    is_scenes = (info.name, info.class_names) == (TINY_DATASET, CLASS_NAMES)  # a user's folder may be called so
    is_said = "model" in inpainter.model_fields_set or inpainter.kind == "served" or inpainter.model != TINY
    is_begun = not fresh and (out / MARKER).is_file()
    if config.synthesis is None or is_said or is_begun or is_scenes:
        return
    raise ConfigError(
        f"inpainter.model is '{TINY}' unless another is named, and it paints only the birds of '{TINY_DATASET}', but "
        f"the dataset is '{info.name}'. Name a model that knows its objects, a folder or a hub id such as "
        f"inpainter.model={EXAMPLE}, or an endpoint (inpainter.kind=served with inpainter.url). If the pictures are "
        f"scenes, say so: inpainter.model={TINY}"
    )


def identity(config: RunConfig) -> dict[str, Any]:
    """The part of a config that decides results: without the engine, and without where and how often actors run."""
    data = config.model_dump(mode="json")
    data.pop("engine")
    for name in ("on_out_of_memory", "url"):
        data["inpainter"].pop(name)
    data.pop("max_failed_fraction")
    for pool in data["pools"].values():
        for name in ("actors", "num_cpus", "num_gpus"):
            pool.pop(name)
    for name in ("num_cpus", "num_gpus", "max_failures"):
        data["fit"].pop(name)
    # Where the models run does decide bits: the device itself, however it was chosen.
    for name, pool in data["pools"].items():
        pool["device"] = getattr(config.pools, name).torch_device
    data["fit"]["device"] = config.fit.torch_device
    return data
