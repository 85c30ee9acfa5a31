# The machine image on a host without an image registry: the tools were built by the host's own Go.
ARG BASE=twotier/machine-base:lab
FROM ${BASE}
COPY dist/tools/grpcurl dist/tools/etcdctl /usr/local/bin/
