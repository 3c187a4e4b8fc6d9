"""The command line: `raygen demo | run | recipes | data | fit | heads | evaluate | report | export | tune | serve | …`.

Verbs only read arguments, call one function and print; heavy imports are inside them, so that `--help` is quick.
Exit codes: 0 done, 1 failed, 2 the user's mistake.
"""

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from raygen import program
from raygen.data_commands import data_app
from raygen.exports.command import export
from raygen.seeding import LEAST_SEED, MAX_SEED
from tune.command import named_dataset, read_target, tune

app = typer.Typer(
    name="raygen",
    help="Find the images that a classifier gets wrong for the wrong reason, repaint them, retrain, and show the gain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app)
app.command()(tune)
app.command()(export)

# Enough to cure the scenes' bias, and generated in some minutes on two cores.
DEMO_IMAGES_PER_CLASS = 500
# No worse than the model's 12 on the scenes, over three seeds (docs/performance.md), and two thirds of the time.
DEMO_STEPS = 8

# Each is a fit of some 45 s, and the whole job is to end in five minutes. These can refute the most: what takes a
# bird's place without a model (a colour, a real bird), and the pictures without their meaning. A plain copy keeps the
# bias, and a grey hole knows less than a colour.
DEMO_CONTROLS = ("flat", "paste", "shuffled")

Out = Annotated[Path, program.path_option("--out", "Run folder; an unfinished run in it is resumed.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a config field: --set synthesis.k=200. Repeatable."),
]
Config = Annotated[
    Path | None, program.path_option("--config", "YAML config, such as the config.yaml of an earlier run.")
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="'scenes', 'scenes3', a folder of pictures or a table (.csv), or its URL."),
]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(
        "--reuse", help="Another run's folder: what it did with the same settings is taken from there. Repeatable."
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Named settings of the recipe, such as paper for scgs, or of a paper's ERM, such as waterbirds:dfr: over "
        "those of a config, under --set. Several with commas.",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete what the run folder holds and start over.")]


@app.callback()
def _setup(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print what happens inside.")] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("raygen").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that it cannot write
    # Libraries' own progress bars and advice would bury the steps of the run.
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    overrides: Set = None,
    fresh: Fresh = False,
    show: Annotated[bool | None, typer.Option("--open/--no-open", help="Open the report in a browser.")] = None,
) -> None:
    """Recipe dbb on the built-in scenes: the whole job in some minutes, with no download."""
    data = {
        "recipe": "dbb",
        "dataset": {"name": "scenes"},
        "synthesis": {"k": DEMO_IMAGES_PER_CLASS},
        "inpainter": {"num_inference_steps": DEMO_STEPS},
        "controls": list(DEMO_CONTROLS),
    }
    _run(data, overrides, out=out, fresh=fresh)
    if show if show is not None else sys.stdout.isatty():
        typer.launch(str(out / "report.html"))


@app.command()
def run(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|CONFIG",
            help="A recipe (`raygen recipes` lists them), such as dbb or scgs+jtt, or a YAML config.",
        ),
    ] = None,
    dataset: Dataset = None,
    out: Out = Path("runs/latest"),
    config: Config = None,
    preset: Preset = None,
    overrides: Set = None,
    fresh: Fresh = False,
    reuse: Reuse = None,
) -> None:
    """Run a recipe: score, generate, prune, retrain, evaluate, report."""
    from raygen.errors import ConfigError

    if target is None and config is None:
        raise ConfigError("give a recipe (raygen run dbb) or a config (raygen run --config config.yaml)")
    _run(read_target(target, config, dataset), overrides, out=out, fresh=fresh, reuse=reuse, preset=preset)


@app.command()
def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: recipes, syntheses, algorithms.")] = False,
) -> None:
    """List what can be run: every recipe, synthesis and algorithm, its paper, and the labels that it reads."""
    from raygen.report import tables
    from raygen.run.names import listing

    if as_json:
        import json

        typer.echo(json.dumps(listing(), indent=2, ensure_ascii=False))
        return
    tables.print_recipes(listing())


@app.command()
def fit(
    algorithm: Annotated[str, typer.Argument(help="One of those that `raygen recipes` lists, such as jtt.")],
    dataset: Dataset = "scenes",
    out: Out = Path("runs/fit"),
    overrides: Set = None,
    fresh: Fresh = False,
) -> None:
    """Fit one algorithm on a dataset as it is, without generated pictures, and evaluate it."""
    from raygen.run.names import recipe_name

    data = {"recipe": recipe_name(algorithm), "dataset": named_dataset(dataset or "scenes")}
    _run(data, overrides, out=out, fresh=fresh)


