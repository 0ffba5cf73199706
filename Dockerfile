# The gateway as a small image: docker build --tag trireme-gateway:0.1.0 .
# Settings come from the environment (GATEWAY_AUTH_SECRET, GATEWAY_BROKER, …) or from a mounted /srv/gateway.toml.

FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gateway gateway
COPY protocol protocol
RUN python -m venv /srv/trireme \
 && /srv/trireme/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt '.[postgresql]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /srv --no-create-home trireme \
 && install --directory --owner=trireme --group=trireme /srv/data
COPY --from=build /srv/trireme /srv/trireme
ENV PATH=/srv/trireme/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAY_HOST=0.0.0.0
WORKDIR /srv
# By number, so that a host that asks for it (runAsNonRoot) sees that it is not root.
USER 10001
# The database of `database = "sqlite:///data/gateway.db"`, which is the default.
VOLUME /srv/data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["gateway"]
CMD ["serve"]
