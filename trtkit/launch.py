"""Starts a worker, as a file that Python is given: `python launch.py MODULE ARGUMENT ...`.

MODULE is one of trtkit's, whose `main` gets the arguments as they are.

With `-m` and `-c` Python looks for every module in the current folder first, where a user's `queue.py`
or `numpy.py` would be taken for the real one; given a file it looks in the file's own folder. Options
that prevent this (`-P`, PYTHONSAFEPATH) came with Python 3.11, and `-I` forgets PYTHONPATH. So this
file takes its folder out of the path before it imports anything, and then loads the trtkit that it is
a part of, wherever that lies and whatever else is called trtkit.
"""

import sys

if __name__ == "__main__":
    # Only modules that Python has loaded at its start already, or that are built in.
    import os

    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(here):
        del sys.path[0]

    import importlib
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "trtkit",
        os.path.join(here, "__init__.py"),  # noqa: PTH118
        submodule_search_locations=[here],
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{here} is no package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["trtkit"] = module
    spec.loader.exec_module(module)

    importlib.import_module(f"trtkit.{sys.argv[1]}").main(*sys.argv[2:])
