"""A frontend's worker: one of several processes behind the same two ports.

python -m quire.services.frontend.worker, with a `WorkerOrder` as JSON on standard input
"""

import sys

from pydantic import BaseModel, ConfigDict

from quire.engine.api.errors import QuireError
from quire.services.common import logs
from quire.services.common.signals import run_service
from quire.services.frontend.main import Settings, serve


class WorkerOrder(BaseModel):
    """What a worker is told when it starts.

    Attributes:
        settings: the frontend's, with the ports that are shared.
        address: its own, "unix:" and a path, at which the others reach it.
        siblings: the addresses of the others.
    """

    model_config = ConfigDict(frozen=True)

    settings: Settings
    address: str
    siblings: tuple[str, ...]


def main() -> int:
    """Runs until SIGTERM; returns the exit code."""
    order = WorkerOrder.model_validate_json(sys.stdin.buffer.read())
    logs.configure(order.settings.log_level, order.settings.log_format, "frontend")
    try:
        run_service(serve(order.settings, order.address, order.siblings))
    except QuireError as error:
        print(f"quire frontend: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
