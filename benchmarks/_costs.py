"""What the steps of a run cost: CPU seconds of all processes below its command, and seconds that it holds GPUs.

A step that was done before costs nothing now, and what it cost then stays in `cost.json` beside it; one that was taken
from another run has that run's cost.
"""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

# Processes are looked at so often: what one uses between its last look and its end is not counted.
LOOK_EVERY_S = 0.1
FILE = "cost.json"


class Watch:
    """CPU seconds of a process and of all below it, as they grow.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._root, self._used = psutil.Process(pid), dict[tuple[int, float], float]()
        self._seen: list[tuple[float, float]] = [(time.time(), 0.0)]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._ends.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        """CPU seconds from one time to another, in seconds since the epoch."""
        return self._at(end) - self._at(start)

    def _at(self, when: float) -> float:
        return max((used for seen, used in self._seen if seen <= when), default=0.0)

    def _look(self) -> None:
        while not self._ends.wait(LOOK_EVERY_S):
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        times = process.cpu_times()
                        self._used[process.pid, process.create_time()] = times.user + times.system
            self._seen.append((time.time(), sum(self._used.values())))


def watched(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Runs a command that works in a run's folder, and notes the costs of its steps; its exit code and its errors.

    Args:
        command: The command.
        folder: The run's folder.
    """
    began = time.time()
    with subprocess.Popen(list(command), stderr=subprocess.PIPE, text=True) as process:
        watch = Watch(process.pid)
        assert process.stderr is not None
        errors = process.stderr.read()
        code = process.wait()
        watch.stop()
    if folder.is_dir():
        _note(folder, watch, began=began)
    return code, errors


def costs(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds, CPU seconds and GPU seconds by step's folder; empty where none were noted."""
    path = folder / FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _note(folder: Path, watch: Watch, *, began: float) -> None:
    found = costs(folder)
    for event in _events(folder):
        if event["event"] == "reuse":
            if event["step"] in (donor := costs(Path(event["run"]))):
                found.setdefault(event["step"], donor[event["step"]])
        elif event["event"] == "step" and event["time"] >= began:
            start, seconds = event["time"] - event["seconds"], event["seconds"]
            cpu_s = watch.between(start, event["time"])
            step = event.get("folder", event["step"])
            gpu_s = seconds * _gpus(folder, step)
            found[step] = {"seconds": seconds, "cpu_s": round(cpu_s, 2), "gpu_s": round(gpu_s, 2)}
    (folder / FILE).write_text(json.dumps(found, indent=1), encoding="utf-8")


def _gpus(folder: Path, step: str) -> float:
    """How many GPUs a step holds, by the run's config: those of the fit's workers, or of the pools' least actors."""
    from raygen.config import load_yaml

    config = load_yaml(folder / "config.yaml")
    pools = {
        "candidates": ("masker", "inpainter", "pruner"),
        **dict.fromkeys(("evaluation", "measures", "scores", "val_scores", "scores_in_sample"), ("scorer",)),
        **dict.fromkeys(("data", "plan"), ()),
    }
    if step not in pools:  # a fit of a classifier or of tokens
        return float(config["fit"]["num_gpus"] * config["fit"]["num_workers"])
    held = [config["pools"][name] for name in pools[step]]
    actors = [pool["actors"] if isinstance(pool["actors"], int) else pool["actors"][0] for pool in held]
    return float(sum(pool["num_gpus"] * num for pool, num in zip(held, actors, strict=True)))


def _events(folder: Path) -> list[dict[str, Any]]:
    from raygen.storage.run_folder import RunFolder

    return RunFolder(folder).events()
