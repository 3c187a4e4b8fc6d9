"""Every error that raygen raises on purpose, drawn as a tree.

RaygenError                 exit code 1
├── UserError               exit code 2: the user can mend it; the message says what, where and what to do
│   ├── ConfigError         a config file, --set or a combination of options
│   ├── DataError           a dataset: folder, file, row, column, label
│   ├── ModelError          a model folder or hub id: absent, incomplete, of the wrong kind
│   ├── RunFolderError      a run folder that cannot be used as asked
│   └── ResourceError       CPUs, GPUs, memory or disk that are not there
├── RowError                one row cannot be processed: becomes the row's `error`, never ends a job by itself
│   ├── NonFiniteError      the model gave NaN or infinite numbers
│   ├── UnclearMaskError    a mask's values do not say what it selects
│   └── BlockedError        the model's safety checker blocked the picture
├── TooManyFailedRowsError  more rows failed than max_failed_fraction allows
├── StageError              a part of the job failed: an actor, a fit, a worker
└── EndpointError           the endpoint refused or failed an edit: has a code and the parameter at fault

What a programmer can get wrong (a stage that reads a column nobody writes) is an AssertionError, not one of these.
"""

import errno
import os
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class RaygenError(Exception):
    """Base of every error that raygen raises on purpose."""

    exit_code = 1


class UserError(RaygenError):
    """The user's to mend; the message names what was wrong, where, and the way out."""

    exit_code = 2


class ConfigError(UserError):
    """A config file, a `--set` option or a combination of options is wrong."""


class DataError(UserError):
    """A dataset folder, file, row, column or label is wrong."""


class ModelError(UserError):
    """A model is absent, incomplete or of the wrong kind."""


class RunFolderError(UserError):
    """A run folder cannot be used as asked: another config, edited files, a newer format."""


class ResourceError(UserError):
    """CPUs, GPUs, memory or disk space that were asked for are not there."""


class RowError(RaygenError):
    """One row cannot be processed; its message becomes the row's `error`."""


class NonFiniteError(RowError):
    """The model gave NaN or infinite numbers for this row."""


class UnclearMaskError(RowError):
    """A mask can be decoded, but its values do not say what it selects."""


class BlockedError(RowError):
    """The model's safety checker blocked this row's picture."""


class TooManyFailedRowsError(RaygenError):
    """More rows failed than `max_failed_fraction` allows; the message lists the commonest reasons."""


class StageError(RaygenError):
    """A part of the job failed: an actor, a fit or a worker."""


class EndpointError(RaygenError):
    """The endpoint refused a request or could not fulfil it; travels through Ray and HTTP unchanged.

    Args:
        message: What was wrong, what was found, what to do; no path, prompt or traceback in it.
        code: Which kind, a row of the table in `serve.http.errors`, such as "mask_size_mismatch".
        param: Field at fault.
        retryable: Whether the same request may succeed later.
        retry_after_s: Seconds to wait before that.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.retryable, self.retry_after_s = code, param, retryable, retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with its keyword arguments."""
        rebuild = partial(
            type(self),
            code=self.code,
            param=self.param,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
        )
        return rebuild, (str(self),)


def or_row_error(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | RowError:
    """What a call gives, or the error by which its row fails."""
    try:
        return call(*args, **kwargs)
    except RowError as error:
        return error


def unreadable(path: Path, error: Exception, way_out: str) -> str:
    """What is wrong with a file that was there and could not be read, and what to do.

    A file that this user may not read is whole: advice to delete it would destroy work.

    Args:
        path: The file.
        error: What reading it raised.
        way_out: What to do if it is damaged, a sentence.
    """
    if isinstance(error, PermissionError):
        return f"{path} cannot be read ({os.strerror(errno.EACCES)}). Make it readable for this user."
    return f"{path} is damaged ({error}). {way_out}"


def number_text(value: float) -> str:
    """A number as people write it, to six digits where it is not whole: 4294967295, 0.5, never 4.29497e+09."""
    return str(int(value)) if float(value).is_integer() else f"{Decimal(f'{value:.6g}'):f}"
