import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raygen.errors import RunFolderError
from raygen.storage.run_folder import FORMAT_VERSION, MANIFEST, RunFolder, Step, read_manifest
from raygen.storage.writing import write_json, write_text

IDENTITY = {"recipe": "dbb", "synthesis": {"k": 3}}


def finished_step(folder: Path, depends: Any = None) -> Step:
    step = Step(folder, depends or {"seed": 1})
    step.begin()
    (step.folder / "inner").mkdir()
    write_text(step.folder / "rows.txt", "abc")
    write_text(step.folder / "inner" / "more.txt", "defgh")
    step.finish({"rows": 3})
    return step


def manifest(step: Step) -> dict[str, Any]:
    found = read_manifest(step.folder)
    assert found is not None
    return found


def states(step: Step) -> tuple[bool, bool]:
    """Whether it is begun, and whether it is complete."""
    return step.is_begun, step.is_complete


def claim(folder: RunFolder, config: Any = IDENTITY, *, identity: Any = IDENTITY, fresh: Any = False) -> dict[str, Any]:
    with folder.claimed(config, identity=identity, fresh=fresh) as other_versions:
        return other_versions


def test_step_is_complete_only_after_its_manifest(tmp_path: Path) -> None:
    step = Step(tmp_path / "plan", {"seed": 1})
    assert states(step) == (False, False)
    write_text(step.begin() / "rows.txt", "abc")
    assert states(step) == (True, False)
    step.finish({"rows": 1})
    assert states(step) == (False, True)
    assert manifest(step)["counts"] == {"rows": 1}


def test_manifest_lists_every_file_with_its_size(tmp_path: Path) -> None:
    step = finished_step(tmp_path / "plan")
    files = manifest(step)["files"]
    assert {name: entry["bytes"] for name, entry in files.items()} == {"inner/more.txt": 5, "rows.txt": 3}
    assert files["rows.txt"]["digest"] == hashlib.blake2b(b"abc", digest_size=16).hexdigest()
    assert manifest(step)["versions"]["pyarrow"]


def test_other_dependencies_make_the_step_again(tmp_path: Path) -> None:
    finished_step(tmp_path / "plan", {"seed": 1})
    assert Step(tmp_path / "plan", {"seed": 1}).is_complete
    assert not Step(tmp_path / "plan", {"seed": 2}).is_complete
    # Tuples and lists are the same in JSON.
    assert Step(tmp_path, {"k": (1, 2)}).fingerprint == Step(tmp_path, {"k": [1, 2]}).fingerprint


def test_beginning_again_empties_the_folder_unless_parts_are_kept(tmp_path: Path) -> None:
    step = finished_step(tmp_path / "plan")
    step.begin(keep_parts=True)
    assert (step.folder / "rows.txt").is_file()
    assert not step.is_complete
    step.begin()
    assert [path.name for path in step.folder.iterdir()] == [".begun"]


def test_file_that_is_gone_or_changed_is_an_error(tmp_path: Path) -> None:
    step = finished_step(tmp_path / "plan")
    (step.folder / "rows.txt").write_text("abcd")
    with pytest.raises(RunFolderError, match=r"has 4 bytes.*says 3"):
        _ = step.is_complete
    (step.folder / "rows.txt").unlink()
    with pytest.raises(RunFolderError, match="is gone"):
        _ = step.is_complete


def test_what_a_killed_writer_left_is_no_output(tmp_path: Path) -> None:
    step = Step(tmp_path / "erm", {"seed": 1})
    write_text(step.begin() / "rows.txt", "abc")
    clean = finished_step(tmp_path / "clean")
    (step.folder / ".checkpoint.pt.1f2e.tmp").write_bytes(b"half a checkpoint")
    (step.folder / ".work").mkdir()
    (step.folder / ".work" / "note.json").write_text("{}")
    (step.folder / "inner").mkdir()
    write_text(step.folder / "inner" / "more.txt", "defgh")
    step.finish({"rows": 3})
    assert step.digest == clean.digest
    (step.folder / ".checkpoint.pt.1f2e.tmp").unlink()
    assert step.is_complete


def test_unfinished_work_is_known_by_its_dependencies(tmp_path: Path) -> None:
    step = Step(tmp_path / "fit", {"seed": 1})
    assert states(step) == (False, False)
    step.begin()
    assert states(step) == (True, False)
    assert not Step(tmp_path / "fit", {"seed": 2}).is_begun
    step.finish({})
    assert states(step) == (False, True)


