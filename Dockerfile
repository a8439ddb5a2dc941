FROM python:3.11-slim-bookworm

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir '.[frontend,scheduler,executor]' && rm -rf /src

# `docker run quire COMMAND …`; compose.yaml starts one service per container.
WORKDIR /
ENTRYPOINT ["quire"]
CMD ["--help"]
