"""Telling early that a server cannot be reached."""

import errno
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_PORTS = {"http": 80, "https": 443}
_NOBODY = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.ENETDOWN)


def unreachable_reason(address: str, timeout: float = 3.0) -> str:
    """Why a server cannot be reached; empty if it may be.

    An unknown name, a refused connection and a missing network are reported at once, where a client
    would retry for half a minute. Problems that a retry may solve, such as a slow server, are left
    to the client, as is everything behind a proxy.

    Args:
        address: URL of the server.
        timeout: Most seconds for each of its addresses.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    proxied = not getproxies().keys().isdisjoint((parts.scheme, "all"))
    if not host or parts.scheme not in _PORTS or (proxied and not proxy_bypass(host)):
        return ""
    place = (host, parts.port or _PORTS[parts.scheme])
    try:
        socket.create_connection(place, timeout, all_errors=True).close()
    except socket.gaierror as error:
        return f"{address} cannot be reached: {error.strerror}"
    except ExceptionGroup as group:
        if all(isinstance(one, OSError) and one.errno in _NOBODY for one in group.exceptions):
            return f"{address} cannot be reached: {group.exceptions[0]}"
    except OSError:
        pass
    return ""
