"""How tokens are learned: the config, and the texts to learn by."""

from typing import Literal

from pydantic import Field, field_validator

from raygen.config import Decides, PositiveInt, Strict
from raygen.inpainters.token_files import NAME

# DBB's prompt (arXiv 2503.17226, section 4.1) and its nearest kin.
PHOTO_TEMPLATES = (
    "a photo of a {token} {word}",
    "a photo of the {token} {word}",
    "a picture of a {token} {word}",
    "a {token} {word}",
    "photo of a {token} {word}",
)
# The object templates of the textual inversion paper (Gal et al. 2022, arXiv 2208.01618, appendix), which diffusers'
# own training script has too.
IMAGENET_TEMPLATES = tuple(
    f"{text} {{token}} {{word}}"
    for text in (
        "a photo of a",
        "a rendering of a",
        "a cropped photo of the",
        "the photo of a",
        "a photo of a clean",
        "a photo of a dirty",
        "a dark photo of the",
        "a photo of my",
        "a photo of the cool",
        "a close-up photo of a",
        "a bright photo of the",
        "a cropped photo of a",
        "a photo of the",
        "a good photo of the",
        "a photo of one",
        "a close-up photo of the",
        "a rendition of the",
        "a photo of the clean",
        "a rendition of a",
        "a photo of a nice",
        "a good photo of a",
        "a photo of the nice",
        "a photo of the small",
        "a photo of the weird",
        "a photo of the large",
        "a photo of a cool",
        "a photo of a small",
    )
)


class TextualInversionConfig(Strict, decides=Decides.RESULTS):
    """How one token a class is learned, whose embedding stands for what images of the class's minority look like.

    Textual inversion (Gal et al. 2022, arXiv 2208.01618), as DBB uses it (arXiv 2503.17226, section 4.1). The numbers
    of the optimization are those of diffusers' training script; the paper gives none, and what the authors' code has is
    `raygen run dbb --preset authors`. They are made for Stable Diffusion, whose embeddings are small (about 0.02 a
    coordinate). Those of the tiny model are about 0.5: give it num_steps=200, batch_size=8 and learning_rate=0.05.

    Attributes:
        num_images: Images of each class to learn from; 20 to 40, 30 is best on Waterbirds (paper, table 5).
        source: Which images of a class are taken for its minority. "high_loss": the training images of the highest
            loss under the classifier whose scores the synthesis selects by; needs no group labels. "val_groups":
            validation images of the group with the highest mean loss of its class, drawn by the seed; needs the
            groups of the validation split.
        tokens: Names of the tokens, one per class, such as ["<landbird>", "<waterbird>"]; by default the class names
            in brackets, in small letters, with "-" for what is neither letter nor digit.
        words: Word that follows the token in prompts: one for all classes (the paper's "bird", "animal", "hair"), or
            one per class; by default the class names.
        initializers: Words whose embeddings the tokens start from: one for all classes or one per class, each a single
            token for the model's tokenizer; by default the words.
        prompt: What to ask the inpainter for, with {token} and {word}.
        templates: Texts to learn by, each with {token}: "photo", DBB's prompt and four like it; "imagenet", the 27 of
            the textual inversion paper, which need a text encoder that knows their words; or a list of your own.
        model: Model to learn with: a folder or hub id. By default the inpainting model itself. The authors' own choice
            for a 9-channel model is its 4-channel sibling (Stable Diffusion 2 base for Stable Diffusion 2 inpainting),
            whose text encoder must be the same. Must be given where an endpoint paints.
        revision: Commit, branch or tag of `model` if that is a hub id.
        variant: Which of `model`'s weight files, such as "fp16"; null the plain ones.
        region: What the token has to explain. "whole": the whole picture, as in the paper; a 9-channel model is shown
            a mask that selects everything, so it sees nothing of the picture and has only the prompt to go by.
            "object": the dataset's object masks, grown; a 9-channel model sees the picture around them, as when it
            paints, and the loss counts inside them only, so the token need not explain backgrounds.
        dilation_px: Growth of the object masks; only for region "object". 8 is the stride of the latents.
        num_steps: Optimizer steps per class.
        batch_size: Images of one step, over all workers of the fit, drawn with replacement.
        rows_per_call: Images of one UNet call, to fit a GPU's memory; by default a worker's whole share. Decides the
            last bits.
        learning_rate: Of AdamW, constant.
        weight_decay: Of AdamW, decoupled.
        flip_fraction: Share of draws that are mirrored; 0 where left and right mean something.
        dtype: Numbers of UNet and autoencoder while learning; the text encoder and the token are float32 always.
            (float16 is not offered: gradients underflow.)
        log_every: Steps between two entries of the history; a checkpoint is written with each.
    """

    num_images: PositiveInt = 30
    source: Literal["high_loss", "val_groups"] = "high_loss"
    tokens: tuple[str, ...] = ()
    words: str | tuple[str, ...] = ()
    initializers: str | tuple[str, ...] = ()
    prompt: str = PHOTO_TEMPLATES[0]
    templates: Literal["photo", "imagenet"] | tuple[str, ...] = "photo"
    model: str | None = None
    revision: str | None = None
    variant: str | None = None
    region: Literal["whole", "object"] = "whole"
    dilation_px: int = Field(8, ge=0)
    num_steps: PositiveInt = 5000
    batch_size: PositiveInt = 16
    rows_per_call: PositiveInt | None = None
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    flip_fraction: float = Field(0.5, ge=0, le=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    log_every: PositiveInt = 100

    @field_validator("tokens")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"'{name}' is no token's name; expected <…>: a-z, 0-9, '.', '_', '-', such as <bird-1>"
                )
        return value

    @field_validator("prompt", "templates")
    @classmethod
    def _name_the_token(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        texts = () if value in ("photo", "imagenet") else (value,) if isinstance(value, str) else value
        if value == ():
            raise ValueError("needs at least one text")
        for text in texts:
            if text.count("{token}") != 1:
                raise ValueError(f"'{text}' has {text.count('{token}')} times {{token}}; expected once")
        return value

    @property
    def all_templates(self) -> tuple[str, ...]:
        """The texts to learn by."""
        named = {"photo": PHOTO_TEMPLATES, "imagenet": IMAGENET_TEMPLATES}
        return named[self.templates] if isinstance(self.templates, str) else self.templates
