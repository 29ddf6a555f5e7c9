#!/usr/bin/env bash
# Stop Ray on every machine of on-prem.yaml, over ssh (`ray down` would stop the head's only):
#
#   cluster/on-prem-stop.sh cluster/on-prem.yaml
#
# Stop studies first (python -m tune_ddvae.studies stop NAME): one that is cut off loses nothing but what
# its trials did since their last checkpoints.
set -euo pipefail

file=${1:?which file? usage: cluster/on-prem-stop.sh cluster/on-prem.yaml}
python=${TUNE_DDVAE_VENV:-.venv}/bin/python

# The account, its key, and the machines: the head first, which would start the workers again.
mapfile -t words < <("$python" - "$file" <<'PYTHON'
import sys
from pathlib import Path

import yaml

config = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
provider, auth = config["provider"], config["auth"]
head = provider.get("external_head_ip", provider["head_ip"])
key = Path(auth["ssh_private_key"]).expanduser()
print(auth["ssh_user"], key, head, *provider["worker_ips"], sep="\n")
PYTHON
)
if ((${#words[@]} < 3)); then
    echo "on-prem-stop.sh: $file names no machines, or cannot be read" >&2
    exit 2
fi

# The head's memory of its workers (gcs) goes with the cluster.
# shellcheck disable=SC2088  # it is expanded there
command='~/tune-ddvae/.venv/bin/ray stop --force && rm -rf ~/tune-ddvae/gcs'
failed=()
for host in "${words[@]:2}"; do
    echo "$host:"
    ssh -n -i "${words[1]}" -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=no \
        "${words[0]}@$host" "$command" || failed+=("$host")
done
if ((${#failed[@]} > 0)); then
    echo "on-prem-stop.sh: not stopped: ${failed[*]}; what runs there goes on, or ends when it misses its head" >&2
    exit 1
fi
