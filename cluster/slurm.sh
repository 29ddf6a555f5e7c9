#!/usr/bin/env bash
# A study on the nodes of a Slurm job. From the project's folder (or wherever .venv is), on a login node:
#
#   sbatch --nodes=4 cluster/slurm.sh sparsity --storage /shared/studies
#
# What follows the script's name is what `python -m tune_ddvae.study` takes. Submit the same line again to
# go on with a study that ran out of time, or have Slurm do it: TUNE_DDVAE_REQUEUE=1 sbatch ...
# To stop a study: scancel --batch --signal=INT JOB. It then records what it did, as it does 120 s ahead of
# the time limit. Folders named here (home, .venv, storage) have to be visible on all nodes.
#
# A job has its own ports, token and temporary folder: several may share a node. Settings:
#   TUNE_DDVAE_VENV      the environment (default: .venv where sbatch was called)
#   TUNE_DDVAE_REQUEUE   1: go on by itself after the time limit, until the study is complete
#   TUNE_DDVAE_JOIN_S    how long to wait for all nodes, in seconds (default 300)
#
#SBATCH --job-name=tune-ddvae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

: "${SLURM_JOB_ID:?this script is for sbatch}" "${SLURM_JOB_NODELIST:?this script is for sbatch}"
bin=${TUNE_DDVAE_VENV:-${SLURM_SUBMIT_DIR:-$PWD}/.venv}/bin
if [[ ! -x $bin/ray || ! -x $bin/python ]]; then
    echo "slurm.sh: no environment with Ray in ${bin%/bin}; make it (make setup) or name it: TUNE_DDVAE_VENV" >&2
    exit 2
fi

# Ten ports for each job, below those that the system hands out (from 32768 on). Ray's workers take those,
# by the 0, without which every job would use one and the same range.
first_port=$((12000 + SLURM_JOB_ID % 2000 * 10))
gcs_port=$first_port
head_ports=(
    "--port=$gcs_port"
    "--dashboard-port=$((first_port + 1))"
    "--ray-client-server-port=$((first_port + 2))"
)
node_ports=(
    "--object-manager-port=$((first_port + 3))"
    "--node-manager-port=$((first_port + 4))"
    "--runtime-env-agent-port=$((first_port + 5))"
    "--dashboard-agent-listen-port=$((first_port + 6))"
    "--dashboard-agent-grpc-port=$((first_port + 7))"
    "--metrics-export-port=$((first_port + 8))"
    --min-worker-port=0
    --max-worker-port=0
)

# Whoever has the token can run code as this user, so nobody else may read it; without it nothing that
# listens here obeys. Short, since paths of sockets are: Ray's own folder on each node.
job_folder=$HOME/.tune-ddvae/slurm-$SLURM_JOB_ID
ray_folder=/tmp/ray-$SLURM_JOB_ID
mkdir -p "$job_folder"
chmod 700 "$job_folder"
(umask 077 && "$bin/python" -c 'import secrets; print(secrets.token_hex(32))' > "$job_folder/token")
unset RAY_AUTH_TOKEN RAY_ADDRESS
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job_folder/token
# Ray's exporters of figures would answer without the token, two of them at ports that are the same for
# every job. Those have no switch, and start on no port that cannot be (their logs say so).
export RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1 DASHBOARD_METRIC_PORT=-1
# A node that is gone is noticed within some 12 s instead of a minute.
export RAY_health_check_initial_delay_ms=0 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=3

steps=()  # what srun started: Ray on each node
study=''
signal=''
interrupted=''

stop() {  # SIGNAL. The study gets TERM for both: what a script starts with & is deaf to INT.
    signal=$1
    interrupted=1
    if [[ -n $study ]]; then kill -TERM "$study" 2>/dev/null || true; fi
}

# shellcheck disable=SC2329  # by the trap below
end_and_wait() {  # PID...
    local pid
    for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "$@"; do wait "$pid" 2>/dev/null || true; done
}

# End everything that this job started, whatever happened to it.
# shellcheck disable=SC2329  # by the trap below
clean_up() {
    local code=$?
    trap '' TERM INT
    trap - EXIT
    # The study first, which needs Ray to record what it did; the head last, without which each of the
    # others would take half a minute to end.
    end_and_wait ${study:+"$study"}
    end_and_wait "${steps[@]:1}"
    end_and_wait "${steps[@]:0:1}"
    rm -rf "$job_folder"
    if [[ $signal == TERM && $code != 0 && ${TUNE_DDVAE_REQUEUE:-} == 1 ]]; then
        scontrol requeue "$SLURM_JOB_ID" || echo "slurm.sh: the job could not be requeued" >&2
    fi
    exit "$code"
}
trap clean_up EXIT
trap 'stop TERM' TERM
trap 'stop INT' INT

