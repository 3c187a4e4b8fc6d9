"""Trains the tiny models from nothing: the inpainter (autoencoder, denoiser, oracles, card) and the segmenter (card).

    python -m raygen.tiny.train --work DIR --out DIR [--models segmenter]

Every part leaves a file or folder in --work and is skipped when that exists, so that a run that was stopped goes on.
"""

import argparse
import logging
import shutil
from pathlib import Path

from raygen.datasets.scene_rendering import Plumage
from raygen.maskers.clipseg import TINY_FOLDER as SEGMENTER_FOLDER
from raygen.storage.writing import write_text
from raygen.tiny.autoencoder import train_autoencoder
from raygen.tiny.card import write_card
from raygen.tiny.denoiser import train_denoiser
from raygen.tiny.oracle import NUM_HELD_OUT_SCENES, NUM_TRAINING_SCENES, ORACLES, train_oracles, world_folder
from raygen.tiny.processes import Process, Start, run_processes
from raygen.tiny.segmenter_card import write_segmenter_card
from raygen.tiny.segmenter_training import EXPORT_NAME, train_segmenter
from raygen.tiny.world import create_world, render_part

NUM_SCENES = 24_000
MODELS = ("inpainter", "segmenter")


def main() -> None:
    """Trains what --work does not hold yet, then writes the models and their cards below --out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments = _parse()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    start = Start(work, num_processes=arguments.workers, device=arguments.device)
    if "segmenter" in arguments.models:
        _make_segmenter(arguments, start)
    if "inpainter" in arguments.models:
        _make_inpainter(arguments, start)


def _make_segmenter(arguments: argparse.Namespace, start: Start) -> None:
    work, seed, out = arguments.work, arguments.seed, arguments.out / SEGMENTER_FOLDER
    if not arguments.card_only:
        _make_world(work / "world", start, name="tiny", plumage="hinted", num_scenes=NUM_SCENES, seed=seed)
        if not (work / "segmenter.done").exists():
            run_processes(train_segmenter, start, minutes=arguments.segmenter_minutes, seed=seed)
        shutil.copytree(work / EXPORT_NAME, out, dirs_exist_ok=True)
    write_segmenter_card(out, seed=seed)


def _make_inpainter(arguments: argparse.Namespace, start: Start) -> None:
    work, seed, out = arguments.work, arguments.seed, arguments.out / "weights"
    if not arguments.card_only:
        _train(arguments, start)
        shutil.copytree(work / "export_latest", out, dirs_exist_ok=True)
    make_oracles(work, start, seed=seed)
    write_card(out, work, seed=seed)


def make_oracles(work: Path, start: Start, *, seed: int) -> None:
    """Renders and trains what a folder does not hold yet of the oracles and their worlds."""
    work.mkdir(parents=True, exist_ok=True)
    for name, plumage in ORACLES.items():
        folder, num_scenes = world_folder(work, name), NUM_TRAINING_SCENES + NUM_HELD_OUT_SCENES
        _make_world(folder, start, name=f"tiny-oracle/{name}", plumage=plumage, num_scenes=num_scenes, seed=seed)
    if not all((work / f"oracle_{name}.safetensors").exists() for name in ORACLES):
        run_processes(train_oracles, start, seed=seed)


def _train(arguments: argparse.Namespace, start: Start) -> None:
    work, seed = arguments.work, arguments.seed
    _make_world(work / "world", start, name="tiny", plumage="hinted", num_scenes=NUM_SCENES, seed=seed)
    if not (work / "vae").exists():
        run_processes(train_autoencoder, start, minutes=arguments.vae_minutes, seed=seed)
    if not (work / "unet.done").exists():
        run_processes(train_denoiser, start, minutes=arguments.unet_minutes, seed=seed)


def _make_world(folder: Path, start: Start, *, name: str, plumage: Plumage, num_scenes: int, seed: int) -> None:
    if (folder / "finished").exists():
        return
    create_world(folder, num_scenes=num_scenes)
    run_processes(_render, start, folder=folder, name=name, plumage=plumage, seed=seed)
    write_text(folder / "finished", "every scene is rendered\n")


def _render(process: Process, work: Path, *, folder: Path, name: str, plumage: Plumage, seed: int) -> None:
    del work  # every body gets it; the world's folder is named in full
    render_part(folder, name=name, plumage=plumage, seed=seed, rank=process.rank, num_processes=process.num_processes)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m raygen.tiny.train", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints; continued if it has any")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder above those of the models")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="which to make")
    parser.add_argument("--segmenter-minutes", type=float, default=10, help="of processor time, per process")
    parser.add_argument("--vae-minutes", type=float, default=14, help="of processor time, per process")
    parser.add_argument("--unet-minutes", type=float, default=60, help="of processor time, per process")
    parser.add_argument("--card-only", action="store_true", help="measure the models in --out again; train none")
    parser.add_argument("--workers", type=int, default=2, help="processes; with --device cuda give 1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and arguments.workers != 1:
        parser.error(f"--device cuda trains in one process; found --workers {arguments.workers}, give --workers 1")
    return arguments


if __name__ == "__main__":
    main()
