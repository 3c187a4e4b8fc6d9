"""The inpainter that asks an endpoint: a pool of such actors needs no model of its own.

With the same model and as many rows a UNet call, its pictures are those of a pool that loads the model, to the byte:
squashing to the model's square and putting back what lies outside the mask is done here, by the same functions.
"""

# H height and W width of the picture, C colour channels

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from raygen.endpoint.edits import EditRequest, LearnedToken
from raygen.endpoint.http import IN_FLIGHT, KEY_VARIABLE, Transport
from raygen.endpoint.retry import ask_blocking
from raygen.errors import ConfigError, EndpointError, RowError, StageError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.square import Square, paint_pictures
from raygen.inpainters.token_files import read_tokens

# How long a batch job waits for an endpoint that is full, starting or gone.
PATIENCE_S = 900.0
TIMEOUT_S = 600.0
# Errors that are about one row; any other stops the job.
_ROW_CODES = {
    "content_policy_violation",
    "empty_mask",
    "image_too_large",
    "non_finite_output",
    "prompt_too_long",
}


class ServedInpainter:
    """Paints by asking.

    Args:
        config: `url` and `model` say whom, the rest how to sample.
        endpoint: Where `config.url` leads.
        learned: Learned tokens by name; the endpoint must have them, see `store_tokens`.

    Attributes:
        model_id: The served model.
        model_revision: Its digest.
        num_rows: Rows of the endpoint's UNet calls when it painted the first picture; 0 before.
        side_px: Side of the square that is painted.
        stride_px: Pixels of one latent cell.
    """

    def __init__(
        self, config: InpainterConfig, endpoint: Transport, learned: Mapping[str, LearnedToken] | None = None
    ) -> None:
        self._config, self._endpoint = config, endpoint
        self._served_names = {name: served_name(token) for name, token in (learned or {}).items()}
        facts = ask_blocking(endpoint.facts, config.model, patience_s=PATIENCE_S)
        resolution_px, stride_px = config.resolution_px or facts.get("resolution_px"), facts.get("stride_px")
        if not resolution_px or not stride_px:
            raise ConfigError(
                f"the endpoint does not say which size the model '{config.model}' paints; set inpainter.resolution_px"
            )
        self.side_px, self.stride_px = int(resolution_px), int(stride_px)
        self.model_id = config.model
        self.model_revision = str(facts["digest"]).removeprefix("sha256:")
        self.num_rows = 0
        self._threads = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="edit")

    def inpaint(
        self,
        images: Sequence[np.ndarray],
        repaints: Sequence[np.ndarray],
        *,
        prompts: Sequence[str],
        seeds: Sequence[int],
    ) -> list[np.ndarray | RowError]:
        """Painted pictures, or each row's error, in order; see `raygen.inpainters.batch.inpaint`."""
        return paint_pictures(
            self.paint,
            images,
            repaints,
            prompts=prompts,
            seeds=seeds,
            side_px=self.side_px,
            stride_px=self.stride_px,
            composite=self._config.composite,
        )

    def paint(self, squares: Sequence[Square | None]) -> list[np.ndarray | RowError | None]:
        """Painted squares, or each one's error, in order; an endpoint fills its own calls, so None is not sent."""
        return list(self._threads.map(lambda square: None if square is None else self._paint(square), squares))

    def _paint(self, square: Square) -> np.ndarray | RowError:
        try:
            result = ask_blocking(self._endpoint.edit, self._request(square), self._config.model, patience_s=PATIENCE_S)
        except RowError as error:
            return error
        except EndpointError as error:
            if error.code in _ROW_CODES:
                return RowError(str(error))
            raise StageError(f"the endpoint at {self._config.url} failed ({error.code}): {error}") from error
        self.num_rows = self.num_rows or int(result.provenance["bucket"])
        (painted,) = result.images
        return RowError("blocked by the model's safety checker") if painted.image_HWC is None else painted.image_HWC

    def _request(self, square: Square) -> EditRequest:
        config = self._config
        return EditRequest(
            image_HWC=square.image_HWC,
            repaint_HW=square.repaint_HW,
            prompt=self._as_served(square.prompt),
            seeds=(square.seed,),
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            strength=config.strength,
            scheduler=config.scheduler,
            negative_prompt=self._as_served(config.negative_prompt),
            preserve_unmasked=False,
            literal_tokens=not self._served_names,
            priority="batch",
            timeout_s=TIMEOUT_S,
        )

    def _as_served(self, prompt: str) -> str:
        for name, served in self._served_names.items():
            prompt = prompt.replace(name, served)
        return prompt


def served_name(token: LearnedToken) -> str:
    """What a token is called at an endpoint: its name and its file's digest.

    Runs that learned other vectors under the same name do not get into each other's way, and the same run puts the
    same again.
    """
    digest = token.digest.removeprefix("sha256:")[:16]
    return f"<{token.name[1:-1][:46]}.{digest}>"


def store_tokens(endpoint: Transport, paths: Mapping[str, str], model: str) -> None:
    """Gives an endpoint the learned tokens that a run's prompts will name.

    Args:
        endpoint: Where the pictures will be painted.
        paths: Files of the tokens by name.
        model: Id of the served model.

    Raises:
        ConfigError: The endpoint refuses them.
    """
    for name, token in read_tokens(paths).items():
        data = Path(paths[name]).read_bytes()
        try:
            ask_blocking(endpoint.put_token, served_name(token), data, model, patience_s=PATIENCE_S)
        except EndpointError as error:
            advice = {
                "permission_denied": f"; the key in {KEY_VARIABLE} needs the scope admin (raygen key --admin NAME)",
                "invalid_token": "; textual_inversion.model must have the text encoder of the served model",
            }.get(error.code, "")
            raise ConfigError(f"the endpoint does not take the learned token {name}: {error}{advice}") from error
