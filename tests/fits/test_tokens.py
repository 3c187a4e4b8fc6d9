"""Learned tokens in a run: fitted on workers of Ray, named in prompts, painted with, part of the fingerprints."""

import json
import os
import shutil
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from diffusers import StableDiffusionInpaintPipeline
from partial_runs import run_until
from PIL import Image
from ray import cloudpickle
from tiny_pipelines import save_pipeline

from raygen import recipes
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError, DataError, ModelError, RunFolderError
from raygen.fits import running
from raygen.fits import tokens as token_fits
from raygen.fits.running import FitConfig
from raygen.inpainters import InpainterConfig
from raygen.report.collect import write_summary
from raygen.report.html import write_report
from raygen.run.opened import Opened
from raygen.run.steps import Run
from raygen.storage.parts import read_parts
from raygen.storage.run_folder import RunFolder, read_manifest
from raygen.textual_inversion.class_tokens import trained_model
from raygen.textual_inversion.config import TextualInversionConfig
from raygen.worker import Worker

# Workers of Ray do not find this file by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

QUICK = {
    "num_images": 5,
    "num_steps": 4,
    "batch_size": 2,
    "learning_rate": 0.05,
    "initializers": ["l", "w"],
    "log_every": 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "inpaint", scheduler="dpm")


def small(model: Path, overrides: tuple[str, ...] = (), **changes: Any) -> recipes.RunConfig:
    counts = {"train_counts": [40, 6, 6, 24], "val_counts": [8] * 4, "test_counts": [8] * 4}
    data = {
        "recipe": "dbb",
        "engine": "local",
        "dataset": {"name": "scenes", **counts},
        "erm": {"epochs": 1},
        "algorithm": {"epochs": 1},
        "synthesis": {"k": 4, "source_probability_test": "off"},
        "inpainter": {"model": str(model), "num_inference_steps": 2},
        "textual_inversion": QUICK,
        "pools": {name: {"num_cpus": 0.25, "batch_size": 4} for name in ("scorer", "masker", "inpainter", "pruner")},
        "fit": {"num_cpus": 1, "num_threads": 1},
        "controls": [],
        "unit_rows": 4,
    }
    return recipes.make_config({**data, **changes}, overrides, where="test")


def run(config: recipes.RunConfig, out: Path) -> list[str]:
    said: list[str] = []
    recipes.run(config, out, fresh=False, command="test", say=said.append)
    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tokens"
    said = run(small(model), out)
    assert any("<landbird>: loss" in line for line in said)
    return out


def test_the_candidates_carry_the_token_of_their_target_class(finished: Path) -> None:
    rows = read_parts(finished / "candidates").to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    prompts = {row["target_label"]: row["prompt"] for row in rows}
    assert prompts == {0: "a photo of a <landbird> landbird", 1: "a photo of a <waterbird> waterbird"}
    (part, *_) = sorted((finished / "candidates").glob("part-*.parquet"))
    (tmp := finished / "one.png").write_bytes(pq.read_table(part)["generated_png"][0].as_py())
    opened: Any = Image.open(tmp)
    text = opened.text
    assert text["prompt"] == rows[0]["prompt"]
    name, _, digest = text["tokens"].partition("@sha256:")
    assert name in rows[0]["prompt"]
    assert len(digest) == 64
    tmp.unlink()


def test_the_tokens_folder_has_files_for_diffusers_a_table_and_a_manifest(finished: Path, model: Path) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(model, safety_checker=None)
    for name in ("landbird", "waterbird"):
        pipe.load_textual_inversion(finished / "tokens" / name)
        assert f"<{name}>" in pipe.tokenizer.get_vocab()
    manifest = read_manifest(finished / "tokens")
    assert manifest is not None
    assert manifest["counts"] == {"tokens": 2, "images": 10}
    names = {"landbird/learned_embeds.safetensors", "waterbird/learned_embeds.safetensors", "tokens.json"}
    assert {*manifest["files"]} == names
    entries = json.loads((finished / "tokens" / "tokens.json").read_text())
    assert [entry["initializer"] for entry in entries] == ["l", "w"]
    assert [len(entry["history"]) for entry in entries] == [4, 4]
    index = RowIndex(finished / "data")
    label = dict(zip(*(index.table[name].to_pylist() for name in ("image_id", "label")), strict=True))
    for own, entry in enumerate(entries):
        assert {label[image_id] for image_id in entry["images"]} == {own}
    scores = {row["image_id"]: row["loss"] for row in read_parts(finished / "scores").to_pylist()}
    chosen = {image_id for entry in entries for image_id in entry["images"]}
    for own in (0, 1):
        losses = sorted((loss for image_id, loss in scores.items() if label[image_id] == own), reverse=True)
        assert sorted((scores[i] for i in chosen if label[i] == own), reverse=True) == losses[:5]


