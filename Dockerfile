# The wheels of torch bring CUDA's libraries and the host lends its driver, so the base needs only Python 3.11 to 3.13
# with venv. It has to be Debian or Ubuntu, whose package holds Fashion-MNIST.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE}

# Fashion-MNIST, so that runs need no network. No version: a pinned one disappears with the next release of the base,
# and visionbench checks the files by their sha256.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends dataset-fashion-mnist \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /visionbench
COPY requirements.txt ./
# Wheels only: building a source distribution would fetch tools that nothing pins. Compiled to bytecode here, as is the
# package below: the user of a container may not write it, and would compile torch and Lightning in every process.
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --compile --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt
ENV PATH=/opt/venv/bin:$PATH

COPY . ./
# Every user may write there, so that --user goes with the volumes that Docker makes itself.
RUN pip install --compile --no-cache-dir --no-deps --no-build-isolation . \
    && install -d -m 1777 data lightning_logs
VOLUME ["/visionbench/data", "/visionbench/lightning_logs"]

# A user of whom nothing but a number is known has no home, where matplotlib caches, and no name, which torch looks up.
ENV HOME=/tmp \
    USER=visionbench \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
ENTRYPOINT ["visionbench"]
CMD ["--help"]
