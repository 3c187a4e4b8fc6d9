"""The commands `raygen data make | check | convert | show`; heavy imports are inside, so that `--help` is quick."""

import json
from pathlib import Path
from typing import Annotated

import typer

from raygen import program
from raygen.seeding import LEAST_SEED, MAX_SEED
from tune.command import named_dataset

data_app = typer.Typer(name="data", help="Make, check, convert and show datasets.", no_args_is_help=True)

# Images that a message names.
SHOWN = 5

Name = Annotated[str, typer.Argument(metavar="PATH", help="Folder of pictures, table (.csv, .parquet) or dataset.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field of the dataset: --set class_names=[cat, dog]. Repeatable."),
]


@data_app.command("make")
def make(
    name: Annotated[
        str,
        typer.Argument(
            help="'scenes'; a folder of pictures to bring into raygen's form; or a small tree in a published layout: "
            "waterbirds-like, celeba-like, metashift-like, in9-like, cct-like, chexpert-like."
        ),
    ],
    out: Annotated[Path, program.path_option("--out", "New folder for the dataset.")],
    seed: Annotated[int, typer.Option("--seed", min=LEAST_SEED, max=MAX_SEED, help="Seed of the draw.")] = 0,
    overrides: Set = None,
) -> None:
    """Write a dataset as Parquet, or a tree to try a loader on: --set scale=0.1, --set train_counts=[9,9,9,9]."""
    from raygen.datasets import make_dataset
    from raygen.datasets.published.likes import LIKES, make_like

    if name in LIKES:
        typer.echo(f"{out}: {make_like(name, overrides or [], out, seed=seed)} files, and their tables")
        return
    counts = make_dataset(named_dataset(name), overrides or [], out, seed=seed, say=typer.echo)
    typer.echo(f"{out}: " + ", ".join(f"{n} {split}" for split, n in sorted(counts.items())))


@data_app.command("check")
def check(
    path: Name,
    expect: Annotated[
        str | None,
        typer.Option("--expect", help="Compare the groups with a published dataset: waterbirds, celeba or metashift."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="What is an error for this recipe, such as jtt, and nothing that is none."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: rows, splits with their groups, errors, warnings.")
    ] = False,
    overrides: Set = None,
) -> None:
    """Read every picture and label of a dataset and list what is wrong: --set class_names=[cat, dog] as a run would."""
    from functools import partial

    from raygen.datasets.check import check_dataset
    from raygen.report.tables import progress_bar

    needs_of = None
    if recipe is not None:
        from raygen.run.config import make_config
        from raygen.run.data_needs import needs_of as recipe_needs

        needs_of = partial(recipe_needs, make_config({"recipe": recipe}, [], where="--recipe"))
    with progress_bar("reading pictures") as progress:
        findings = check_dataset(path, needs_of=needs_of, expect=expect, overrides=overrides or (), progress=progress)
    if as_json:
        typer.echo(json.dumps(findings.data(), indent=2, ensure_ascii=False))
    else:
        for line in findings.lines():
            typer.echo(line)
    if findings.problems:
        raise typer.Exit(2)


@data_app.command("convert")
def convert(
    path: Name,
    out: Annotated[str, typer.Option("--out", help="New folder: a path, or a URL such as s3://bucket/folder.")],
    format: Annotated[
        str, typer.Option("--format", help="parquet (raygen's own, for --dataset) or webdataset (tars).")
    ] = "parquet",
    overrides: Set = None,
) -> None:
    """Write a dataset in shards, sorted; the same command again goes on where it was interrupted."""
    from typing import get_args

    from raygen.datasets import listed_config, open_listed
    from raygen.datasets.convert import Format, convert_dataset
    from raygen.errors import ConfigError
    from raygen.report.tables import progress_bar

    if format not in get_args(Format):
        raise ConfigError(f"--format is {format}; a dataset can be converted to {', '.join(get_args(Format))}")
    opened = open_listed(listed_config(path, overrides or ()))
    opened.check_entries()
    for line in opened.lines:
        typer.echo(line)
    with progress_bar("writing pictures") as progress:
        done = convert_dataset(opened.listing, to=out, format=format, progress=progress)  # type: ignore[arg-type]
    typer.echo(f"{done.address}: " + ", ".join(f"{n} {split}" for split, n in sorted(done.rows.items())))
    if done.left_out:
        shown = "; ".join(f"{image_id}: {reason}" for image_id, reason in list(done.left_out.items())[:SHOWN])
        typer.echo(f"warning: {len(done.left_out)} images are not there wholly: {shown}")


@data_app.command("show")
def show(
    path: Name,
    out: Annotated[Path, program.path_option("--out", "An .html page or a .png picture.")],
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "train",
    per_group: Annotated[int, typer.Option("--per-group", min=1, help="Most pictures of a group.")] = 12,
    overrides: Set = None,
) -> None:
    """Write a contact sheet: some pictures of each group."""
    from raygen.datasets import listed_config, open_listed
    from raygen.report.contact_sheet import write_contact_sheet

    opened = open_listed(listed_config(path, overrides or ()))
    num = write_contact_sheet(opened.listing, out, split=split, per_group=per_group)
    typer.echo(f"{out}: {num} groups of {split}")
