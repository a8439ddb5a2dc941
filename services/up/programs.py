"""The command line of each service of one machine."""

import sys
from collections.abc import Mapping
from typing import Final

from quire.engine.config import ChatConfig
from quire.services.common.api_key_file import ApiKeyFile
from quire.services.common.host_names import HostNames
from quire.services.common.settings import to_flags
from quire.services.up.places import Places
from quire.services.up.process import NO_SECRETS, Program
from quire.services.up.redis_server import redis_command
from quire.services.up.settings import UpSettings

# Settings that the frontend gets as they are given.
PASSED_ON: Final = {*ChatConfig.model_fields, *HostNames.model_fields, *ApiKeyFile.model_fields}
# Settings that are those of every service.
_COMMON: Final = {"log_level", "log_format", "trace_dir", "otlp_endpoint", "otlp_protocol", "stall_seconds"}
FRONTEND: Final = "frontend"
REDIS: Final = "redis"
# Names of the schedulers' processes, in the order of their addresses. Which of them leads is decided in Redis.
SCHEDULERS: Final = ("scheduler", "standby")


class Programs:
    """Of a stack.

    Args:
        settings: that the programs get.
        places: where they listen and find each other.
        quiet: keep their logs back unless one fails.
    """

    def __init__(self, settings: UpSettings, places: Places, quiet: bool = False) -> None:
        self._settings = settings
        self._places = places
        self._quiet = quiet

    @property
    def executors(self) -> list[str]:
        """Their names, in the order of their addresses."""
        count = len(self._places.executors)
        return ["executor"] if count == 1 else [f"executor{i}" for i in range(count)]

    @property
    def spares(self) -> list[str]:
        """Names of further executors, in the order of their addresses."""
        return [f"spare{i}" for i in range(len(self._places.spares))]

    @property
    def schedulers(self) -> list[str]:
        """Their names, in the order of their addresses."""
        return list(SCHEDULERS[: len(self._places.schedulers)])

    def of(self, name: str) -> Program:
        """The program of this name."""
        if name == FRONTEND:
            return self.frontend()
        if name == REDIS:
            assert self._places.redis_port is not None
            return Program(REDIS, tuple(redis_command(self._places.redis_port)), is_quiet=True)
        if name in self.schedulers:
            return self.scheduler(name, self._places.schedulers[self.schedulers.index(name)])
        names, addresses = [*self.executors, *self.spares], (*self._places.executors, *self._places.spares)
        return self.executor(name, addresses[names.index(name)])

    def executor(self, name: str, address: str) -> Program:
        flags = self._settings.executor.model_dump(exclude_unset=True)
        places: dict[str, object] = {"listen": address, "drain_seconds": self._settings.drain_seconds}
        if address in self._places.spares:
            places["spare"] = True
        elif self._places.metrics:
            places["metrics_listen"] = self._places.metrics[1 + self._places.executors.index(address)]
        return self.service(name, "executor", {**places, **flags}, address=address)

    def scheduler(self, name: str, address: str) -> Program:
        flags = self._settings.scheduler.model_dump(exclude_unset=True)
        executors = ",".join((*self._places.executors, *self._places.spares))
        places: dict[str, object] = {"listen": address, "executors": executors}
        places["redis_password_file"] = self._settings.redis_password_file
        places["adapters"] = self._settings.adapters or None
        metrics = self._places.metrics
        own_metrics = (*metrics[:1], *metrics[1 + len(self._places.executors) :])
        if listen := dict(zip(SCHEDULERS, own_metrics, strict=False)).get(name):
            places["metrics_listen"] = listen
        # Its URL may have a password.
        secrets = {"QUIRE_SCHEDULER_REDIS": self._places.redis}
        return self.service(name, "scheduler", {**places, **flags}, secrets, address)

    def frontend(self) -> Program:
        flags = {
            "listen": self._places.frontend_listen,
            "http_listen": self._places.http_listen,
            "scheduler": ",".join(self._places.schedulers),
            "reuse_port": True,
            "model": self._settings.executor.model,
            "served_model_name": self._settings.served_model_name,
            "stream_interval": self._settings.stream_interval,
            "ui": self._settings.ui,
            "workers": self._settings.frontend_workers,
            "vllm_metrics": self._settings.vllm_metrics,
            "adapter_updates": self._settings.adapter_updates,
            "drain_seconds": self._settings.drain_seconds,
            "trace_sample": self._settings.trace_sample,
            **self._settings.model_dump(include=PASSED_ON, exclude_unset=True),
        }
        # One question reaches any of several processes; whoever starts these asks each of them.
        asked = self._places.frontend if self._settings.frontend_workers == 1 else ""
        return self.service(FRONTEND, "frontend", flags, address=asked)

    def service(
        self,
        name: str,
        command: str,
        flags: Mapping[str, object],
        secrets: Mapping[str, str] = NO_SECRETS,
        address: str = "",
    ) -> Program:
        """A command of `quire` with these settings and those of every service."""
        common = self._settings.model_dump(include=_COMMON)
        line = (sys.executable, "-m", "quire.services.cli", command, *to_flags({**common, **flags}))
        is_named = self._settings.log_format == "text"
        return Program(name, line, secrets, self._quiet, is_named, address)
