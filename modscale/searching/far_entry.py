"""What a worker of Ray does before anything else: it compares its code with that of the search.

The modscale there may be any, an old one or none. So this function travels as code and not by its name (`ray_cluster`
sees to that), needs nothing but a `code_fingerprint` that is the search's own if it answers alike, and what it is to
call, and with what, are bytes that are not looked at before: other code may make something else of them.
"""

from __future__ import annotations

from typing import Any

OTHER_CODE = "modscale"
"""The `name` of an ImportError that says that the code is not the search's: of a class that every worker has."""


def call(code: str, version: str, packed: bytes, *contents: Any) -> Any:
    """What a function answers: `packed` has it and its first arguments, `contents` are the others.

    Raises ImportError where the code here is not that of the search, which has this fingerprint and version.
    """
    import pickle
    import socket
    from pathlib import Path

    host, needed = socket.gethostname(), f"all machines need that of the search ({version})"
    try:
        import modscale
    except ImportError as error:
        raise ImportError(f"a worker on {host} has no modscale ({error}): {needed}", name=OTHER_CODE) from None
    try:
        from modscale.machine import code_fingerprint

        found = code_fingerprint()
    except Exception:  # noqa: BLE001  # whatever an old one makes of it
        found = ""
    if found != code:
        what = getattr(modscale, "__version__", "of no version")
        where = Path(modscale.__file__ or "").parent
        rule = f"a worker on {host} has other code: modscale {what} in {where}"
        raise ImportError(f"{rule}; {needed}, and none may change meanwhile", name=OTHER_CODE)
    function, arguments = pickle.loads(packed)  # noqa: S301  # of the search, as all that Ray itself unpickles
    return function(*arguments, *contents)
