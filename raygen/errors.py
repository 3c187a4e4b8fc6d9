"""Every error that raygen raises on purpose, drawn as a tree.

RaygenError                 exit code 1
├── UserError               exit code 2: the user can mend it; the message says what, where and what to do
│   ├── ConfigError         a config file, --set or a combination of options
│   ├── DataError           a dataset: folder, file, row, column, label
│   ├── ModelError          a model folder or hub id: absent, incomplete, of the wrong kind
│   ├── RunFolderError      a run folder that cannot be used as asked
│   └── ResourceError       CPUs, GPUs, memory or disk that are not there
├── RowError                one row cannot be processed: becomes the row's `error`, never ends a job by itself
├── TooManyFailedRowsError  more rows failed than max_failed_fraction allows
└── StageError              a part of the job failed: an actor, a fit, a worker

What a programmer can get wrong (a stage that reads a column nobody writes) is an AssertionError, not one of these.
"""


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


class TooManyFailedRowsError(RaygenError):
    """More rows failed than `max_failed_fraction` allows; the message lists the commonest reasons."""


class StageError(RaygenError):
    """A part of the job failed: an actor, a fit or a worker."""
