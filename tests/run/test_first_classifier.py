"""`erm.from`: a run begins with a classifier of somebody, in place of a fit, and says of it what evaluating it does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_networks
import pytest
import torch
from tiny_pipelines import save_pipeline
from typer.testing import CliRunner

from raygen import recipes
from raygen.classifier import ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.cli import app
from raygen.config import load_yaml
from raygen.errors import ConfigError, DataError
from raygen.report.collect import write_summary
from raygen.report.html import write_report
from raygen.run.evaluation import evaluate_classifier
from raygen.storage.run_folder import read_manifest

Config = Callable[..., recipes.RunConfig]
OWN = {"architecture": "own_networks:cnn", "image_size_px": 32, "mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "inpaint", scheduler="dpm")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of somebody's network, as Lightning keeps them."""
    path = tmp_path_factory.mktemp("mine") / "production.ckpt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = own_networks.TinyCnn(2).state_dict()
    torch.save({"epoch": 9, "state_dict": {f"model.{name}": tensor for name, tensor in state.items()}}, path)
    return path


@pytest.fixture(scope="module")
def config(model: Path, mine: Path, scenes_folder: Path) -> Config:
    """Configs of runs of seconds that begin with it."""

    def made(recipe: str, **changes: Any) -> recipes.RunConfig:
        data = {
            "recipe": recipe,
            "engine": "local",
            "dataset": {"name": "folder", "path": str(scenes_folder)},
            "classifier": OWN,
            "erm": {"from": str(mine), "epochs": 1, "batch_size": 32, "learning_rate": 0.01},
            "inpainter": {"model": str(model), "num_inference_steps": 1},
            "pools": {name: {"batch_size": 8} for name in ("scorer", "masker", "inpainter", "pruner")},
            "fit": {"num_threads": 1},
            "unit_rows": 8,
            "controls": [],
            "measures": {"images": 0},
        }
        return recipes.make_config({**data, **changes}, [], where="test")

    return made


def run(config: recipes.RunConfig, out: Path) -> list[str]:
    said: list[str] = []
    recipes.run(config, out, fresh=False, command="raygen run", say=said.append)
    return said


def test_before_is_the_classifier_that_was_brought_and_what_follows_goes_on_from_it(
    config: Config, mine: Path, scenes_folder: Path, tmp_path: Path
) -> None:
    dbb = config(
        "dbb", synthesis={"k": 6, "mask": "cam", "prune": False}, algorithm={"epochs": 1}, measures={"images": 4}
    )
    assert dbb.algorithm.init == "erm"
    said = run(dbb, tmp_path / "dbb")
    assert any(f"taking {mine} as it is" in line for line in said)
    data = {"name": "folder", "path": str(scenes_folder)}
    alone = evaluate_classifier(mine, data, seed=0, fields=OWN)
    summary = write_summary(tmp_path / "dbb")
    assert write_report(tmp_path / "dbb").is_file()
    for split in ("val", "test"):
        before = summary["results"]["erm"][split]
        assert [g["accuracy"] for g in before["groups"]] == [g["accuracy"] for g in alone[split]["groups"]]
    state = torch.load(mine, weights_only=True)["state_dict"]
    before_fit = load_classifier(tmp_path / "dbb" / "erm").state_dict()
    assert torch.equal(before_fit["backbone.second.weight"], state["model.second.weight"])
    assert torch.equal(before_fit["head.bias"], state["model.out.bias"])
    after = load_classifier(tmp_path / "dbb" / "fit" / "dbb").state_dict()
    assert not torch.equal(after["backbone.second.weight"], before_fit["backbone.second.weight"])
    assert read_manifest(tmp_path / "dbb" / "erm")["counts"]["epochs"] == 0  # type: ignore[index]
    assert not [line for line in run(dbb, tmp_path / "dbb") if "taking" in line or "fitting" in line]
    written = recipes.make_config(load_yaml(tmp_path / "dbb" / "config.yaml"), [], where="test")
    assert written.deciding() == dbb.deciding()


def test_other_weights_at_the_same_place_are_taken_anew(config: Config, mine: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.pt"
    torch.save(torch.load(mine, weights_only=True), own)
    erm = config("erm", erm={"from": str(own)})
    run(erm, tmp_path / "run")
    state = own_networks.TinyCnn(2).state_dict()
    torch.save(state, own)
    assert any("made again, since what it depends on is not what it was" in line for line in run(erm, tmp_path / "run"))
    taken = load_classifier(tmp_path / "run" / "erm").state_dict()
    assert torch.equal(taken["head.weight"], state["out.weight"])


def fitted(out: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(out)) for path in out.rglob("history.json"))


