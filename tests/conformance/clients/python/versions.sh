#!/bin/sh
# NAME VERSION of what is installed.
set -eu
"$CACHE/boto/bin/pip" list --format freeze --disable-pip-version-check |
    sed -n 's/^boto3==/boto3 /p; s/^awscli==/AWS CLI v1 /p'
"$CACHE/others/bin/pip" list --format freeze --disable-pip-version-check |
    sed -n 's/^aiobotocore==/aiobotocore /p; s/^awscrt==/awscrt /p; s/^pyarrow==/C++ (pyarrow) /p
        s/^obstore==/object_store (obstore) /p; s/^s3cmd==/s3cmd /p'
