"""Which label each folder of classes gets, and which names fit them."""

import json
from pathlib import Path

import pytest
from class_folders import SPLITS, config, labels, make, write

from raygen.datasets import open_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.folder import FolderConfig, open_folder
from raygen.datasets.names import in_order
from raygen.errors import ConfigError, DataError
from raygen.inpainters import InpainterConfig
from raygen.run.config import make_config
from raygen.run.opened import Opened
from raygen.run.preflight import check_painter, say_of_dataset
from raygen.storage.run_folder import MARKER


def test_folders_of_numbers_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    root = make(tmp_path / "data", classes=tuple(str(i) for i in range(11)))
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    assert labels(root) == {f"{split}/{i}/0": str(i) for split in SPLITS for i in range(11)}
    assert labels(root, class_names=words) == {f"{s}/{i}/0": words[i] for s in SPLITS for i in range(11)}
    first, *_ = open_dataset(FolderConfig(path=root, class_names=words)).lines
    assert first == "classes: " + ", ".join(f"{i} -> {word}" for i, word in enumerate(words))
    notes = check_dataset(root, overrides=[f"class_names=[{','.join(words)}]"]).notes
    assert notes[10] == "label 10 is ten, of folder 10/"
    (warning,) = [line for line in check_dataset(root).warnings if "same bytes" not in line]
    assert "the classes have numbers only; recipes that paint would ask for 'a photo of a 0'" in warning
    # A run says the same where it paints.
    said: list[str] = []
    say_of_dataset(Opened(config(root, "scgs")), said.append)
    assert len(said) == 2
    assert "which paints only the birds of 'scenes', whatever it is asked for" in said[0]
    assert "the inpainter is asked for 'a photo of a 0', which no model knows" in said[1]


@pytest.mark.parametrize(
    ("classes", "order"),
    [
        (("10", "9", "cat"), ("10", "9", "cat")),
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("010", "9", "8"), ("8", "9", "010")),
    ],
)
def test_only_numbers_are_in_the_order_of_numbers(
    tmp_path: Path, classes: tuple[str, ...], order: tuple[str, ...]
) -> None:
    root = make(tmp_path / "data", classes=classes)
    assert open_folder(FolderConfig(path=root)).info.class_names == order


@pytest.mark.parametrize(
    ("names", "numbered"),
    [
        (("0", "1"), True),
        (("class_0", "class 1"), True),
        (("n01440764", "n01443537"), True),
        (("0", "cat"), False),
        (("boeing 737", "boeing 747"), False),
    ],
)
def test_bare_numbers_are_no_names(tmp_path: Path, names: tuple[str, ...], numbered: bool) -> None:
    root = make(tmp_path / "data", classes=names)
    assert open_folder(FolderConfig(path=root)).info.has_numbered_classes == numbered


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"class_names": ("dog", "cat")},
            r"is dog, cat, but the folders of .* are cat, dog: 'cat' would be called 'dog'",
        ),
        ({"class_names": ("Dog", "wolf")}, r"'cat' would be called 'Dog', which is another's name"),
        ({"class_names": ("a", "b", "c")}, r"has 3 names \(a, b, c\) for the classes cat, dog"),
        ({"class_names": ("a",)}, r"has 1 names \(a\) for the classes cat, dog"),
        ({"class_names": ("a", "a")}, r"has 'a' 2 times"),
        ({"class_names": ("a", " ")}, "an empty text is no name"),
        ({"attribute_names": ("land", "water")}, r"folders of classes, which have no attributes"),
        ({"prompts": ("a",)}, r"1 prompts for 2 classes"),
        ({"prompts": ("a", "\ud800")}, r"'\\ud800' among the dataset's names or prompts is no text"),
    ],
)
def test_names_that_do_not_fit_the_folders_are_refused(
    tmp_path: Path, names: dict[str, tuple[str, ...]], message: str
) -> None:
    root = make(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        write(root, **names)
    overrides = [f"{field}={json.dumps(values)}" for field, values in names.items()]
    with pytest.raises(DataError, match=message):
        check_dataset(root, overrides=overrides)
    with pytest.raises(ConfigError, match="class_name: unknown field"):
        check_dataset(root, overrides=["class_name=[a, b]"])


def test_rows_that_are_written_already_keep_their_names_in_order(tmp_path: Path) -> None:
    index = write(make(tmp_path / "data"))
    for names, message in ((("dog", "cat"), "would be called"), (("a", "b", "c"), "has 3 names")):
        with pytest.raises(DataError, match=message):
            labels(index.folder, class_names=names)
    assert labels(index.folder, class_names=("Felis", "Canis"))["test/dog/0"] == "Canis"


def test_folders_of_counted_classes_are_in_the_order_of_their_numbers() -> None:
    assert in_order(["class_10", "class_2", "class_1"]) == ["class_1", "class_2", "class_10"]
    assert in_order(["Label 10", "Label 9"]) == ["Label 9", "Label 10"]
    # As text: names of their own, whatever numbers they begin or end with.
    for names in (["10_bird", "2_dog"], ["class_10", "label_2"], ["bird10", "bird2"], ["class_10", "other"]):
        assert in_order(names[::-1]) == sorted(names)


def test_a_folder_called_scenes_is_not_the_scenes(tmp_path: Path) -> None:
    run = Opened(config(make(tmp_path / "scenes"), "scgs"))
    with pytest.raises(ConfigError, match="it paints only the birds of 'scenes'"):
        check_painter(run, tmp_path / "out", fresh=False)
    # A folder that was begun goes on with the model that it names.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).touch()
    check_painter(run, tmp_path / "out", fresh=False)
    with pytest.raises(ConfigError, match="it paints only the birds of 'scenes'"):
        check_painter(run, tmp_path / "out", fresh=True)


def test_the_shipped_model_on_other_pictures_is_warned_of_where_it_is_named(tmp_path: Path) -> None:
    said: list[str] = []
    named = {"inpainter": InpainterConfig(model="tiny")}
    run = Opened(config(make(tmp_path / "birds"), "scgs").model_copy(update=named))
    check_painter(run, tmp_path / "out", fresh=False)
    say_of_dataset(run, said.append)
    assert any("warning: inpainter.model is 'tiny'" in line and "no number of this run" in line for line in said)
    said.clear()
    for other in (make_config({"recipe": "scgs"}, [], where="test"), config(tmp_path / "birds", "jtt")):
        say_of_dataset(Opened(other), said.append)
    assert not any("inpainter.model" in line for line in said)


def test_names_that_only_look_alike_are_said_to(tmp_path: Path) -> None:
    """A letter with its accent as one character (NFC), and as two (NFD)."""
    root = make(tmp_path / "data", classes=("caf\u00e9", "bar"))
    (root / "val" / "caf\u00e9").rename(root / "val" / "cafe\u0301")
    with pytest.raises(DataError, match="look alike, but their accents are spelled otherwise"):
        open_folder(FolderConfig(path=root))