@pytest.mark.parametrize(
    ("recipe", "fields", "expected"),
    [
        ("jtt", {"epochs": 1}, ["erm", "fit/jtt", "jtt_errors/original"]),  # the error set's classifier beside
        ("self", {"num_steps": 5}, ["erm", "fit/self", "self_early/self"]),  # an early state of it there is not
        ("afr", {"num_steps": 5}, ["erm", "fit/afr"]),  # its own features
        ("dfr", {}, ["erm", "fit/dfr"]),
        ("dbb+afr", {"num_steps": 5}, ["afr_features/dbb+afr", "erm", "fit/dbb+afr"]),  # it goes on with the pictures
    ],
)
def test_what_else_a_recipe_needs_is_fitted_beside_or_goes_on_from_it(
    config: Config, recipe: str, fields: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    changes = {"synthesis": {"k": 4, "mask": "cam", "prune": False}} if "dbb" in recipe else {}
    said = run(config(recipe, algorithm=fields, **changes), tmp_path)
    notes = {"jtt": "algorithm.learning_rate is 0.1", "self": "early classifier that self reads is fitted beside"}
    notes |= {"afr": "images that it has not seen", "dbb+afr": "images that it has not seen"}
    for name, note in notes.items():
        assert any(note in line for line in said) == (name == recipe or {name, recipe} == {"afr", "dbb+afr"}), note
    assert fitted(tmp_path) == expected
    before = load_classifier(tmp_path / "erm").state_dict()
    after = load_classifier(tmp_path / "fit" / recipe).state_dict()
    same = torch.equal(before["backbone.first.weight"], after["backbone.first.weight"])
    assert same == (recipe in ("self", "afr", "dfr"))
    if recipe == "dbb+afr":
        features = load_classifier(tmp_path / "afr_features" / recipe).state_dict()
        assert torch.equal(features["backbone.first.weight"], after["backbone.first.weight"])
        # One epoch at 0.01 from there; random ones would be far away.
        torch.testing.assert_close(features["backbone.first.weight"], before["backbone.first.weight"], rtol=0, atol=0.1)


def test_scgs_looks_at_what_the_brought_classifier_gets_wrong(config: Config) -> None:
    assert config("scgs").synthesis.mis_source == "erm"  # type: ignore[union-attr]
    assert config("scgs").synthesis.identification_epochs() is None  # type: ignore[union-attr]
    assert config("scgs", synthesis={"mis_source": "kfold"}).synthesis.identification_folds() == 5  # type: ignore[union-attr]
    assert config("scgs", erm={}).synthesis.mis_source == "epoch"  # type: ignore[union-attr]


def test_a_transformer_of_transformers_runs_with_nothing_but_its_folder(
    config: Config, scenes_folder: Path, tmp_path: Path
) -> None:
    """With the saliency penalty, which fused attention has no gradient for, and with its class token's maps."""
    folder = own_networks.transformers_folder(tmp_path / "vit", "vit")
    sal = config(
        "sal",
        classifier={},
        erm={"from": str(folder)},
        algorithm={"epochs": 1, "learning_rate": 0.01},
        measures={"images": 4},
    )
    assert sal.classifier.architecture == f"hf:{folder}"
    assert (sal.classifier.image_size_px, sal.classifier.mean) == (32, (0.5, 0.4, 0.3))
    run(sal, tmp_path / "run")
    alone = evaluate_classifier(folder, {"name": "folder", "path": str(scenes_folder)}, seed=0)
    assert write_summary(tmp_path / "run")["results"]["erm"]["test"]["groups"] == alone["test"]["groups"]
    assert write_report(tmp_path / "run").read_text(encoding="utf-8").count("<img") > 0


def test_a_network_without_a_map_runs_where_none_is_asked_for(config: Config, tmp_path: Path) -> None:
    torch.save(own_networks.pixels_only(2).state_dict(), tmp_path / "mine.pt")
    fields = {
        "classifier": {**OWN, "architecture": "own_networks:pixels_only"},
        "erm": {"from": str(tmp_path / "mine.pt")},
    }
    run(config("dfr", measures={"images": 4}, **fields), tmp_path / "run")
    write_summary(tmp_path / "run")
    write_report(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"algorithm masktune needs class activation maps: .*no layer of"):
        run(config("masktune", **fields), tmp_path / "masktune")


def test_other_classes_are_refused_before_any_work(config: Config, tmp_path: Path) -> None:
    torch.save(own_networks.TinyCnn(5).state_dict(), tmp_path / "mine.pt")
    with pytest.raises(
        DataError, match=r"mine.pt tells 5 classes apart, and the dataset has 2 \(landbird, waterbird\)"
    ):
        run(config("dfr", erm={"from": str(tmp_path / "mine.pt")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluate_takes_weights_with_the_networks_name(mine: Path, scenes_folder: Path, tmp_path: Path) -> None:
    options = ["evaluate", str(mine), "--dataset", str(scenes_folder), "--out", str(tmp_path / "found.json")]
    fields = [f"classifier.{name}={json.dumps(value)}" for name, value in OWN.items()]
    found = CliRunner().invoke(app, [*options, *(part for field in fields for part in ("--set", field))])
    assert found.exit_code == 0, found.output
    expected = evaluate_classifier(mine, {"name": "folder", "path": str(scenes_folder)}, seed=0, fields=OWN)
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8")) == expected
    unnamed = CliRunner().invoke(app, options)
    assert isinstance(unnamed.exception, ConfigError)
    assert "does not say of what network; name it, such as --set classifier.architecture=resnet50" in str(
        unnamed.exception
    )
    other = CliRunner().invoke(app, [*options, "--set", "synthesis.k=3"])
    assert "evaluate takes fields of dataset and classifier only" in str(other.exception)


def test_a_fits_folder_brings_its_network_and_its_frame(config: Config, tmp_path: Path) -> None:
    own = ClassifierConfig(width=8, image_size_px=32, framing="resize_crop", weights="imagenet-of-old.pth")
    classifier = build_classifier(own.model_copy(update={"weights": None}), 2, seed=7)
    classifier.config = own
    save_classifier(classifier, tmp_path / "fit")
    made = config("dfr", classifier={}, erm={"from": str(tmp_path / "fit")})
    assert made.classifier == own.model_copy(update={"weights": None})
    run(made, tmp_path / "run")
    taken = load_classifier(tmp_path / "run" / "erm").state_dict()
    assert all(torch.equal(tensor, taken[name]) for name, tensor in classifier.state_dict().items())
    with pytest.raises(ConfigError, match=r"classifier\.width is 16, and .* holds a classifier with 8"):
        config("dfr", classifier={"width": 16}, erm={"from": str(tmp_path / "fit")})