def test_the_report_shows_the_prompt_as_text(finished: Path) -> None:
    write_summary(finished)
    page = write_report(finished).read_text()
    assert "<landbird>" not in page
    assert "&lt;landbird&gt; landbird" in page


def test_running_again_learns_and_paints_nothing(finished: Path, model: Path) -> None:
    assert all(line.endswith("done before") for line in run(small(model), finished))


def test_candidates_of_other_tokens_are_refused(finished: Path, model: Path, tmp_path: Path) -> None:
    """Other vectors under the same names: the plan stays, its pictures are not taken for those of the new tokens."""
    shutil.copytree(finished, tmp_path / "run")
    folder, said = RunFolder(tmp_path / "run"), list[str]()

    def candidates(learning_rate: float) -> None:
        settings = {**QUICK, "learning_rate": learning_rate}
        run_until("candidates", Run(Opened(small(model, textual_inversion=settings)), folder, said.append))

    candidates(0.05)
    assert all(line.endswith("done before") for line in said)
    said.clear()
    with pytest.raises(RunFolderError, match="made with other settings"):
        candidates(0.1)
    assert [line for line in said if line.startswith("plan")] == ["plan: done before"]


def test_validation_groups_can_choose_the_images(model: Path, tmp_path: Path) -> None:
    config = small(model, textual_inversion={**QUICK, "source": "val_groups", "region": "object"})
    run(config, tmp_path / "run")
    assert read_parts(tmp_path / "run" / "val_scores").num_rows == 32
    entries = json.loads((tmp_path / "run" / "tokens" / "tokens.json").read_text())
    assert all(image_id.startswith("val-") for entry in entries for image_id in entry["images"])


def test_a_four_channel_sibling_can_learn_them_and_scgs_use_them(model: Path, tmp_path: Path) -> None:
    sibling = save_pipeline(tmp_path / "sibling", in_channels=4, seed=5)
    changes = {"recipe": "scgs", "synthesis": {"gen_ratio": 0.1, "tau": 0.3}}
    run(small(model, (f"textual_inversion.model={sibling}",), **changes), tmp_path / "run")
    rows = read_parts(tmp_path / "run" / "candidates").to_pylist()
    assert rows
    assert all(("<landbird>", "<waterbird>")[row["source_label"]] in row["prompt"] for row in rows)


def request(data: Path, model: Path) -> token_fits.TokenRequest:
    ids = RowIndex(data).split("train")["image_id"].to_pylist()
    settings = TextualInversionConfig.model_validate({**QUICK, "num_steps": 12})
    return token_fits.TokenRequest(
        data=str(data),
        settings=settings.model_dump(mode="json"),
        model=trained_model(settings, InpainterConfig(model=str(model))).model_dump(mode="json"),
        painter=None,
        tokens=(
            {"name": "<one>", "word": "bird", "initializer": "l"},
            {"name": "<two>", "word": "b", "initializer": "w"},
        ),
        images=(tuple(ids[:5]), tuple(ids[5:10])),
        seed=3,
    )


def fit(body: running.Body, asked: token_fits.TokenRequest, folder: Path, engine: str, **resources: Any) -> list[bytes]:
    """Files of a fit."""
    folder.mkdir()
    config = FitConfig(num_cpus=0.5, num_threads=1, **resources)
    running.run(body, asdict(asked), folder=folder, resources=config, engine=engine)
    return [(folder / name / "learned_embeds.safetensors").read_bytes() for name in ("one", "two")]


