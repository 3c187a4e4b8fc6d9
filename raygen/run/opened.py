"""What a run reads, opened once: its dataset and its models."""

from functools import cached_property

from raygen.datasets import open_dataset
from raygen.datasets.opened import OpenDataset
from raygen.endpoint.connect import connect_endpoint
from raygen.endpoint.retry import ask_blocking
from raygen.inpainters.model_folder import FoundPainter, find_painter
from raygen.run.config import RunConfig
from raygen.textual_inversion.class_tokens import trained_model


class Opened:
    """A config with what it names, each opened when it is first asked for and then kept as long as this is.

    Args:
        config: The run's config.
        dataset: Its dataset, where that is open already.
    """

    def __init__(self, config: RunConfig, dataset: OpenDataset | None = None) -> None:
        self.config, self._dataset = config, dataset

    @cached_property
    def dataset(self) -> OpenDataset:
        """The dataset; see `raygen.datasets.open_dataset`."""
        return self._dataset or open_dataset(self.config.dataset)

    @cached_property
    def painter(self) -> FoundPainter | None:
        """The inpainting model; None where none paints here."""
        config = self.config
        return find_painter(config.inpainter) if config.needs_model and not config.inpainter.url else None

    @cached_property
    def learner(self) -> FoundPainter | None:
        """The model that tokens are learned with; None where none are."""
        settings = self.config.textual_inversion
        return None if settings is None else find_painter(trained_model(settings, self.config.inpainter))

    def painter_revision(self) -> str | None:
        """What the inpainting model is now: its files' hash, the revision of a hub id, or what its endpoint says."""
        if self.painter is not None:
            return self.painter.revision
        inpainter = self.config.inpainter
        assert inpainter.url is not None
        facts = ask_blocking(connect_endpoint(inpainter.url).facts, inpainter.model)
        return str(facts["digest"]).removeprefix("sha256:")
