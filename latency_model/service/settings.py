"""What an administrator can set: by the environment, as ``GHARIAL_PORT=8765``."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from latency_model.errors import InputError

__all__ = ["Settings", "data_folder", "settings_from_environment"]


def data_folder() -> Path:
    """Return the folder of this user's data, by the XDG rules."""
    given = os.environ.get("XDG_DATA_HOME", "")
    try:
        base = Path(given) if given else Path.home() / ".local" / "share"
    except RuntimeError:  # a process without a home, as in a bare container
        base = Path(tempfile.gettempdir())
    return base / "gharial"


def _database() -> str:
    return f"sqlite:///{data_folder() / 'gharial.db'}"


class Settings(BaseSettings):
    """All settings of the service; each has the name of its field with ``GHARIAL_`` before it.

    Sizes are bytes, times seconds. Rates count units: a request is one, what works on a whole model or table ten
    or more (``limits.COSTS``). A rate of 0 is no limit.
    """

    model_config = SettingsConfigDict(env_prefix="GHARIAL_", extra="ignore", frozen=True)

    database_url: str = Field(default_factory=_database)
    cache_dir: Path = Field(default_factory=lambda: data_folder() / "cache")
    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=0, le=65535)
    import_shipped: bool = True
    """Import the tables that come with Gharial when the service starts."""

    public_reads: bool = True
    """Whether who has no token may read; writing always needs one."""
    token_cache_s: float = Field(default=2.0, ge=0, le=60)
    """How long a token that was checked is taken for good: a revoked one works for so long at most."""

    max_body_bytes: int = Field(default=16 << 20, ge=1)
    max_arrow_bytes: int = Field(default=128 << 20, ge=1)
    max_buffered_bytes: int = Field(default=512 << 20, ge=1)
    """Bodies of all requests together; those of models and tables, which are not kept in memory, do not count."""
    max_onnx_bytes: int = Field(default=1 << 30, ge=1)
    max_table_bytes: int = Field(default=512 << 20, ge=1)
    max_skeleton_bytes: int = Field(default=32 << 20, ge=1)
    """What an ONNX model may have beside its weights, which are skipped as they arrive."""
    max_onnx_depth: int = Field(default=48, ge=8, le=90)
    """Levels of messages in an ONNX file; protocol buffers themselves give up at 100."""
    max_lookups: int = Field(default=2_000_000, ge=1)
    """Convolutions that one request may ask for."""
    max_table_rows: int = Field(default=5_000_000, ge=1)
    max_header_bytes: int = Field(default=32 << 10, ge=1024)
    max_connections: int = Field(default=512, ge=1)

    header_timeout_s: float = Field(default=10.0, gt=0)
    """From a request's first byte, or a connection's beginning, to the end of its headers."""
    keep_alive_s: int = Field(default=75, ge=1)
    request_timeout_s: float = Field(default=120.0, gt=0)
    """From the end of the headers to the beginning of the answer, a slow upload included."""
    send_timeout_s: float = Field(default=30.0, gt=0)
    """How long a client may take none of an answer that waits for it."""
    harvest_timeout_s: float = Field(default=10.0, gt=0)
    """For reading one ONNX model, in a process of its own."""
    harvest_memory_bytes: int = Field(default=4 << 30, ge=256 << 20)
    harvest_workers: int = Field(default=2, ge=1, le=64)
    shutdown_s: int = Field(default=20, ge=0)

    rate_per_s: float = Field(default=10_000.0, ge=0)
    rate_burst: float = Field(default=20_000.0, ge=1)

    poll_s: float = Field(default=1.0, gt=0, le=60)
    """How often the database is asked whether tables changed."""
    lease_s: float = Field(default=60.0, gt=0)
    """How long a worker keeps a job without a heartbeat."""
    keep_models_s: float = Field(default=7 * 86400.0, ge=0)
    """How long the model of a job is kept after the job ended."""

    log_json: bool = True
    log_level: str = "INFO"
    log_lookups: bool = False
    """Write a line for every single lookup that succeeds; they are counted in any case."""

    @property
    def shown_database(self) -> str:
        """The URL of the database without its password."""
        return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", self.database_url)

    @property
    def reads_need(self) -> str | None:
        """The scope that reading takes, None when everybody may."""
        return None if self.public_reads else "read"


def settings_from_environment(**given: object) -> Settings:
    """Return the settings of the environment's variables, ``given`` ones first; ``InputError`` for a bad one."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "GHARIAL_" + "_".join(map(str, first["loc"])).upper()
        raise InputError(
            f"the setting {name} is {first['input']!r}: {first['msg'].lower()}; set another"
        ) from error
