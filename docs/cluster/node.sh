#!/usr/bin/env bash
# Ray on one host, until it ends: `node.sh head [OPTION...]` or `node.sh worker HEAD [OPTION...]`, options as of `ray start`.
# A service manager has to start it again whenever it ends: a worker that was cut off for long, or whose head was lost,
# ends itself.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    echo "node.sh: no token at $RAY_AUTH_TOKEN_PATH; docs/cluster.md says how to make one" >&2
    exit 2
fi
role=$1
shift
case $role in
    # The head runs drivers and no trials. Its dashboard, which takes jobs, is reached through an SSH tunnel.
    head) set -- --head --port=6379 --dashboard-host=127.0.0.1 --num-cpus=0 --num-gpus=0 "$@" ;;
    worker)
        head=$1
        shift
        set -- "--address=$head:6379" "$@"
        ;;
    *)
        echo "node.sh: '$role' is neither head nor worker" >&2
        exit 2
        ;;
esac
exec ray start "$@" --disable-usage-stats --block
