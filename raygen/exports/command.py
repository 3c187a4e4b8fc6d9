"""The arguments of `raygen export`; heavy imports are inside, so that `--help` is quick."""

from pathlib import Path
from typing import Annotated, get_args

import typer

PICTURE_FORMATS, CLASSIFIER_FORMATS = ("parquet", "imagefolder", "webdataset", "hf"), ("safetensors", "hf")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    to: Annotated[str, typer.Option("--to", help="New folder: a path, or a URL such as s3://bucket/folder.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="parquet, imagefolder, webdataset or hf; of a classifier: safetensors or hf (transformers).",
        ),
    ],
    classifier: Annotated[
        str | None,
        typer.Option("--classifier", help="Export this fit's classifier, such as dbb or erm, in place of pictures."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Pruned pictures too, in a split of their own, each with its verdict.")
    ] = False,
) -> None:
    """Take a run's kept pictures, or its classifier, elsewhere: in a form that other libraries load."""
    from raygen.errors import ConfigError

    formats = PICTURE_FORMATS if classifier is None else CLASSIFIER_FORMATS
    if format not in formats:
        what = "pictures" if classifier is None else "a classifier"
        other = format in {*PICTURE_FORMATS, *CLASSIFIER_FORMATS}
        hint = "" if not other else "; leave --classifier out" if classifier else "; name one with --classifier"
        raise ConfigError(f"--format is {format}; {what} can be exported as {', '.join(formats)}{hint}")
    if classifier is not None:
        if every:
            raise ConfigError("--all is of pictures, and --classifier exports none; leave one out")
        _classifier(run, classifier, to=to, format=format)
        return
    _pictures(run, to=to, format=format, every=every)


def _pictures(run: Path, *, to: str, format: str, every: bool) -> None:
    from raygen.exports.pictures import every_picture, kept_pictures
    from raygen.exports.writing import PictureFormat, export_pictures
    from raygen.report.tables import progress_bar

    assert set(get_args(PictureFormat)) == {*PICTURE_FORMATS}
    pictures = every_picture(run) if every else kept_pictures(run)
    with progress_bar("writing pictures") as progress:
        address = export_pictures(pictures, to=to, format=format, progress=progress)  # type: ignore[arg-type]
    by_split = ", ".join(f"{table.num_rows:,} {split}" for split, table in pictures.by_split.items())
    typer.echo(f"{address}: {by_split} ({format}); README.md says what they are")


def _classifier(run: Path, name: str, *, to: str, format: str) -> None:
    from raygen.exports.classifiers import ClassifierFormat, export_classifier

    assert set(get_args(ClassifierFormat)) == {*CLASSIFIER_FORMATS}
    address = export_classifier(run, name, to=to, format=format)  # type: ignore[arg-type]
    typer.echo(f"{address}: classifier {name} ({format}); README.md says how to load it")
