#!/usr/bin/env bash
# Fills FOLDER with what a GPU machine needs that has only Python, torch, triton and transformers, and no network:
# this checkout's sources, without links, and the one wheel that is missing there.
#
#   benchmarks/gpu/pack.sh FOLDER [PYTHON_VERSION]     here; 3.12 unless told
#   bash FOLDER/run.sh [SECONDS] [RESULTS_FOLDER]      there; 470 seconds, results beside it
set -euo pipefail
folder=${1:?the folder to fill}
python=${2:-3.12}
root=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
mkdir -p "$folder/main" "$folder/wheels"
git -C "$root" archive HEAD engine backends kernels entrypoints benchmarks/gpu tests pyproject.toml |
	tar -x -C "$folder/main" --exclude='*.safetensors'
touch "$folder/main/benchmarks/__init__.py" # so that no installed package of that name comes first
for link in backends kernels entrypoints; do
	rm -rf "$folder/main/engine/$link"
	cp -r "$folder/main/$link" "$folder/main/engine/$link"
done
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$python" \
	--implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
	--platform manylinux2014_x86_64 --dest "$folder/wheels" msgspec
cat >"$folder/run.sh" <<'RUN'
#!/usr/bin/env bash
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
python3 -m pip install --quiet --no-index --no-deps --no-cache-dir --target "$here/site" "$here"/wheels/*.whl
export PYTHONPATH=$here/main:$here/site
cd "$here/main"
exec python3 -m benchmarks.gpu --budget "${1:-470}" --into "${2:-$here}/result.json"
RUN
du -sh "$folder"
