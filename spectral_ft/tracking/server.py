"""The W&B server that the user's environment names: the key for it, and whether it answers.

W&B itself waits minutes for a server that does not answer; this asks once, and briefly.
"""

import base64
import http.client
import json
import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

PUBLIC = "https://api.wandb.ai"
QUESTION = {"query": "query Viewer { viewer { id } }"}


def server() -> str:
    """The address of the server.

    Returns:
        `$WANDB_BASE_URL`, or the public one's.
    """
    return os.environ.get("WANDB_BASE_URL", "").rstrip("/") or PUBLIC


def key_of_user() -> str | None:
    """The key for the server.

    Returns:
        That of `$WANDB_API_KEY`, or of the netrc file; None without one.
    """
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        entry = netrc.netrc(path).authenticators(urlsplit(server()).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None


def fault_of_server(*, seconds: float) -> str | None:
    """Ask the server who the user is.

    Args:
        seconds: How long it may take to connect, and to answer.

    Returns:
        What is wrong, as the end of a sentence that begins with W&B; None where nothing is.
    """
    secret = base64.b64encode(f"api:{key_of_user()}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {secret}"}
    try:
        request = urllib.request.Request(f"{server()}/graphql", json.dumps(QUESTION).encode(), headers)
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            viewer = json.load(answer)["data"]["viewer"]
    except urllib.error.HTTPError as error:
        refused = error.code in {401, 403}
        return f"refused the key ({error.code})" if refused else f"answered with an error ({error.code})"
    except TimeoutError:
        return f"did not answer within {seconds:g} s"
    except http.client.HTTPException as error:  # what answers is cut, or no web server
        return f"cannot be reached (its server's answer is not whole: {type(error).__name__})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"did not answer within {seconds:g} s"
        return f"cannot be reached ({reason})"
    return None if viewer else "refused the key (no user has it)"
