"""Pictures of fits: the same bytes however they are kept, read and decoded; stores that are made once and checked."""

import errno
import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from extra_sets import NotedPictures, extra_of, store, tensor_without_room

from raygen.algorithms import erm
from raygen.algorithms.decoding import Loading
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.infilling import Draws
from raygen.algorithms.loader_processes import LoaderProcesses
from raygen.algorithms.pictures import InMemory, open_pictures
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import ClassifierConfig, build_classifier
from raygen.classifier.framing import squash
from raygen.datasets.row_pictures import RowPictures
from raygen.datasets.rows import RowIndex
from raygen.datasets.table import DatasetInfo, write_source
from raygen.errors import DataError, RunFolderError, StageError
from raygen.fits.running import FitConfig
from raygen.images import decode_image, encode_image
from raygen.inpainters.fills import Infilling
from raygen.storage import picture_store
from raygen.worker import Worker

SIDE = 16


def loading(folder: Path, *, gb: float = 1, processes: int = 0, worth_s: float = 5) -> Loading:
    return Loading(str(folder), gb * picture_store.GB, processes, worth_s)


WAYS: dict[str, dict[str, Any]] = {
    "stored": {},
    "stored by two processes": {"processes": 2, "worth_s": 0},
    "streamed": {"gb": 0},
    "streamed by one process": {"gb": 0, "processes": 1},
    "streamed by three processes": {"gb": 0, "processes": 3, "worth_s": 0},
}


def one_by_one(index: RowIndex, split: str) -> np.ndarray:
    """The pictures of a split, (N, S, S, 3) uint8, by the obvious way."""
    data = index.fetch(index.split(split)["image_id"].to_pylist(), ["image_png"])["image_png"].to_pylist()
    return np.stack([squash(decode_image(picture), SIDE) for picture in data])


@pytest.fixture(scope="module")
def images_NHWC(scenes_folder: Path) -> np.ndarray:
    return one_by_one(RowIndex(scenes_folder), "train")


@pytest.fixture
def source(scenes_folder: Path) -> RowPictures:
    index = RowIndex(scenes_folder)
    return RowPictures(index, index.split("train")["image_id"].to_pylist(), label="train")


def all_of(source: RowPictures, place: Loading) -> np.ndarray:
    return open_pictures(source, size_px=SIDE, loading=place).read(np.arange(len(source)))


