"""Models of the Hugging Face hub: whether this machine's cache or the hub has one, asked in seconds.

Not for fetching: the libraries that load a model do that. They try for half a minute and longer where there is no
network, and fail when a run has long begun; so it is asked here, before.
"""

import difflib
import functools
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from raygen.errors import ModelError

# For the name service and for the answer, each.
TIMEOUT_S = 5.0
# Files that say what a model is: diffusers', transformers'.
PIPELINE_INDEX = "model_index.json"
MODEL_INDEX = "config.json"
# Names that are shown of a folder's content.
_SHOWN = 5

Result = TypeVar("Result")


def check_loadable(
    model: str, revision: str | None, *, index: str, field: str, check: Callable[[Path, bool], None]
) -> None:
    """Checks that a folder or a hub id can be loaded: from the cache without a question to the hub, else from there.

    Args:
        model: A folder, or "owner/name" where there is none of that name.
        revision: Commit, branch or tag.
        index: The file that says what the model is.
        field: The config's field, for messages.
        check: Checks a folder, and whether it holds a whole model or only the index; raises a ModelError.

    Raises:
        ModelError: Neither has it, it is not whole and the hub does not answer, or it is of another kind.
    """
    if Path(model).is_dir():
        return check(Path(model), True)
    snapshot, incomplete = cached(model, revision), None
    if snapshot is not None:
        try:
            return check(snapshot, True)
        except ModelError as error:
            incomplete = error
    reason = ask(model, index, revision)
    if reason is None:
        from huggingface_hub import hf_hub_download

        return check(Path(hf_hub_download(model, index, revision=revision)).parent, False)
    place = f"not in the hub's cache ({_cache()})"
    if incomplete is not None:
        place = f"not usable as it is in the hub's cache ({incomplete})"
    raise ModelError(
        f"{field}: there is no folder '{model}' ({_looked_for(model)}). Read as a hub id: it is {place}, and {reason}. "
        "Correct the path, or give a hub id that this machine can reach or has in its cache"
    )


def loadable(name: str, revision: str | None) -> str:
    """What to give a loader: the cache's folder of a hub id that is there when the hub does not give it, else the name.

    Without a network the libraries ask again and again for each file that they have.
    """
    if Path(name).is_dir():
        return name
    snapshot = cached(name, revision)
    if snapshot is None:
        return name
    index = PIPELINE_INDEX if (snapshot / PIPELINE_INDEX).is_file() else MODEL_INDEX
    return name if ask(name, index, revision) is None else str(snapshot)


def cached(model: str, revision: str | None) -> Path | None:
    """Folder of a hub id in the hub's cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for index in (PIPELINE_INDEX, MODEL_INDEX):
        try:
            found = try_to_load_from_cache(model, index, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


@functools.cache
def ask(model: str, index: str, revision: str | None) -> str | None:
    """Why the hub does not give a model; None where it does. One question, without the libraries' many tries."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    # A kind stands before those that it is a kind of.
    answers: dict[type[Exception], str] = {
        errors.HFValidationError: "it has not the form of one (owner/name)",
        errors.OfflineModeIsEnabled: "the hub is not asked, since HF_HUB_OFFLINE is set",
        errors.GatedRepoError: "the hub gives it to those who accept its terms: do so on its page and set HF_TOKEN",
        errors.RepositoryNotFoundError: "the hub has no such model, or a private one, for which HF_TOKEN must be set",
        errors.RevisionNotFoundError: f"the hub's model has no revision '{revision}'",
        errors.RemoteEntryNotFoundError: f"the hub's model has no {index}",
    }
    # Of the HTTP library, which has been another one in each version of the hub's.
    http_error: Any = errors.HfHubHTTPError.__bases__[0]
    kinds = (*answers, errors.FileMetadataError, OSError, http_error)
    try:
        url = hf_hub_url(model, index, revision=revision)
        _within(2 * TIMEOUT_S, lambda: get_hf_file_metadata(url, timeout=TIMEOUT_S))
    except kinds as error:
        reason = next(iter(str(error).strip().splitlines()), repr(error))
        known = [text for kind, text in answers.items() if isinstance(error, kind)]
        return known[0] if known else f"the hub does not answer ({reason})"
    return None


def unreachable(url: str) -> str | None:
    """Why a file on the network cannot be had; None where its server answers."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        _within(2 * TIMEOUT_S, lambda: urllib.request.urlopen(request, timeout=TIMEOUT_S).close())
    except (OSError, ValueError) as error:  # urllib's own errors are OSErrors
        return str(error)
    return None


def nearby(path: Path) -> str:
    """What is there instead of a folder that is not, for messages: names that are like it, or how far it goes."""
    there = path.absolute()
    while not there.parent.is_dir():
        there = there.parent
    names = sorted(entry.name for entry in _entries(there.parent))
    close = difflib.get_close_matches(there.name, names, n=3)
    if close:
        return f"{there.parent} has {', '.join(close)}"
    if there != path.absolute():
        return f"{there.parent} has no {there.name}"
    more = ", …" if len(names) > _SHOWN else ""
    return f"{there.parent} has {', '.join(names[:_SHOWN])}{more}" if names else f"{there.parent} has no folders"


def _looked_for(model: str) -> str:
    path = Path(model).expanduser()
    return f"looked for {path.absolute()}; {nearby(path)}"


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:  # one that may not be listed: its names are only a hint
        return []


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _within(seconds: float, function: Callable[[], Result]) -> Result:
    """What a function gives back; a name service that does not answer may hold it for minutes, whatever its timeout.

    Raises:
        TimeoutError: It takes longer. It goes on in its thread, which does not keep the process alive.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)  # raised again, in the thread that waits

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer in {seconds:g} s") from error