def test_edited_file_of_the_same_size_is_an_error_and_a_touched_one_is_not(tmp_path: Path) -> None:
    step = finished_step(tmp_path / "plan")
    later_ns = (step.folder / MANIFEST).stat().st_mtime_ns + 10**9
    os.utime(step.folder / "rows.txt", ns=(later_ns, later_ns))
    assert step.is_complete
    (step.folder / "rows.txt").write_text("abd")
    os.utime(step.folder / "rows.txt", ns=(later_ns, later_ns))
    with pytest.raises(RunFolderError, match=r"rows\.txt was changed after .*manifest\.json was written"):
        _ = step.is_complete


def test_table_that_the_manifest_does_not_list_is_an_error(tmp_path: Path) -> None:
    step = finished_step(tmp_path / "candidates")
    (step.folder / "part-000009.parquet").write_bytes(b"from another run")
    with pytest.raises(RunFolderError, match="came from elsewhere"):
        _ = step.is_complete


def test_digest_follows_the_output_and_not_the_dependencies(tmp_path: Path) -> None:
    first, second = finished_step(tmp_path / "a", {"seed": 1}), finished_step(tmp_path / "b", {"seed": 2})
    assert first.digest == second.digest
    write_text(second.begin() / "rows.txt", "other")
    second.finish({})
    assert first.digest != second.digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        f'{{"depends": {{"format_version": {FORMAT_VERSION}}}}}',
        '{"depends": {"format_version": "x"}, "fingerprint": "a", "files": {}}',
        f'{{"depends": {{"format_version": {FORMAT_VERSION}}}, "fingerprint": "a", "files": []}}',
    ],
)
def test_damaged_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(RunFolderError, match="damaged"):
        read_manifest(tmp_path)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    manifest = {"depends": {"format_version": FORMAT_VERSION + 1}, "fingerprint": "a", "files": {}}
    write_json(tmp_path / MANIFEST, manifest)
    with pytest.raises(RunFolderError, match="newer raygen"):
        read_manifest(tmp_path)


def test_folder_belongs_to_its_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    claim(folder, {**IDENTITY, "engine": "ray"})
    claim(folder, {**IDENTITY, "engine": "local"})
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["engine"] == "local"
    other = {"recipe": "dbb", "synthesis": {"k": 4}}
    with pytest.raises(RunFolderError, match=r"synthesis\.k: 3 -> 4"):
        claim(folder, other, identity=other)
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["synthesis"] == {"k": 3}


def test_fresh_deletes_a_run_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    claim(folder)
    (folder.path / "old.txt").write_text("old")
    claim(folder, {"recipe": "erm"}, identity={"recipe": "erm"}, fresh=True)
    assert not (folder.path / "old.txt").exists()
    assert (folder.path / ".raygen.json").is_file()
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("x")
    with pytest.raises(RunFolderError, match="not a raygen run"):
        claim(RunFolder(foreign), fresh=True)
    assert (foreign / "chapter1.tex").is_file()


def test_place_where_no_folder_can_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent" / "folder")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("file", "file/run", "nowhere", "circle", "circle/run", "x" * 300):
        with pytest.raises(RunFolderError, match=r"another --out|give a folder"):
            claim(RunFolder(tmp_path / name))


def test_linked_folder_is_a_folder_and_what_a_link_leads_to_is_never_deleted(tmp_path: Path) -> None:
    """Runs, and single steps of them, are moved to larger disks and linked back."""
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    folder = RunFolder(tmp_path / "run")
    claim(folder)
    for redo in (lambda: claim(folder, fresh=True), lambda: Step(folder.path / "scores", {"seed": 2}).begin()):
        moved = tmp_path / "disk" / "scores"
        finished_step(moved)
        (folder.path / "scores").symlink_to(moved)
        assert Step(folder.path / "scores", {"seed": 1}).is_complete
        redo()
        assert not (folder.path / "scores").is_symlink()
        assert (moved / "rows.txt").read_text() == "abc"
    assert (tmp_path / "disk" / "run" / ".raygen.json").is_file()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_damaged_marker_is_an_error_and_fresh_mends_it(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path / "run")
    claim(folder)
    (folder.path / ".raygen.json").write_text(text)
    with pytest.raises(RunFolderError, match="damaged"):
        claim(folder)
    claim(folder, fresh=True)


