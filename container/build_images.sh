#!/usr/bin/env bash
# `make image` on a machine that may reach registries only by pip's own configuration: its
# certificates go along as build secrets, and torch's wheel where it lies on this machine's disk.
set -euo pipefail
cd "$(dirname "$0")/.."

settings=$(mktemp -d)
trap 'rm -rf "$settings" container/wheels/*.whl' EXIT

pip=${PIP:-.venv/bin/pip}
certificates=${PIP_CERT:-$($pip config get global.cert 2>/dev/null || true)}
printf '[global]\nfind-links = /wheels\n' >"$settings/pip.conf"
options=(--secret "id=pip,src=$settings/pip.conf")
if [ -n "$certificates" ]; then
  echo 'cert = /run/secrets/ca' >>"$settings/pip.conf"
  options+=(--secret "id=ca,src=$certificates")
fi
if [ -n "${PIP_FIND_LINKS:-}" ] || $pip config get global.find-links >/dev/null 2>&1; then
  $pip download -q --no-deps -d container/wheels "$(grep '^torch==' requirements.txt)"
fi
make image BASE_IMAGE="$(container/base_image.sh)" BUILD_OPTIONS="${options[*]}"
# What the tags meant before.
"${DOCKER:-docker}" image prune --force --filter label=project=lggseg >/dev/null
