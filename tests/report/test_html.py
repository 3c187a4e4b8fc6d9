import html.parser
import json
import re
import shutil
from pathlib import Path

import pytest
from report_runs import SCORES_OF_LANDBIRDS, write_run

from raygen.report.html import duration, write_report

EVIL = "<script>alert('x')</script> & \"quotes\""


class Page(html.parser.HTMLParser):
    """What a test asks of a page: balanced tags, ids, references, attributes, text."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def page(finished_run: Path) -> Page:
    return Page(write_report(finished_run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def erm_page(erm_run: Path) -> Page:
    return Page(write_report(erm_run).read_text(encoding="utf-8"))


def test_page_is_self_contained(page: Page) -> None:
    assert [tag for tag, _ in page.tags if tag in ("script", "iframe", "object")] == []
    for reference in page.attributes("src") + page.attributes("href"):
        assert reference.startswith(("data:", "#"))
    style = " ".join(page.words)
    assert "@import" not in style
    assert "url(" not in style


def test_page_can_be_read_without_seeing_it(page: Page) -> None:
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(
        attributes.get("aria-label") or attributes.get("aria-hidden") for tag, attributes in page.tags if tag == "svg"
    )
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings.count("h1") == 1
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    targets = [r[1:] for r in page.attributes("href") if r.startswith("#")]
    assert set(targets) | set(page.attributes("for")) <= set(ids)


def test_headline_numbers(page: Page) -> None:
    # Worst group before: 1 of 6; after: 6 of 8.
    assert "16.7% → 75.0%" in page.text
    assert "+58.3 points" in page.text
    assert "of 7 planned: 4 pruned, 1 failed" in page.text
    assert "control_flat: worst group 50.0%" in page.text


def test_every_verdict_is_shown_with_its_reason(page: Page) -> None:
    classes = [attributes.get("class", "") for tag, attributes in page.tags if tag == "li"]
    for verdict, count in (("kept", 2), ("pruned", 4), ("failed", 1)):
        assert classes.count(f"tile {verdict}") == count
    assert "Pruned: source class still seen" in page.text
    assert "Pruned: target not seen in the mask" in page.text
    assert "the repaint mask is empty" in page.text
    assert "ψ 0.900 < 0.800 ✗ · ρ 2.00 > 1.00 ✓" in page.text
    assert "2 of 6 generated pictures (33%) are kept" in page.text
    assert "mean IoU 0.55 with the dataset's own, before they are grown (6 candidates)" in page.text


def test_where_the_tiny_model_painted_the_page_says_what_it_knows(page: Page, erm_page: Page, tmp_path: Path) -> None:
    note = "trained on 24,000 captioned scenes of the benchmark’s own renderer, all four groups equally often"
    assert page.text.index("Results per group") < page.text.index(note) < page.text.index("at evenly spaced places")
    assert note not in erm_page.text
    other = write_run(tmp_path / "run", model_id="stable-diffusion-inpainting")
    assert note not in Page(write_report(other).read_text(encoding="utf-8")).text


def test_attention_counts_what_changed(page: Page) -> None:
    # ERM errs on 5 + 3 test images, those with the highest numbers of groups 1 and 2; see CORRECT.
    assert "erm gets 8 of 28 test images wrong. dbb gets 5 of these right, and 1 wrong that erm had right" in page.text


def test_command_config_and_date_are_there(page: Page, finished_run: Path) -> None:
    assert "raygen run dbb --set seed=0" in page.text
    assert f"raygen run --config {finished_run}/config.yaml --out {finished_run}-again" in page.text
    assert "recipe: dbb" in page.text
    assert re.search(r"\d+ \w+ 20\d\d, \d\d:\d\d UTC", page.text)
    assert "2 min 05 s" in page.text


def test_sections_vanish_without_a_synthesis(erm_page: Page) -> None:
    ids = set(erm_page.attributes("id"))
    assert {"results", "again", "words"} <= ids
    assert not {"pictures", "attention", "pruning"} & ids
    assert "Worst class" in erm_page.text
    assert "group" not in {word.lower() for word in re.findall(r"\w+", " ".join(erm_page.attributes("aria-label")))}


def test_same_run_gives_the_same_bytes(finished_run: Path) -> None:
    first = write_report(finished_run).read_bytes()
    assert write_report(finished_run).read_bytes() == first


def test_everything_from_the_data_is_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", error=EVIL)
    info = json.loads((run / "data" / "dataset.json").read_text())
    info["class_names"] = [f"{EVIL}0", f"{EVIL}1"]
    info["name"] = EVIL
    (run / "data" / "dataset.json").write_text(json.dumps(info))
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 0, "event": "command", "argv": f"raygen run '{EVIL}'"}) + "\n")
        log.write(json.dumps({"time": 0, "event": "step", "step": EVIL, "seconds": 1.0}) + "\n")
    with (run / "config.yaml").open("a") as config:
        config.write(f"note: {json.dumps(EVIL)}\n")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags if tag == "script"] == []
    assert page.text.count("<script>alert('x')</script>") > 10


def test_run_without_saved_classifiers_has_no_heat_maps(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "fit" / "dbb")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "attention" not in page.attributes("id")
    assert "pictures" in page.attributes("id")


def test_run_in_which_every_candidate_failed(tmp_path: Path, finished_run: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = shutil.copytree(finished_run, tmp_path / "run")
    for path in sorted((run / "candidates").glob("part-*.parquet")):
        rows = pq.read_table(path)
        changed = [
            {**row, "status": "failed", "error": "no GPU", "source_probability": None, "attribution_inside": None}
            for row in rows.to_pylist()
        ]
        pq.write_table(pa.Table.from_pylist(changed, schema=rows.schema), path)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "No picture was generated" in page.text
    assert page.text.count("no GPU") >= len(SCORES_OF_LANDBIRDS) - 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.9, "1 h 00 min"),
        (8040, "2 h 14 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_run_without_an_error_of_erm_has_a_page(tmp_path: Path) -> None:
    right: dict[str, tuple[int, ...]] = {split: (100, 100, 100, 100) for split in ("val", "test")}
    run = write_run(tmp_path / "run", correct={"erm": right, "dbb": right})
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "attention" not in page.attributes("id")  # there is nothing to look at
