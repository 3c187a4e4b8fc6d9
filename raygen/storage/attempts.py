"""Which rows kill their worker: what a worker is about to do is written down, so that its successor can tell.

A row that makes its worker crash would otherwise be tried for ever: Ray starts a new worker and gives it the same rows
again. Python cannot catch such a death, and the rows of a call die together. So a call whose worker died is made again
as it was, since most deaths are not a row's fault (a node that is lost, a process that was killed). After the second
death its rows are processed one at a time, and a row that then takes its worker with it twice is left out.

Calls overlap, and a death counts for all that a worker was in. So a unit whose worker died is processed call after call
from then on, with no other unit beside it, and the second death counts for the call that it happened in.
"""

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raygen.storage.writing import atomic, disk_errors

# Deaths after which the rows of a call are processed one at a time.
DEATHS_TOGETHER = 2
# Deaths after which a row that was processed alone is left out.
DEATHS_ALONE = 2


@dataclass
class _State:
    """What is known of one unit in one pool.

    Attributes:
        doing: First row of each call that a worker is in, and the row if it processes that alone.
        together: Workers that died in a call, by its first row (as text: JSON has no other keys).
        alone: Workers that died in a call of one row, by that row.
    """

    doing: list[tuple[int, int | None]] = field(default_factory=list)
    together: dict[str, int] = field(default_factory=dict)
    alone: dict[str, int] = field(default_factory=dict)


class Attempts:
    """The calls of one unit in one pool.

    Args:
        folder: Folder that all workers of the pass share; made when absent.
        pool: The pool's name.
        unit: The unit's number.
    """

    def __init__(self, folder: Path, pool: str, unit: int) -> None:
        self._path = folder / f"{pool}-{unit:06d}.json"
        self._state = _State()
        self._lock = threading.Lock()
        if not self._path.is_file():
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            return
        state = self._state = _State(**json.loads(self._path.read_text(encoding="utf-8")))
        for start, row in state.doing:  # whoever wrote that never came to the end of it
            deaths, key = (state.together, str(start)) if row is None else (state.alone, str(row))
            deaths[key] = deaths.get(key, 0) + 1
        state.doing = []

    @property
    def has_deaths(self) -> bool:
        """Whether a worker died that was in this unit."""
        return bool(self._state.together or self._state.alone)

    @property
    def killers(self) -> list[int]:
        """Rows that are to be left out."""
        return [int(row) for row, deaths in self._state.alone.items() if deaths >= DEATHS_ALONE]

    def one_at_a_time(self, start: int) -> bool:
        """Whether the rows of the call that begins with row `start` are to be processed alone."""
        return self._state.together.get(str(start), 0) >= DEATHS_TOGETHER

    def begin(self, start: int, row: int | None = None) -> None:
        """Notes that a call begins, and that no other is under way: of all rows from `start`, or of one of them."""
        with self._lock:
            self._state.doing = [(start, row)]
            self._write()

    def begin_beside(self, start: int) -> None:
        """Notes that a call begins while others are under way; from any thread."""
        with self._lock:
            self._state.doing.append((start, None))
            self._write()

    def end_beside(self, start: int) -> None:
        """Forgets such a call; on the disk with the next that begins."""
        with self._lock:
            self._state.doing.remove((start, None))

    def finish(self) -> None:
        """Forgets the unit: it went through."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        with atomic(self._path, sync=False) as temporary:
            temporary.write_text(json.dumps(asdict(self._state)), encoding="utf-8")
