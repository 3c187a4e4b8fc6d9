"""The studies in benchmarks/, at a size that only shows that they run, share steps and write their tables."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    assert "| scgs | " in written
    assert "control_flat" in written
    assert "old" not in written
    run("effect", "--seeds", "1", "--recipes", "dbb", folder=tmp_path, settings=dbb)

    tables = run("dbb_tables", "--amounts", "3", "4", folder=tmp_path, settings=())
    assert "| landbird | 6.0 ± 0.0 |" in tables
    assert "| 4 | " in tables

    learning = (*dbb, "textual_inversion.num_steps=2")
    table = run("tokens", "--seeds", "1", "--images", "2", folder=tmp_path, settings=learning)
    assert "| 2 | " in table

    printed = run("scgs_tables", "--seeds", "1", folder=tmp_path, settings=scgs)
    assert "| img2img | " in printed
    # The recipe's own row is the run that effect.py made.
    own = printed[printed.index("grad-cam++") :]
    assert "candidates: done before" in own
