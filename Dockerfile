# The command `deptbus` for the services of docker-compose.yml: worker, operations, console, adapter, jobs.
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
# Everything from the lock, digest by digest; then the project itself, without a download.
RUN python -m venv /opt/deptbus \
    && /opt/deptbus/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY topics.yml departments.yml grants.yml ./
COPY schemas schemas
COPY agents agents
COPY src src
RUN /opt/deptbus/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim
# A volume that is mounted there belongs to that user, as the folder does: accounts of the console.
RUN useradd --system --create-home deptbus && install -d -o deptbus -m 700 /var/lib/deptbus
COPY --from=build /opt/deptbus /opt/deptbus
USER deptbus
ENTRYPOINT ["/opt/deptbus/bin/deptbus"]
CMD ["--help"]
