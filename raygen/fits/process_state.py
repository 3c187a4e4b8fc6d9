"""What a fit may leave behind in its process, put back: the next fit there goes as it would in a new process.

Not the memory of what was built: a fit's objects go with its body. What libraries cache to be faster stays.
"""

import gc
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

_cudnn, _matmul = torch.backends.cudnn, torch.backends.cuda.matmul
# What a fit may set, of what decides its numbers: functions that read it and put it back, and attributes.
_FUNCTIONS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (partial(torch.is_autocast_enabled, "cpu"), partial(torch.set_autocast_enabled, "cpu")),
    (partial(torch.is_autocast_enabled, "cuda"), partial(torch.set_autocast_enabled, "cuda")),
)
_ATTRIBUTES: tuple[tuple[Any, str], ...] = (
    (_cudnn, "enabled"),
    (_cudnn, "benchmark"),
    (_cudnn, "deterministic"),
    (_cudnn, "allow_tf32"),
    (_matmul, "allow_tf32"),
    (_matmul, "allow_fp16_reduced_precision_reduction"),
    (_matmul, "allow_bf16_reduced_precision_reduction"),
)


class ProcessState:
    """The state of this process, as it is when this is made: before its first fit."""

    def __init__(self) -> None:
        self._settings: list[tuple[Callable[[Any], Any], Any]] = [
            *((put_back, read()) for read, put_back in _FUNCTIONS),
            *((partial(setattr, owner, name), getattr(owner, name)) for owner, name in _ATTRIBUTES),
        ]
        self._environment = dict(os.environ)

    def restore(self, *, num_threads: int, seed: int) -> None:
        """Makes this process as it was, with that many torch threads.

        The generators that nobody named, which dropout draws from, begin with a seed: a new process draws one for each.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for put_back, value in self._settings:
            put_back(value)
        for name in {*os.environ} - {*self._environment}:
            del os.environ[name]
        os.environ.update(self._environment)
        torch.set_num_threads(num_threads)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        # What was compiled counts towards a limit beyond which torch.compile gives up and runs other kernels.
        if (compiler := sys.modules.get("torch._dynamo")) is not None:
            compiler.reset()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
