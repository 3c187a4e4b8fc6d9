"""What the engine's worker thread does: requests to latents, one step of a call, latents to pictures; no asyncio here.

The model code is that of the batch pool (`raygen.inpainters`).
"""

# H height, W width, C colour channels

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from raygen.endpoint.edits import EditRequest, LearnedToken, check_strength
from raygen.errors import BlockedError, EndpointError, NonFiniteError, RowError
from raygen.inpainters.frame import Frame, frame_picture
from raygen.inpainters.model_folder import model_facts
from raygen.inpainters.prompts import TokenizedPrompt
from raygen.inpainters.row import EncodedPicture, InpaintRow, Sampling
from raygen.inpainters.self_test import rows_are_independent
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from raygen.inpainters.token_files import NAME
from serve.config import ServedModelConfig
from serve.engine.tokens import TokenStore

# Size of the canvas, and whether guidance is on.
Group = tuple[tuple[int, ...], bool]
_LIKE_A_NAME = re.compile(r"<[\w.:@ -]{1,63}>")


@dataclass(eq=False)
class Picture:
    """One picture of a request.

    Attributes:
        request: What it belongs to.
        index: Which of the request's seeds.
        seed: That seed.
        num_steps: Denoising steps in all.
        row: Its latents, once it was first stepped.
        preview: Number and pixels of a preview that nobody has fetched yet.
        result_HWC: The painted picture, once it is done and was not blocked.
        flagged: The safety checker blocked it.
        error: Why it failed.
    """

    request: "PreparedRequest"
    index: int
    seed: int
    num_steps: int
    row: InpaintRow | None = None
    preview: tuple[int, np.ndarray] | None = None
    num_previews: int = 0
    result_HWC: np.ndarray | None = None
    flagged: bool = False
    error: EndpointError | None = None

    @property
    def steps_left(self) -> int:
        """Denoising steps to go."""
        return self.num_steps if self.row is None else len(self.row.timesteps) - self.row.num_done

    @property
    def group(self) -> "Group":
        """What pictures have in common that can share the next UNet call; guidance may be on for some steps only."""
        first = self.request.sampling.guided(self.num_steps)
        is_guided = 0 in first if self.row is None else self.row.is_guided
        return self.request.frame.canvas_repaint_HW.shape, is_guided

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return self.result_HWC is not None or self.flagged

    @property
    def is_to_settle(self) -> bool:
        """Whether its request is to be told more than progress."""
        return self.is_done or self.error is not None or self.preview is not None


