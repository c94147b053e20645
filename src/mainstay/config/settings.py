"""The settings of a process: one immutable object, read once from all sources."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Unpack

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from mainstay.config import fields, urls
from mainstay.config.explaining import explain, missing
from mainstay.config.fields import Accepts, Group, Read
from mainstay.config.loading import collect
from mainstay.config.messages import Problem, did_you_mean, misconfigured
from mainstay.config.refusals import refusals
from mainstay.config.sources import Found, Sources
from mainstay.config.values import (
    ApiPath,
    AsyncDatabaseUrl,
    BrokerUrl,
    Count,
    DatabaseUrl,
    Environment,
    HttpUrl,
    JwtSecret,
    LogFormat,
    LogLevel,
    Name,
    NoSeconds,
    Port,
    PositiveCount,
    PrivateKey,
    RateLimit,
    RedisUrl,
    ResultBackend,
    Seconds,
    WholeSeconds,
)

__all__ = ["Settings", "with_prefix"]

_PREFIX = re.compile(r"[A-Z][A-Z0-9_]*_")
_SOFT = frozenset({"dev", "test"})
# Under a name that no setting can have, `load_from` hands over what is to be read.
_SOURCES = "<sources>"

_FOR_TOKENS = "none: needed where tokens are used"
_FOR_PAGES = "none: needed where pages are served"


def _is_soft(data: dict[str, Any]) -> bool:
    return data.get("env") in _SOFT


def _log_format(data: dict[str, Any]) -> Literal["json", "text"]:
    return "text" if data.get("env") == "dev" and os.isatty(1) else "json"


def _async_database_url(data: dict[str, Any]) -> str | None:
    url = data.get("database_url")
    return None if url is None else urls.async_url(url)


def _idempotency_store(data: dict[str, Any]) -> Literal["database", "redis"] | None:
    if data.get("database_url") is not None:
        return "database"
    return "redis" if data.get("redis_url") is not None else None


class Settings(BaseModel):
    """What a process is told from outside.

    ``Settings()`` reads every source, as settings of pydantic-settings do: environment, secret
    files, ``.env``, YAML file, ``mainstay dev``. Keyword arguments win over all of them.
    ``Settings.load_from(Sources.none(), env="test")`` reads none, for tests. Settings that do not
    fit are refused with one :class:`~mainstay.errors.Misconfigured`, which names all of them.

    A service adds fields of its own, and may choose another prefix for its variables::

        class Settings(mainstay.Settings, prefix="SERVICE_"):
            rpc_deadline_seconds: float = 5.0  # read from SERVICE_RPC_DEADLINE_SECONDS
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    env_prefix: ClassVar[str] = "APP_"
    """What the names of this class' own variables begin with."""
    broker_schemes: ClassVar[frozenset[str]] = frozenset(
        {"amqp", "amqps", "redis", "rediss", "memory"}
    )
    """The brokers that ``celery_broker_url`` may name; a service may narrow it."""

    _origins: dict[str, tuple[str, str]] = PrivateAttr(default_factory=dict)

    service_name: Annotated[
        Name,
        Read("<PREFIX>SERVICE_NAME", "<PREFIX>NAME", "SERVICE_NAME", "OTEL_SERVICE_NAME"),
    ] = Field("python-service", description="The service's name in logs, metrics and traces.")
    env: Annotated[Environment, Read("<PREFIX>ENV", "FLASK_ENV")] = Field(
        "prod",
        description="Where the process runs; the strict rules are softened in dev and test.",
    )
    debug: bool = Field(False, description="Show internals to the developer; refused outside dev.")
    instance: Annotated[Name, Read(default="the host's name")] = Field(
        default_factory=lambda: os.uname().nodename or "localhost",
        description="Which of several equal processes this is, in logs and metrics.",
    )
    version: Annotated[Name, Read(default="the package's version")] = Field(
        "", description="The version of the service, in /health and app_build_info."
    )
    commit: Name = Field("unknown", description="The commit the service was built from.")
    log_level: LogLevel = Field("INFO", description="What is logged at least.")
    log_format: Annotated[LogFormat, Read(default="json (text on a terminal in dev)")] = Field(
        default_factory=_log_format, description="One JSON object a line, or text for people."
    )
    config_path: Annotated[str | None, Read(default="config.yml, if it exists")] = Field(
        None, description="A YAML file of settings; its path starts at the working folder."
    )

    host: Annotated[str, Read(default="127.0.0.1 in dev, else 0.0.0.0")] = Field(
        default_factory=lambda data: "127.0.0.1" if _is_soft(data) else "0.0.0.0",  # noqa: S104
        description="The address that HTTP is served on.",
    )
    port: Port = Field(8000, description="The port that HTTP is served on; 0 takes a free one.")
    workers: PositiveCount = Field(1, description="Processes that serve HTTP.")
    api_primary_path: Annotated[ApiPath, Read("API_PRIMARY_PATH")] = Field(
        "api/v1", description="Where the API's routes begin."
    )
    metrics_enabled: bool = Field(True, description="Serve /metrics and count for it.")
    metrics_port: Port = Field(
        8000,
        description="Where processes without a port of their own serve /metrics and health; "
        "0 takes a free one and prints it.",
    )
    loop_sleep_seconds: Seconds = Field(5.0, description="Pause between iterations of a loop.")

    database_url: Annotated[
        DatabaseUrl | None,
        Read(
            "<PREFIX>DATABASE_URL",
            "DATABASE_URL",
            "SQLALCHEMY_DATABASE_URI",
            groups=(
                Group(
                    "postgresql",
                    host="DATABASE_HOST",
                    port="DATABASE_PORT",
                    user="DATABASE_USER",
                    password="DATABASE_PASS",
                    path="DATABASE_NAME",
                    default_port=5432,
                    default_user="postgres",
                ),
                Group(
                    "postgresql",
                    host="POSTGRES_HOST",
                    port="POSTGRES_PORT",
                    user="POSTGRES_USER",
                    password="POSTGRES_PASSWORD",
                    path="POSTGRES_DB",
                    default_port=5432,
                    default_user="postgres",
                ),
            ),
            default="embedded",
        ),
    ] = Field(None, description="The service's database; the driver of sync sessions is put in.")
    async_database_url: Annotated[
        AsyncDatabaseUrl | None, Read("ASYNC_DATABASE_URL", default="derived from database_url")
    ] = Field(
        default_factory=_async_database_url,
        description="The same database for async sessions, where it needs options of its own.",
    )
    db_pool_size: PositiveCount = Field(10, description="Connections that a process keeps open.")
    db_max_overflow: Count = Field(20, description="Connections beyond those, while in demand.")
    db_pool_timeout_seconds: Seconds = Field(
        2.0, description="How long to wait for a free connection before answering 503."
    )
    sql_echo: Annotated[bool, Read("SQL_ECHO")] = Field(False, description="Log every statement.")
    model_discovery_paths: Annotated[tuple[str, ...], Read("MODEL_DISCOVERY_PATHS")] = Field(
        (), description="Packages whose modules define the tables, such as contracts.model."
    )

    redis_url: Annotated[
        RedisUrl | None, Read("<PREFIX>REDIS_URL", "REDIS_URL", default="embedded")
    ] = Field(None, description="Redis or Valkey: events, limits, calls without RabbitMQ.")
    rabbitmq_url: Annotated[
        BrokerUrl | None,
        Read(
            "<PREFIX>RABBITMQ_URL",
            "RABBITMQ_URL",
            groups=(
                Group(
                    "amqp",
                    host="RABBITMQ_HOST",
                    port="RABBITMQ_PORT",
                    user="RABBITMQ_USER",
                    password="RABBITMQ_PASSWORD",
                    default_port=5672,
                    default_user="guest",
                    default_password="guest",
                ),
            ),
            default="embedded",
        ),
    ] = Field(None, description="The broker of calls.")
    rabbitmq_management_url: Annotated[
        HttpUrl | None,
        Read("RABBITMQ_MANAGEMENT_URL", default="port 15672 of rabbitmq_url's host"),
    ] = Field(
        default_factory=lambda data: urls.management_url(data.get("rabbitmq_url")),
        description="RabbitMQ's management API, asked for the depth of queues alone; without a "
        "user of its own it is asked as rabbitmq_url's.",
    )
    data_queue_name: Annotated[Name, Read("DATA_QUEUE_NAME", "QUEUE_NAME")] = Field(
        "data_queue", description="The queue of the data service's calls, for callers and server."
    )

    celery_broker_url: Annotated[
        BrokerUrl | None, Read("CELERY_BROKER_URL", default="embedded")
    ] = Field(None, description="The broker of tasks.")
    celery_result_backend: Annotated[
        ResultBackend | None,
        Read(
            "CELERY_RESULT_BACKEND",
            groups=(
                Group(
                    "postgresql",
                    host="RESULT_BACKEND_URL",
                    port="RESULT_BACKEND_PORT",
                    user="RESULT_BACKEND_USER",
                    password="RESULT_BACKEND_PASSWORD",
                    path="RESULT_BACKEND_DATABASE",
                    default_port=5432,
                    default_user="postgres",
                ),
            ),
            default="embedded",
        ),
    ] = Field(None, description="Where results of tasks are kept that keep theirs.")
    celery_task_profile: Annotated[
        Literal["redeliver", "dead-letter"], Read("CELERY_TASK_PROFILE")
    ] = Field(
        "redeliver",
        description="What becomes of a task whose worker died: done again, or a dead letter.",
    )
    celery_default_queue: Annotated[Name, Read("CELERY_DEFAULT_QUEUE")] = Field(
        "default", description="The queue of tasks that name none."
    )
    celery_task_acks_late: Annotated[bool, Read("CELERY_TASK_ACKS_LATE")] = Field(
        True, description="Acknowledge a task after its work; 0 is refused outside dev."
    )
    celery_task_time_limit: Annotated[
        int, Field(gt=0, le=86_400), Read("CELERY_TASK_TIME_LIMIT")
    ] = Field(300, description="Seconds after which a task's process is ended.")
    celery_task_always_eager: Annotated[bool, Read("CELERY_TASK_ALWAYS_EAGER")] = Field(
        False, description="Run tasks where they are sent; refused outside dev and test."
    )
    celery_task_eager_propagates: Annotated[bool, Read("CELERY_TASK_EAGER_PROPAGATES")] = Field(
        True, description="Raise what an eager task raises."
    )
    celery_task_store_eager_result: Annotated[bool, Read("CELERY_TASK_STORE_EAGER_RESULT")] = Field(
        False, description="Keep the results of eager tasks."
    )

    jwt_secret_key: Annotated[
        JwtSecret | None,
        Read("<PREFIX>JWT_SECRET_KEY", "JWT_SECRET_KEY", default=_FOR_TOKENS),
    ] = Field(None, description="The shared key that signs and verifies tokens.")
    jwt_private_key: Annotated[
        PrivateKey | None,
        Read(
            "<PREFIX>JWT_PRIVATE_KEY",
            "JWT_PRIVATE_KEY",
            default=_FOR_TOKENS,
        ),
    ] = Field(None, description="The key that signs tokens; its public half is served as JWKS.")
    jwt_jwks_url: Annotated[
        HttpUrl | None,
        Read("<PREFIX>JWT_JWKS_URL", "JWT_JWKS_URL", default=_FOR_TOKENS),
    ] = Field(None, description="Where the keys are that verify other services' tokens.")
    jwt_issuer: Annotated[
        Name, Read("<PREFIX>JWT_ISSUER", "JWT_ISSUER", default="service_name")
    ] = Field(
        default_factory=lambda data: data.get("service_name", "unknown"),
        description="Who issues tokens (iss).",
    )
    jwt_audience: Annotated[
        Name, Read("<PREFIX>JWT_AUDIENCE", "JWT_AUDIENCE", default="service_name")
    ] = Field(
        default_factory=lambda data: data.get("service_name", "unknown"),
        description="For whom tokens are (aud).",
    )
    jwt_typ: Annotated[Literal["at+jwt", "JWT"], Read("<PREFIX>JWT_TYP", "JWT_TYP")] = Field(
        "at+jwt",
        description="The type of the tokens that clients show: that of RFC 9068, or `JWT` for "
        "issuers that set no other.",
    )
    jwt_access_ttl_seconds: Annotated[
        WholeSeconds, Read("<PREFIX>JWT_ACCESS_TTL_SECONDS", "JWT_ACCESS_TTL_SECONDS")
    ] = Field(900, le=86_400, description="How long an access token is valid; a day at most.")
    jwt_refresh_ttl_seconds: Annotated[
        WholeSeconds, Read("<PREFIX>JWT_REFRESH_TTL_SECONDS", "JWT_REFRESH_TTL_SECONDS")
    ] = Field(1_209_600, description="How long a refresh token is valid.")
    auth_required: Annotated[bool, Read(default="false in dev, else true")] = Field(
        default_factory=lambda data: not _is_soft(data),
        description="Routes that change or show data need a token, or on Flask a login.",
    )
    secret_key: Annotated[
        SecretStr | None,
        Read("<PREFIX>SECRET_KEY", "FLASK_SECRET_KEY", default=_FOR_PAGES),
    ] = Field(None, description="What signs the cookies of pages.")
    csrf_enabled: Annotated[bool, Read(default="false in test, else true")] = Field(
        default_factory=lambda data: data.get("env") != "test",
        description="Refuse what another site has a browser do in a session of ours (Flask).",
    )

    cors_allow_origins: tuple[str, ...] = Field(
        (), description="Sites whose scripts may call this service; '*' is refused outside dev."
    )
    trusted_proxies: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="How many proxies before this process are ours: a count of hops."
    )
    body_limit_bytes: PositiveCount = Field(
        1_048_576, description="The largest body that is read; a route may raise it."
    )
    request_timeout_seconds: Seconds = Field(30.0, description="How long a request may take.")
    rpc_timeout_seconds: Seconds = Field(10.0, description="How long a call may take.")
    drain_delay_seconds: Annotated[NoSeconds, Read(default="0 in dev, else 5")] = Field(
        default_factory=lambda data: 0.0 if _is_soft(data) else 5.0,
        description="After SIGTERM: how long to answer on, not ready, while traffic goes away.",
    )
    grace_seconds: Seconds = Field(
        25.0, description="After that: how long work in hand may take to finish."
    )
    rate_limit: Annotated[RateLimit | None, Read(default="300/minute outside dev, none in dev")] = (
        Field(
            default_factory=lambda data: None if _is_soft(data) else "300/minute",
            description="Requests of one principal or address; none switches it off.",
        )
    )
    idempotency_store: Annotated[
        Literal["database", "redis"] | None,
        Read(default="database where there is one, else redis"),
    ] = Field(
        default_factory=_idempotency_store,
        description="Where idempotency keys are kept; redis promises less.",
    )
    idempotency_ttl_seconds: WholeSeconds = Field(
        86_400, description="How long a stored answer is given again."
    )
    lost_after_seconds: Seconds = Field(
        300.0, description="What is accepted and nothing accounts for is lost after so long."
    )
    outbox_limit: PositiveCount = Field(
        100_000,
        description="Messages that may wait in the outbox; beyond, sending with a commit is "
        "refused with 503.",
    )
    outbox_retention_seconds: WholeSeconds = Field(
        86_400, description="How long messages are kept that have left the outbox."
    )
    inbox_retention_seconds: WholeSeconds = Field(
        604_800,
        description="How long it is remembered what was done; longer than a broker may keep a "
        "message.",
    )
    task_status_retention_seconds: WholeSeconds = Field(
        2_592_000, description="How long one can ask what became of a task."
    )
    workflow_retention_seconds: WholeSeconds = Field(
        2_592_000, description="How long workflows are kept whose steps have ended."
    )
    dead_letter_retention_seconds: WholeSeconds = Field(
        2_592_000, description="How long dead letters are kept in the database."
    )

    if not TYPE_CHECKING:  # a type checker sees the fields as keyword arguments

        def __init__(self, **values: Any) -> None:
            """Read what is not given, check every value, then all of them together, and answer
            with one message.
            """
            sources = values.pop(_SOURCES, None) or Sources.here()
            found, problems = collect(type(self), sources, values)
            by_hand = {n: Found(one, "given", "a keyword argument") for n, one in values.items()}
            places = by_hand | found
            values = {name: one.value for name, one in places.items()}
            named = _named(problems)
            values.setdefault("version", _package_version(type(self).__module__.partition(".")[0]))
            if values.get("database_url") is None and values.get("async_database_url") is not None:
                # Either URL stands for both; what is wrong with it is said of the one given.
                values["database_url"] = values["async_database_url"]
                places["database_url"] = places["async_database_url"]
                named.add("database_url")
            try:
                super().__init__(**values)
            except ValidationError as error:
                said = explain(type(self), error, places)
                problems = [*problems, *(one for one in said if not one.settings & named)]
                named |= _named(said)
                # The rest is checked all the same, so that one message has everything.
                try:
                    super().__init__(**{n: one for n, one in values.items() if n not in named})
                except ValidationError:
                    raise misconfigured(problems) from None
            self._origins = {name: (one.origin, one.place) for name, one in places.items()}
            strict = not self.is_dev and "env" not in named
            refused = refusals(self, strict=strict)
            problems = [*problems, *(one for one in refused if not one.settings & named)]
            if problems:
                raise misconfigured(problems)

    def __init_subclass__(cls, *, prefix: str | None = None, **config: Unpack[ConfigDict]) -> None:
        super().__init_subclass__(**config)
        if prefix is not None:
            if not _PREFIX.fullmatch(prefix):
                raise TypeError(f"prefix={prefix!r}: it is capitals that end in an underscore")
            cls.env_prefix = prefix

    @classmethod
    def __pydantic_init_subclass__(cls, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)
        for name, field in cls.model_fields.items():
            for base in cls.__mro__[1:]:
                inherited = getattr(base, "model_fields", {}).get(name)
                if inherited is not None and inherited is not field:
                    fields.inherit(field, inherited)
        if cls.broker_schemes != Settings.broker_schemes:
            said = Accepts(" or ".join(f"{scheme}://" for scheme in sorted(cls.broker_schemes)))
            cls.model_fields["celery_broker_url"].metadata.insert(0, said)

    # --- reading ---------------------------------------------------------------------------

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Do as the class itself, called with *overrides*: a name for where a verb reads better.

        Raises:
            Misconfigured: Something does not fit; one message names everything that does not.
        """
        return cls(**overrides)

    @classmethod
    def load_from(cls, sources: Sources, **overrides: Any) -> Self:
        """Read *sources* instead of this process' own; else as :meth:`load`."""
        return cls(**{**overrides, _SOURCES: sources})

    # --- asking ----------------------------------------------------------------------------

    @property
    def is_dev(self) -> bool:
        """Are the strict rules softened? In ``dev`` and in ``test``."""
        return self.env in _SOFT

    def origin(self, name: str) -> str:
        """Say where the value of setting *name* came from.

        ``environment APP_PORT``, ``secret file /run/secrets/…``, ``.env``, ``config.yml``,
        ``embedded (mainstay dev)``, ``given`` (by a keyword argument), or ``default``.
        """
        self._known(name)
        return self._origins.get(name, ("default",))[0]

    def place(self, name: str) -> str:
        """Say the same as exactly as it is known, with line and variable."""
        self._known(name)
        default = f"the default of {self.variables(name)[0]}"
        return self._origins.get(name, ("default", default))[1]

    def need(self, name: str, *others: str) -> Any:
        """Return the value of setting *name*, which the caller cannot do without.

        Args:
            others: What else it cannot do without: one message tells of all that is missing.

        Raises:
            Misconfigured: Nothing names it; the message says which variables would.
        """
        for each in (name, *others):
            self._known(each)
        absent = [each for each in (name, *others) if getattr(self, each) is None]
        if absent:
            raise misconfigured([missing(type(self), each) for each in absent])
        return getattr(self, name)

    @classmethod
    def variables(cls, name: str) -> tuple[str, ...]:
        """Return the environment variables of setting *name*, in the order they are read."""
        cls._known(name)
        return fields.names(name, cls.model_fields[name], cls.env_prefix)

    def shown(self, name: str) -> str:
        """Return the value of setting *name* as one would type it, secrets masked."""
        self._known(name)
        return fields.shown(name, type(self).model_fields[name], getattr(self, name))

    def masked(self, name: str) -> Any:
        """Return the value of setting *name* as JSON may hold it, secrets masked."""
        self._known(name)
        return fields.masked(name, type(self).model_fields[name], getattr(self, name))

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name in type(self).model_fields:
            yield name, self.masked(name)

    # --- checking --------------------------------------------------------------------------

    @field_validator("celery_broker_url")
    @classmethod
    def _narrowed(cls, url: str | None) -> str | None:
        schemes = {one.partition("://")[0] for one in urls.several(url or "")} - {""}
        if not schemes <= cls.broker_schemes:
            raise ValueError("this service takes no such broker")
        return url

    @field_validator("rabbitmq_management_url")
    @classmethod
    def _with_login(cls, url: str | None, info: ValidationInfo) -> str | None:
        return url and urls.management_url(info.data.get("rabbitmq_url"), url)

    @classmethod
    def _known(cls, name: str) -> None:
        if name not in cls.model_fields:
            hint = did_you_mean(name, cls.model_fields)
            raise KeyError(f"{cls.__qualname__} has no setting {name!r}{hint}")


def with_prefix(prefix: str) -> type[Settings]:
    """Return the settings of every service, under *prefix*."""
    if prefix == Settings.env_prefix:
        return Settings

    class OfService(Settings, prefix=prefix):
        """The settings of every service, under another prefix."""

    return OfService


def _named(problems: Iterable[Problem]) -> set[str]:
    return {name for problem in problems for name in problem.settings}


@cache
def _package_version(package: str) -> str:
    """The version of the distribution that the settings class belongs to, else of this one."""
    from importlib.metadata import PackageNotFoundError, version

    for distribution in (package, "mainstay"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "0"
