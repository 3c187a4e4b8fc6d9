"""Whether torch.compile works here: it needs a compiler of the machine's, which torch does not bring."""

import torch

from raygen.errors import ResourceError


def check_compiler(device: str) -> None:
    """Compiles a small network's step, to know before any work whether that can be done.

    Raises:
        ResourceError: It cannot.
    """
    torch.compiler.reset()
    try:
        network: torch.nn.Module = torch.nn.Linear(8, 8).to(device)
        torch.compile(network, dynamic=False)(torch.ones(8, 8, device=device)).sum().backward()
    except (RuntimeError, OSError, ImportError) as error:  # dynamo's and inductor's own are RuntimeErrors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"fit.compile is true, but torch.compile does not work here: {reason}. It needs triton and a C compiler "
            "(gcc, or what the variable CC names) on every machine that fits; install them, or set fit.compile=false"
        ) from error