def masked(train: TrainingSet) -> TrainingSet:
    """Every picture has an object, and gets a counterfactual and a factual copy."""
    masks_NHWC = np.zeros((160, SIDE, SIDE, 3), np.uint8)
    masks_NHWC[:, SIDE // 4 : SIDE // 2, SIDE // 4 :] = 255
    infilling = Infilling("random", "mixed_rand", "box", "segmentation", fgsm_epsilon=0.3, not_label="exact")
    ids = [str(image_id) for image_id in train.image_ids(np.arange(160))]
    return train.with_masks(InMemory(masks_NHWC), ids).with_infilling(infilling)


@pytest.mark.parametrize("way", [None, *WAYS])
def test_every_batch_has_the_same_bytes_however_it_comes(
    scenes_folder: Path, images_NHWC: np.ndarray, tmp_path: Path, way: str | None
) -> None:
    place = None if way is None else loading(tmp_path, **WAYS[way])
    train = TrainingSet(RowIndex(scenes_folder), "train", size_px=SIDE, loading=place)
    beside_MHWC = np.random.default_rng(1).integers(256, size=(5, SIDE, SIDE, 3), dtype=np.uint8)
    train = train.with_extra(extra_of(beside_MHWC, [0, 1, 0, 1, 0]))
    rng = np.random.default_rng(0)
    positions = [rng.integers(0, len(train), size=size) for size in (32, 1, 7, 64, 32, 5)]
    expected = np.concatenate([images_NHWC, beside_MHWC])
    for _ in range(2):  # the second time by the same processes
        found = list(train.batches(iter(positions)))
        assert [batch.dtype for batch in found] == [torch.uint8] * len(positions)
        for batch, positions_B in zip(found, positions, strict=True):
            assert np.array_equal(batch.numpy(), expected[positions_B])
    kept = list(tmp_path.glob("*/pictures.npy"))
    assert bool(kept) == (way is not None and way.startswith("stored"))
    # And so have copies that are filled on the way, by the same seeds.
    seeds_N = rng.integers(2**62, size=len(train))
    draws = [Draws(positions_B, seeds_N[positions_B]) for positions_B in positions]
    plain = TrainingSet(RowIndex(scenes_folder), "train", size_px=SIDE)
    alone = [Draws(np.array([i]), seeds_N[[i]]) for i in range(160)]
    expected = np.stack([batch.numpy() for batch in masked(plain).copies(alone)])
    for batch, positions_B in zip(masked(train).copies(draws), positions, strict=True):
        assert len(batch) == 3 * len(positions_B)
        of_own = positions_B < 160
        for copy, copies_BTTC in enumerate(np.split(batch.numpy(), 3)):
            assert np.array_equal(copies_BTTC[of_own], expected[positions_B[of_own], copy])
            assert not copies_BTTC[~of_own, ..., 3].any()  # an extra picture has no object, and so no copies
            assert np.array_equal(copies_BTTC[~of_own, ..., :3], beside_MHWC[positions_B[~of_own] - 160])


def test_whoever_stops_in_the_middle_can_begin_again(scenes_folder: Path, tmp_path: Path) -> None:
    place = loading(tmp_path, gb=0, processes=2)
    train = TrainingSet(RowIndex(scenes_folder), "train", size_px=SIDE, loading=place)
    positions = [np.arange(start, start + 8) for start in range(0, 160, 8)]
    whole = list(train.batches(positions))
    for _ in range(2):
        next(train.batches(positions))
    assert all(torch.equal(a, b) for a, b in zip(train.batches(positions), whole, strict=True))


def test_pictures_that_cannot_be_read_are_left_out_before_the_first_epoch(
    scenes_folder: Path, images_NHWC: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(scenes_folder, folder)
    for shard in folder.glob("*.parquet"):
        table = pq.read_table(shard)
        pictures = table["image_png"].to_pylist()
        first = table["split"].to_pylist().index("train")
        pictures[first] = pictures[first][:40]
        place = table.schema.get_field_index("image_png")
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(pictures, pa.binary())), shard)
    index = RowIndex(folder)
    said = []
    for name in (None, *WAYS):
        place = None if name is None else loading(tmp_path / name, **WAYS[name])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            train = TrainingSet(index, "train", size_px=SIDE, loading=place)
        said.append(caplog.messages)
        assert len(train) == len(images_NHWC) - 1
        (found,) = train.batches([np.arange(len(train))])
        assert np.array_equal(found.numpy(), images_NHWC[1:])
        with pytest.raises(DataError, match=r"1 of 160 pictures of split train cannot be read; .*\n.*\n`raygen data"):
            TrainingSet(index, "train", size_px=SIDE, loading=place, max_failed_fraction=0)
        keep_N = np.arange(160) > 0
        assert (
            len(TrainingSet(index, "train", size_px=SIDE, loading=place, keep_N=keep_N, max_failed_fraction=0)) == 159
        )
    assert len({*map(str, said)}) == 1
    assert "left out 1 of 160 pictures of split train: " in said[0][0]


