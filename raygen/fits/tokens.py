"""The fit of learned tokens from a run's folders: which images, which model; runs on `raygen.fits.running`.

What it leaves in its folder: `<name>/learned_embeds.safetensors` for each token, as diffusers' `load_textual_inversion`
reads it, and `tokens.json` with the prompts, the images and the losses.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raygen.datasets.rows import RowIndex
from raygen.errors import DataError, RowError
from raygen.fits import running
from raygen.fits.running import FitConfig
from raygen.fits.worker_group import WarmWorkers
from raygen.images import decode_image, decode_mask
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import FoundPainter, find_painter
from raygen.inpainters.token_files import FILE_NAME, token_bytes
from raygen.maskers.truth import checked_object, dilate
from raygen.storage.progress import Say, quiet
from raygen.storage.writing import write_bytes, write_json
from raygen.synthesis.minority import high_loss_images, val_group_images
from raygen.textual_inversion.class_tokens import ClassToken, check_same_text_encoder, check_tokens, class_tokens
from raygen.textual_inversion.config import TextualInversionConfig
from raygen.textual_inversion.learning import FrozenDenoiser, TokenPicture, learn_tokens
from raygen.worker import Worker

TABLE = "tokens.json"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """The fit of all classes' tokens as plain data.

    Attributes:
        data: Dataset folder.
        settings: Fields of `TextualInversionConfig`.
        model: The `InpainterConfig` of the model to learn with, for workers.
        painter: That of the model that will paint with them, where that is another.
        tokens: Fields of each class's `ClassToken`, in order of label.
        images: Ids of the images to learn each from, sorted.
        seed: Of what is drawn.
    """

    data: str
    settings: dict[str, Any]
    model: dict[str, Any]
    painter: dict[str, Any] | None
    tokens: tuple[dict[str, str], ...]
    images: tuple[tuple[str, ...], ...]
    seed: int


@dataclass(frozen=True, slots=True)
class LearnedTokens:
    """Finished tokens.

    Attributes:
        prompts: What to ask the inpainter for, one per label.
        files: Each token's file by its name.
        lines: What was learned, one line a token.
    """

    prompts: tuple[str, ...]
    files: dict[str, str]
    lines: tuple[str, ...]


def make_request(
    index: RowIndex,
    scores: pa.Table,
    settings: TextualInversionConfig,
    *,
    model: FoundPainter,
    painter: FoundPainter | None,
    seed: int,
) -> TokenRequest:
    """The fit of a dataset's tokens.

    Args:
        index: The dataset.
        scores: SCORE rows of the split that the images are chosen from: training for source "high_loss", validation
            for "val_groups".
        settings: How they are learned.
        model: What they are learned with.
        painter: The run's inpainting model; None where an endpoint paints.
        seed: The run's seed.

    Raises:
        ConfigError: Names or words that do not fit the classes.
        DataError: A class has too few images, or no minority.
    """
    names, num = index.dataset.class_names, settings.num_images
    if settings.source == "high_loss":
        images = high_loss_images(scores, class_names=names, num_images=num)
    else:
        ids, attributes = (index.table[name].to_pylist() for name in ("image_id", "attribute"))
        attribute_of = dict(zip(ids, attributes, strict=True))
        images = val_group_images(scores, attribute_of, class_names=names, num_images=num, run_seed=seed)
    other = None if settings.model is None else painter
    return TokenRequest(
        data=str(index.folder.resolve()),
        settings=settings.model_dump(mode="json"),
        model=model.config_for_workers.model_dump(mode="json"),
        painter=None if other is None else other.config_for_workers.model_dump(mode="json"),
        tokens=tuple(asdict(token) for token in class_tokens(settings, names)),
        images=tuple(tuple(ids) for ids in images),
        seed=seed,
    )


def fit(
    request: TokenRequest,
    folder: Path,
    *,
    resources: FitConfig,
    engine: str,
    say: Say = quiet,
    workers: WarmWorkers | None = None,
) -> dict[str, Any]:
    """Learns the tokens into a folder; gives back counts for the manifest.

    Raises:
        RaygenError: See `raygen.fits.running.run` and `raygen.textual_inversion.learning.learn_tokens`.
    """
    running.run(
        learn_on_worker, asdict(request), folder=folder, resources=resources, engine=engine, say=say, workers=workers
    )
    running.tidy(folder)
    return {"tokens": len(request.tokens), "images": sum(len(ids) for ids in request.images)}


def read_learned(folder: Path) -> LearnedTokens:
    """What `fit` left in a finished folder."""
    entries = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    lines = []
    for entry in entries:
        first, last = entry["history"][0]["loss"], entry["history"][-1]["loss"]
        steps = entry["history"][-1]["step"]
        lines.append(f"{entry['name']}: loss {first:.4f} -> {last:.4f} in {steps} steps, {len(entry['images'])} images")
    return LearnedTokens(
        prompts=tuple(entry["prompt"] for entry in entries),
        files={entry["name"]: str((folder / entry["file"]).resolve()) for entry in entries},
        lines=tuple(lines),
    )


def learn_on_worker(worker: Worker, payload: dict[str, Any]) -> None:
    """What a worker does: loads, learns, and, if it leads, saves."""
    request = TokenRequest(**payload)
    settings = TextualInversionConfig.model_validate(request.settings)
    tokens = [ClassToken(**fields) for fields in request.tokens]
    model = find_painter(InpainterConfig.model_validate(request.model))
    # Of a hub id this is the first that is known of its tokenizer.
    if request.painter is not None:
        check_same_text_encoder(model, find_painter(InpainterConfig.model_validate(request.painter)))
    denoiser = FrozenDenoiser(model, device=worker.device)
    check_tokens(tokens, settings, denoiser.tokenizer)
    index = RowIndex(Path(request.data))
    pictures = [_pictures(index, ids, settings) for ids in request.images]
    learned = learn_tokens(
        denoiser, list(zip(tokens, pictures, strict=True)), settings, seed=request.seed, worker=worker
    )
    if not worker.leads:
        return
    entries = []
    for token, ids in zip(tokens, request.images, strict=True):
        file = f"{token.name[1:-1]}/{FILE_NAME}"
        (worker.folder / file).parent.mkdir(exist_ok=True)
        vector_D = learned[token.name].vector[0].numpy()
        write_bytes(worker.folder / file, token_bytes(token.name, vector_D))
        entries.append(
            {
                **asdict(token),
                "prompt": token.fill(settings.prompt),
                "file": file,
                "images": list(ids),
                "history": learned[token.name].history,
            }
        )
    write_json(worker.folder / TABLE, entries)


def _pictures(index: RowIndex, ids: Sequence[str], settings: TextualInversionConfig) -> list[TokenPicture]:
    """The images to learn from, in order of id.

    Raises:
        DataError: One cannot be read, or has no object mask where one is needed.
    """
    pictures = []
    for image_id, row in zip(ids, index.fetch(ids, ["image_png", "object_png"]).to_pylist(), strict=True):
        try:
            image_HWC = decode_image(row["image_png"] or b"")
            region_HW = np.ones(image_HWC.shape[:2], dtype=bool)
            if settings.region == "object":
                object_HW = None if row["object_png"] is None else decode_mask(row["object_png"])
                region_HW = dilate(checked_object(image_HWC, object_HW), radius_px=settings.dilation_px)
        except RowError as error:
            way_out = "; or take textual_inversion.region=whole" if settings.region == "object" else ""
            raise DataError(f"a token cannot be learned from image '{image_id}': {error}{way_out}") from error
        pictures.append(TokenPicture(image_id, image_HWC, region_HW))
    return pictures
