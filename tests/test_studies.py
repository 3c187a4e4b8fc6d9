"""The studies in benchmarks/, at a size that only shows that they run, share steps and write their tables."""

import importlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import save_file

from raygen.datasets.rows import RowIndex
from raygen.run.config import make_config
from raygen.tiny.oracle import ORACLES, Oracle

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = (
    "engine=local",
    "dataset.train_counts=[60,6,6,30]",
    "dataset.val_counts=[10,10,10,10]",
    "dataset.test_counts=[12,12,12,12]",
    "erm.epochs=2",
    "algorithm.epochs=1",
    "inpainter.num_inference_steps=2",
)


def run(script: str, *arguments: str, folder: Path, settings: tuple[str, ...] = SMALL) -> str:
    """What a script prints."""
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *arguments]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_study_of_the_papers_tables_runs(tmp_path: Path) -> None:
    scgs, dbb = (*SMALL, "synthesis.gen_ratio=0.1", "synthesis.tau=0.3"), (*SMALL, "synthesis.k=6")
    written = run("effect", "--seeds", "1", "--recipes", "scgs", folder=tmp_path, settings=scgs)
    assert "| scgs | class | " in written
    assert "CPU s |" in written
    assert "Pictures are painted by: tiny" in written
    assert (tmp_path / "runs" / "effect" / "comparison.html").is_file()
    assert "control_flat" in written
    shutil.copytree(tmp_path / "runs" / "effect" / "records", tmp_path / "records")
    recorded = run("effect", "--recipes", "scgs", "--records", "records", "--recorded", folder=tmp_path, settings=scgs)
    table = written[written.index("| recipe |") :]
    assert recorded == table  # of three seeds, one is recorded
    both = ("--recipes", "dbb", "dbb+jtt", "--against", "dbb")
    printed = run("effect", "--seeds", "1", *both, folder=tmp_path, settings=dbb)
    assert "| dbb+jtt | " in printed.partition("### Against dbb")[2]

    tables = run("dbb_tables", "--amounts", "3", "4", folder=tmp_path, settings=())
    assert "| landbird | 6.0 ± 0.0 |" in tables
    assert "| 4 | " in tables

    table = run("variance", "--seeds", "2", folder=tmp_path, settings=dbb)
    for source in ("fit", "pictures", "all"):
        assert f"| {source} | dbb | 2 | " in table

    learning = (*dbb, "textual_inversion.num_steps=2")
    table = run("tokens", "--seeds", "1", "--images", "2", folder=tmp_path, settings=learning)
    assert "| 2 | " in table

    printed = run("scgs_tables", "--seeds", "1", folder=tmp_path, settings=scgs)
    assert "| img2img | " in printed
    # The recipe's own row is the run that effect.py made.
    own = printed[printed.index("grad-cam++") :]
    assert "candidates: done before" in own


@pytest.mark.slow
def test_the_study_of_the_unbiased_distribution_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = ("engine=local", "dataset.scale=0.02", "erm.epochs=1", "algorithm.epochs=1")
    small = ("--seeds", "1", "--scenes", "16", "--k", "4", "--bias", "paper")
    first = run("unbiased", *small, folder=tmp_path, settings=settings)
    again = run("unbiased", *small, folder=tmp_path, settings=settings)
    for name in ("erm", "erm on the tiny model's scenes", "dbb's fit with real scenes"):
        assert f"| paper | {name} | 1 | " in first
    assert "making" in first
    assert "making" not in again
    assert again.splitlines()[-4:] == first.splitlines()[-4:]
    out = tmp_path / "runs" / "unbiased"
    fitted = json.loads((out / "real_paper_0" / "fit" / "history.json").read_text(encoding="utf-8"))
    assert fitted["counts"]["extra"] == 2 * 4
    # What the tiny model saw: all four groups equally often.
    train = RowIndex(out / "world_16").split("train")
    group = train["label"].to_numpy() * 2 + train["attribute"].to_numpy()
    assert np.bincount(group).tolist() == [4, 4, 4, 4]
    # What stands in place of painted pictures: each class before the background that is unusual for it.
    index = RowIndex(out / "erm_paper_0" / "data")
    real = pq.read_table(out / "real_paper_0" / "candidates" / "part-00000.parquet").to_pylist()
    places = dict(zip(index.table["image_id"].to_pylist(), index.table["attribute"].to_pylist(), strict=True))
    assert Counter((row["target_label"], places[row["image_id"]]) for row in real) == {(0, 1): 4, (1, 0): 4}


def test_a_record_stands_for_a_run_with_its_settings_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    kept = importlib.import_module("_records").kept
    path, made = tmp_path / "measured" / "one_3.json", []

    def make() -> dict[str, float] | None:
        made.append(1)
        return {"worst_group": 0.25}

    assert kept(path, ["a=1"], make, recorded=True) is None
    assert kept(path, ["a=1"], lambda: None) is None
    assert not path.exists()
    assert [kept(path, ["a=1"], make) for _ in range(3)] == [{"worst_group": 0.25}] * 3
    assert made == [1]
    with pytest.raises(SystemExit, match=r"one_3\.json was made with \['a=1'\], not \['a=2'\]: give other --records"):
        kept(path, ["a=2"], make)


