"""The short set of the benchmarks, in under fifteen minutes on two cores, next to the results in the repository.

Each script runs with `--short`; what it measures goes into `benchmarks/results.json`. A ratio counts as changed where
its turns and the earlier ones do not overlap.

    python benchmarks/short.py                      # every script that has a short set
    python benchmarks/short.py fits attribution     # some
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
# Scripts of the short set, by what they measure.
SHORT: tuple[str, ...] = (
    "attribution",
    "fit_data",
    "fit_loop",
    "fit_memory",
    "pool_busy",
    "pool_scaling",
    "startup",
    "synthesis",
)


def main() -> None:
    """Runs, compares and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", help=f"of {', '.join(SHORT)}; by default all")
    arguments = parser.parse_args()
    before: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / RESULTS.name
        for name in arguments.scripts or SHORT:
            print(f"== {name}", flush=True)
            start = time.monotonic()
            command = [sys.executable, str(HERE / f"{name}.py"), "--short", "--into", str(fresh)]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
            print(f"   {time.monotonic() - start:.0f} s", flush=True)
        found: dict[str, Any] = json.loads(fresh.read_text(encoding="utf-8")) if fresh.is_file() else {"results": {}}
    old = before.get("results", {})
    print("\n".join(changes(old, found["results"]) or ["no ratio has changed beyond its spread"]))
    if found["results"]:
        merged = dict(sorted({**old, **found["results"]}.items()))
        text = json.dumps({**found, "results": merged}, indent=1, ensure_ascii=False)
        RESULTS.write_text(text + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines for the ratios whose turns do not overlap with those of before."""
    lines = []
    for claim, entry in new.items():
        earlier = old.get(claim)
        if earlier is None:
            lines.append(f"new      {claim}: {entry['ratio']:.3f}")
        elif entry["low"] > earlier["high"] or entry["high"] < earlier["low"]:
            lines.append(f"CHANGED  {claim}: {earlier['ratio']:.3f} -> {entry['ratio']:.3f}")
    return lines


if __name__ == "__main__":
    main()
