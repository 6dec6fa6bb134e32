#!/usr/bin/env bash
# Installs Debian's package awscli if it is missing, and prints the path of its aws command.
set -euo pipefail
aws=/usr/bin/aws
if [ ! -x "$aws" ]; then
  command -v apt-get >/dev/null || { echo "install the aws command as $aws" >&2; exit 1; }
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends awscli; } >/dev/null
fi
echo "$aws"
