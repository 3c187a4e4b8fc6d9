"""Recipes of several fits and their pairs, whole runs on one small dataset, in this process."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from listings import watched
from PIL import Image
from tiny_pipelines import save_pipeline

from raygen import recipes
from raygen.algorithms.inference import right_predictions
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import load_classifier, save_classifier
from raygen.classifier.framing import Frame, preprocess
from raygen.datasets.rows import RowIndex
from raygen.datasets.scene_rendering import render_scene
from raygen.errors import ConfigError, DataError
from raygen.images import decode_image, decode_mask
from raygen.maskers.cam import cam_heatmaps
from raygen.report.collect import write_summary
from raygen.report.html import write_report
from raygen.storage.parts import read_parts
from raygen.synthesis.folds import assign_folds
from raygen.synthesis.scgs import ScgsConfig
from raygen.worker import Worker


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "inpaint", scheduler="dpm")


@pytest.fixture(scope="module")
def small(model: Path, scenes_folder: Path) -> Callable[..., recipes.RunConfig]:
    """Configs of runs of seconds."""

    def config(recipe: str, **changes: Any) -> recipes.RunConfig:
        data = {
            "recipe": recipe,
            "engine": "local",
            "dataset": {"name": "folder", "path": str(scenes_folder)},
            "classifier": {"width": 8},
            "erm": {"epochs": 1, "batch_size": 32, "learning_rate": 0.02},
            "inpainter": {"model": str(model), "num_inference_steps": 1},
            "pools": {name: {"batch_size": 8} for name in ("scorer", "masker", "inpainter", "pruner")},
            "fit": {"num_threads": 1},
            "unit_rows": 8,
            "controls": [],
        }
        return recipes.make_config({**data, **changes}, [], where="test")

    return config


Small = Callable[..., recipes.RunConfig]
SCGS = {"gen_ratio": 0.05, "tau": 0.3, "top_q": 0.1}
ONE_EPOCH = {"epochs": 1, "learning_rate": 0.02}


def run(config: recipes.RunConfig, out: Path) -> tuple[dict[str, Any], list[str]]:
    """The summary, and what was said."""
    said: list[str] = []
    recipes.run(config, out, fresh=False, command="test", say=said.append)
    return write_summary(out), said


def interrupted(config: recipes.RunConfig, out: Path, *, before: str) -> None:
    """Runs until a step is about to begin."""

    def say(line: str) -> None:
        if line.startswith(before):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipes.run(config, out, fresh=False, command="test", say=say)


def counts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["counts"]
    return found


def test_jtt_fits_twice_and_goes_on_between_the_two(small: Small, scenes_folder: Path, tmp_path: Path) -> None:
    config = small("jtt", algorithm=ONE_EPOCH)
    interrupted(config, tmp_path / "parts", before="fit jtt")
    # Decoded pictures wait for the rest of the run, and go with its end.
    stores = [path.name.partition("-")[0] for path in sorted((tmp_path / "parts" / ".pictures").glob("[a-z]*"))]
    assert stores == ["train", "val"]
    summary, said = run(config, tmp_path / "parts")
    assert not (tmp_path / "parts" / ".pictures").exists()
    assert "fit errors of original: done before" in said
    assert set(summary["results"]) == {"erm", "jtt"}
    whole, _ = run(config, tmp_path / "whole")
    assert whole["results"] == summary["results"]
    weights = [(tmp_path / name / "fit" / "jtt" / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]
    # The file names what the first classifier gets wrong.
    index = RowIndex(tmp_path / "whole" / "data")
    train = TrainingSet(index, "train", size_px=64)
    first = load_classifier(tmp_path / "whole" / "jtt_errors" / "original")
    wrong = np.flatnonzero(~right_predictions(first, train, Worker(0, 1, "cpu", tmp_path)))
    errors = pq.read_table(tmp_path / "whole" / "jtt_errors" / "original" / "error_set.parquet")
    assert errors["image_id"].to_pylist() == train.image_ids(wrong)
    assert counts(tmp_path / "whole" / "jtt_errors" / "original")["errors"] == len(wrong)


def test_a_run_gives_the_same_classifier_wherever_its_pictures_are(small: Small, tmp_path: Path) -> None:
    fast, threads = tmp_path / "disk", {"num_threads": 1}
    places: dict[str, dict[str, Any]] = {
        "own": {},
        "fast": {"store_folder": str(fast)},
        "none": {"store_gb": 0, "loader_processes": 0},
    }
    weights = {}
    for name, place in places.items():
        _, said = run(small("erm", fit={**threads, **place}), tmp_path / name)
        weights[name] = (tmp_path / name / "erm" / "model.safetensors").read_bytes()
        assert not (tmp_path / name / ".pictures").exists()
        streamed = [line for line in said if line.startswith("fit erm: 160 decoded pictures take ")]
        assert bool(streamed) == (name == "none")
    assert len({*weights.values()}) == 1
    kept = sorted(path.name.partition("-")[0] for path in fast.glob("[a-z]*"))
    assert kept == ["train", "val"]
    before = {path: path.stat().st_mtime_ns for path in fast.glob("*/pictures.npy")}
    run(small("erm", fit={**threads, "store_folder": str(fast)}, seed=1), tmp_path / "another")
    assert {path: path.stat().st_mtime_ns for path in fast.glob("*/pictures.npy")} == before


def test_group_dro_runs(small: Small, tmp_path: Path) -> None:
    summary, _ = run(small("group_dro", algorithm={**ONE_EPOCH, "adjustment": 1.0}), tmp_path / "run")
    assert set(summary["results"]) == {"erm", "group_dro"}
    assert len(summary["results"]["group_dro"]["test"]["groups"]) == 4


def test_dfr_is_erm_with_another_head_and_the_page_shows_it(small: Small, tmp_path: Path) -> None:
    summary, _ = run(small("dfr"), tmp_path / "run")
    assert set(summary["results"]) == {"erm", "dfr"}
    erm, dfr = (load_classifier(tmp_path / "run" / name).state_dict() for name in ("erm", "fit/dfr"))
    differing = {name for name, value in erm.items() if not value.equal(dfr[name])}
    assert differing == {"head.weight", "head.bias"}
    page = write_report(tmp_path / "run").read_text()
    assert "dfr gets" in page


def test_jtt_after_scgs_shares_one_error_set_of_the_original_images(small: Small, tmp_path: Path) -> None:
    config = small("jtt+scgs", synthesis=SCGS, algorithm={**ONE_EPOCH, "up_weight": 2}, controls=["duplicate"])
    summary, said = run(config, tmp_path / "run")
    assert summary["recipe"] == "scgs+jtt"
    assert set(summary["results"]) == {"erm", "scgs+jtt", "control_duplicate"}
    assert sum(line.startswith("fit errors") and "fitting" in line for line in said) == 1
    assert counts(tmp_path / "run" / "jtt_errors" / "original")["extra"] == 0
    assert counts(tmp_path / "run" / "fit" / "scgs+jtt")["extra"] == summary["synthesis"]["kept"] > 0
    assert "scgs+jtt" in write_report(tmp_path / "run").read_text()


def test_scgs_can_go_on_from_the_erm_weights(small: Small, tmp_path: Path) -> None:
    """With steps of no size the result is the classifier that it began with, but for the statistics of batch norms."""
    weights = {}
    for init in ("erm", "scratch"):
        still = {"epochs": 1, "learning_rate": 1e-12, "init": init}
        run(small("scgs", synthesis=SCGS, algorithm=still), tmp_path / init)
        weights[init] = dict(load_classifier(tmp_path / init / "fit" / "scgs").named_parameters())
    erm = dict(load_classifier(tmp_path / "erm" / "erm").named_parameters())
    assert all(erm[name].allclose(weight, atol=1e-6) for name, weight in weights["erm"].items())
    assert not all(erm[name].allclose(weight, atol=1e-6) for name, weight in weights["scratch"].items())


def test_jtt_can_look_for_errors_among_the_generated_pictures_too(small: Small, tmp_path: Path) -> None:
    pictures = {"synthesis": {"k": 6, "prune": False}}
    config = small("dbb+jtt", algorithm={**ONE_EPOCH, "identify_on": "all", "identification_epochs": 1}, **pictures)
    run(config, tmp_path / "run")
    step = tmp_path / "run" / "jtt_errors" / "dbb+jtt"
    assert counts(step)["extra"] == 12
    errors = pq.read_table(step / "error_set.parquet")
    index = RowIndex(tmp_path / "run" / "data")
    own = index.split("train").num_rows
    for row in errors.to_pylist():
        assert (row["image_id"] is None) == (row["position"] >= own)
    assert counts(tmp_path / "run" / "fit" / "dbb+jtt")["images"] == own + 12
    assert not (tmp_path / "run" / "jtt_errors" / "original").exists()


def test_an_empty_error_set_is_found_before_anything_is_generated(small: Small, tmp_path: Path) -> None:
    """A classifier that learned for many epochs gets all of ten easy images right."""
    counts = {"train_counts": [5, 0, 0, 5], "val_counts": [4] * 4, "test_counts": [4] * 4}
    algorithm = {**ONE_EPOCH, "identification_epochs": 60}
    config = small(
        "dbb+jtt", dataset={"name": "scenes", **counts}, algorithm=algorithm, synthesis={"k": 2, "prune": False}
    )
    with pytest.raises(DataError, match="error set is empty"):
        recipes.run(config, tmp_path / "run", fresh=False, command="", say=lambda line: None)
    assert not (tmp_path / "run" / "candidates").exists()


def test_dfr_after_dbb_reads_features_of_a_fit_with_the_pictures(small: Small, tmp_path: Path) -> None:
    config = small("dbb+dfr", synthesis={"k": 4, "prune": False}, controls=["hole"])
    summary, _ = run(config, tmp_path / "run")
    assert set(summary["results"]) == {"erm", "dbb+dfr", "control_hole"}
    for name in ("dbb+dfr", "control_hole"):
        assert counts(tmp_path / "run" / "dfr_features" / name)["extra"] == 8
        base, final = (load_classifier(tmp_path / "run" / kind / name).state_dict() for kind in ("dfr_features", "fit"))
        assert {key for key in base if not base[key].equal(final[key])} == {"head.weight", "head.bias"}


def test_generated_pictures_are_in_the_groups_of_their_sources(small: Small, tmp_path: Path) -> None:
    """Of dbb's eight pictures of each class, those of a landbird on land are waterbirds on land."""
    from raygen.fits.extra_pictures import ExtraRows, extra_pictures

    pools = {name: {"batch_size": 4} for name in ("scorer", "masker", "inpainter", "pruner")}
    config = small("dbb+group_dro", synthesis={"k": 8, "prune": False}, algorithm=ONE_EPOCH, pools=pools, unit_rows=4)
    out = tmp_path / "run"
    run(config, out)
    index = RowIndex(out / "data")
    attribute = dict(zip(index.table["image_id"].to_pylist(), index.table["attribute"].to_pylist(), strict=True))
    candidates = read_parts(out / "candidates").to_pylist()
    for kind, label in (("generated", "target_label"), ("flat", "target_label"), ("duplicate", "source_label")):
        keys = tuple(row["key"] for row in candidates)
        extra = ExtraRows(kind=kind, keys=keys, candidates=str(out / "candidates"), digest="")  # type: ignore[arg-type]
        pictures = extra_pictures(extra, index, seed=0, size_px=64)
        found = list(zip(pictures.label_M.tolist(), pictures.attribute_M.tolist(), strict=True))  # of four parts
        assert found == [(row[label], attribute[row["image_id"]]) for row in candidates]