def test_tables_go_between_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    results = importlib.import_module("results")
    marks = {name: [f"<!-- made by `make results` ({name}): {side} -->" for side in ("begin", "end")] for name in "ab"}
    lines = ["# Results", *marks["a"], "kept", marks["b"][0], "old", marks["b"][1], "after", ""]
    document = tmp_path / "results.md"
    document.write_text("\n".join(lines), encoding="utf-8")
    results.write("a", "| 1 |", document)
    results.write("b", "| 2 |", document)
    results.write("b", "", document)  # nothing is recorded: what is there stays
    a, b = marks["a"], marks["b"]
    assert document.read_text(encoding="utf-8").splitlines() == [
        *("# Results", a[0], "| 1 |", a[1], "kept", b[0], "| 2 |", b[1], "after"),
    ]
    with pytest.raises(SystemExit, match="has no lines"):
        results.write("c", "| 3 |", document)


def test_the_table_of_recipes_quotes_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    results = importlib.import_module("results")
    monkeypatch.setattr(results, "MEASURED", tmp_path)
    (tmp_path / "effect").mkdir()
    for seed, worst in ((3, 0.5), (4, 0.7)):
        found = {"erm": {"worst_group": 0.1, "average": 0.8}, "jtt": {"worst_group": worst, "average": 0.9}}
        record = tmp_path / "effect" / f"jtt_{seed}.json"
        record.write_text(json.dumps({"results": found}), encoding="utf-8")
    document = tmp_path / "recipes.md"
    rows = ["| `jtt` | a | old |", "| `mixup`, `ls` | `b` | older |", "| `erm` | | |"]
    lines = ["| recipe | paper | ours |", "|---|---|---|", *rows, "", "| `jtt` | another table |"]
    document.write_text("\n".join([*lines, ""]), encoding="utf-8")
    results.quote(results.Section("effect", [], "effect", 3, 3), document)
    assert document.read_text(encoding="utf-8").splitlines()[2:] == [
        "| `jtt` | a | 60.0 ± 14.1 / 90.0 ± 0.0 |",
        "| `mixup`, `ls` | `b` |  |",
        "| `erm` | | 10.0 ± 0.0 / 80.0 ± 0.0 |",
        *lines[5:],
    ]


def test_every_section_of_the_results_has_its_place_and_a_study_that_takes_its_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    results = importlib.import_module("results")
    document = results.DOCUMENT.read_text(encoding="utf-8")
    for name, section in results.SECTIONS.items():
        for side in ("begin", "end"):
            assert document.count(f"<!-- made by `make results` ({name}): {side} -->") == 1, name
        assert (BENCHMARKS / f"{section.study}.py").is_file()
    for study in {section.study for section in results.SECTIONS.values()}:
        monkeypatch.setattr(sys, "argv", [study, "--help"])
        with pytest.raises(SystemExit):
            importlib.import_module(study).main()
        said = capsys.readouterr().out
        for option in ("--out", "--records", "--first", "--seeds", "--recorded", "--set"):
            assert option in said, (study, option)
    effect = importlib.import_module("effect")
    for section in (one for one in results.SECTIONS.values() if one.study == "effect"):
        monkeypatch.setattr(sys, "argv", section.command(section.first, section.seeds)[1:])
        arguments = effect.read_arguments()
        for recipe in arguments.recipes:
            overrides = effect.Study(recipe, "scenes", 3, [], arguments.overrides).settings()
            # What a recipe's config refuses would be found only hours after the start.
            data = {"recipe": recipe, "dataset": {"name": "scenes"}}
            make_config(data, overrides, where=recipe, preset=arguments.preset)
    # Two sections that share run folders never share a turn, and no two studies share records by accident.
    by_out = {section.out: section.study for section in results.SECTIONS.values()}
    assert all(by_out[section.out] == section.study for section in results.SECTIONS.values())


def test_a_gain_is_over_the_best_control_of_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    best_control = importlib.import_module("_effect_tables").best_control
    worst = {
        "erm": [0.0, 5.0],
        "dbb": [70.0, 60.0],
        "dbb_unpruned": [80.0, 90.0],
        "control_flat": [20.0, 50.0],
        "control_paste": [65.0, 40.0],
        "unpruned_control_flat": [30.0, 95.0],
        "unpruned_control_paste": [70.0, 10.0],
    }
    assert best_control(worst, "dbb", "dbb") == [65, 50]
    assert best_control(worst, "dbb_unpruned", "dbb") == [70, 95]
    assert best_control(worst, "erm", "dbb") == best_control(worst, "erm", None) == []
    kept = {name: values for name, values in worst.items() if not name.startswith("unpruned")}
    assert best_control(kept, "dbb_unpruned", "dbb") == []


