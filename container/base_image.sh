#!/usr/bin/env bash
# Print the name of an image to build from: the official one by its digest, which the built images
# keep as a label, or where no hub can be reached (and root is on Debian) one with the same Python,
# made by debootstrap.
set -euo pipefail

official=python:3.11-slim-bookworm
own=lggseg-base:bookworm

here() { docker image inspect "$1" >/dev/null 2>&1; }

make_own() {
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  hash debootstrap 2>/dev/null ||
    apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -n 1)
  debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
    bookworm "$root" "$mirror" >&2
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/*
  tar -C "$root" -c . | docker import -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$own" >&2
}

if here $official || docker pull -q $official >/dev/null 2>&1; then
  digest=$(docker image inspect --format '{{if .RepoDigests}}{{index .RepoDigests 0}}{{end}}' $official)
  echo "${digest:-$official}"
else
  here $own || make_own
  echo $own
fi
