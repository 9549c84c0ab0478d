# Two images: `agent` answers pods and needs no privilege; `redirect` leads pods to it and needs NET_ADMIN.
# How they are built and checked: docs/image.md.

# Debian, for the tools and the packages; its python3 must be 3.11 or newer.
ARG DEBIAN=debian:bookworm-slim
# What the agent runs on: anything with the same /usr/bin/python3, a shell is not needed. `python` is the stage below.
ARG RUNTIME=python

FROM ${DEBIAN} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*
ENV PATH=/opt/metaproxy/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Two environments: /build has pip and what builds a wheel and stays behind, /opt/metaproxy is what runs. Both are made on
# the builder's own platform, whatever platform the images are for: nothing there but wheels is of a platform.
FROM --platform=$BUILDPLATFORM ${DEBIAN} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3-venv
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/metaproxy
WORKDIR /source
COPY requirements/build.txt requirements/
# Wheels alone: what would have to be compiled stops the build, on every platform.
RUN /build/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements/build.txt
# Wheels are chosen for this stage's Python and C library. (And buildah 1.28 sees here that it has to make `python`: RUNTIME
# hides that from it.)
COPY --from=python /usr/lib/os-release /target/os-release
RUN cmp /usr/lib/os-release /target/os-release
COPY requirements/run.txt requirements/
ARG TARGETARCH
# pip is told as Python's own cross builds tell it, with the kernel's word for the platform where registries have another.
RUN case "$TARGETARCH" in amd64) machine=x86_64 ;; arm64) machine=aarch64 ;; *) machine="${TARGETARCH:-$(uname -m)}" ;; esac \
    && _PYTHON_HOST_PLATFORM="linux-$machine" /build/bin/pip --python /opt/metaproxy/bin/python3 install \
    --no-cache-dir --no-compile --only-binary :all: --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY metaproxy metaproxy
RUN /build/bin/python3 -m hatchling build --target wheel \
    && /build/bin/pip --python /opt/metaproxy/bin/python3 install --no-cache-dir --no-compile --no-deps dist/*.whl
# By content and unchecked: whatever becomes of the files' times, nothing is compiled again at each start.
RUN /build/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/metaproxy/lib

FROM python AS redirect
RUN apt-get update \
    && apt-get install --yes --no-install-recommends conntrack iproute2 iptables nftables \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*
COPY --from=build /opt/metaproxy /opt/metaproxy
# Capabilities that a container is given are root's alone.
USER 0:0
ENTRYPOINT ["/opt/metaproxy/bin/metaproxy"]
CMD ["redirect", "watch"]
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="metaproxy-redirect" \
      org.opencontainers.image.description="Leads the pods of a node to metaproxy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

# Named, because buildah 1.28 goes on with the platform of the stage `build`.
FROM --platform=$TARGETPLATFORM ${RUNTIME} AS agent
COPY --from=build /opt/metaproxy /opt/metaproxy
# Not every runtime gives a home to a user that /etc/passwd does not know, and libraries ask where theirs is.
ENV HOME=/ \
    PATH=/opt/metaproxy/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["/opt/metaproxy/bin/metaproxy"]
CMD ["run"]
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="metaproxy" \
      org.opencontainers.image.description="Gives each pod credentials of exactly the IAM role it is entitled to" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
