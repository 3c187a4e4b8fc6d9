"""The contact sheet of a dataset: some pictures of each group, on a page or in one picture."""

import base64
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from raygen.cli import app
from raygen.datasets import listed_config, open_listed
from raygen.errors import ConfigError, DataError
from raygen.images import encode_image
from raygen.report.contact_sheet import TILE_PX, write_contact_sheet

COLOURS = {"cat": 60, "dog": 200}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 grey cats and dogs; one is damaged."""
    folder = tmp_path / "pets"
    folder.mkdir()
    lines = ["path,label,attribute,split"]
    for i in range(20):
        kind, place = ("cat", "dog")[i % 2], ("in", "out & <about>")[i // 2 % 2]
        image_HWC = np.full((10, 40, 3), COLOURS[kind], dtype=np.uint8)
        (folder / f"{i:02}.png").write_bytes(encode_image(image_HWC) if i != 1 else b"x")
        lines.append(f"{i:02}.png,{kind},{place},{'val' if i > 17 else 'train'}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_a_page_has_pictures_of_every_group(root: Path, tmp_path: Path) -> None:
    assert write_contact_sheet(open_listed(listed_config(str(root))).listing, tmp_path / "page.html", per_group=3) == 4
    text = (tmp_path / "page.html").read_text()
    assert re.findall(r"<h2>(.*)</h2>", text) == [
        "cat, in: 5 images",
        "cat, out &amp; &lt;about&gt;: 4 images",
        "dog, in: 5 images",
        "dog, out &amp; &lt;about&gt;: 4 images",
    ]
    shown = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", text)]
    colours = [int(np.asarray(Image.open(BytesIO(data))).max()) for data in shown]
    assert colours == [60] * 6 + [200] * 5  # the damaged one has its reason instead
    assert "01: no picture" in text or "01: the picture" in text or "01: " in text
    assert "http" not in text


def test_a_picture_has_a_row_for_every_group(root: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "show", str(root), "--out", str(tmp_path / "sheet.PNG")])
    assert result.exit_code == 0, result.output
    page_HWC = np.asarray(Image.open(tmp_path / "sheet.PNG"))
    for grey, count in ((60, 9), (200, 8)):
        pixels = (page_HWC == grey).all(axis=2).sum()
        # 10 x 40 pictures are shown 24 x 96; letters hide no pixel of them.
        assert pixels >= count * 10 * 40
    assert page_HWC.shape[0] > 4 * TILE_PX
    again = tmp_path / "again.png"
    write_contact_sheet(open_listed(listed_config(str(root))).listing, again)
    assert again.read_bytes() == (tmp_path / "sheet.PNG").read_bytes()


def test_what_cannot_be_shown_is_refused(root: Path, tmp_path: Path) -> None:
    listing = open_listed(listed_config(str(root))).listing
    with pytest.raises(ConfigError, match=r"an \.html page or a \.png picture"):
        write_contact_sheet(listing, tmp_path / "sheet.pdf")
    with pytest.raises(DataError, match="no image in split test; splits with images: train, val"):
        write_contact_sheet(listing, tmp_path / "sheet.png", split="test")
    with pytest.raises(ConfigError, match="expected train, val, test"):
        write_contact_sheet(listing, tmp_path / "sheet.png", split="dev")