def die_once(worker: Worker, payload: dict[str, Any]) -> None:
    """The fit, whose first worker is gone as soon as there is a checkpoint to go on from."""
    died = worker.folder / "died"

    def watch() -> None:
        while not (worker.folder / "checkpoint.pt").is_file():
            time.sleep(0.002)
        died.touch()
        os._exit(9)

    if not died.exists():
        threading.Thread(target=watch, daemon=True).start()
    token_fits.learn_on_worker(worker, payload)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_fit_whose_worker_dies_ends_with_the_same_bytes(scenes_folder: Path, model: Path, tmp_path: Path) -> None:
    asked = request(scenes_folder, model)
    disturbed = fit(die_once, asked, tmp_path / "disturbed", "ray", max_failures=2)
    assert (tmp_path / "disturbed" / "died").exists()
    assert disturbed == fit(token_fits.learn_on_worker, asked, tmp_path / "undisturbed", "local")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_two_workers_learn_the_same_every_time(scenes_folder: Path, model: Path, tmp_path: Path) -> None:
    asked = request(scenes_folder, model)
    first, second = (
        fit(token_fits.learn_on_worker, asked, tmp_path / n, "ray", num_workers=2) for n in ("first", "second")
    )
    assert first == second


def test_any_field_switches_them_on() -> None:
    off = recipes.make_config({"recipe": "dbb"}, [], where="test")
    assert off.textual_inversion is None
    saved = off.model_dump(mode="json")
    for data in ({"recipe": "dbb"}, saved):
        on = recipes.make_config(data, ["textual_inversion.num_images=30"], where="test")
        assert on.textual_inversion == TextualInversionConfig()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_images": 40}, "num_images is 40, but class 'waterbird' has 30 train images"),
        ({"num_images": 17, "source": "val_groups"}, "class 'landbird' has 16 val images"),
        ({"initializers": "bird"}, "'bird' is 4 tokens"),
        ({"tokens": ["<a>"]}, "1 names for the 2 classes"),
        ({"templates": "imagenet"}, "reads 24"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_starts(
    model: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(small(model, textual_inversion={**QUICK, **fields}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([8, 8, 8, 0], r"class 'waterbird' has 1 group\(s\) in the validation split"),
        ([4, 4, 5, 3], "no validation group of class 'landbird' has more than 4"),
    ],
)
def test_validation_groups_without_a_minority_are_refused_before_anything_starts(
    model: Path, tmp_path: Path, counts: list[int], message: str
) -> None:
    wanted = {**QUICK, "source": "val_groups", "num_images": 5}
    config = small(model, (f"dataset.val_counts={counts}",), textual_inversion=wanted)
    with pytest.raises(DataError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_that_cannot_be_learned_with_are_refused_before_anything_starts(model: Path, tmp_path: Path) -> None:
    other = save_pipeline(tmp_path / "other", in_channels=4)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "sample"}))
    with pytest.raises(ModelError, match="predicts 'sample'"):
        run(small(model, (f"textual_inversion.model={other}",)), tmp_path / "run")
    with pytest.raises(ModelError, match=r"width 64, .* one of 32"):
        run(small(model, ("textual_inversion.model=tiny", "textual_inversion.initializers=bird")), tmp_path / "run")
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        run(small(model, (f"textual_inversion.model={tmp_path}",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_combinations_that_make_no_sense_are_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="recipe erm generates nothing"):
        recipes.make_config({"recipe": "erm"}, ["textual_inversion.num_images=3"], where="test")
    served = ("inpainter.kind=served", "inpainter.url=http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"an endpoint does not learn tokens; set textual_inversion\.model"):
        small(model, served)


def test_region_object_needs_the_datasets_masks(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (32, 32), (20 * i, 90, 200)).save(folder / split / name / f"{i}.png")
    config = small(
        model,
        dataset={"name": "folder", "path": str(folder)},
        synthesis={"k": 2, "mask": "cam"},
        textual_inversion={**QUICK, "region": "object"},
    )
    with pytest.raises(DataError, match=r"no object mask .*textual_inversion\.region=whole"):
        run(config, tmp_path / "run")
