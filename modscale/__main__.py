"""`python -m modscale`: the installed command, for where it is not on the PATH."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # Python put the current folder there, and nothing that lies in it is ours to import
    from modscale.cli.main import run

    run()
