# docker build -t seodang .
# docker run --rm --gpus all -v "$PWD:/work" -v seodang-cache:/cache seodang tune recipe.yaml
FROM python:3.12-slim
# torch.compile needs a C compiler, with the headers of libc
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir torch==2.13.0
WORKDIR /opt/seodang
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt ".[models,chat,adapters,cuda]" \
 && useradd --create-home --uid 1000 seodang \
 && install --directory --owner seodang /work /cache
USER 1000
WORKDIR /work
ENV SEODANG_CACHE=/cache/seodang HF_HOME=/cache/hub MPLCONFIGDIR=/cache/matplotlib
ENTRYPOINT ["seodang"]
