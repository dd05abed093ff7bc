# Sourced by demo and test: the virtual environment that they share.
#
# TRTKIT_VENV says where it is, .venv by default. torch and torchvision take 5.5 GB of it, so it is made
# once and kept; the project itself is installed anew each time. `versions` chooses what is installed:
# lock (the default) is requirements.lock; newest and oldest are what pyproject.toml allows, each
# in an environment of its own.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
versions="${versions:-lock}"
venv="${TRTKIT_VENV:-.venv}"
python="${PYTHON:-python3}"

if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))'; then
    echo "trtkit needs Python 3.10 to 3.13, but $python is $("$python" --version 2>&1); set PYTHON to one of those." >&2
    exit 2
fi
if [ "$versions" != lock ]; then
    venv="$venv-$versions-$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')"
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
bin="$venv/bin"
pip=("$bin/python" -m pip --quiet --disable-pip-version-check)

if [ "$versions" = lock ]; then
    requirements=requirements.lock
else
    [ -x "$bin/uv" ] || "${pip[@]}" install uv
    requirements="$venv/requirements.txt"
    case "$versions" in newest) resolution=highest ;; oldest) resolution=lowest-direct ;; esac
    PATH="$bin:$PATH" scripts/lock "$requirements" --python "$bin/python" --resolution "$resolution" --upgrade
fi
# The mark says which requirements were installed to the end.
mark="$venv/trtkit-installed"
wanted="$(cat "$requirements" scripts/environment.sh | sha256sum | cut -d' ' -f1)"
if [ "$(cat "$mark" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing into $venv (some minutes the first time)" >&2
    "${pip[@]}" install --require-hashes --requirement "$requirements"
    echo "$wanted" >"$mark"
fi
"${pip[@]}" install --no-deps --no-build-isolation --editable .
