"""The fields of a body that say which model is to answer, and in which form."""

from quire.engine.api.errors import InvalidRequest
from quire.services.frontend.http.body import Body
from quire.services.frontend.http.usage import StreamUsage


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    """A last chunk with the usage and no choices."""
    continuous_usage_stats: bool | None = None
    """With `include_usage`: the other chunks say the usage so far, too."""


class StreamFields(Body):
    """Fields that every API that answers in streams has."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """For the caller's own records; not looked at."""

    @property
    def stream_usage(self) -> StreamUsage:
        """Where a stream says what it took.

        Raises:
            InvalidRequest: options for a stream were given, and none was asked for.
        """
        if self.stream_options is None:
            return StreamUsage.NOWHERE
        if not self.stream:
            raise InvalidRequest("stream_options", "given", "must be left out unless stream is true")
        if not self.stream_options.include_usage:
            return StreamUsage.NOWHERE
        return StreamUsage.EVERY_CHUNK if self.stream_options.continuous_usage_stats else StreamUsage.LAST_CHUNK
