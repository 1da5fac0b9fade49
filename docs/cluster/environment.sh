# What every host of a cluster needs to know; sourced, not run. A host's service manager may set any of it before.
: "${PTUNE_HOME:=/shared/ptune}"
: "${RAY_AUTH_TOKEN_PATH:=$HOME/.ray/auth_token}"
: "${MLFLOW_TRACKING_URI:=http://127.0.0.1:5000}"
PATH="$HOME/ptune-env/bin:$PATH"
# `ray start` demands a token by itself only where it finds one already.
RAY_AUTH_MODE=token
RAY_USAGE_STATS_ENABLED=0
export PATH PTUNE_HOME MLFLOW_TRACKING_URI RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH RAY_USAGE_STATS_ENABLED
