"""Run one measurement: python scripts/measure NAME [options]. `NAME --help` lists its options."""

import sys

from case import load_cases, run

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in (cases := load_cases()):
        usage = "Usage: python scripts/measure NAME [options]; NAME is one of"
        raise SystemExit(f"{usage} {', '.join(cases)}.")
    run(name, sys.argv[2:])
