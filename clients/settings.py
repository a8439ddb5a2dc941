"""Base of the settings of client commands."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class ClientSettings(BaseSettings):
    """Flags and environment variables; a subclass sets the variables' prefix."""

    model_config = SettingsConfigDict(
        env_prefix_target="all",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )
