#!/usr/bin/env bash
# Repaint the white part of mask.png in bird.png with curl and jq:
#   raygen serve &
#   examples/edit.sh bird.png mask.png "a photo of a landbird" out.png
set -euo pipefail

fail() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit "${2:-1}"
}

[[ $# -eq 4 ]] || fail 'give a picture, a mask, a prompt and a file to write: edit.sh bird.png mask.png "a landbird" out.png' 2
image=$1 mask=$2 prompt=$3 out=$4
url=${RAYGEN_URL:-http://127.0.0.1:8000}
for program in curl jq base64; do
  command -v "$program" >/dev/null || fail "$program is not installed" 2
done
for file in "$image" "$mask"; do
  [[ -f $file && -r $file ]] || fail "$file is no file that can be read" 2
done
[[ -d $(dirname -- "$out") && ! -d $out ]] || fail "$out cannot be written: no such folder, or a folder itself" 2

# Nothing is left of a picture that does not come.
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT

# curl reads ; and , in a bare file name.
quoted() { local name=${1//\\/\\\\}; printf '"%s"' "${name//\"/\\\"}"; }
status=$(
  # No proxy leads back to this machine.
  curl --silent --show-error --globoff --output "$scratch/answer" --write-out '%{http_code}' "${url%/}/v1/images/edits" \
    --noproxy "localhost,127.0.0.1,::1${NO_PROXY:+,$NO_PROXY}${no_proxy:+,$no_proxy}" \
    ${RAYGEN_API_KEY:+--header "Authorization: Bearer $RAYGEN_API_KEY"} \
    --form "image=@$(quoted "$image")" --form "mask=@$(quoted "$mask")" --form mask_mode=luminance \
    --form-string "prompt=$prompt" --form seed=7
) || fail "no endpoint answers at $url; start one with \`raygen serve\`, or set RAYGEN_URL"
if [[ $status != 200 ]]; then
  reason=$(jq --raw-output '.error.message // empty' "$scratch/answer" 2>/dev/null || true)
  fail "$url answered $status: ${reason:-$(head -c 300 "$scratch/answer")}"
fi
jq --exit-status --raw-output '.data[0].b64_json // empty' "$scratch/answer" >"$scratch/base64" 2>/dev/null &&
  base64 --decode "$scratch/base64" >"$scratch/picture" ||
  fail "$url answered 200 with no picture; is it a raygen endpoint?"
mv -- "$scratch/picture" "$out"