def test_out_of_fold_labels_come_from_classifiers_that_have_not_seen_the_image(small: Small, tmp_path: Path) -> None:
    config = small(
        "scgs",
        synthesis={**SCGS, "mis_source": "kfold", "num_folds": 3},
        algorithm=ONE_EPOCH,
        erm={"epochs": 4, "batch_size": 16, "learning_rate": 0.05},  # wrong in both classes
    )
    out = tmp_path / "run"
    interrupted(config, out, before="fit fold 2")
    _, said = run(config, out)
    assert {f"fit fold {number}: done before" for number in (0, 1)} <= set(said)
    index = RowIndex(out / "data")
    train = index.split("train")
    fold_N = assign_folds(train["label"].to_numpy(), num_folds=3, seed=0)
    scores, in_sample = read_parts(out / "scores"), read_parts(out / "scores_in_sample")
    pictures = index.fetch(train["image_id"].to_pylist(), ["image_png"])["image_png"].to_pylist()
    images_NCHW = preprocess([decode_image(picture) for picture in pictures], Frame(64))
    expected_N = np.empty(len(fold_N), dtype=int)
    for number in range(3):
        step = out / "folds" / str(number)
        assert counts(step)["images"] == (fold_N != number).sum()
        predicted_N = load_classifier(step)(images_NCHW).argmax(1).numpy()
        expected_N[fold_N == number] = predicted_N[fold_N == number]
    assert scores["image_id"].equals(train["image_id"])
    assert scores["predicted_label"].to_pylist() == expected_N.tolist()
    for column in ("features", "logits", "loss"):  # of one classifier, ERM
        assert scores[column].equals(in_sample[column])
    plan = pq.read_table(out / "plan" / "plan.parquet").to_pylist()
    assert all(row["predicted_label"] != row["source_label"] for row in plan)


