#!/usr/bin/env bash
# One ptune command on a Ray cluster inside a Slurm allocation, which ends with it:
#   sbatch docs/cluster/slurm.sh sweep search_spaces/hand.yaml
# Submitted again after a time limit or a lost node, it goes on.
#SBATCH --job-name=ptune
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail
# Slurm runs a copy of this script: the checkout is where `sbatch` was called.
here=$SLURM_SUBMIT_DIR/docs/cluster
. "$here/environment.sh"
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    (umask 077; mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"; openssl rand -hex 32 > "$RAY_AUTH_TOKEN_PATH")
fi
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A port of its own: several allocations may share a host.
port=$((20000 + SLURM_JOB_ID % 20000))
# The first host has a head, without anything to run trials on, and a worker as the others.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash "$here/node.sh" head --port="$port" --include-dashboard=false &
export RAY_ADDRESS=$head:$port
until ray status > /dev/null 2>&1; do sleep 2; done
srun --overlap bash -c '. "$0/environment.sh"; exec ray start --address="$RAY_ADDRESS" --disable-usage-stats --block' "$here" &
# Slurm's warning goes on to ptune, which leaves as after Ctrl-C; the same command goes on later.
ptune "$@" &
command=$!
trap 'kill -TERM $command' TERM
wait $command || { trap - TERM; wait $command; }
