"""The studies in benchmarks/, at a size that only shows that they run, share steps and write their tables."""

import importlib
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    begin, end = "<!-- made by `make results`: begin -->", "<!-- made by `make results`: end -->"
    document = tmp_path / "results.md"
    document.write_text(f"# Results\n{begin}\nold\n{end}\n", encoding="utf-8")
    scgs, dbb = (*SMALL, "synthesis.gen_ratio=0.1", "synthesis.tau=0.3"), (*SMALL, "synthesis.k=6")
    run("effect", "--seeds", "1", "--recipes", "scgs", "--into", str(document), folder=tmp_path, settings=scgs)
    written = document.read_text(encoding="utf-8")
    assert "| scgs | class | " in written
    assert "CPU s |" in written
    assert "Pictures are painted by: tiny" in written
    assert (tmp_path / "runs" / "effect" / "comparison.html").is_file()
    assert "control_flat" in written
    assert "old" not in written
    printed = run(
        "effect",
        "--seeds",
        "1",
        "--recipes",
        "dbb",
        "erm_reweighted",
        "--against",
        "dbb",
        folder=tmp_path,
        settings=dbb,
    )
    assert "### Against dbb" in printed
    assert "| erm_reweighted | " in printed.partition("### Against dbb")[2]

    tables = run("dbb_tables", "--amounts", "3", "4", folder=tmp_path, settings=())
    assert "| landbird | 6.0 ± 0.0 |" in tables
    assert "| 4 | " in tables

    table = run("variance", "--draws", "2", folder=tmp_path, settings=dbb)
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
    assert " / " in row[7]  # original and flipped
    assert row[-1].endswith("CPU s |")
    assert "| dbb | class | " in first
    assert "it paints only the birds of 'scenes', but the dataset is" in first
    again = run(*given, folder=tmp_path, settings=settings)
    assert "fit jtt: done before" in again
    assert row in [line.split(" | ") for line in again.splitlines()]
