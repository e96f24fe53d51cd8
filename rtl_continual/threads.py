"""How many threads arithmetic may use."""

from __future__ import annotations

import os

__all__ = ["use_threads"]

_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def use_threads(count: int) -> None:
    """Let torch, and the linear algebra under NumPy, SciPy and scikit-learn, use so many threads.

    Discovery and the routers' mixtures are made of many small matrix products. Where cores are
    shared, threads that such a product is split among wait for each other: a look at an experience
    took eight times the processor time with two threads on two busy cores.

    Args:
        count: of this process, and of what is loaded into it later.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(count)
    threadpool_limits(limits=count)
    os.environ.update(dict.fromkeys(_SETTINGS, str(count)))
