"""The inpainter that asks an endpoint: a pool of such actors needs no model of its own.

With the same model and as many rows a UNet call, its pictures are those of a pool that loads the model, to the byte:
squashing to the model's square and putting back what lies outside the mask is done here, by the same functions.
"""

# H height and W width of the picture, C colour channels

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx2
import numpy as np

from raygen.endpoint.edits import EditRequest, EditResult, LearnedToken
from raygen.endpoint.urls import client_options, no_answer, no_endpoint, with_proxy_named
from raygen.endpoint.wire import (
    EDITS_PATH,
    MODELS_PATH,
    TOKENS_PATH,
    clean_key,
    error_of,
    form_of,
    headers_of,
    json_of,
    key_headers,
    result_of,
)
from raygen.errors import ConfigError, EndpointError, RowError, StageError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.square import squash, unsquash
from raygen.inpainters.token_files import read_tokens

# Where the key is looked for: a config file is copied into run folders, so it must not hold one.
KEY_VARIABLE = "RAYGEN_API_KEY"
KEY_SOURCE = f"the environment variable {KEY_VARIABLE}"
# Requests that one actor has under way; the endpoint's own queue orders those of all actors.
IN_FLIGHT = 8
# How long a batch job waits for an endpoint that is full, starting or gone.
PATIENCE_S = 900.0
TIMEOUT_S = 600.0
MAX_PAUSE_S = 30.0
# Errors that are about one row; any other stops the job.
_ROW_CODES = {
    "content_policy_violation",
    "empty_mask",
    "image_too_large",
    "non_finite_output",
    "prompt_too_long",
}

T = TypeVar("T")


class Endpoint(Protocol):
    """Where edits go: an address (`HttpEndpoint`), or a handle of the cluster (`raygen.cluster.HandleEndpoint`)."""

    def edit(self, request: EditRequest, model: str) -> EditResult:
        """Paints.

        Raises:
            EndpointError: See its `code`.
        """
        ...

    def facts(self, model: str) -> dict[str, Any]:
        """The model's entry of `/v1/models`."""
        ...

    def put_token(self, name: str, data: bytes, model: str) -> None:
        """Stores a learned token, the bytes of its file; the same again changes nothing.

        Raises:
            EndpointError: See its `code`.
        """
        ...