# Runs on each node: Ray until it is told to end, in a folder of this user's own that goes with it.
# shellcheck disable=SC2016  # it is expanded there
on_node='
set -euo pipefail
folder=$1; shift
mkdir -p -m 700 "$folder"
if [ ! -O "$folder" ]; then echo "slurm.sh: $(hostname): $folder is somebody else'"'"'s" >&2; exit 2; fi
chmod 700 "$folder"
ray=""
end() {
    trap "" TERM INT
    trap - EXIT
    if [ -n "$ray" ]; then kill -TERM "$ray" 2>/dev/null || true; wait "$ray" || true; fi
    rm -rf "$folder"
}
trap end EXIT
trap "exit 143" TERM INT
"$@" "--temp-dir=$folder" &
ray=$!
wait "$ray"
'
start_ray() {  # NODE OPTION...
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$node" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        --export=ALL --overlap --kill-on-bad-exit=0 \
        bash -c "$on_node" on_node "$ray_folder" "$bin/ray" start --block "$@" \
        "--num-cpus=${SLURM_CPUS_PER_TASK:-1}" --object-store-memory=500000000 \
        --disable-usage-stats "${node_ports[@]}" &
    steps+=("$!")
}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# The address under which others know this node, the first one: its own name may mean loopback here.
head_ip=$({ getent ahostsv4 "${nodes[0]}" || true; } | awk '$1 !~ /^127\./ && !found++ { print $1 }')
[[ -n $head_ip ]] || head_ip=$(hostname -I | awk '{ print $1 }')
if [[ -z $head_ip ]]; then
    echo "slurm.sh: ${nodes[0]} has no address that other nodes could know it by" >&2
    exit 2
fi
address=$head_ip:$gcs_port

# Wait for all nodes, but not for ever, and not for one whose Ray has ended. First for the head, for which
# the others would wait by themselves, but not long enough.
give_up() {
    if [[ -n $signal ]]; then exit 143; fi
    echo "slurm.sh: not all of ${nodes[*]} run Ray for this job (see above): no study was started" >&2
    exit 1
}
join_s=${TUNE_DDVAE_JOIN_S:-300}
start_ray "${nodes[0]}" --head "--node-ip-address=$head_ip" --dashboard-host=127.0.0.1 "${head_ports[@]}"
until (: < "/dev/tcp/$head_ip/$gcs_port") 2>/dev/null; do
    if [[ -n $signal ]] || ((SECONDS > join_s)) || ! kill -0 "${steps[0]}" 2>/dev/null; then give_up; fi
    sleep 0.5
done
for node in "${nodes[@]:1}"; do
    start_ray "$node" "--address=$address"
done

# The project's own folder must not hide installed packages: -P.
"$bin/python" -P - "$address" "${#nodes[@]}" "$((join_s - SECONDS))" <<'PYTHON' &
import sys
import time

import ray

address, wanted, limit_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
until = time.monotonic() + limit_s
joined: list[str] = []
while len(joined) < wanted:
    try:
        if not ray.is_initialized():
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        joined = [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]
    except (ConnectionError, RuntimeError) as error:  # this node is not ready yet
        print(f"slurm.sh: waiting for {address}: {type(error).__name__}", file=sys.stderr)
    if time.monotonic() > until:
        names = ", ".join(sorted(joined)) or "none"
        sys.exit(f"slurm.sh: only {len(joined)} of {wanted} nodes joined in time: {names}")
    time.sleep(0.5)
print(f"slurm.sh: {wanted} of {wanted} nodes joined: {', '.join(sorted(joined))}")
PYTHON
waiting=$!
while kill -0 "$waiting" 2>/dev/null; do
    for pid in "${steps[@]}"; do
        if [[ -n $signal ]] || ! kill -0 "$pid" 2>/dev/null; then
            kill -TERM "$waiting" 2>/dev/null || true
        fi
    done
    sleep 0.5
done
wait "$waiting" || give_up
if [[ -n $signal ]]; then give_up; fi

# What goes on with the study is this job again, not the command below, whose address ends with it. $0 is
# Slurm's copy; its Command is what was submitted (in some versions with the words behind it). Options of
# sbatch cannot be had: who gave some gives them again.
script=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p') || script=''
script=${script%" $*"}
script=${script#"${SLURM_SUBMIT_DIR:-$PWD}/"}
submitted_as=$("$bin/python" - "${script:-cluster/slurm.sh}" "$@" <<'PYTHON'
import shlex
import sys

from tune_ddvae.tuning.addresses import without_password

print("sbatch", shlex.join(map(without_password, sys.argv[1:])))
PYTHON
)

# The study, with its exit code: a signal, passed on above, only interrupts the waiting.
TUNE_DDVAE_SUBMITTED_AS=$submitted_as "$bin/python" -m tune_ddvae.study "$@" --address "$address" &
study=$!
if [[ -n $signal ]]; then stop "$signal"; fi  # it came just before
while :; do
    interrupted=''
    code=0
    wait "$study" || code=$?
    [[ -n $interrupted ]] || break
done
study=''
exit "$code"
