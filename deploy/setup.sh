#!/usr/bin/env bash
# Prepares a Debian 12 machine: Debian packages (as root), then a virtual environment in .venv.
# Idempotent and quiet: it says what it installs, and nothing when all is there.
#   deploy/setup.sh          what the cluster needs to run, plus what its tests and benchmarks need
set -euo pipefail
cd "$(dirname "$0")/.."

# BCC's Python module exists for the distribution's interpreter only, so another python3 on PATH is not used.
python=/usr/bin/python3
packages=(
    python3 python3-venv python3-bpfcc linux-libc-dev   # BPF programs are compiled against the UAPI headers only
    iproute2 iputils-ping ethtool curl openssl procps netbase   # the lab and the demo
    keepalived bird2                                    # who announces the VIP: l4 --vip vrrp, bgp
    nginx-light haproxy caddy wrk nghttp2-client        # peers and load for the benchmarks, and clients of tests
    debootstrap                                         # the base image of make compose-test
    etcd-server                                         # a store for several control nodes, for its tests
    softhsm2                                            # a PKCS #11 token for the key server's tests
    pebble                                              # an ACME server for the same
    chromium libatomic1 libnss3-tools gnutls-bin nodejs # TLS clients of other makers, and what drives one, for the tests
    testssl.sh                                          # bench tlsscan
    prometheus                                          # promtool, for the alerts
    systemd systemd-container                           # systemd-analyze and systemd-nspawn, for the units
    apache2-utils                                       # htpasswd
    slowhttptest                                        # slow clients for the soak tests
    jq tcpdump sqlite3                                  # in commands of the documentation, which tests run
)

# Runs a command whose output matters only when it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -30 "$log" >&2
        echo "setup: '$1' failed; the whole log is in $log" >&2
        exit 1
    fi
    rm -f "$log"
}

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "setup: these Debian packages are missing and need root: ${missing[*]}" >&2
        echo "setup: run  sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "setup: installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A package's service must not start here: policy-rc.d says no while we install.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    quietly apt-get update -q
    quietly apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

stamp=$(cat pyproject.toml deploy/setup.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/setup-stamp 2>/dev/null)" != "$stamp" ]; then
    echo "setup: installing Python packages into .venv"
    [ -x .venv/bin/python ] || "$python" -m venv --system-site-packages .venv
    quietly .venv/bin/python -m pip install --disable-pip-version-check --root-user-action=ignore -e '.[dev,bench]'
    echo "$stamp" >.venv/setup-stamp
fi
.venv/bin/python -c 'import bcc' 2>/dev/null || {
    echo "setup: the bcc module cannot be imported; install Debian's python3-bpfcc" >&2
    exit 1
}
