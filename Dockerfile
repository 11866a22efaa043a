# syntax=docker/dockerfile:1
# The plant as an image. Build it in the root of the repository: docker build -t tickerplant .
ARG PYTHON=3.12
ARG NODE=22

FROM node:${NODE}-slim AS dashboard
WORKDIR /build/web
ENV PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1
COPY web/package.json web/package-lock.json ./
RUN npm ci
COPY web ./
RUN npm run build

# The build needs only the sources and the bundle of the dashboard, so this stage needs no Node.
FROM python:${PYTHON}-slim AS wheel
WORKDIR /build
COPY tools/requirements-install.txt tools/
RUN pip install --no-cache-dir --require-hashes -r tools/requirements-install.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY tools tools
COPY src src
COPY --from=dashboard /build/src/tickerplant/api/static src/tickerplant/api/static
RUN python -m hatchling build --target wheel --directory /dist

FROM python:${PYTHON}-slim AS packages
WORKDIR /build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1
COPY tools/requirements-install.txt requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements-install.txt && python -m venv --without-pip /opt/tickerplant
# The packages' own tests and C++ headers are 35 MB that the plant never reads.
RUN uv pip install --python /opt/tickerplant/bin/python --require-hashes -r requirements.txt && \
    find /opt/tickerplant -path '*/site-packages/*' -type d \( -path '*/pyarrow/include' -o -path '*/pyarrow/tests' \
        -o -path '*/pandas/tests' -o -path '*/numpy/*/tests' \) -prune -exec rm -r {} +
COPY --from=wheel /dist /dist
RUN uv pip install --python /opt/tickerplant/bin/python --no-deps /dist/*.whl

FROM python:${PYTHON}-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Tickerplant" \
      org.opencontainers.image.description="A market-data plant: feeds in, revisable bars and gap-free history out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /data tickerplant && \
    install -d -m 0700 -o 10001 -g 10001 /data
COPY --from=packages /opt/tickerplant /opt/tickerplant
ENV PATH=/opt/tickerplant/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TICKERPLANT_DATA=/data \
    TICKERPLANT_LOG_FORMAT=json \
    TICKERPLANT_API__HOST=0.0.0.0 \
    TICKERPLANT_MONITORING__HOST=0.0.0.0 \
    TICKERPLANT_MONITORING__PORT=9400
USER 10001:10001
WORKDIR /data
VOLUME /data
# 8000: REST, WebSocket and the dashboard. 9400: metrics and probes of the process, also of a service without an API.
EXPOSE 8000 9400
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9400/health/ready', timeout=4)"]
ENTRYPOINT ["tickerplant"]
CMD ["up"]