@dataclass(eq=False)
class PreparedRequest:
    """A checked request with its prompt encoded; its picture is encoded when its first row starts."""

    request: EditRequest
    sampling: Sampling
    frame: Frame
    prompt_embedding_1TD: torch.Tensor
    negative_embedding_1TD: torch.Tensor
    num_prompt_tokens: int
    token_digests: dict[str, str]
    warnings: tuple[str, ...]
    encoded: EncodedPicture | None = None
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Rows of the UNet call that was made, and how often memory did not hold one."""

    bucket: int
    num_out_of_memory: int = 0


class Painter:
    """A loaded model.

    Args:
        config: Which, and how many rows a call.

    Attributes:
        inpainter: The model itself.
        bucket: Rows of a call.
        determinism: "strict" where a picture's bits do not depend on its company, else "fast".
        probe_side_px: Side of a probe's picture.
    """

    def __init__(self, config: ServedModelConfig) -> None:
        torch.set_num_threads(config.num_threads)
        self._config = config
        self.inpainter = StableDiffusionInpainter(config.inpainter, 1, config.device)
        # Rows that memory was found to hold, by group; fewer than the bucket.
        self._fitting: dict[Group, int] = {}
        self.bucket, self.determinism = self._choose_bucket()
        self._digest = model_facts(config.inpainter).digest
        self.probe_side_px = self.inpainter.resolution_px

    def find_tokens(self, request: EditRequest, store: TokenStore) -> dict[str, LearnedToken]:
        """The learned tokens that a request's prompts name.

        Raises:
            EndpointError: unknown_learned_token.
        """
        if request.literal_tokens:
            return {}
        found: dict[str, LearnedToken] = {}
        for param in ("prompt", "negative_prompt"):
            for name, pin in self.inpainter.prompts.token_names(getattr(request, param) or ""):
                # What no token can be called is asked for like any other that is not there.
                token = store.get(name) if NAME.fullmatch(name) else None
                if token is None or (pin and not token.digest.removeprefix("sha256:").startswith(pin)):
                    raise _unknown_token(name, pin, token, store, param)
                found[name] = token
        return found

    def prepare(self, request: EditRequest, learned: dict[str, LearnedToken]) -> PreparedRequest:
        """A request checked and with its prompts encoded.

        Raises:
            EndpointError: prompt_too_long, empty_mask, invalid_size, out_of_range.
        """
        torch.set_num_threads(self._config.num_threads)  # torch keeps it for each thread
        defaults = self._config.inpainter
        sampling = Sampling(
            num_inference_steps=request.num_inference_steps or defaults.num_inference_steps,
            guidance_scale=defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale,
            guidance_start=defaults.guidance_start,
            guidance_stop=defaults.guidance_stop,
            strength=request.strength or defaults.strength,
            scheduler=request.scheduler or defaults.scheduler,
        )
        check_strength(sampling.num_inference_steps, sampling.strength)
        frame = self._frame(request)
        prompt, warnings = self._tokenize("prompt", request.prompt, request, learned)
        negative_text = defaults.negative_prompt if request.negative_prompt is None else request.negative_prompt
        negative, more_warnings = self._tokenize("negative_prompt", negative_text, request, learned)
        prepared = PreparedRequest(
            request=request,
            sampling=sampling,
            frame=frame,
            prompt_embedding_1TD=self.inpainter.prompts.encode(prompt),
            negative_embedding_1TD=self.inpainter.prompts.encode(negative),
            num_prompt_tokens=prompt.num_tokens,
            token_digests={name: token.digest for name, token in sorted(learned.items())},
            warnings=(*warnings, *more_warnings),
        )
        num_steps = int(sampling.num_inference_steps * sampling.strength)
        prepared.pictures = [Picture(prepared, i, seed, num_steps) for i, seed in enumerate(request.seeds)]
        return prepared

    def advance(self, pictures: Sequence[Picture]) -> StepOutcome:
        """One step of pictures of one group; starts and finishes those that are due. Errors are left in the picture.

        Of pictures that are no longer of one group, those of the first one's are stepped.
        """
        torch.set_num_threads(self._config.num_threads)
        alive = [picture for picture in pictures if self._attempt(picture, self._start)]
        if not alive:
            return StepOutcome(self.bucket)
        # Only a row that was started knows how many steps its sampler makes, and so which of them are guided.
        alive = [picture for picture in alive if picture.group == alive[0].group]
        outcome = self._step(alive)
        for picture in alive:
            if picture.error is None:
                self._attempt(picture, self._finish)
        return outcome

    def provenance(self, prepared: PreparedRequest, bucket: int) -> dict[str, Any]:
        """What decided a request's bytes, besides the request."""
        return {
            "model": self._config.id,
            "digest": self._digest,
            "tokens": prepared.token_digests,
            "determinism": self.determinism if bucket == self.bucket else "fast",
            "bucket": bucket,
            "dtype": self._config.inpainter.dtype,
        }

    def _choose_bucket(self) -> tuple[int, str]:
        wanted = self._config.bucket
        if wanted == "auto":
            wanted = self._config.auto_bucket if self._config.device == "cuda" else 1
            if wanted > 1 and not rows_are_independent(self.inpainter, wanted):
                wanted = 1
            return wanted, "strict"
        is_strict = wanted == 1 or rows_are_independent(self.inpainter, wanted)
        return wanted, "strict" if is_strict else "fast"

    def _frame(self, request: EditRequest) -> Frame:
        height, width = request.repaint_HW.shape
        if request.image_HWC.shape != (height, width, 3):
            raise EndpointError(
                f"the picture is {request.image_HWC.shape}, the mask ({height}, {width})",
                code="mask_size_mismatch",
                param="mask",
            )
        if height * width > self._config.max_pixels:
            raise EndpointError(
                f"the picture has {height * width} pixels; this model paints at most {self._config.max_pixels}",
                code="image_too_large",
                param="image",
            )
        if not request.repaint_HW.any():
            raise EndpointError("the mask selects no pixel", code="empty_mask", param="mask")
        try:
            return frame_picture(
                request.image_HWC,
                request.repaint_HW,
                stride_px=self.inpainter.stride_px,
                mask_blur=request.mask_blur,
                padding_mask_crop=request.padding_mask_crop,
            )
        except RowError as error:
            raise EndpointError(str(error), code="empty_mask", param="mask_blur") from error

    def _tokenize(
        self, param: str, text: str, request: EditRequest, learned: dict[str, LearnedToken]
    ) -> tuple[TokenizedPrompt, tuple[str, ...]]:
        vectors = {name: token.vectors for name, token in learned.items()}
        width = self.inpainter.prompts.width
        if any(table_VD.shape[1] != width for table_VD in vectors.values()):
            raise EndpointError(
                f"a learned token was made for another text encoder than this model's, which is {width} wide",
                code="invalid_token",
                param=param,
            )
        prompt = self.inpainter.prompts.tokenize(text, vectors)
        if prompt.first_dropped is None:
            return prompt, ()
        told = f"{param} has {len(prompt.ids)} tokens with start and end; the model reads {prompt.max_length}"
        told += f", and the first word that does not fit is '{prompt.first_dropped}'"
        if request.prompt_overflow == "truncate":
            return prompt, (told,)
        raise EndpointError(f"{told}; shorten it, or set prompt_overflow=truncate", code="prompt_too_long", param=param)

    def _attempt(self, picture: Picture, action: Any) -> bool:
        """Whether the action went well; if not, the picture has the error."""
        try:
            action(picture)
        except NonFiniteError:
            picture.error = EndpointError("the model gave non-finite numbers", code="non_finite_output")
        except torch.OutOfMemoryError:
            picture.error = _out_of_memory()
        return picture.error is None

    def _start(self, picture: Picture) -> None:
        if picture.row is not None:
            return
        prepared = picture.request
        if prepared.encoded is None:
            frame = prepared.frame
            prepared.encoded = self.inpainter.encode_picture(
                frame.canvas_HWC, frame.canvas_repaint_HW, strength=prepared.sampling.strength
            )
        picture.row = self.inpainter.start_row(
            prepared.encoded,
            prepared.sampling,
            prompt_embedding_1TD=prepared.prompt_embedding_1TD,
            negative_embedding_1TD=prepared.negative_embedding_1TD,
            seed=picture.seed,
        )
        picture.num_steps = len(picture.row.timesteps)

    def _step(self, pictures: Sequence[Picture]) -> StepOutcome:
        """One step of each picture, with fewer rows a call where memory does not hold the bucket."""
        group = pictures[0].group
        num_rows = min(self.bucket, self._fitting.get(group, self.bucket))
        waiting, num_failures = list(pictures), 0
        while waiting:
            try:
                self.inpainter.step([_row(picture) for picture in waiting[:num_rows]], num_rows=num_rows)
            except torch.OutOfMemoryError:
                num_failures += 1
                if num_rows > 1:
                    num_rows = self._fitting[group] = num_rows // 2
                    continue
                waiting[0].error = _out_of_memory()
            waiting = waiting[num_rows:]
        return StepOutcome(num_rows, num_failures)

    def _finish(self, picture: Picture) -> None:
        row, prepared = _row(picture), picture.request
        preserve = prepared.request.preserve_unmasked
        if row.is_done:
            try:
                painted_HWC = self.inpainter.decode(row.latent_1Chw)
            except BlockedError:
                picture.flagged = True
                return
            picture.result_HWC = prepared.frame.put_back(painted_HWC, preserve_unmasked=preserve)
            return
        due = _num_due(len(row.timesteps), row.num_done, prepared.request.num_partial_images)
        if due > picture.num_previews and row.estimate_1Chw is not None:
            number, picture.num_previews = picture.num_previews, picture.num_previews + 1
            try:
                painted_HWC = self.inpainter.decode(row.estimate_1Chw)
            except BlockedError:
                return  # nobody sees this preview; what the picture is in the end decides about the picture
            picture.preview = (number, prepared.frame.put_back(painted_HWC, preserve_unmasked=preserve))


def _num_due(num_steps: int, num_done: int, num_previews: int) -> int:
    """Previews that should have been shown by now, spread evenly over the steps."""
    return num_done * (num_previews + 1) // num_steps if num_previews else 0


def _out_of_memory() -> EndpointError:
    return EndpointError(
        "the model's memory does not hold this picture, even alone; send a smaller one", code="out_of_memory"
    )


def _unknown_token(
    name: str, pin: str | None, stored: LearnedToken | None, store: TokenStore, param: str
) -> EndpointError:
    if stored is not None:
        message = f"the learned token {name} is not the one pinned (sha256:{pin}); it is {stored.digest}"
    else:
        near = difflib.get_close_matches(name.lower(), [token.name for token in store.all()], n=3)
        hint = f"near names: {', '.join(near)}" if near else "none has a name like it"
        # Errors repeat no prompt and no path: what does not look like a name may be either.
        shown = name if _LIKE_A_NAME.fullmatch(name) else "<…>"
        message = f"there is no learned token {shown}; {hint}; literal_tokens=true reads it as plain text"
    return EndpointError(message, code="unknown_learned_token", param=param)


def _row(picture: Picture) -> InpaintRow:
    assert picture.row is not None, "the picture was started"
    return picture.row
