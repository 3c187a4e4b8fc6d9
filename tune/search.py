"""A sweep from Python, and `python -m tune.search`, which is `raygen tune`."""

import typer

from raygen import program
from tune.command import tune
from tune.sweep import check, saved_sweep, sweep
from tune.sweep_config import make_sweep

__all__ = ["check", "make_sweep", "saved_sweep", "sweep"]

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(tune)
    program.run(app, "tune.search", resumable=())
