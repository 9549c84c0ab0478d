#!/bin/sh
# Fetches the Java SDKs and compiles their clients into $CACHE. LATEST=1: the newest SDKs instead of the pinned ones.
set -eu
: "${CACHE:?says where to install}"
for tool in mvn javac; do
	command -v "$tool" >/dev/null || { echo "Java is missing: there is no $tool on the PATH" >&2; exit 1; }
done
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9
[ ! -e "$CACHE/done" ] || [ -n "${LATEST:-}" ] || exit 0

rm -rf "$CACHE/done" "$CACHE/v1" "$CACHE/v2"
for sdk in v1 v2; do
	# Of Maven this takes the resolution of dependencies alone; what it fetched is held to its list.
	mvn --batch-mode --quiet --file "$sdk/pom.xml" ${LATEST:+-U -Dsdk=LATEST} \
		org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DoutputDirectory="$CACHE/$sdk"
	[ -n "${LATEST:-}" ] || (cd "$CACHE/$sdk" && sha256sum --check --strict --quiet) <"$sdk/jars.sha256"
	javac -d "$CACHE/$sdk" -cp "$CACHE/$sdk/*" Steps.java "$sdk"/*.java
done
touch "$CACHE/done"
