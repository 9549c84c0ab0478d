#!/bin/sh
# NAME VERSION of what is installed, as the jars are named.
set -eu
basename "$CACHE"/v1/aws-java-sdk-sts-*.jar | sed 's/aws-java-sdk-sts-\(.*\)\.jar/Java v1 \1/'
basename "$CACHE"/v2/sts-*.jar | sed 's/sts-\(.*\)\.jar/Java v2 \1/'
