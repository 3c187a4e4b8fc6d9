"""What a run reads is opened once."""

from pathlib import Path

import pytest
from faked_runs import make_home
from listings import watched
from PIL import Image

from raygen import recipes
from raygen.datasets.folder import FolderConfig, open_folder
from raygen.run.opened import Opened


@pytest.fixture
def pictures(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A user's folder, in one of two layouts."""
    lines = ["img_filename,y,split"]
    for i in range(12):
        split, name = ("train", "val", "test")[i % 3], f"{i // 6}"
        folder = tmp_path / "pictures" / (split if request.param == "folders" else "")
        folder /= name if request.param == "folders" else ""
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{name},{split}")
    if request.param == "table":
        (tmp_path / "pictures" / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pictures"


@pytest.mark.parametrize("pictures", ["folders", "table"], indirect=True)
def test_a_run_looks_through_a_users_folder_once(pictures: Path, tmp_path: Path) -> None:
    with watched(pictures) as once:
        assert len(open_folder(FolderConfig(path=pictures)).entries) == 12
    assert sum(once.values()) >= 2
    data = {
        "recipe": "dbb",
        "engine": "local",
        "dataset": {"name": "folder", "path": str(pictures), "class_names": ["cat", "dog"]},
        "inpainter": {"model": "tiny"},
        "synthesis": {"k": 1, "mask": "cam"},
        "classifier": {"width": 8, "image_size_px": 16},
    }

    def say(line: str) -> None:
        if line.startswith("fit erm"):
            raise KeyboardInterrupt

    with watched(pictures) as seen, pytest.raises(KeyboardInterrupt):
        recipes.run(recipes.make_config(data, [], where="test"), tmp_path / "run", fresh=False, command="", say=say)
    assert (tmp_path / "run" / "data" / "manifest.json").is_file()
    assert seen == once


def test_models_are_looked_for_once_and_only_where_a_run_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_home(tmp_path)
    monkeypatch.chdir(tmp_path)
    painted = {"recipe": "dbb", "inpainter": {"model": "models/inpaint"}, "textual_inversion": {"num_images": 2}}
    opened = Opened(recipes.make_config(painted, [], where="test"))
    painter, learner = opened.painter, opened.learner
    assert painter is not None
    assert learner is not None
    revision = painter.revision
    (tmp_path / "models" / "inpaint" / "model_index.json").write_text('{"changed": true}')
    monkeypatch.chdir(tmp_path / "models")
    assert opened.painter is painter
    assert opened.learner is learner
    assert (painter.name, painter.revision, opened.painter_revision()) == ("models/inpaint", revision, revision)
    served = ["inpainter.kind=served", "inpainter.url=http://127.0.0.1:9", "textual_inversion=null"]
    for data, overrides in (({"recipe": "jtt"}, []), (painted, served)):
        assert Opened(recipes.make_config(data, overrides, where="test")).painter is None
