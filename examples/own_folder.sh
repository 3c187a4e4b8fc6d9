#!/usr/bin/env bash
# From a folder of pictures to a retrained classifier and a set of generated pictures:
#   examples/own_folder.sh FOLDER OUT [OPTIONS of both runs] [-- OPTIONS of the run that generates]
#   examples/own_folder.sh ~/birds runs/birds --set classifier.architecture=resnet18 --set classifier.image_size_px=224 \
#       -- --set inpainter.model=/models/stable-diffusion-2-inpainting --set pools.inpainter.num_gpus=1
# FOLDER holds train/, val/ and test/ with a folder for each class, or metadata.csv (docs/datasets.md). Run again, it goes
# on where it stopped; give another OUT for other options.
set -euo pipefail

[[ $# -ge 2 ]] || { echo "give a folder of pictures and a folder for what is made: own_folder.sh ~/birds runs/birds" >&2; exit 2; }
folder=$1 out=$2
shift 2
both=()
while [[ $# -gt 0 && $1 != -- ]]; do both+=("$1"); shift; done
[[ $# -eq 0 ]] || shift

# Can every picture and every label be read?
raygen data check "$folder"

# Is there a bias? A classifier is fitted as usual: the table has its accuracy for each group (each class, where no
# attribute is known), the page shows what it looks at.
raygen fit erm --dataset "$folder" --out "$out/erm" ${both[@]+"${both[@]}"}

# Its sure images are repainted as the other class, what is bad is pruned, and it is fitted again, beside controls. Masks
# come of class activation maps, which need no other model; --reuse takes the fit of above.
raygen run dbb --dataset "$folder" --out "$out/dbb" --reuse "$out/erm" --set synthesis.mask=cam ${both[@]+"${both[@]}"} "$@"

# What came of it, side by side; then the pictures and the classifier, for use without raygen.
raygen report "$out/erm" "$out/dbb" --out "$out/comparison.html"
[[ -e $out/pictures ]] || raygen export "$out/dbb" --format imagefolder --to "$out/pictures"
[[ -e $out/classifier ]] || raygen export "$out/dbb" --classifier dbb --format safetensors --to "$out/classifier"
