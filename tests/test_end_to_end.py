"""The whole job on real parts at small size: four pools on Ray, diffusers classes with random weights, real fits."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from partial_runs import run_until
from PIL import Image
from tiny_pipelines import save_pipeline
from typer.testing import CliRunner

from raygen import recipes
from raygen.classifier import load_classifier
from raygen.classifier.framing import Frame, preprocess
from raygen.cli import app
from raygen.config import differing_fields
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError, DataError, ModelError, RunFolderError
from raygen.images import decode_image, decode_mask
from raygen.maskers.cam import cam_heatmaps
from raygen.model_files import find_model
from raygen.report.collect import write_summary
from raygen.report.html import write_report
from raygen.run import preflight
from raygen.run.opened import Opened
from raygen.run.steps import Run
from raygen.schema import CANDIDATE, PLAN, SCORE, SOURCE
from raygen.storage.parts import read_parts
from raygen.storage.run_folder import RunFolder
from raygen.storage.writing import write_text
from raygen.synthesis.controls import CONTROL_KINDS
from tune.candidate_sets import generate, plan_candidate_sets
from tune.search import sweep
from tune.sweep_config import make_sweep


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "inpaint", scheduler="dpm")


def small(recipe: str, model: Path, **changes: Any) -> recipes.RunConfig:
    counts = {"train_counts": [60, 6, 6, 30], "val_counts": [10] * 4, "test_counts": [12] * 4}
    data = {
        "recipe": recipe,
        "dataset": {"name": "scenes", **counts},
        "erm": {"epochs": 2},
        "algorithm": {"epochs": 1},
        "inpainter": {"model": str(model), "num_inference_steps": 2},
        "pools": {name: {"num_cpus": 0.25, "batch_size": 8} for name in ("scorer", "masker", "inpainter", "pruner")},
        "fit": {"num_cpus": 1},
        "unit_rows": 8,
    }
    return recipes.make_config({**data, **changes}, [], where="test")


DBB = {"k": 10, "source_probability_test": "off"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path, ray_session: None) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dbb"
    recipes.run(small("dbb", model, synthesis=DBB), out, fresh=False, command="raygen run dbb", say=lambda line: None)
    write_summary(out)
    write_report(out)
    return out


def test_the_run_folder_holds_what_it_should(finished: Path) -> None:
    assert read_parts(finished / "data").schema.names == SOURCE.names
    assert read_parts(finished / "scores").schema.names == SCORE.names
    assert pq.read_table(finished / "plan" / "plan.parquet").schema.names == PLAN.names
    candidates = read_parts(finished / "candidates")
    assert candidates.schema.names == CANDIDATE.names
    assert candidates.num_rows == 20
    assert candidates["key"].to_pylist() == sorted(candidates["key"].to_pylist())
    steps = ("data", "erm", "scores", "plan", "candidates", "fit/dbb", "fit/control_flat", "evaluation")
    assert all((finished / step / "manifest.json").is_file() for step in steps)


def test_generated_pictures_equal_their_source_outside_the_mask(finished: Path) -> None:
    index = RowIndex(finished / "data")
    for row in read_parts(finished / "candidates").to_pylist():
        source = decode_image(index.fetch([row["image_id"]], ["image_png"])["image_png"][0].as_py())
        repaint = decode_mask(row["repaint_png"])
        generated = decode_image(row["generated_png"])
        assert (generated[~repaint] == source[~repaint]).all()
        assert row["repaint_fraction"] == pytest.approx(repaint.mean())
        assert row["status"] == "ok"


def test_the_summary_has_the_agreed_names(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {"recipe", "dataset", "seed", "versions", "seconds", "synthesis", "results"} <= set(summary)
    assert set(summary["results"]) == {"erm", "dbb", *(f"control_{kind}" for kind in CONTROL_KINDS)}
    test = summary["results"]["dbb"]["test"]
    names = {"average", "adjusted_average", "worst_group", "worst_group_ci", "group_mean", "group_mean_ci", "groups"}
    assert names <= set(test)
    assert [group["n"] for group in test["groups"]] == [12] * 4
    counts = summary["synthesis"]
    assert counts["planned"] == counts["generated"] == counts["kept"] + sum(counts["pruned"].values()) == 20
    iou = read_parts(finished / "candidates")["object_iou"].to_pylist()
    assert counts["mask_iou"] == pytest.approx(sum(iou) / 20)
    assert counts["mask_iou"] > 0.75  # the shipped CLIPSeg, asked for "bird"
    page = (finished / "report.html").read_text()
    assert f"mean IoU {counts['mask_iou']:.2f}" in page
    assert "<img" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_every_fit_had_as_many_extra_rows(finished: Path) -> None:
    kept = json.loads((finished / "summary.json").read_text())["synthesis"]["kept"]
    for name in ("dbb", *(f"control_{kind}" for kind in CONTROL_KINDS)):
        assert json.loads((finished / "fit" / name / "manifest.json").read_text())["counts"]["extra"] == kept > 0


@pytest.mark.usefixtures("ray_session")
def test_running_again_does_nothing(finished: Path, model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    said: list[str] = []
    recipes.run(small("dbb", model, synthesis=DBB), finished, fresh=False, command="again", say=said.append)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    assert all(line.endswith("done before") for line in said)


def test_another_config_is_refused_with_the_fields_that_differ(finished: Path, model: Path) -> None:
    with pytest.raises(RunFolderError, match="seed: 0 -> 1"):
        recipes.run(small("dbb", model, synthesis=DBB, seed=1), finished, fresh=False, command="", say=print)


def test_what_does_not_decide_bits_may_change(finished: Path, model: Path) -> None:
    """Actors, logical CPUs and the limit of failed rows; the device is another matter."""
    names = ("scorer", "masker", "pruner", "inpainter")
    pools: dict[str, dict[str, Any]] = {name: {"num_cpus": 0.1, "actors": 2, "batch_size": 8} for name in names}
    changed = small("dbb", model, synthesis=DBB, pools=pools, max_failed_fraction=0.5)
    before = small("dbb", model, synthesis=DBB)
    assert changed.deciding() == before.deciding()
    pools["inpainter"]["num_gpus"] = 1
    on_gpu = small("dbb", model, synthesis=DBB, pools=pools)
    assert differing_fields(before.deciding(), on_gpu.deciding()) == ["pools.inpainter.device: 'cpu' -> 'cuda'"]


def test_a_local_run_with_two_fitting_workers_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"fits with one worker, but fit\.num_workers is 2"):
        small("dbb", model, synthesis=DBB, engine="local", fit={"num_workers": 2})


def test_the_local_engine_generates_the_same_bytes(finished: Path, model: Path, tmp_path: Path) -> None:
    config = small("dbb", model, synthesis=DBB, engine="local", controls=[])
    recipes.run(config, tmp_path / "local", fresh=False, command="", say=lambda line: None)
    # ERM is fitted with as many threads, so that the candidates' pictures follow from the same classifier.
    ours, theirs = read_parts(tmp_path / "local" / "candidates"), read_parts(finished / "candidates")
    assert ours.equals(theirs)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_infilling_on_ray_gives_the_same_bytes_as_in_this_process(finished: Path, model: Path, tmp_path: Path) -> None:
    for engine in ("ray", "local"):
        config = small("cf(inpaint)+f(mixed_rand)+sal", model, synthesis={"k": 6}, engine=engine, controls=[])
        recipes.run(config, tmp_path / engine, fresh=False, command="", say=lambda line: None, reuse=[finished])
    for step in ("objects", "candidates"):
        assert read_parts(tmp_path / "ray" / step).equals(read_parts(tmp_path / "local" / step))
    weights = [tmp_path / engine / "fit" / config.recipe / "model.safetensors" for engine in ("ray", "local")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    page = write_report(tmp_path / "ray").read_text()
    assert "without the object: not landbird" in page
    assert "landbird before another background" in page
    assert "landbird → " not in page


def test_the_saved_config_repeats_the_run(finished: Path) -> None:
    from raygen.config import load_yaml

    again = recipes.make_config(load_yaml(finished / "config.yaml"), [], where="config.yaml")
    assert again.synthesis is not None
    assert again.model_dump(mode="json") == load_yaml(finished / "config.yaml")


@pytest.mark.usefixtures("ray_session")
def test_scgs_runs_too(model: Path, tmp_path: Path) -> None:
    config = small("scgs", model, synthesis={"gen_ratio": 0.1, "tau": 0.3}, engine="local", controls=[])
    recipes.run(config, tmp_path / "scgs", fresh=False, command="", say=lambda line: None)
    candidates = read_parts(tmp_path / "scgs" / "candidates")
    assert candidates["source_label"].to_pylist() == candidates["target_label"].to_pylist()
    assert None not in candidates["cluster"].to_pylist()
    # What is kept is the heat of the classifier that was asked what it gets wrong, not of the final one.
    sources = RowIndex(tmp_path / "scgs" / "data").fetch(candidates["image_id"].to_pylist(), ["image_png"])
    images = preprocess([decode_image(picture.as_py()) for picture in sources["image_png"]], Frame(64))
    repaint_NHW = np.stack([decode_mask(mask.as_py()) for mask in candidates["repaint_png"]])
    differ = {}
    for name in ("identification", "erm"):
        classifier = load_classifier(tmp_path / "scgs" / name)
        heat_NHW = cam_heatmaps(classifier, images, candidates["predicted_label"].to_pylist(), method="gradcam++")
        differ[name] = (repaint_NHW != (heat_NHW < 0.3)).mean()
    assert differ["identification"] < 0.001  # of heat that is at the threshold, in batches of another size
    assert differ["erm"] > 0.05


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"synthesis": {"k": 5000}}, r"class 'landbird' has \d+ training image\(s\).* asks for 5000"),
        ({"synthesis": {"target": [0, 1]}}, r"synthesis.target is \[0, 1\]"),
        ({"synthesis": {"attribution_threshold": [0.1, 0.1, 0.1]}}, "3 entries, but the dataset has 2 classes"),
        ({"algorithm": {"gamma": [1, 2, 3]}}, r"algorithm.gamma is \[1.*expected 2 numbers"),
        ({"synthesis": {"language": {"text": "bird " * 80}}}, r"is \d+ tokens long, but the model reads \d+"),
        ({"inpainter": {"composite": False}}, "set synthesis.attribution=ig"),
        ({"inpainter": {"compile": True}}, "compile is true, but pools.inpainter paints on a CPU"),
        ({"inpainter": {"negative_prompt": "bird " * 80}}, r"negative_prompt: .* has \d+ tokens with start and end"),
        (
            {"dataset": {"name": "scenes", "prompts": ["a <landbird> bird", "a bird"]}},
            "dataset.prompts: .* names the token <landbird>, which",
        ),
        (
            {"inpainter": {"negative_prompt": "no <Land Bird>"}},
            "inpainter.negative_prompt: .* names the token <Land Bird>, which",
        ),
    ],
)
def test_what_does_not_fit_the_classes_or_the_models_is_refused_before_anything_starts(
    fields: dict[str, Any], message: str, model: Path, tmp_path: Path
) -> None:
    fields = {**fields, "inpainter": {"model": str(model), **fields.get("inpainter", {})}}
    with pytest.raises((DataError, ConfigError), match=message):
        recipes.run(small("dbb", model, **fields), tmp_path / "run", fresh=False, command="", say=lambda line: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "fields", "message"),
    [
        ("scgs", {}, "asked for 'a photo of a class 0', .* Set dataset.class_names, .* or dataset.prompts"),
        ("scgs", {"class_names": ["a", "b"]}, None),
        ("scgs", {"prompts": ["a landbird", "a waterbird"]}, None),
        ("dbb", {"mask": "cam", "words": ["land bird", "water bird"]}, None),
        ("dbb", {"mask": "cam", "tokens": ["<a>", "<b>"]}, "asked for 'class 0', .* or textual_inversion.words"),
        ("dbb", {"language": {"text": "bird"}}, "asked for 'a photo of a class 0'"),
        ("dbb", {"language": {"kind": "grounded_sam", "detector": "a/b"}}, "look for 'class 0'. Set .*language.text"),
    ],
)
def test_classes_that_only_have_numbers_are_told_of_before_models_are_asked_for_them(
    recipe: str, fields: dict[str, Any], message: str | None, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "birds").mkdir()
    lines = ["img_filename,y,split"]
    for i in range(24):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "birds" / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{i % 3}")
    (tmp_path / "birds" / "metadata.csv").write_text("\n".join(lines) + "\n")
    given = {name: fields[name] for name in ("class_names", "prompts") if name in fields}
    changes: dict[str, Any] = {
        "dataset": {"name": "folder", "path": str(tmp_path / "birds"), **given},
        "synthesis": {name: fields[name] for name in ("language", "mask") if name in fields},
    }
    if learning := {name: fields[name] for name in ("words", "tokens") if name in fields}:
        changes["textual_inversion"] = {**learning, "num_images": 2, "initializers": "b"}
    opened = Opened(small(recipe, model, engine="local", **changes))
    if "look for" in (message or ""):
        with pytest.raises(ConfigError, match=message):
            preflight.check(opened)
        return
    preflight.check(opened)
    said: list[str] = []
    preflight.warn_of_numbers(opened, said.append)
    assert len(said) == (message is not None)
    assert not said or re.search(str(message), said[0])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures that are no scenes, without object masks."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(36):
        folder = root / ("train", "val", "test")[i % 3] / ("cat", "dog")[i // 3 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (7 * i, 200 * (i // 3 % 2), 90)).save(folder / f"{i}.png")
    return root


PHOTOS = {"engine": "local", "classifier": {"width": 8}, "erm": {"epochs": 1}, "algorithm": {"epochs": 1}}


def test_the_shipped_model_paints_photos_only_when_it_is_named(
    photos: Path, scenes_folder: Path, tmp_path: Path
) -> None:
    def begin(folder: Path, out: Path, *overrides: str, fresh: bool = False, **data: Any) -> None:
        config = recipes.make_config({**PHOTOS, "recipe": "scgs", **data}, [*overrides], where="test")
        preflight.check_painter(Opened(config), out, fresh=fresh)

    dataset = {"name": "folder", "path": str(photos)}
    config = recipes.make_config({**PHOTOS, "recipe": "scgs", "dataset": dataset}, ["synthesis.tau=0.5"], where="test")
    with pytest.raises(ConfigError, match=r"paints only the birds of 'scenes', but the dataset is 'photos.*model=tiny"):
        recipes.run(config, tmp_path / "run", fresh=False, command="", say=lambda line: None)
    assert not (tmp_path / "run").exists()
    for override in ("inpainter.num_inference_steps=4", "synthesis.cam=none"):  # another field does not name the model
        with pytest.raises(ConfigError, match=r"inpainter\.model is 'tiny' unless another is named"):
            begin(photos, tmp_path / "run", override, dataset=dataset)
    begin(photos, tmp_path / "run", "inpainter.model=tiny", dataset=dataset)
    begin(photos, tmp_path / "run", dataset=dataset, inpainter={"model": "tiny"})
    begin(photos, tmp_path / "run", "inpainter.kind=served", "inpainter.url=http://127.0.0.1:9", dataset=dataset)
    begin(photos, tmp_path / "run", dataset=dataset, recipe="jtt")
    begin(scenes_folder, tmp_path / "run", dataset={"name": "folder", "path": str(scenes_folder)})
    # The config that a run left names its model; a folder that was begun goes on, and not where it is emptied first.
    begin(photos, tmp_path / "run", **{**config.model_dump(mode="json"), "recipe": "scgs"})
    with RunFolder(tmp_path / "old").claimed(config.model_dump(mode="json"), identity=config.deciding(), fresh=False):
        pass
    begin(photos, tmp_path / "old", dataset=dataset)
    with pytest.raises(ConfigError, match="unless another is named"):
        begin(photos, tmp_path / "old", dataset=dataset, fresh=True)


def test_a_sweep_on_photos_names_its_model_too(photos: Path, tmp_path: Path) -> None:
    data = {**PHOTOS, "recipe": "dbb", "dataset": {"name": "folder", "path": str(photos)}, "synthesis": {"mask": "box"}}
    with pytest.raises(ConfigError, match=r"inpainter\.model is 'tiny' unless another is named"):
        sweep(make_sweep(data, [], where="test"), tmp_path / "out", fresh=False, command="", say=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_run_whose_pictures_all_failed_says_why_and_blames_no_pruning(photos: Path, tmp_path: Path) -> None:
    dataset = {"name": "folder", "path": str(photos)}
    changes: dict[str, Any] = {**PHOTOS, "dataset": dataset, "max_failed_fraction": 1.0, "inpainter": {"model": "tiny"}}
    config = small("dbb", Path("tiny"), synthesis={"k": 2, "mask": "truth", "prune": False}, **changes)
    with pytest.raises(DataError, match=r"all 4 pictures to generate failed(.|\n)*  4 x .*object mask") as caught:
        recipes.run(config, tmp_path / "run", fresh=False, command="", say=lambda line: None)
    assert "prun" not in str(caught.value)
    _, planned = plan_candidate_sets({"abcdefgh": Opened(config)}, tmp_path / "sweep", lambda line: None)
    with pytest.raises(DataError, match=r"pool abcdef: all 4 pictures to generate failed(.|\n)*  4 x .*object mask"):
        generate(planned)


def test_a_model_that_cannot_inpaint_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = small("dbb", tmp_path / "model", synthesis=DBB)
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        recipes.run(config, tmp_path / "run", fresh=False, command="", say=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_a_masker_without_its_model_is_refused_before_anything_starts(model: Path, tmp_path: Path) -> None:
    config = small("dbb", model, synthesis={**DBB, "language": {"model": str(model)}})
    with pytest.raises(ModelError, match=r"no config\.json; not a transformers model folder"):
        recipes.run(config, tmp_path / "run", fresh=False, command="", say=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_candidates_are_bound_to_the_maskers_model_and_rows_without_an_object_say_so(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "candidates")
    segmenter = shutil.copytree(find_model("tiny", tiny="segmenter_weights").name, tmp_path / "segmenter")
    language = {"model": str(segmenter), "text": "zebra"}
    config = small("dbb", model, synthesis={**DBB, "language": language}, engine="local", max_failed_fraction=1)
    said: list[str] = []
    for _ in range(2):
        run_until("candidates", Run(Opened(config), RunFolder(tmp_path / "run"), said.append))
    assert [line.partition(": ")[2] for line in said if line.startswith("candidates")] == [
        "generating: masker, inpainter and pruner pools",
        "done before",
    ]
    candidates = read_parts(tmp_path / "run" / "candidates")
    assert set(candidates["status"].to_pylist()) == {"failed"}
    assert candidates["error"][0].as_py().startswith("CLIPSeg found no 'zebra' (highest probability 0.")
    (segmenter / "config.json").write_text((segmenter / "config.json").read_text() + "\n")
    with pytest.raises(RunFolderError, match="made with other settings"):
        run_until("candidates", Run(Opened(config), RunFolder(tmp_path / "run"), said.append))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dbbb"], "recipe is 'dbbb'; known: "),
        (["run", "dbb", "--set", "synthesis.kk=3"], "did you mean 'k'"),
        (["run", "dbb", "--set", "inpainter.strength=2"], "inpainter.strength"),
        (["run", "dbb", "--set", "inpainter.strength=1e-4"], "strength 0.0001 leaves none of the"),
        (["run", "dbb", "--set", "inpainter={strength: 0.75, num_inference_steps: 1}"], "strength 0.75 leaves none"),
        (["run", "dbb", "--set", "inpainter={guidance_start: 0.5, guidance_stop: 0.5}"], "none of the 12 steps guided"),
        (["run", "dbb", "--set", "synthesis.completeness_tolerance=0.1"], "but attribution is exact"),
        (["run", "dbb", "--set", "unit_rows=17"], "not a multiple"),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "dbb", "--set", "seed"], "expected field=value"),
        (["run", "dbb", "--set", "erm=3"], "erm"),
        (["run", "dbb", "--set", "synthesis=fast"], "synthesis"),
        (["data", "make", "nowhere", "--out", "x"], "does not exist"),
    ],
)
def test_the_users_mistakes_are_named(arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exception is not None
    assert getattr(result.exception, "exit_code", None) == 2
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("engine", "begun", "number"),
    [
        ("local", "run/erm/.progress.txt", signal.SIGINT),
        ("local", "run/erm/.progress.txt", signal.SIGTERM),
        # In a fit, whose workers have to go too, and after one.
        pytest.param("ray", "run/erm/.progress.txt", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("ray", "run/evaluation", signal.SIGINT, marks=pytest.mark.slow),
        # Ray answers it for itself too, and aborts.
        pytest.param("ray", "run/erm/.progress.txt", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, engine: str, begun: str, number: signal.Signals) -> None:
    epochs = 2 if begun == "run/evaluation" else 500
    settings = [f"engine={engine}", "dataset.scale=0.05", f"erm.epochs={epochs}"]
    with started("erm", tmp_path / "run", *settings) as process:
        wait_for(tmp_path / begun, process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert process.returncode == 128 + number
    first, *_, last = output.splitlines()
    assert first.startswith("if this ends early, the same command goes on where it stopped: raygen run erm --out ")
    assert last == f"raygen: {word}; the same command goes on where this one stopped"


@pytest.mark.slow
def test_a_run_that_is_terminated_in_a_pass_goes_on_and_says_nothing_foreign(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    """As a job of Slurm or Kubernetes, with a log that takes ASCII only: pools, a fit, evaluation and tables on Ray."""
    config = small("dbb", model, synthesis=DBB, controls=[])
    write_text(tmp_path / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    run = tmp_path / "run"
    with started(str(tmp_path / "config.yaml"), run) as process:
        wait_for(run / "candidates" / "part-000000.parquet", process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert output.splitlines()[-1] == "raygen: terminated; the same command goes on where this one stopped"
    time.sleep(1)
    assert [child.name() for child in children if child.is_running() and child.status() != "zombie"] == []
    first_output = output
    with started(str(tmp_path / "config.yaml"), run) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert read_parts(run / "candidates").equals(read_parts(finished / "candidates"))
    foreign = [line for line in (first_output + output).splitlines() if not OWN_LINE.match(line)]
    assert not foreign, foreign
    assert output.isascii()


# What a run says: how to go on, its steps, its tables, its last lines.
OWN_LINE = re.compile(
    r"if this ends early, |data: |(fit )?erm: |fit |scores: |plan: |candidates: |evaluation: |measures: |raygen: |"
    r"report: |time: |pictures: |object masks: |rows? |failed|\d+\)|\w+ (over|against) |no better than chance |"
    r"Selected on validation: |the kept pictures |[ +|]|$"
)


@contextlib.contextmanager
def started(recipe: str, out: Path, *settings: str) -> Iterator["subprocess.Popen[str]"]:
    """`raygen run` as in a terminal, whatever this process does with signals; output and errors in one."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from raygen.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "run", recipe, "--out", str(out)]
    command += ["--dataset", "scenes"] if recipe == "erm" else []
    for setting in settings:
        command += ["--set", setting]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environ, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    """Waits until a file is there; the process must not end before."""
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.02)