def test_folds_are_even_in_every_class_and_depend_on_the_seed() -> None:
    label_N = np.repeat([0, 1, 2], [31, 10, 4])
    fold_N = assign_folds(label_N, num_folds=5, seed=0)
    for label in range(3):
        sizes = np.bincount(fold_N[label_N == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(fold_N, assign_folds(label_N, num_folds=5, seed=0))
    assert not np.array_equal(fold_N, assign_folds(label_N, num_folds=5, seed=1))


def test_without_a_map_scgs_repaints_whole_pictures_at_a_strength_below_one(small: Small, tmp_path: Path) -> None:
    inpainter = {"model": small("erm").inpainter.model, "num_inference_steps": 2}
    config = small("scgs", synthesis={**SCGS, "cam": "none"}, algorithm=ONE_EPOCH, inpainter=inpainter)
    assert config.inpainter.strength == 0.75
    run(config, tmp_path / "run")
    candidates = read_parts(tmp_path / "run" / "candidates")
    assert set(candidates["repaint_fraction"].to_pylist()) == {1.0}
    assert set(candidates["status"].to_pylist()) == {"ok"}


def test_an_image_with_an_empty_heat_map_is_no_source_and_does_not_end_the_run(small: Small, tmp_path: Path) -> None:
    """The same number less in every weight of the head changes no prediction, and empties maps."""
    synthesis = {"gen_ratio": 0.3, "tau": 0.3, "cam": "gradcam"}
    config, out = small("scgs", synthesis=synthesis, algorithm=ONE_EPOCH), tmp_path / "run"
    interrupted(config, out, before="scores")
    index = RowIndex(out / "data")
    train = index.split("train").sort_by("image_id")
    ids = train["image_id"].to_pylist()
    pictures = index.fetch(ids, ["image_png"])["image_png"]
    images_NCHW = preprocess([decode_image(picture.as_py()) for picture in pictures], Frame(64))
    classifier = load_classifier(out / "identification")
    predicted_N = classifier(images_NCHW).argmax(1).numpy()
    wrong = np.flatnonzero(predicted_N != train["label"].to_numpy())

    def empty_maps() -> np.ndarray:
        heat_NHW = cam_heatmaps(classifier, images_NCHW[wrong], predicted_N[wrong].tolist(), method="gradcam")
        return np.asarray(~heat_NHW.any(axis=(1, 2)))

    while (share := empty_maps().mean()) < 0.2:
        classifier.head.weight.data -= 0.02
    assert share < 0.9
    written = (out / "identification" / "model.safetensors").stat().st_mtime_ns
    save_classifier(classifier, out / "identification")
    for path in (out / "identification").iterdir():  # as if it had been fitted so
        os.utime(path, ns=(written, written))
    run(config, out)
    candidates = read_parts(out / "candidates")
    empty_N = empty_maps()
    assert {*candidates["image_id"].to_pylist()} <= {ids[n] for n in wrong[~empty_N]}
    assert candidates["status"].to_pylist() == ["ok"] * (36 + 12)


def test_a_whole_picture_at_strength_one_is_refused(small: Small) -> None:
    with pytest.raises(ConfigError, match=r"inpainter\.strength is 1, which leaves nothing of it"):
        small("scgs", synthesis={"cam": "none"}, inpainter={"strength": 1.0})


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes; the third class is the second one upside down."""
    folder = tmp_path_factory.mktemp("three")
    lines = ["img_filename,y,split,place,mask_filename"]
    for split, num in (("train", 36), ("val", 12), ("test", 12)):
        for i in range(num):
            label, attribute = i % 3, i // 3 % 2
            scene = render_scene(i, label=min(label, 1), attribute=attribute)
            step = -1 if label == 2 else 1
            Image.fromarray(scene.image_HWC[::step]).save(folder / f"{split}{i}.png")
            Image.fromarray(scene.object_HW[::step]).save(folder / f"{split}{i}_mask.png")
            lines.append(f"{split}{i}.png,{label},{split},{attribute},{split}{i}_mask.png")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("target", ["confused", "every_other", (2, 0, 1)])
def test_dbb_with_three_classes(small: Small, three_classes: Path, tmp_path: Path, target: str | tuple[int]) -> None:
    names = {} if isinstance(target, tuple) else {"class_names": ["landbird", "waterbird", "diver"]}
    config = small(
        "dbb",
        dataset={"name": "folder", "path": str(three_classes), **names},
        synthesis={
            "k": [3, 4, 5],
            "mask": "truth",
            "target": target,
            "source_probability_test": "off",
            "attribution_threshold": [0.0, 0.5, 0.0],
        },
        algorithm={**ONE_EPOCH, "gamma": [1.0, 2.0, 3.0]},
    )
    with watched(three_classes) as seen:
        summary, said = run(config, tmp_path / "run")
    assert seen == {".": 1, "metadata.csv": 1}
    assert any("nothing names the classes" in line for line in said) == (not names)
    candidates = read_parts(tmp_path / "run" / "candidates").to_pylist()
    pairs = Counter((row["source_label"], row["target_label"]) for row in candidates)
    if target == "confused":
        scores = read_parts(tmp_path / "run" / "scores").to_pylist()
        for label, count in enumerate((3, 4, 5)):
            softmax_NC = torch.tensor([row["logits"] for row in scores if row["label"] == label]).softmax(1)
            mean_C = softmax_NC.mean(0)
            mean_C[label] = -1
            assert {pair: num for pair, num in pairs.items() if pair[0] == label} == {
                (label, int(mean_C.argmax())): count
            }
    elif target == "every_other":
        assert pairs == {(a, b): (3, 4, 5)[a] for a in range(3) for b in range(3) if a != b}
    else:
        assert pairs == {(0, 2): 3, (1, 0): 4, (2, 1): 5}
    assert summary["synthesis"]["generated"] == len(candidates)
    # The quantile 0 lets pass what is above the least rho of its class.
    assert 0 < summary["synthesis"]["kept"] < len(candidates)
    assert len(summary["results"]["dbb"]["test"]["groups"]) == 6


@pytest.fixture(scope="module")
def without_attributes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(folder / split / name / "1.png")
    return folder


@pytest.mark.parametrize(
    ("recipe", "images"),
    [("group_dro", "training"), ("erm_reweighted", "training"), ("dfr", "validation"), ("scgs+group_dro", "training")],
)
def test_groups_that_are_not_there_are_named_before_any_work(
    small: Small, without_attributes: Path, tmp_path: Path, recipe: str, images: str
) -> None:
    config = small(recipe, dataset={"name": "folder", "path": str(without_attributes)})
    with pytest.raises(DataError, match=f"recipe {recipe.replace('+', '.')} needs the attribute of every {images}"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_groups_that_dfr_cannot_halve_are_named_before_any_work(small: Small, tmp_path: Path) -> None:
    for counts, message in (
        ([16, 1, 16, 16], "class 0 with attribute 1 has one image"),
        ([16, 16, 0, 0], "no image of class 1"),
    ):
        with pytest.raises(DataError, match=message):
            run(small("dfr", dataset={"name": "scenes", "val_counts": counts}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_saved_config_of_a_pair_repeats_it(small: Small) -> None:
    config = small("jtt+scgs", synthesis=SCGS)
    assert isinstance(config.synthesis, ScgsConfig)
    assert recipes.make_config(config.model_dump(mode="json"), [], where="again") == config


@pytest.mark.parametrize(
    ("recipe", "changes", "extra", "rows_of_masks"),
    [
        ("sal+f(shuffle)+cf(inpaint)", {"synthesis": {"k": 6}, "controls": ["duplicate", "hole", "flat"]}, 24, 160),
        ("cf(grey)+f(mixed_rand)", {"synthesis": {"when": "training"}}, 0, 160),
        ("infill+jtt", {"synthesis": {"k": 6, "counterfactual_loss": "uniform_except"}}, 24, 0),
        ("infill+dfr", {"synthesis": {"when": "training", "factual": "fgsm"}, "algorithm": {}}, 0, 160),
        ("group_dro+sal", {}, 0, 160),
        ("mixup", {}, 0, 0),
    ],
)
def test_infill_and_terms_run_with_any_algorithm(
    small: Small, tmp_path: Path, recipe: str, changes: dict[str, Any], extra: int, rows_of_masks: int
) -> None:
    config = small(recipe, **{"algorithm": ONE_EPOCH, **changes})
    summary, _ = run(config, tmp_path / "run")
    name = config.recipe
    assert set(summary["results"]) == {"erm", name, *(f"control_{kind}" for kind in config.controls)}
    assert recipes.make_config(config.model_dump(mode="json"), [], where="again") == config
    assert counts(tmp_path / "run" / ("dfr_features" if "dfr" in name else "fit") / name)["extra"] == extra
    masks = tmp_path / "run" / "objects"
    assert (counts(masks)["ok"] if masks.is_dir() else 0) == rows_of_masks
    if extra:
        candidates = read_parts(tmp_path / "run" / "candidates")
        assert Counter(candidates["role"].to_pylist()) == {"counterfactual": extra // 2, "factual": extra // 2}
        assert write_report(tmp_path / "run").is_file()
        check_extra(tmp_path / "run", candidates.to_pylist())
    else:
        assert not (tmp_path / "run" / "candidates").exists()


def check_extra(run: Path, candidates: list[dict[str, Any]]) -> None:
    """Pictures say of their own class what their role says; a plain copy shows it."""
    from raygen.fits.extra_pictures import ExtraRows, extra_pictures, flat_colours

    folder, keys = str(run / "candidates"), tuple(row["key"] for row in candidates)
    for kind in ("generated", "hole", "flat", "duplicate"):
        extra = ExtraRows(kind=kind, keys=keys, candidates=folder, digest="")
        found = extra_pictures(extra, RowIndex(run / "data"), seed=0, size_px=64)
        assert found.label_M.tolist() == [row["source_label"] for row in candidates]
        assert found.counterfactual_M is not None
        is_not_label = [row["role"] == "counterfactual" and kind != "duplicate" for row in candidates]
        assert found.counterfactual_M.tolist() == is_not_label
    flat = ExtraRows(kind="flat", keys=keys, candidates=folder, digest="")
    index = RowIndex(run / "data")
    found, colours = extra_pictures(flat, index, seed=0, size_px=64), flat_colours(index, seed=0)
    for i, (row, picture_HWC) in enumerate(zip(candidates, found.pictures.read(found.row_M), strict=True)):
        (colour,) = np.unique(picture_HWC[decode_mask(row["repaint_png"])], axis=0)
        is_own = (colours[row["source_label"]] == colour).all(axis=1).any()
        is_other = (colours[1 - row["source_label"]] == colour).all(axis=1).any()
        assert is_other if row["role"] == "counterfactual" else is_own, i


def test_an_infilled_fit_is_the_same_interrupted_and_wherever_its_pictures_are(small: Small, tmp_path: Path) -> None:
    weights = {}
    for name, place in (("stored", {}), ("streamed", {"store_gb": 0, "loader_processes": 0})):
        config = small(
            "cf(random)+f(shuffle)+sal",
            synthesis={"when": "training"},
            algorithm=ONE_EPOCH,
            fit={"num_threads": 1, **place},
        )
        if name == "stored":
            interrupted(config, tmp_path / name, before="fit cf(random)")
        run(config, tmp_path / name)
        weights[name] = (tmp_path / name / "fit" / config.recipe / "model.safetensors").read_bytes()
    assert weights["stored"] == weights["streamed"]


@pytest.mark.parametrize("recipe", ["infill", "sal", "cf(grey)+sal"])
def test_masks_that_are_not_there_are_named_before_any_work(
    small: Small, without_attributes: Path, tmp_path: Path, recipe: str
) -> None:
    config = small(recipe, dataset={"name": "folder", "path": str(without_attributes)})
    with pytest.raises(DataError, match=r"needs the object masks of the training images, and this dataset ships none"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