def test_tables_tell_what_is_read_of_training_from_what_of_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    labels_read = importlib.import_module("_effect_tables").labels_read
    assert labels_read("train: class; validation: none") == ("class", "none")
    assert labels_read("train: class") == ("class", "none")
    chosen = "class of the chosen rows; group, to select (class, where none is known)"
    assert labels_read(f"train: class; validation: {chosen}") == ("class", chosen)
    pictures = "train: class; validation: group to select (to generate: train: class and object masks)"
    assert labels_read(pictures) == ("class (class and object masks to generate)", "group to select")


def test_a_study_of_photos_that_are_not_there_says_so(tmp_path: Path) -> None:
    said = run("effect", "--photos", str(tmp_path / "none.tar.gz"), folder=tmp_path, settings=())
    assert said == f"{tmp_path}/none.tar.gz is not there: nothing to do without photos\n"


@pytest.mark.slow
def test_a_study_of_photos_goes_on_and_names_what_cannot_be_run(tmp_path: Path) -> None:
    """Packed, of 32 px, with masks; the shipped model paints no photos, so that dbb has a reason and no numbers."""
    rng, lines = np.random.default_rng(0), ["img_filename,y,split,place,mask_filename"]
    for number in range(48):
        label, place, split = number % 2, number // 2 % 2, number // 4 % 3
        for kind in ("img", "mask"):
            path = tmp_path / "photos" / kind / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256 if kind == "img" else 1, (32, 32, 3), dtype=np.uint8)
            pixels[8:24, 8:24] = 255 * label if kind == "img" else 255
            Image.fromarray(pixels).save(path)
        if number < 24 or split or label == place:  # in training each class has a commonest background
            lines.append(f"img/{number:02d}.png,{label},{split},{place},mask/{number:02d}.png")
    (tmp_path / "photos" / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "photos", arcname="photos")
    settings = ("engine=local", "erm.epochs=1", "algorithm.epochs=1", "classifier.image_size_px=32")
    given = ("effect", "--photos", "photos.tar.gz", "--seeds", "1", "--recipes", "jtt", "dbb")
    first = run(*given, folder=tmp_path, settings=settings)
    (row,) = [line.split(" | ") for line in first.splitlines() if line.startswith("| jtt | class |")]
    assert " / " in row[8]  # original and flipped
    assert row[-1].endswith("CPU s |")
    assert "| dbb | class | " in first
    assert "it paints only the birds of 'scenes', but the dataset is" in first
    record = tmp_path / "runs" / "effect" / "records" / "jtt_0.json"
    by_record = run(*given, folder=tmp_path, settings=settings)
    assert "raygen run jtt" not in by_record
    assert row in [line.split(" | ") for line in by_record.splitlines()]
    record.unlink()
    again = run(*given, folder=tmp_path, settings=settings)
    assert "fit jtt: done before" in again
    assert row in [line.split(" | ") for line in again.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_studies_of_pruning_and_of_sources_of_tokens_run(tmp_path: Path) -> None:
    oracles = tmp_path / "oracles"
    oracles.mkdir()
    for name in ORACLES:  # that know nothing: trained ones take minutes
        save_file(Oracle().state_dict(), oracles / f"oracle_{name}.safetensors")
    small = (*SMALL, "synthesis.k=12")
    pruning = ("pruning", "--first", "3", "--seeds", "1", "--oracles", str(oracles))
    printed = run(*pruning, folder=tmp_path, settings=small)
    assert "| all | 12, 12 |" in printed
    kept = tmp_path / "runs" / "pruning" / "records" / "seed_3.json"
    found = json.loads(kept.read_text(encoding="utf-8"))["results"]
    pictures = {name: one["pictures"] for name, one in found.items() if name != "erm"}
    nums = {name: [of_class["num"] for of_class in one] for name, one in pictures.items()}
    assert nums["dbb"] == nums["random"] == nums["colour"] == nums["lowest_rho"]
    assert pictures["colour"][1]["typical"] == pictures["dbb"][1]["typical"]
    assert sum(nums["dbb"]) < 24
    assert printed.endswith(run(*pruning, folder=tmp_path, settings=small))  # by its record
    kept.unlink()
    again = run(*pruning, folder=tmp_path, settings=small)
    assert "candidates: done before" in again
    assert "fitting" not in again

    learning = (*small, "textual_inversion.num_steps=2", "textual_inversion.num_images=3")
    sources = ("--sources", "none", "high_loss", "minority", "--seeds", "1", "--first", "3", "--fits")
    printed = run(
        "tokens",
        *sources,
        "--oracles",
        str(oracles),
        "--reuse",
        "runs/pruning/seed_3",
        folder=tmp_path,
        settings=learning,
    )
    assert printed.count("candidates: generating") == 2  # those of plain prompts are the study of pruning's
    assert "| minority, 1 seed(s) | " in printed
    kept = tmp_path / "runs" / "tokens" / "records" / "source_minority_3.json"
    images = json.loads(kept.read_text(encoding="utf-8"))["images"]
    assert [of_class["minority"] for of_class in images] == [1, 1]
