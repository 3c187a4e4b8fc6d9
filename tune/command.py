"""The arguments of `raygen tune` and `python -m tune.search`; heavy imports are inside, so that `--help` is quick."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from raygen.program import path_option

Target = Annotated[str | None, typer.Argument(metavar="RECIPE|CONFIG", help="A recipe's name or a YAML config.")]


def tune(
    target: Target = None,
    *,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="'scenes', 'scenes3', a folder of pictures or a table (.csv, .parquet)."),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Points to try (tune.trials).")] = None,
    out: Annotated[Path, path_option("--out", "Sweep folder; an unfinished sweep in it is resumed.")] = (
        Path("runs/tune")
    ),
    config: Annotated[Path | None, path_option("--config", "YAML config (tune/config.yaml).")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field: --set tune.sampler=random, --set dataset.scale=0.1. Repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --out; without a recipe, with its own config.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what the folder holds and start over.")] = False,
) -> None:
    """Search a recipe's settings on one shared pool of pictures; choose on validation, test once."""
    from raygen import program
    from raygen.errors import ConfigError
    from raygen.report.tables import print_trials
    from tune.sweep import saved_sweep, sweep
    from tune.sweep_config import make_sweep

    if resume and fresh:
        raise ConfigError("--resume goes on with what --fresh deletes; give one of them")
    changes = [*(overrides or []), *([] if trials is None else [f"tune.trials={trials}"])]
    saved = saved_sweep(out) if resume else None
    data = read_target(target, config, dataset)
    if saved is not None and not data:
        data = saved
    if not data:
        raise ConfigError("give a recipe (raygen tune dbb), a config (--config), or --resume with the --out of a sweep")
    found = make_sweep(data, changes, where="config")
    command = shlex.join(["raygen", *sys.argv[1:]])
    summary = sweep(found, out, fresh=fresh, command=command, say=program.announcing(typer.echo))
    print_trials(out / "sweep.parquet", summary)


def read_target(target: str | None, config: Path | None, dataset: str | None) -> dict[str, Any]:
    """What the arguments of a command that takes a config say of it, as plain data; empty where they say nothing.

    Args:
        target: A recipe's name, or a config's path.
        config: A config's path.
        dataset: See `named_dataset`.

    Raises:
        ConfigError: Two configs, or one that cannot be read.
    """
    from raygen.config import load_yaml
    from raygen.errors import ConfigError

    if target is not None and (target.endswith((".yaml", ".yml")) or "/" in target):
        if config is not None:
            raise ConfigError(f"two configs were given: {target} and --config {config}")
        config, target = Path(target), None
    data = load_yaml(config) if config is not None else {}
    if target is not None:
        data["recipe"] = target
    if dataset is not None:
        data["dataset"] = named_dataset(dataset)
    return data


def named_dataset(name: str) -> dict[str, Any]:
    """See `raygen.datasets.named_config`; imported here, so that `--help` is quick."""
    from raygen.datasets import named_config

    return named_config(name)