def test_a_store_is_made_once_for_all_and_again_for_other_pictures(
    scenes_folder: Path, source: RowPictures, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    place = loading(tmp_path / "store")
    processes = multiprocessing.get_context("forkserver")
    others = [processes.Process(target=store, args=(scenes_folder, notes, 0.2, place)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert len(list(notes.iterdir())) == 1
    # Another size, another split, and a dataset of which one byte is another.
    open_pictures(source, size_px=SIDE + 1, loading=place)
    TrainingSet(RowIndex(scenes_folder), "val", size_px=SIDE, loading=place)
    shutil.copytree(scenes_folder, tmp_path / "copy")
    (shard,) = (tmp_path / "copy").glob("*.parquet")
    table = pq.read_table(shard)
    pq.write_table(table.set_column(1, table.schema.field(1), pa.array(table["image_png"].to_pylist()[::-1])), shard)
    index = RowIndex(tmp_path / "copy")
    other_way = RowPictures(index, index.split("train")["image_id"].to_pylist(), label="train")
    assert np.array_equal(all_of(other_way, place), one_by_one(index, "train"))
    assert len(list((tmp_path / "store").glob("*/store.json"))) == 4


def test_a_file_that_changed_after_it_was_stored_is_decoded_again(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        file.write_bytes(encode_image(np.full((SIDE, SIDE, 3), i, np.uint8)))
    rows = [
        {"image_id": file.stem, "path": str(file), "label": i % 2, "split": "train", "role": "source"}
        for i, file in enumerate(files)
    ]
    (tmp_path / "rows").mkdir()
    write_source(rows, DatasetInfo("files", ("cat", "dog"), (), ("a cat", "a dog")), tmp_path / "rows")

    def values(gb: float) -> list[int]:
        index, place = RowIndex(tmp_path / "rows"), loading(tmp_path / "store", gb=gb)
        train = TrainingSet(index, "train", size_px=SIDE, loading=place)
        (images,) = train.batches([np.arange(4)])
        return [int(value) for value in images[:, 0, 0, 0]]

    assert values(1) == values(0) == [0, 1, 2, 3]
    files[2].write_bytes(encode_image(np.full((SIDE, SIDE, 3), 77, np.uint8)))
    assert values(1) == values(0) == [0, 1, 77, 3]


def test_a_killed_maker_leaves_nothing_that_counts(
    scenes_folder: Path, source: RowPictures, images_NHWC: np.ndarray, tmp_path: Path
) -> None:
    notes, folder = tmp_path / "notes", tmp_path / "store"
    notes.mkdir()
    maker = multiprocessing.get_context("forkserver").Process(
        target=store, args=(scenes_folder, notes, 60, loading(folder))
    )
    maker.start()
    while not list(notes.iterdir()):
        time.sleep(0.01)
    maker.kill()
    maker.join()
    (left,) = folder.glob(".*.tmp")
    assert left.is_dir()
    # It takes no room: of one and a half stores there is enough for another, of pictures a little larger.
    room = loading(folder, gb=1.5 * images_NHWC.nbytes / picture_store.GB)
    assert not open_pictures(source, size_px=SIDE + 1, loading=room).streams
    assert not left.exists()
    assert np.array_equal(all_of(source, loading(folder)), images_NHWC)
    assert len(list(folder.glob("*/pictures.npy"))) == 2


def test_how_far_decoding_is_is_said(scenes_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    slow = NotedPictures(scenes_folder, tmp_path, seconds=0.25)
    open_pictures(slow, size_px=SIDE, loading=loading(tmp_path / "store"), say=said.append)
    assert said
    for line in said:
        found = re.fullmatch(r"train: (\d+) of 160 pictures decoded, (\d+)/s", line)
        assert found is not None
        assert 0 < int(found[1]) <= 160
        assert 0 < int(found[2]) <= 32 / 0.25


@pytest.mark.parametrize("damage", ["header", "failed", "other", "shape", "cut", "empty", "archive"])
def test_a_store_that_is_not_what_it_should_be_is_refused(source: RowPictures, tmp_path: Path, damage: str) -> None:
    place = loading(tmp_path)
    all_of(source, place)
    (header,) = tmp_path.glob("*/store.json")
    pictures = header.with_name("pictures.npy")
    match damage:
        case "header":
            header.write_text("{")
        case "failed":
            header.write_text(json.dumps({**json.loads(header.read_text()), "failed": [3]}))
        case "other":
            found = json.loads(header.read_text())
            header.write_text(json.dumps({**found, "key": {**found["key"], "source": {"rows": "others"}}}))
        case "shape":
            np.save(pictures, np.zeros((160, SIDE, SIDE + 1, 3), np.uint8))
        case "cut":
            os.truncate(pictures, pictures.stat().st_size - 1)
        case "empty":
            os.truncate(pictures, 0)
        case "archive":
            with pictures.open("wb") as file:
                np.savez(file, images=np.zeros(3))
    with pytest.raises(RunFolderError, match=rf"Delete {header.parent}; its pictures are then decoded again"):
        all_of(source, place)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "shape"])
def test_places_that_are_not_what_they_should_be_are_refused(source: RowPictures, tmp_path: Path, damage: str) -> None:
    place = loading(tmp_path, gb=0)
    all_of(source, place)
    (places,) = tmp_path.glob("*/ranges-0.npy")
    match damage:
        case "gone":
            places.unlink()
        case "empty":
            os.truncate(places, 0)
        case "cut":
            os.truncate(places, places.stat().st_size - 1)
        case "shape":
            np.save(places, np.zeros((160, 3), np.int64))
    with pytest.raises(RunFolderError, match=rf"Delete {places.parent}; its pictures are then decoded again"):
        all_of(source, place)


def test_loader_processes_that_the_system_does_not_start_are_said(
    scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    place = loading(tmp_path, gb=0, processes=7)
    train = TrainingSet(RowIndex(scenes_folder), "train", size_px=SIDE, loading=place)
    monkeypatch.setattr(multiprocessing.get_context("forkserver").Process, "start", refuse)
    with pytest.raises(StageError, match=r"^7 processes .* \(Too many open files\); set fit.loader_processes lower$"):
        next(train.batches([np.arange(8)]))


def test_shared_memory_that_is_full_ends_the_fit_and_does_not_make_it_wait() -> None:
    loaders = LoaderProcesses(tensor_without_room, num=1)
    with pytest.raises(StageError, match=r"no room in shared memory \(.+\); give /dev/shm more .*fit.loader_processes"):
        list(loaders.map([1 << 20]))


@pytest.mark.parametrize(
    ("gb", "free", "says"),
    [
        (1e-5, None, r"160 decoded pictures take 0\.0 GB in .*, and fit.store_gb is 1e-05: these pictures \(train\)"),
        (1, 1000, r"the disk of .* has 0\.0 GB free"),
        (1, "fills up", r"pictures.npy cannot be written \(No space left on device\): these pictures"),
    ],
)
def test_a_disk_that_cannot_hold_a_store_is_said_and_the_pictures_are_streamed(
    source: RowPictures,
    images_NHWC: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gb: float,
    free: int | str | None,
    says: str,
) -> None:
    usage, write, written = shutil.disk_usage(tmp_path), os.pwrite, []

    def fills_up(*arguments: Any) -> int:
        written.append(arguments)
        if len(written) > 70:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    if isinstance(free, int):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type(usage)(usage.total, usage.used, free))
    elif free is not None:
        monkeypatch.setattr(os, "pwrite", fills_up)
    warned: list[str] = []
    found = open_pictures(source, size_px=SIDE, loading=loading(tmp_path, gb=gb), warn=warned.append)
    assert found.streams
    assert np.array_equal(found.read(np.arange(160)), images_NHWC)
    assert len(warned) == 1
    assert re.search(says, warned[0])
    assert not list(tmp_path.rglob("pictures.npy"))


def test_a_set_goes_to_other_processes_without_its_pictures(
    scenes_folder: Path, images_NHWC: np.ndarray, tmp_path: Path
) -> None:
    place = loading(tmp_path)
    train = TrainingSet(RowIndex(scenes_folder), "train", size_px=SIDE, loading=place)
    next(train.batches([np.arange(3)]))
    data = pickle.dumps(train)
    assert len(data) < 160 * 200
    (found,) = pickle.loads(data).batches([np.arange(160)])
    assert np.array_equal(found.numpy(), images_NHWC)
    shutil.rmtree(tmp_path)  # as on a node that has a disk of its own
    (found,) = pickle.loads(data).batches([np.arange(160)])
    assert np.array_equal(found.numpy(), images_NHWC)


def test_a_fit_whose_loader_process_dies_says_so_and_goes_on_from_its_last_epoch(
    scenes_folder: Path, tmp_path: Path
) -> None:
    index = RowIndex(scenes_folder)
    torch.set_num_threads(1)

    def fit(name: str, *, kills: bool) -> list[torch.Tensor]:
        (tmp_path / name).mkdir(exist_ok=True)
        place = loading(tmp_path / "store", gb=0, processes=1 if kills else 2)
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        train, val = (TrainingSet(index, split, size_px=SIDE, loading=place) for split in ("train", "val"))

        def kill(entry: Mapping[str, float], correct_N: np.ndarray) -> None:
            if kills and entry["epoch"] == 1:
                for child in psutil.Process().children(recursive=True):
                    if child.pid not in before and "forkserver" in " ".join(child.cmdline()) and not child.children():
                        child.kill()

        classifier = build_classifier(ClassifierConfig(width=8, image_size_px=SIDE), 2, seed=0)
        worker = Worker(0, 1, "cpu", tmp_path / name, on_epoch=kill)
        erm.fit(ErmConfig(epochs=3, select="last"), classifier, train, val, seed=0, worker=worker)
        return list(classifier.state_dict().values())

    with pytest.raises(StageError, match=r"decodes pictures for the fit died .*fit.loader_processes.* last epoch"):
        fit("disturbed", kills=True)
    resumed, whole = fit("disturbed", kills=False), fit("whole", kills=False)
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from raygen.algorithms.decoding import Loading
from raygen.algorithms.training_set import TrainingSet
from raygen.datasets.rows import RowIndex
from raygen.datasets.table import DatasetInfo, write_source

print("main", flush=True)
place = Loading(sys.argv[2], 0, 2)
train = TrainingSet(RowIndex(Path(sys.argv[1])), "train", size_px=16, loading=place)
next(train.batches([np.arange(8)]))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_loader_processes_end_with_their_fit_and_never_run_its_program_again(
    scenes_folder: Path, tmp_path: Path
) -> None:
    """A main file without `if __name__ == "__main__"`, and an end that no handler sees."""
    (tmp_path / "main.py").write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), str(scenes_folder), str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None
    try:
        assert [process.stdout.readline().strip() for _ in range(2)] == ["main", "ready"]
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 3  # the server and two loaders
    finally:
        process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=20)
    for left in alive:
        left.kill()
    assert not alive
    assert process.stdout.read() == ""


def test_a_folder_that_cannot_be_used_is_refused(source: RowPictures, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"cannot be used \(File exists\); set fit.store_folder"):
        all_of(source, loading(tmp_path / "file"))


def test_where_pictures_are_kept_follows_the_config(tmp_path: Path) -> None:
    default = FitConfig().loading(tmp_path)
    assert Path(default.folder) == tmp_path / ".pictures"
    assert (default.max_bytes, default.processes) == (64e9, 2)
    own = FitConfig(store_folder=tmp_path / "fast", store_gb=0.5, loader_processes=0, num_cpus=0.5).loading(tmp_path)
    assert (own.folder, own.max_bytes, own.processes) == (str(tmp_path / "fast"), 5e8, 0)
    assert FitConfig(num_cpus=0.5).loading(tmp_path).processes == 1
    assert FitConfig().deciding() == FitConfig(store_folder=tmp_path, store_gb=1, loader_processes=3).deciding()


@pytest.mark.parametrize("way", ["stored", "streamed", None])
def test_pictures_come_into_the_square_as_the_classifier_evaluates(way: str | None, tmp_path: Path) -> None:
    """Pictures that are wider than high, by another filter; a store of squashed ones beside is another store."""
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=(30, 47, 3), dtype=np.uint8) for _ in range(3)]
    rows = [
        {"image_id": str(i), "image_png": encode_image(image_HWC), "label": i % 2, "split": "train", "role": "source"}
        for i, image_HWC in enumerate(images)
    ]
    (tmp_path / "data").mkdir()
    write_source(rows, DatasetInfo("made", ("cat", "dog"), (), ("a cat", "a dog")), tmp_path / "data")
    frame = ClassifierConfig(image_size_px=20, framing="center_crop", resize_px=24, interpolation="bicubic").frame
    index = RowIndex(tmp_path / "data")
    options: dict[str, Any] = {"size_px": 24}
    if way is not None:
        options["loading"] = loading(tmp_path / "stores", **WAYS[way])
    squashed = TrainingSet(index, "train", **options)
    framed = TrainingSet(index, "train", resizing=frame.resizing, **options)
    (found_BTTC,), (other_BTTC,) = (found.batches([np.arange(3)]) for found in (framed, squashed))
    assert np.array_equal(found_BTTC, np.stack([frame.whole(image_HWC) for image_HWC in images]))
    assert np.array_equal(found_BTTC[:, frame.inside, frame.inside], [frame.picture(image) for image in images])
    assert np.array_equal(other_BTTC, [squash(image_HWC, 24) for image_HWC in images])
