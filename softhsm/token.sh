#!/bin/sh
# Makes a throw-away SoftHSM token in a directory and prints how to use it:
#
#     eval "$(softhsm/token.sh /tmp/token)"
#     pkcs11-tool --module "$SOFTHSM2_MODULE" --login --pin env:PIN --list-objects
#
# The directory gets softhsm2.conf, tokens/ and pin (mode 0600, never printed). Run it again on the same
# directory to see the exports of the token that is there.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 DIRECTORY [LABEL]" >&2
    exit 64
fi
command -v softhsm2-util >/dev/null || {
    echo "softhsm2-util is not installed; run: apt-get install softhsm2" >&2
    exit 69
}

umask 077
mkdir -p "$1"
dir=$(cd "$1" && pwd)
label=${2:-mintmark}

module=${SOFTHSM2_MODULE:-}
for candidate in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
    /usr/lib64/pkcs11/libsofthsm2.so /usr/lib/pkcs11/libsofthsm2.so \
    /usr/local/lib/softhsm/libsofthsm2.so; do
    [ -n "$module" ] || [ ! -f "$candidate" ] || module=$candidate
done

[ -n "$module" ] || {
    echo "libsofthsm2.so is not found; set SOFTHSM2_MODULE to its path" >&2
    exit 69
}

if [ ! -e "$dir/pin" ]; then
    mkdir -p "$dir/tokens"
    cat >"$dir/softhsm2.conf" <<CONF
directories.tokendir = $dir/tokens
objectstore.backend = file
log.level = ERROR
slots.removable = false
CONF
    random() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }
    random >"$dir/pin.new"
    # softhsm2-util takes PINs as arguments alone: visible to this machine's users while it runs.
    SOFTHSM2_CONF=$dir/softhsm2.conf softhsm2-util --init-token --free --label "$label" \
        --so-pin "$(random)" --pin "$(cat "$dir/pin.new")" >&2
    mv "$dir/pin.new" "$dir/pin"
fi

cat <<EXPORTS
export SOFTHSM2_CONF='$dir/softhsm2.conf'
export SOFTHSM2_MODULE='$module'
export PIN="\$(cat '$dir/pin')"
EXPORTS
