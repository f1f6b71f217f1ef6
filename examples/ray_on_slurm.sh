#!/bin/bash
#SBATCH --job-name=allometry
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#
# A Ray cluster inside a Slurm allocation, and one command on it:
#
#   sbatch examples/ray_on_slurm.sh allometry run quickstart --budget 2h --on ray --store /shared/runs
#
# The first node runs the head and the command, every node trains. The halves can be started by hand, on machines
# without Slurm too:
#
#   examples/ray_on_slurm.sh head                     on one machine
#   HEAD=10.0.0.1 examples/ray_on_slurm.sh worker     on every other
#
# HEAD is the head's address, PORT its port (6379), CPUS the cores to offer (Ray's count of them). Who can reach a
# Ray cluster can run code on it: an allocation makes a token of its own. By hand, export one RAY_AUTH_TOKEN (such as
# `openssl rand -hex 32` prints) for both halves and the command; without it, whoever reaches the port is let in.

set -euo pipefail
export RAY_USAGE_STATS_ENABLED=0
if [ -n "${SLURM_JOB_ID:-}" ]; then
    export RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(python3 -c 'import secrets; print(secrets.token_hex(32))')}
fi
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-$([ -n "${RAY_AUTH_TOKEN:-}" ] && echo token || echo disabled)}
PORT=${PORT:-6379}
OFFER=${CPUS:+--num-cpus=$CPUS}

head() {
    exec ray start --block --head --node-ip-address="${HEAD:-$(hostname --ip-address | cut -d' ' -f1)}" \
        --port="$PORT" --include-dashboard=false --disable-usage-stats $OFFER
}

worker() {
    exec ray start --block --address="$HEAD:$PORT" ${ADDRESS:+--node-ip-address=$ADDRESS} \
        --disable-usage-stats $OFFER
}

allocation() {
    local nodes first
    nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    first=$(echo "$nodes" | sed -n 1p)
    HEAD=$(srun --nodes=1 --ntasks=1 -w "$first" hostname --ip-address | cut -d' ' -f1)
    export HEAD PORT RAY_ADDRESS="$HEAD:$PORT"
    srun --nodes=1 --ntasks=1 --overlap -w "$first" "$0" head &
    until ray status >/dev/null 2>&1; do
        kill -0 $! 2>/dev/null || { echo "ray did not start on $first" >&2; exit 1; }
        sleep 2
    done
    if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
        srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap \
            --exclude="$first" "$0" worker &
    fi
    "$@"
}

case "${1:-}" in
    head) head ;;
    worker) worker ;;
    "") sed -n '/^# A Ray cluster/,/^# `openssl/p' "$0" >&2; exit 2 ;;
    *) allocation "$@" ;;
esac
