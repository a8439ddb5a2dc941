"""All kinds of faults."""

from chaos.machine import MACHINE
from chaos.network import NETWORK
from chaos.processes import ENDS, FREEZES
from chaos.several import several
from chaos.store import STORE

_SINGLE = (*ENDS, *FREEZES, *NETWORK, *STORE, *MACHINE)
# Every fourth is several at once.
KINDS = (*_SINGLE, *(several(_SINGLE),) * (len(_SINGLE) // 3))
# By these no process is ended.
GENTLE = (*FREEZES, *NETWORK, *STORE, *MACHINE)
_QUICK = (
    "leader: SIGKILL",
    "leader: SIGTERM",
    "executor: SIGKILL",
    "executor: SIGTERM",
    "frontend: SIGKILL",
    "schedulers and an executor: reset",
    "a frontend and the leader: reset",
    "Redis: SIGKILL",
    "Redis: FLUSHALL",
)
QUICK = tuple(kind for kind in KINDS if kind.name in _QUICK)
