"""Settings of `quire up` and `quire demo`."""

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from quire.engine.config import ChatConfig, ExecutorConfig, SchedulerConfig
from quire.engine.resources.ledger.connection import RedisUrl
from quire.protos.address import MAX_PORT
from quire.services.common.api_key_file import ApiKeyFile
from quire.services.common.channel import DEFAULT_STALL_SECONDS
from quire.services.common.host_names import HostNames
from quire.services.common.named_folders import NamedFolder
from quire.services.common.settings import MAX_WORKERS, MIN_STALL_SECONDS, ProcessSettings


class UpSettings(ProcessSettings, HostNames, ApiKeyFile, ChatConfig):
    """Start a Redis, an executor, a scheduler and a frontend on this machine."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_UP_", cli_shortcuts={"executor.model": "model"})

    redis: RedisUrl | None = None
    """URL of the Redis for the ledger; default: a private one, started and stopped with the services. A URL with a
    password belongs into QUIRE_UP_REDIS: other users can read command lines."""

    redis_password_file: Path | None = None
    """File with the password of the user that the URL names, read for each connection; default: the URL has it, or
    there is none."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address or name at which the frontend's two ports are; 0.0.0.0 or ::, every address of this machine."""

    frontend_port: int = Field(8001, ge=0, le=MAX_PORT)
    """Port of the frontend; 0 chooses a free one."""

    http_port: int = Field(8000, ge=0, le=MAX_PORT)
    """Port of the OpenAI-compatible HTTP API; 0 chooses a free one."""

    served_model_name: str | None = Field(None, min_length=1)
    """The name that clients know the model by; default: the hub id, or the folder's own name."""

    ui: bool | None = None
    """The live page of the HTTP API, /ui: it shows request ids, and lets who sees it generate as the API does. Default:
    yes if `host` is an address of loopback."""

    adapters: tuple[NamedFolder, ...] = ()
    """Low-rank adapters that requests may name, as NAME=FOLDER; repeatable."""

    adapter_updates: bool = False
    """Whether clients may load and unload adapters, from any folder that the executors can read."""

    frontend_workers: int = Field(1, ge=1, le=MAX_WORKERS)
    """Processes of the frontend, which share its two ports."""

    stream_interval: int = Field(1, ge=1, le=1024)
    """Steps that a stream's tokens may wait to be sent in one message; the first one is sent at once."""

    trace_sample: float | None = Field(None, ge=0, le=1)
    """Share of the traces that begin at the frontend that are recorded; default: as OTEL_TRACES_SAMPLER says, or
    all."""

    scheduler_port: int = Field(8002, ge=0, le=MAX_PORT)
    """Port of the scheduler on loopback; 0 chooses a free one."""

    standby: bool = False
    """Start a second scheduler on a free port, which takes over at once when the first one ends."""

    executor_port: int = Field(8003, ge=0, le=MAX_PORT)
    """Port of the first executor on loopback, further ones follow it; 0 chooses free ones."""

    num_executors: int = Field(1, ge=1, le=64)
    """Executors to start, each with the settings below."""

    spare_executors: int = Field(0, ge=0, le=64)
    """Further executors on free ports, without metrics, which are loaded and idle until another one is lost."""

    metrics_port: int | None = Field(None, ge=0, le=MAX_PORT)
    """Port of the scheduler's /metrics on loopback, those of the executors and of the standby follow it; 0 chooses
    free ones; default: only the frontend's HTTP port has /metrics."""

    vllm_metrics: bool = False
    """Whether the frontend's /metrics has vLLM's names, too."""

    drain_seconds: float = Field(5.0, ge=0, le=600)
    """How long running requests may go on after Ctrl-C."""

    stall_seconds: float = Field(DEFAULT_STALL_SECONDS, ge=MIN_STALL_SECONDS, le=3600)
    """How long a service may make no progress, or leave questions unanswered, before it is started again."""

    control: Path | None = None
    """Unix socket at which `quire rollout` reaches this stack; default: one for its frontend port, in XDG_RUNTIME_DIR
    or a folder of this user in /tmp."""

    executor: ExecutorConfig = ExecutorConfig()
    """Settings of each executor."""

    scheduler: SchedulerConfig = SchedulerConfig()
    """Settings of the scheduler."""

    @property
    def ports_of_metrics(self) -> list[int]:
        """The scheduler's, the executors', then a standby's; 0: to be chosen. Empty: they have none."""
        if self.metrics_port is None:
            return []
        count = 1 + self.num_executors + self.standby
        return [self.metrics_port and self.metrics_port + index for index in range(count)]

    @field_validator("num_executors")
    @classmethod
    def _has_ports(cls, count: int, others: ValidationInfo) -> int:
        first = others.data.get("executor_port", 0)
        if first and first + count - 1 > MAX_PORT:
            raise ValueError(
                f"must leave executor_port + num_executors - 1 at most {MAX_PORT}, executor_port is {first}"
            )
        return count
