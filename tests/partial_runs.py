"""Runs that stop after a step."""

from raygen import recipes
from raygen.run.steps import Run


def run_until(name: str, run: Run) -> None:
    """Does the steps of a run up to the one of that name."""
    for step in recipes.steps(run):
        run.do(step)
        if step.name == name:
            return
    raise AssertionError(f"the run has no step {name}")
