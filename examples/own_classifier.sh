#!/usr/bin/env bash
# From a classifier that is in use to one without its bias:
#   examples/own_classifier.sh CLASSIFIER FOLDER OUT [OPTIONS that say what it is] [-- OPTIONS of the run]
#   examples/own_classifier.sh birds.pt ~/birds runs/birds --set classifier.architecture=resnet50 \
#       --set classifier.image_size_px=224 -- --set inpainter.model=/models/stable-diffusion-2-inpainting
# CLASSIFIER is a file of weights, or a folder of transformers, which says itself what it is. FOLDER holds pictures of
# the same classes in the same order: train/, val/ and test/, or metadata.csv (docs/datasets.md).
set -euo pipefail

[[ $# -ge 3 ]] || { echo "give a classifier, a folder of pictures and a folder for what is made: own_classifier.sh birds.pt ~/birds runs/birds" >&2; exit 2; }
classifier=$1 folder=$2 out=$3
shift 3
about=()
while [[ $# -gt 0 && $1 != -- ]]; do about+=("$1"); shift; done
[[ $# -eq 0 ]] || shift

# What it gets wrong, for each group (each class, where no attribute is known).
raygen evaluate "$classifier" --dataset "$folder" ${about[@]+"${about[@]}"}

# The run takes it as it is in place of a first fit: its sure images are repainted, and it is fitted on with them.
raygen run dbb --dataset "$folder" --out "$out/dbb" --set "erm.from=$classifier" --set synthesis.mask=cam ${about[@]+"${about[@]}"} "$@"

# The pictures, for use without raygen, and the classifier in the form that it came in.
[[ -e $out/pictures ]] || raygen export "$out/dbb" --format hf --to "$out/pictures"
format=safetensors
[[ ! -d $classifier ]] || format=hf
[[ -e $out/classifier ]] || raygen export "$out/dbb" --classifier dbb --format "$format" --to "$out/classifier"
