#!/usr/bin/env bash
# Builds the image, turns it into Golem's format, publishes it in Golem's registry, and prints `image` for beacon.toml.
#
#   deploy/golem/build.sh USER/NAME:TAG [docker build arguments, such as --build-arg BASE=…]
#
# Needs docker with buildx, and `pip install gvmkit-build` with an account at registry.golem.network.
set -euo pipefail
tag="${1:?give USER/NAME:TAG, as at registry.golem.network}"
shift
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
for tool in docker gvmkit-build curl python3; do
    command -v "$tool" >/dev/null || { echo "missing: $tool" >&2; exit 1; }
done
docker buildx build --load --platform linux/amd64 --build-context llama="$here/../llama" -t "$tag" "$@" "$here"
gvmkit-build "$tag" --push-to "$tag"
curl -fsS "https://registry.golem.network/v1/image/info?count=true&tag=$tag" | python3 -c '
import json, sys
found = json.load(sys.stdin)
print("image = \"hash:sha3:%s:%s\"" % (found["sha3"], found["http"]))'
