"""The lines that load an exported classifier without raygen: in its card, and in docs/export.md."""

from collections.abc import Mapping
from dataclasses import dataclass

_FRAME = """resize = v2.Resize(about["resize"], v2.InterpolationMode(about["interpolation"]))
to_float = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
frame = v2.Compose([resize, v2.CenterCrop(about["crop"]), to_float, v2.Normalize(about["mean"], about["std"])])
with torch.inference_mode():
    logits = model(frame(Image.open("picture.png").convert("RGB"))[None])[0]
print(about["class_names"][int(logits.argmax())], logits.softmax(0).tolist())
"""


@dataclass(frozen=True, slots=True)
class _Code:
    """Imports that a library's networks need beside torch's, and what makes the network."""

    imports: str
    model: str


_OF_LIBRARY: Mapping[str, _Code] = {
    "torchvision": _Code(
        "import torchvision\n", 'torchvision.models.get_model(about["architecture"], **about["arguments"])'
    ),
    "timm": _Code("import timm\n", 'timm.create_model(about["architecture"], **about["arguments"])'),
    "function": _Code("import pkgutil\n", 'pkgutil.resolve_name(about["architecture"])(**about["arguments"])'),
    "small_resnet.py": _Code("from small_resnet import small_resnet\n", 'small_resnet(**about["arguments"])'),
}


def loading_code(library: str) -> str:
    """Python that says what a classifier makes of picture.png, run in the export's folder.

    Args:
        library: Who makes the network, as the export's config.json has it.
    """
    code = _OF_LIBRARY[library]
    standard = "import json\n" + (code.imports if library == "function" else "")
    third_party = "import torch\n" + (code.imports if library == "torchvision" else "")
    third_party = (code.imports if library == "timm" else "") + third_party
    own = code.imports if library == "small_resnet.py" else ""
    return (
        f"{standard}\n{third_party}from PIL import Image\nfrom safetensors.torch import load_file\n"
        f"from torchvision.transforms import v2\n{own}\n"
        f'about = json.load(open("config.json", encoding="utf-8"))\nmodel = {code.model}.eval()\n'
        f'model.load_state_dict(load_file("model.safetensors"))\n{_FRAME}'
    )


def transformers_code() -> str:
    """The same for a folder of transformers."""
    return (
        'from transformers import pipeline\n\nclassify = pipeline("image-classification", model=".")\n'
        'print(classify("picture.png"))\n'
    )
