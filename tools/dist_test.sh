#!/usr/bin/env bash
# Test on several GPUs or processes:
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [flags of tools/test.py]
# NNODES, NODE_RANK, MASTER_ADDR and PORT describe a run on several machines.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 CONFIG CHECKPOINT PROCESSES [flags of tools/test.py]" >&2
  exit 2
fi
config=$1
checkpoint=$2
processes=$3
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
