"""Trains the tiny inpainting model from nothing: world, autoencoder, denoiser, oracles, model card.

    python -m raygen.tiny.train --work DIR --out DIR

Every part leaves a file or folder in --work and is skipped when that exists, so that a run that was stopped goes on.
"""

import argparse
import logging
from pathlib import Path

from raygen.datasets.scenes import Plumage
from raygen.tiny.autoencoder import train_autoencoder
from raygen.tiny.denoiser import train_denoiser
from raygen.tiny.workers import Worker, run_workers
from raygen.tiny.world import create_world, finish_world, is_finished, render_part

logger = logging.getLogger(__name__)

NUM_SCENES = 24_000


def main() -> None:
    """Trains what --work does not hold yet."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments = _parse()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    start = {"work": work, "num_workers": arguments.workers, "device": arguments.device}
    make_world(work / "world", name="tiny", plumage="hinted", num_scenes=NUM_SCENES, seed=arguments.seed, start=start)
    if not (work / "vae").exists():
        run_workers(train_autoencoder, minutes=arguments.vae_minutes, seed=arguments.seed, **start)
    if not (work / "unet.done").exists():
        run_workers(train_denoiser, minutes=arguments.unet_minutes, seed=arguments.seed, **start)


def make_world(folder: Path, *, name: str, plumage: Plumage, num_scenes: int, seed: int, start: dict) -> None:
    """Renders a world unless it is there."""
    if is_finished(folder):
        return
    create_world(folder, num_scenes=num_scenes)
    run_workers(_render, folder=folder, name=name, plumage=plumage, seed=seed, **start)
    finish_world(folder)


def _render(worker: Worker, work: Path, *, folder: Path, name: str, plumage: Plumage, seed: int) -> None:
    render_part(folder, name=name, plumage=plumage, seed=seed, rank=worker.rank, num_workers=worker.num_workers)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m raygen.tiny.train", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints; continued if it has any")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights", help="folder of the model")
    parser.add_argument("--vae-minutes", type=float, default=10)
    parser.add_argument("--unet-minutes", type=float, default=75)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
