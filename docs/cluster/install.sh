#!/usr/bin/env bash
# Installs ptune from its lock into ~/ptune-env. Run from a checkout on every host of a cluster, or in an image.
# Ray demands one version of Python everywhere: uv brings it where a host has another.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 -m pip install --user --quiet uv==0.13.9
python3 -m uv venv --quiet --python 3.11 --allow-existing ~/ptune-env
python3 -m uv pip install --quiet --python ~/ptune-env/bin/python --constraints constraints.txt '.[postgres,s3]'
