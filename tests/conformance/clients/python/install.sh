#!/bin/sh
# Two environments, because boto3 and aiobotocore want different botocores. LATEST=1: the newest instead of the pinned,
# whose wheels are held to the hashes in the lists.
set -eu
: "${CACHE:?says where to install}"
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9
make_environment() { # its name, what goes into it
    name=$1
    shift
    [ ! -e "$CACHE/$name.stamp" ] || [ -n "${LATEST:-}" ] || return 0
    rm -rf "${CACHE:?}/$name"
    python3 -m venv "$CACHE/$name"
    "$CACHE/$name/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$@"
    touch "$CACHE/$name.stamp"
}
if [ -n "${LATEST:-}" ]; then
    make_environment boto --upgrade boto3 awscli
    make_environment others --upgrade aiobotocore awscrt pyarrow obstore s3cmd
else
    make_environment boto --require-hashes --no-deps -r requirements-boto.txt
    make_environment others --require-hashes --no-deps -r requirements-others.txt
fi
