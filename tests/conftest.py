"""One local Ray for the whole session, and the small real things that tests share."""

import os

# Before torch is imported: the models are tiny, and threads that wait for each other on a busy machine make them a
# hundred times slower. Workers of Ray take it over.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path

import pytest

# Four logical CPUs, whatever the machine has: enough for the default pools and for a pool of three.
RAY_CPUS = 4


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray that all tests share."""
    import logging

    import ray

    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=RAY_CPUS,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=300 << 20,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scenes dataset: 160 training, 80 validation, 80 test pictures, 8 classes-and-backgrounds alike."""
    from raygen.datasets import write_dataset
    from raygen.datasets.scenes import ScenesConfig

    folder = tmp_path_factory.mktemp("scenes")
    config = ScenesConfig(train_counts=(100, 20, 10, 30), val_counts=(20, 20, 20, 20), test_counts=(20, 20, 20, 20))
    write_dataset(config, folder, run_seed=0)
    return folder
