#!/usr/bin/env bash
# One broker of the cluster: writes its settings, formats its disk once, and becomes the broker.
#
# Settings are the variables that begin with BROKER_: BROKER_NODE_ID is node.id, three underscores
# are a dash. SCRAM_USERS ("name=password ...") are made when the disk is formatted, because the
# brokers need their own user before they can talk to each other; the image's own start cannot do so.
set -euo pipefail
umask 077

: "${CLUSTER_ID:?}" "${SCRAM_USERS:?}" "${BROKER_LOG_DIRS:?}"
home=${KAFKA_HOME:-/opt/kafka}
mkdir -p "$BROKER_LOG_DIRS"
properties=$BROKER_LOG_DIRS.properties

env | grep '^BROKER_' | while IFS='=' read -r name value; do
    key=$(printf '%s' "${name#BROKER_}" | sed 's/___/-/g; s/_/./g' | tr '[:upper:]' '[:lower:]')
    printf '%s=%s\n' "$key" "$value"
done > "$properties"

if [ ! -e "$BROKER_LOG_DIRS/meta.properties" ]; then
    users=()
    for user in $SCRAM_USERS; do
        users+=(--add-scram "SCRAM-SHA-512=[name=${user%%=*},password=${user#*=}]")
    done
    # What it prints has the passwords in it; what it says on stderr is kept.
    "$home/bin/kafka-storage.sh" format --ignore-formatted -t "$CLUSTER_ID" -c "$properties" \
        "${users[@]}" > /dev/null
fi
exec "$home/bin/kafka-server-start.sh" "$properties"