def test_second_run_is_refused_with_the_firsts_host_and_process_until_that_is_dead(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from raygen.storage.run_folder import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1])).claimed({}, identity={}, fresh=False): print('held', flush=True); "
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            holder = rf"in use by another run: host {os.uname().nodename}, process {first.pid}"
            for fresh in (False, True):
                with pytest.raises(RunFolderError, match=holder):
                    claim(RunFolder(tmp_path / "run"), {}, identity={}, fresh=fresh)
        finally:
            first.kill()
    claim(RunFolder(tmp_path / "run"), {}, identity={})  # its lock went with it


def test_folder_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    claim(folder)
    marker = json.loads((folder.path / ".raygen.json").read_text())
    write_json(folder.path / ".raygen.json", {**marker, "format_version": FORMAT_VERSION + 1})
    with pytest.raises(RunFolderError, match="newer raygen"):
        claim(folder)


def test_other_versions_than_the_folder_was_begun_with_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert claim(folder) == {}
    marker = json.loads((folder.path / ".raygen.json").read_text())
    now = marker["versions"]["torch"]
    write_json(folder.path / ".raygen.json", {**marker, "versions": {**marker["versions"], "torch": "1.0"}})
    assert claim(folder) == {"torch": ("1.0", now)}
    assert claim(folder) == {"torch": ("1.0", now)}, "the folder still holds what the first version made"


def test_newest_seconds_of_each_step_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.seconds() == {}
    folder.log("step", step="erm", seconds=9.0)
    folder.log("command", argv="raygen demo")
    with folder.timed("scores"):
        pass
    folder.log("step", step="erm", seconds=4.0)
    seconds = folder.seconds()
    assert seconds["erm"] == 4.0
    assert 0 <= seconds["scores"] < 1
    assert list(seconds) == ["erm", "scores"]


def test_failed_step_logs_no_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError), folder.timed("scores"):
        raise RuntimeError
    assert folder.seconds() == {}


def test_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log("step", step="erm", seconds=1.0)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"time": 1, "event": "st')
    folder.log("step", step="scores", seconds=2.0)
    folder.log("step", step="plan", seconds=3.0)
    # The line after the cut one is lost with it; the others count.
    assert folder.seconds() == {"erm": 1.0, "plan": 3.0}


def test_writing_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": 1})
    write_json(tmp_path / "a.json", {"ü": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ü": 2}


def run_with_step(path: Path, depends: Any = None) -> Step:
    """A run's folder with the finished step "plan"."""
    claim(RunFolder(path))
    return finished_step(path / "plan", depends)


@pytest.mark.parametrize("has_links", [True, False])
def test_finished_step_of_another_run_is_taken_over_and_neither_changes_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", lambda source, target: (_ for _ in ()).throw(OSError("no hard links")))
    donor = run_with_step(tmp_path / "first")
    folder = RunFolder(tmp_path / "second", reuse=[tmp_path / "first"])
    claim(folder)
    step = folder.step("plan", {"seed": 1})
    assert step.is_complete
    assert step.digest == donor.digest
    assert [event["step"] for event in folder.events() if event["event"] == "reuse"] == ["plan"]
    write_text(step.begin() / "rows.txt", "other")
    step.finish({"rows": 1})
    assert donor.is_complete
    assert (donor.folder / "rows.txt").read_text() == "abc"


def test_step_of_other_dependencies_or_unfinished_is_not_taken_over(tmp_path: Path) -> None:
    run_with_step(tmp_path / "first", {"seed": 2})
    claim(RunFolder(tmp_path / "half"))
    Step(tmp_path / "half" / "plan", {"seed": 1}).begin()
    folder = RunFolder(tmp_path / "second", reuse=[tmp_path / "first", tmp_path / "half"])
    claim(folder)
    assert not folder.step("plan", {"seed": 1}).is_complete
    assert not (tmp_path / "second" / "plan").exists()


def test_what_a_run_finished_itself_stays(tmp_path: Path) -> None:
    run_with_step(tmp_path / "first")
    own = run_with_step(tmp_path / "second")
    before = (own.folder / "rows.txt").stat().st_ino
    assert RunFolder(tmp_path / "second", reuse=[tmp_path / "first"]).step("plan", {"seed": 1}).is_complete
    assert (own.folder / "rows.txt").stat().st_ino == before


def test_reuse_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run to take finished steps from"):
        RunFolder(tmp_path / "second", reuse=[tmp_path / "elsewhere"])
