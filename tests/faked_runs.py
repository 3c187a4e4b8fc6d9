"""Runs whose steps are finished before they begin, with faked output: what each step depends on, without any work."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from score_tables import score_table

from raygen.datasets.table import DatasetInfo, write_source
from raygen.schema import CANDIDATE
from raygen.storage.run_folder import MANIFEST, RunFolder, Step

NAMES = ("landbird", "waterbird")
# image_id, label, attribute, split
IMAGES = [(f"{split}{i}", i // 2 % 2, i % 2, split) for split in ("test", "train", "val") for i in range(8)]
# A token of each class, as a finished fit leaves it.
TOKENS = [
    {
        "name": f"<{name}>",
        "word": name,
        "initializer": name,
        "prompt": f"a photo of a <{name}> {name}",
        "file": f"{name}/learned_embeds.safetensors",
        "images": [],
        "history": [{"step": 1, "loss": 1.0}],
    }
    for name in NAMES
]


class FakedFolder(RunFolder):
    """A run folder in which every step is finished the moment it is asked for.

    The digest of a step's output is that of its name, so that nothing but the step's own settings and the names of the
    steps above it decides its fingerprint.

    Attributes:
        depends: What each step depends on, by its name.
    """

    def __init__(self, path: Path, *, has_places: bool = True) -> None:
        super().__init__(path)
        self._has_places = has_places
        path.mkdir(parents=True, exist_ok=True)
        self.depends: dict[str, dict[str, Any]] = {}
        self.fingerprints: dict[str, str] = {}

    def step(self, name: str, depends: Mapping[str, Any]) -> Step:
        step = super().step(name, depends)
        if not step.folder.is_dir():
            step.folder.mkdir(parents=True)
            _fake_output(name, step.folder, has_places=self._has_places)
        files = {
            path.name: {"bytes": path.stat().st_size, "digest": f"of {name}"}
            for path in step.folder.iterdir()
            if path.name != MANIFEST and not path.name.startswith(".")
        }
        text = json.dumps({"fingerprint": step.fingerprint, "depends": step.depends, "counts": {}, "files": files})
        (step.folder / MANIFEST).write_text(text, encoding="utf-8")
        self.depends[name], self.fingerprints[name] = step.depends, step.fingerprint
        return step


def _fake_output(name: str, folder: Path, *, has_places: bool) -> None:
    if name == "data":
        rows = (
            {
                "image_id": i,
                "image_png": b"",
                "label": label,
                "attribute": a if has_places else None,
                "split": split,
                "role": "source",
            }
            for i, label, a, split in IMAGES
        )
        write_source(rows, DatasetInfo("birds", NAMES, ("land", "water"), NAMES, NAMES), folder)
    elif "scores" in name:
        pq.write_table(_scores("val" if name == "val_scores" else "train"), folder / "part-000000.parquet")
    elif name == "candidates":
        pq.write_table(_candidates(), folder / "part-000000.parquet")
    elif name == "tokens":
        (folder / "tokens.json").write_text(json.dumps(TOKENS), encoding="utf-8")
    else:
        (folder / "output").write_text(name, encoding="utf-8")


def _scores(split: str) -> pa.Table:
    images = [image for image in IMAGES if image[3] == split]
    labels = [label for _, label, _, _ in images]
    sure = np.arange(len(images)) % 4 - 1.5
    logits_NC = np.stack([np.where(labels, -sure, sure), np.zeros(len(images))], axis=1)
    return score_table(labels, logits_NC, image_ids=[image_id for image_id, *_ in images])


def _candidates() -> pa.Table:
    rows = []
    for number, (image_id, label, _, split) in enumerate(IMAGES):
        if split == "train":
            rows.append(
                {
                    "key": f"{image_id}/{1 - label}/0000",
                    "image_id": image_id,
                    "sample": 0,
                    "source_label": label,
                    "target_label": 1 - label,
                    "prompt": NAMES[1 - label],
                    "seed": number,
                    "loss_rank": number % 4,
                    "predicted_label": label,
                    "source_probability": 0.1 * (number % 4),
                    "attribution_inside": float(number % 3),
                    "status": "ok",
                    "model_id": "models/inpaint",
                    "model_revision": "0",
                }
            )
    return pa.Table.from_pylist(rows, schema=CANDIDATE)


def make_home(home: Path) -> None:
    """What the configs name by relative paths: a folder of pictures, models, a weights file; sizes and times fixed."""
    files = {
        "models/inpaint/model_index.json": b"{}",
        "models/inpaint/unet/config.json": b'{"sample_size": 8}',
        "models/sibling/model_index.json": b'{"of": "another"}',
        "models/segmenter/config.json": b'{"model_type": "clipseg"}',
        "models/detector/config.json": b'{"model_type": "grounding-dino"}',
        "models/sam/config.json": b'{"model_type": "sam"}',
        "start.safetensors": b"weights",
        "birds/metadata.csv": "\n".join(
            ["img_filename,y,split,place", *(f"{i}.png,{label},{split},{a}" for i, label, a, split in IMAGES)]
        ).encode(),
        **{f"birds/{image_id}.png": b"no picture" for image_id, *_ in IMAGES},
    }
    for name, data in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_700_000_000, 1_700_000_000))
