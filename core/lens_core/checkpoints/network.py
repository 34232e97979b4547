"""Whether there is any use in asking a server."""

import errno
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_PORTS = {"http": 80, "https": 443}
_NOBODY = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.ENETDOWN)


def unreachable_reason(address: str, timeout: float = 3.0) -> str:
    """Why no connection to a server can come about; empty if one may.

    An unknown name, a refused connection and no network are told at once, where a client would try
    again for half a minute. What another attempt may mend, such as a server that takes long, is
    left to the client, as is everything where a proxy finds the way.

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
