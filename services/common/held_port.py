"""A port that is kept for other processes of this user, which listen there."""

import socket
from typing import Self

from quire.engine.api.errors import StartupError
from quire.services.common.address import bound_socket, joined


class HeldPort:
    """A context manager that keeps a port: bound for this process, and opened to others of this user then.

    Whoever wants the port for itself finds it in use.

    Args:
        flag: that names the port, for messages.
        listen: "host:port"; port 0 chooses a free one; "": there is none to keep.
        is_shared: others of this user may keep it, too.

    Attributes:
        address: "host:port" with the port's number; "" for none.

    Raises:
        StartupError: the port cannot be listened on.
    """

    def __init__(self, flag: str, listen: str, is_shared: bool = False) -> None:
        self._socket: socket.socket | None = None
        self.address = listen
        if not listen:
            return
        try:
            self._socket = bound_socket(listen, is_shared)
        except OSError as error:
            raise StartupError(f"{flag} {listen}: cannot listen there: {error.strerror}") from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.address = joined(listen.rpartition(":")[0], self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets it go; harmless if repeated."""
        if self._socket is not None:
            self._socket.close()
