"""The fields of a body that say which model is to answer, and in which form."""

from quire.engine.api.errors import InvalidRequest
from quire.services.frontend.http.body import Body


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False
    """A last chunk with the usage and no choices."""


class StreamFields(Body):
    """Fields that every API that answers in streams has."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """For the caller's own records; not looked at."""

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage.

        Raises:
            InvalidRequest: options for a stream were given, and none was asked for.
        """
        if self.stream_options is None:
            return False
        if not self.stream:
            raise InvalidRequest("stream_options", "given", "must be left out unless stream is true")
        return self.stream_options.include_usage
