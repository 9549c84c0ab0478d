#!/bin/sh
# Two environments, because boto3 and aiobotocore want different botocores.
set -eu
make_environment() { # its name, what goes into it
    name=$1
    shift
    [ ! -e "$CACHE/$name.stamp" ] || [ -n "${LATEST:-}" ] || return 0
    rm -rf "${CACHE:?}/$name"
    python3 -m venv "$CACHE/$name"
    "$CACHE/$name/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-binary s3cmd "$@"
    touch "$CACHE/$name.stamp"
}
if [ -n "${LATEST:-}" ]; then
    make_environment boto --upgrade boto3 awscli
    make_environment others --upgrade aiobotocore awscrt pyarrow obstore s3cmd
else
    make_environment boto -r requirements-boto.txt
    make_environment others -r requirements-others.txt
fi
