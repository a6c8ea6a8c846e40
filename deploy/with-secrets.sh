#!/bin/sh
# Starts its arguments with one environment variable for each file in $SECRETS (/run/secrets) whose
# name is that of a variable. Prefect reads its passwords from the environment alone; this way they
# stand in no manifest, no image and no `docker inspect`.
set -eu
for file in "${SECRETS:-/run/secrets}"/*; do
    [ -f "$file" ] || continue
    name=${file##*/}
    case $name in
        [!A-Z]* | *[!A-Z0-9_]*) continue ;;
    esac
    # $(…) drops the line break that editors leave at the end.
    value=$(cat "$file")
    export "$name=$value"
done
exec "$@"
