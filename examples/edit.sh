#!/usr/bin/env bash
# Repaint the white part of mask.png in bird.png with curl and jq:
#   raygen serve &
#   examples/edit.sh bird.png mask.png "a photo of a landbird" out.png
set -euo pipefail
image=$1 mask=$2 prompt=$3 out=$4
curl --silent --fail-with-body "${RAYGEN_URL:-http://127.0.0.1:8000}/v1/images/edits" \
  ${RAYGEN_API_KEY:+--header "Authorization: Bearer $RAYGEN_API_KEY"} \
  --form "image=@$image" --form "mask=@$mask" --form mask_mode=luminance --form-string "prompt=$prompt" --form seed=7 |
  jq --raw-output '.data[0].b64_json' | base64 --decode > "$out"
