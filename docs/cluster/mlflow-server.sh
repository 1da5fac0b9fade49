#!/usr/bin/env bash
# MLflow's server of a cluster, on its head. Runs lie in the PostgreSQL that ~/.ptune/mlflow-store names, a file of mode
# 0600 with postgresql://USER:PASSWORD@HOST/DATABASE; where there is none, in SQLite on this host's own disk.
# Options as of `mlflow server`; it listens on loopback unless they say otherwise.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
umask 077
mkdir -p ~/.ptune
store=~/.ptune/mlflow-store
if [ -s "$store" ]; then
    MLFLOW_BACKEND_STORE_URI=$(cat "$store")
else
    MLFLOW_BACKEND_STORE_URI="sqlite:///$HOME/.ptune/mlflow.db"
fi
export MLFLOW_BACKEND_STORE_URI MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
exec mlflow server --host 127.0.0.1 --port 5000 --artifacts-destination "$PTUNE_HOME/artifacts" \
    --allowed-hosts localhost:5000,127.0.0.1:5000 "$@"
