"""`python -m trtkit` is `trtkit`."""

from trtkit.cli.main import run

if __name__ == "__main__":
    run()
