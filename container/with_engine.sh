#!/usr/bin/env bash
# Run a command with a Docker engine: the one that answers, else one that is started for it (by root
# on Debian, installing what is missing) and stopped at its end. Exit status 69: there is none.
set -euo pipefail

answers() { docker info >/dev/null 2>&1; }

without() { echo "No Docker engine: $1" >&2; exit 69; }

start() {
  [ "$(id -u)" = 0 ] || without "start one, or run this as root"
  if ! hash dockerd docker-compose iptables 2>/dev/null; then
    command -v apt-get >/dev/null || without "install Docker Engine and Docker Compose"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      docker.io docker-compose iptables >/dev/null
  fi
  log=$(mktemp)
  dockerd >"$log" 2>&1 &
  engine=$!
  trap 'kill $engine 2>/dev/null && wait $engine; rm -f "$log"' EXIT
  for _ in $(seq 120); do
    if answers; then return; fi
    kill -0 $engine 2>/dev/null || break
    sleep 0.5
  done
  tail -n 5 "$log" >&2
  without "dockerd did not start"
}

answers || start
# A client that cannot build (BuildKit without buildx) may come first on the PATH.
DOCKER=docker
docker buildx version >/dev/null 2>&1 || [ ! -x /usr/bin/docker ] || DOCKER=/usr/bin/docker
export DOCKER
"$@"
