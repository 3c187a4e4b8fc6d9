"""How many actors each pool has, and what a model call of theirs is."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raygen.config import Decides, PositiveInt, Strict


class PoolConfig(Strict, decides=Decides.RESULTS):
    """The actors of one stage.

    Attributes:
        actors: How many: a number, or [min, max] for a pool that grows with its queue.
        num_cpus: Logical CPUs that Ray sets aside for an actor.
        num_gpus: GPUs an actor takes; a fraction shares one.
        batch_size: Rows of one model call: another row count may change the last bits.
        num_threads: Torch threads of an actor, whatever `num_cpus` is; they may change the last bits too. On a CPU,
            more actors of one thread are faster than more threads.
        device: Where the models run: "cuda" or "cpu"; "auto" takes cuda when `num_gpus` is above 0.
    """

    actors: Annotated[PositiveInt | tuple[PositiveInt, PositiveInt], Decides.NOTHING] = 1
    num_cpus: Annotated[float, Decides.NOTHING] = Field(0.5, ge=0)
    num_gpus: Annotated[float, Decides.NOTHING] = Field(0, ge=0)
    batch_size: PositiveInt = 16
    num_threads: PositiveInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _ordered(self) -> "PoolConfig":
        if isinstance(self.actors, tuple) and self.actors[0] > self.actors[1]:
            raise ValueError(f"actors is [{self.actors[0]}, {self.actors[1]}]; the first number is the least")
        return self

    def deciding(self, *without: Decides) -> dict[str, Any]:
        """As ever, but the device is the one that the models run on, however it was chosen."""
        return {**super().deciding(*without), "device": self.torch_device}

    @property
    def torch_device(self) -> str:
        """The models' device: from the config, never from what the driver sees, which may have no GPU."""
        if self.device == "auto":
            return "cuda" if self.num_gpus > 0 else "cpu"
        return self.device

    @property
    def min_actors(self) -> int:
        """The fewest actors that run."""
        return self.actors if isinstance(self.actors, int) else self.actors[0]

    @property
    def max_actors(self) -> int:
        """The most actors that run."""
        return self.actors if isinstance(self.actors, int) else self.actors[1]


class PoolsConfig(Strict, decides=Decides.RESULTS):
    """The four pools: scorer in the scoring pass; masker, inpainter and pruner, all at once, in the synthesis pass."""

    scorer: PoolConfig = PoolConfig(num_cpus=1, batch_size=64)
    masker: PoolConfig = PoolConfig(num_cpus=0.25, batch_size=16)
    inpainter: PoolConfig = PoolConfig(actors=(1, 2), num_cpus=0.5, batch_size=16)
    pruner: PoolConfig = PoolConfig(num_cpus=0.25, batch_size=16)
