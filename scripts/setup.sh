# Sourced by the other scripts: installs what is missing, or says what to install.
# Usage: need_packages COMMAND:PACKAGE...

say() { printf '%s\n' "$*" >&2; }

need_packages() {
    missing=
    for pair in "$@"; do
        command=${pair%%:*} package=${pair#*:}
        PATH=$PATH:/usr/sbin:/sbin command -v "$command" > /dev/null || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get > /dev/null; then
        say "missing on this system, by their Debian package names:$missing"
        say "install them with this system's package manager and run this again"
        exit 1
    fi
    sudo=
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo > /dev/null || ! sudo -n true 2> /dev/null; then
            say "missing packages; as root: apt-get install$missing"
            exit 1
        fi
        sudo=sudo
    fi
    say "installing$missing"
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing > /dev/null
}

need_rust() {
    [ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
    if ! command -v cargo > /dev/null; then
        say "Rust is missing (1.95 or newer): https://rustup.rs installs it"
        exit 1
    fi
}