@app.command()
def heads(
    features: Annotated[
        Path, typer.Argument(help="Parquet with the columns id, features, label, split and, if known, attribute.")
    ],
    algorithm: Annotated[str, typer.Option("--algorithm", help="nsf, evals, dfr, afr, self or hsfm.")],
    out: Annotated[Path, program.path_option("--out", "Folder for the head and its numbers.")] = Path("runs/heads"),
    overrides: Set = None,
) -> None:
    """Fit a new last layer on features of any model, such as a text model's, and evaluate it."""
    from raygen.report import tables
    from raygen.run.heads import fit_heads, make_heads_config

    config = make_heads_config(algorithm, overrides or [])
    tables.print_results(fit_heads(features, config, out, say=program.announcing(typer.echo)))


@app.command()
def evaluate(
    classifier: Annotated[
        str,
        typer.Argument(
            help="A fit's folder, such as runs/demo/fit/dbb; a folder of transformers; a file of weights of the "
            "network that --set classifier.architecture names."
        ),
    ],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset folder, such as runs/demo/data, or 'scenes'.")],
    out: Annotated[Path | None, program.path_option("--out", "Write the numbers to this JSON file.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=LEAST_SEED, max=MAX_SEED, help="Seed of the scenes' draw.")] = 0,
    overrides: Set = None,
) -> None:
    """Accuracy per group of one classifier on a dataset's validation and test splits."""
    from raygen.config import apply_overrides
    from raygen.errors import ConfigError
    from raygen.report import tables
    from raygen.run.evaluation import evaluate_classifier
    from raygen.storage.writing import write_json

    data = apply_overrides({"dataset": named_dataset(dataset), "classifier": {}}, overrides or [])
    if others := sorted({*data} - {"dataset", "classifier"}):
        raise ConfigError(f"--set {others[0]}: evaluate takes fields of dataset and classifier only")
    results = evaluate_classifier(classifier, data["dataset"], seed=seed, fields=data["classifier"])
    if out is not None:
        write_json(out, results)
    tables.print_results({"results": {Path(classifier).name: results}})


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="A run or a sweep: its page. Several runs: a comparison.")],
    out: Annotated[Path | None, program.path_option("--out", "HTML file of a comparison.")] = None,
) -> None:
    """Write the page of a finished run or sweep again, or compare several runs."""
    from raygen.report import tables
    from raygen.report.collect import write_summary
    from raygen.report.compare import write_comparison
    from raygen.report.html import write_report
    from raygen.report.sweep import write_sweep_page

    if len(runs) == 1 and (runs[0] / "sweep.parquet").is_file():
        typer.echo(f"page: {write_sweep_page(runs[0])}")
        return
    if len(runs) == 1:
        summary = write_summary(runs[0])
        typer.echo(f"report: {write_report(runs[0])}")
        tables.print_results(summary)
        return
    path = out or Path("comparison.html")
    tables.print_comparison(write_comparison(runs, path))
    typer.echo(f"comparison: {path}")


@app.command()
def doctor() -> None:
    """Versions, devices, memory and disk, and what is missing for what."""
    from raygen import doctor as checks
    from raygen.report import tables

    tables.print_checks([(c.name, c.value, c.ok, c.advice) for c in checks.report()])


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML of the endpoint: models, keys, limits (serve/config.yaml).")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; others than loopback need keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
    overrides: Set = None,
) -> None:
    """Offer the inpainting model at POST /v1/images/edits, until Ctrl-C."""
    from raygen.config import apply_overrides, load_yaml
    from serve.command import application_args, run_endpoint

    data = application_args(load_yaml(config)) if config is not None else {}
    run_endpoint(apply_overrides(data, overrides or []), host=host, port=port, say=typer.echo)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    admin: Annotated[bool, typer.Option("--admin", help="May store and delete learned tokens too.")] = False,
) -> None:
    """Make a key for the endpoint: the key for its user, the line with its hash for the config."""
    from raygen.config import dump_yaml
    from serve.http.keys import make_key

    secret, sha256 = make_key()
    entry = dump_yaml({"name": name, "sha256": sha256, "scopes": ["edit", *(["admin"] if admin else [])]})
    typer.echo(f"key, shown only now: {secret}")
    typer.echo("under `keys` in the config:\n  - " + entry.rstrip().replace("\n", "\n    "))


def main() -> None:
    """Entry point: runs the command line; errors of raygen become one message and an exit code."""
    program.run(app, "raygen", resumable=("run", "demo", "fit", "tune", "export"))


def _run(
    data: dict[str, Any],
    overrides: list[str] | None,
    *,
    out: Path,
    fresh: bool,
    reuse: list[Path] | None = None,
    preset: str | None = None,
) -> None:
    from raygen import recipes
    from raygen.report import tables
    from raygen.report.collect import write_summary
    from raygen.report.html import write_report

    config = recipes.make_config(data, overrides or [], where="config", preset=preset)
    command = shlex.join(["raygen", *sys.argv[1:]])
    recipes.run(config, out, fresh=fresh, command=command, say=program.announcing(typer.echo), reuse=reuse or ())
    summary = write_summary(out)
    page = write_report(out)
    tables.print_results(summary)
    typer.echo(f"report: {page}")
