# Sourced by demo and test: the virtual environment they share.
#
# TRTKIT_VENV says where it is, .venv by default. torch and torchvision take 5.5 GB of it, so that
# it is made once and kept; the project itself is installed anew each time.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${TRTKIT_VENV:-.venv}"
python="${PYTHON:-python3}"

if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))'; then
    echo "trtkit needs Python 3.10 to 3.13, but $python is $("$python" --version 2>&1); set PYTHON to one of those." >&2
    exit 2
fi
# The mark says which requirements were installed to the end.
mark="$venv/trtkit-installed"
wanted="$(cat pyproject.toml scripts/environment.sh | sha256sum | cut -d' ' -f1)"
if [ ! -x "$venv/bin/python" ] || [ "$(cat "$mark" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing into $venv (some minutes the first time)" >&2
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[train,quantize,video]' --group dev
    echo "$wanted" >"$mark"
else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
fi
bin="$venv/bin"