class HttpEndpoint:
    """An endpoint at an address.

    Args:
        url: Such as "http://127.0.0.1:8000".
        key: Bearer key; None where none is needed.

    Raises:
        EndpointError: The address is none, or the environment's proxy for it cannot be used.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._url, self._key = url, key
        limits = httpx2.Limits(max_connections=IN_FLIGHT)
        timeout = httpx2.Timeout(TIMEOUT_S + 30, connect=10)
        self._client = httpx2.Client(**client_options(url), timeout=timeout, limits=limits)

    def edit(self, request: EditRequest, model: str) -> EditResult:
        """Paints; see `Endpoint`."""
        fields, files = form_of(request, model)
        response = self._send("POST", EDITS_PATH, data=fields, files=files, headers=headers_of(request, self._key))
        body = json_of(response)
        try:
            return result_of(body, response.headers, request)
        except EndpointError as error:
            raise with_proxy_named(error, self._url, body) from error

    def facts(self, model: str) -> dict[str, Any]:
        """The model's entry of `/v1/models`."""
        path = f"{MODELS_PATH}/{quote(model, safe='')}"
        body = json_of(self._send("GET", path, headers=key_headers(self._key)))
        if not isinstance(body, dict) or not isinstance(body.get("digest"), str):
            raise with_proxy_named(no_endpoint(self._url), self._url, body)
        return body

    def put_token(self, name: str, data: bytes, model: str) -> None:
        """Stores a learned token; see `Endpoint`. Takes a key of scope "admin"."""
        headers = {"content-type": "application/octet-stream", **key_headers(self._key)}
        self._send("PUT", f"{TOKENS_PATH}/{quote(name)}", params={"model": model}, content=data, headers=headers)

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._client.request(method, path, **options)
        except httpx2.RequestError as error:
            raise no_answer(self._url, error) from error
        if not response.is_success:
            body = json_of(response)
            raise with_proxy_named(error_of(response.status_code, body, response.headers), self._url, body)
        return response


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
    """

    def __init__(
        self, config: InpainterConfig, endpoint: Endpoint, learned: Mapping[str, LearnedToken] | None = None
    ) -> None:
        self._config, self._endpoint = config, endpoint
        self._served_names = {name: served_name(token) for name, token in (learned or {}).items()}
        facts = retrying(lambda: endpoint.facts(config.model))
        resolution_px, stride_px = config.resolution_px or facts.get("resolution_px"), facts.get("stride_px")
        if not resolution_px or not stride_px:
            raise ConfigError(
                f"the endpoint does not say which size the model '{config.model}' paints; set inpainter.resolution_px"
            )
        self._side, self._stride_px = int(resolution_px), int(stride_px)
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
        rows = zip(images, repaints, prompts, seeds, strict=True)
        return list(self._threads.map(lambda row: self._paint(*row), rows))

    def _paint(self, image_HWC: np.ndarray, repaint_HW: np.ndarray, prompt: str, seed: int) -> np.ndarray | RowError:
        try:
            request = self._request(image_HWC, repaint_HW, prompt, seed)
            result = retrying(lambda: self._endpoint.edit(request, self._config.model))
        except RowError as error:
            return error
        except EndpointError as error:
            if error.code in _ROW_CODES:
                return RowError(str(error))
            raise StageError(f"the endpoint at {self._config.url} failed ({error.code}): {error}") from error
        self.num_rows = self.num_rows or int(result.provenance["bucket"])
        (painted,) = result.images
        if painted.image_HWC is None:
            return RowError("blocked by the model's safety checker")
        return unsquash(painted.image_HWC, image_HWC, repaint_HW, composite=self._config.composite)

    def _request(self, image_HWC: np.ndarray, repaint_HW: np.ndarray, prompt: str, seed: int) -> EditRequest:
        canvas_HWC, canvas_repaint_HW = squash(image_HWC, repaint_HW, side_px=self._side, stride_px=self._stride_px)
        config = self._config
        return EditRequest(
            image_HWC=canvas_HWC,
            repaint_HW=canvas_repaint_HW,
            prompt=self._as_served(prompt),
            seeds=(seed,),
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            strength=config.strength,
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


def store_tokens(endpoint: Endpoint, paths: Mapping[str, str], model: str) -> None:
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
            retrying(partial(endpoint.put_token, served_name(token), data, model))
        except EndpointError as error:
            advice = {
                "permission_denied": f"; the key in {KEY_VARIABLE} needs the scope admin (raygen key --admin NAME)",
                "invalid_token": "; textual_inversion.model must have the text encoder of the served model",
            }.get(error.code, "")
            raise ConfigError(f"the endpoint does not take the learned token {name}: {error}{advice}") from error


def connect_http(url: str) -> HttpEndpoint:
    """The endpoint at an address, with the key of the environment variable RAYGEN_API_KEY if there is one.

    Raises:
        ConfigError: The variable holds no key.
        EndpointError: See `HttpEndpoint`.
    """
    return HttpEndpoint(url, clean_key(os.environ.get(KEY_VARIABLE), source=KEY_SOURCE))


def retrying(ask: Callable[[], T], *, patience_s: float = PATIENCE_S) -> T:
    """What `ask` gives, asked again while its errors say that this may help.

    Raises:
        EndpointError: It does not help, or not for `patience_s` seconds.
    """
    give_up_s = time.monotonic() + patience_s
    pause_s = 0.5
    while True:
        try:
            return ask()
        except EndpointError as error:
            if not error.retryable or time.monotonic() > give_up_s:
                raise
            # Jitter: callers that were refused together must not come back together.
            wait_s = (error.retry_after_s or pause_s) * random.uniform(0.5, 1.5)
            time.sleep(min(wait_s, max(0.0, give_up_s - time.monotonic())))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
