# The two commands of the README on a machine that has nothing but Docker:
#   docker build -t spectral_ft .                     installs
#   docker run --rm spectral_ft                       make run
#   docker run --rm spectral_ft make test             the suite
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/spectral_ft
COPY . .
RUN make install
CMD ["make", "run"]
