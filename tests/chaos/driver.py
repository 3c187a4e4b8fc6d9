"""A driver to be killed: a run up to its candidates, in a process of its own."""

import sys
from pathlib import Path

from raygen import recipes
from raygen.config import load_yaml
from raygen.errors import RaygenError
from raygen.run.opened import Opened
from raygen.run.steps import Run
from raygen.storage.run_folder import RunFolder


def main(config_path: str, out: str, *overrides: str) -> None:
    config = recipes.make_config(load_yaml(Path(config_path)), overrides, where=config_path)
    folder = RunFolder(Path(out))
    with folder.claimed(config.model_dump(mode="json"), identity=config.deciding(), fresh=False):
        run = Run(Opened(config), folder, lambda line: print(line, flush=True))
        for step in recipes.steps(run):
            run.do(step)
            if step.name == "candidates":
                return


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RaygenError as error:
        sys.exit(f"{type(error).__name__}: {error}")
