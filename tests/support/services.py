"""The servers that some tests need: where they are, and a place of its own in each.

Tests that need one are marked ``service``. Without it they skip; where ``CI`` is set they fail.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy.engine import URL

from tests.support.squid import Squid, can_inspect, running_squid

POSTGRES = os.environ.get("NEXTHINK_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
MARIADB = os.environ.get("NEXTHINK_TEST_MARIADB", "mysql://root@127.0.0.1:3306")
REDIS = os.environ.get("NEXTHINK_TEST_REDIS", "redis://127.0.0.1:6379/0")

DATABASES = [
    "sqlite",
    "duckdb",
    pytest.param("postgres", marks=pytest.mark.service),
    pytest.param("mariadb", marks=pytest.mark.service),
]
"""What the fixture ``database`` takes."""


@contextmanager
def postgres_connection() -> Iterator[str]:
    """Give the Airflow connection to a database of its own, which is gone afterwards."""
    with postgres_database() as where:
        yield json.dumps(
            {
                "conn_type": "postgres",
                "host": where.host,
                "port": where.port,
                "login": where.username,
                "password": where.password,
                "schema": where.database,
            }
        )


@contextmanager
def postgres_database() -> Iterator[URL]:
    """Give the address of a database of its own, which is gone afterwards."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    name = _name()
    try:
        server = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        _missing("PostgreSQL", "NEXTHINK_TEST_POSTGRES", POSTGRES, error)
    with server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            where: dict[str, Any] = conninfo_to_dict(POSTGRES)
            yield URL.create(
                "postgresql+psycopg2",
                username=where.get("user"),
                password=where.get("password"),
                host=where.get("host"),
                port=int(where.get("port", 5432)),
                database=name,
            )
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def mariadb_connection() -> Iterator[str]:
    """Give the Airflow connection to a database of its own, which is gone afterwards."""
    with mariadb_database() as where:
        yield json.dumps(
            {
                "conn_type": "mysql",
                "host": where.host,
                "port": where.port,
                "login": where.username,
                "password": where.password,
                "schema": where.database,
                "extra": {"client": "mysql-connector-python", **where.query},
            }
        )


@contextmanager
def mariadb_database() -> Iterator[URL]:
    """Give the address of a database of its own, which is gone afterwards."""
    import mysql.connector

    name, where = _name(), urlsplit(MARIADB)
    # MariaDB does not know the collation that the driver asks for of itself.
    charset = {"charset": "utf8mb4", "collation": "utf8mb4_general_ci"}
    login: dict[str, Any] = {"host": where.hostname or "127.0.0.1", "port": where.port or 3306}
    try:
        server = mysql.connector.connect(user=where.username, password=where.password or "", **login, **charset)
    except mysql.connector.Error as error:
        _missing("MariaDB", "NEXTHINK_TEST_MARIADB", MARIADB, error)
    cursor = server.cursor()
    cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        yield URL.create(
            "mysql+mysqlconnector",
            username=where.username,
            password=where.password,
            **login,
            database=name,
            query=charset,
        )
    finally:
        cursor.execute(f"DROP DATABASE {name}")
        server.close()


@contextmanager
def redis_keys() -> Iterator[str]:
    """Give what the keys are to begin with; those that do are gone afterwards."""
    import redis

    prefix = f"{_name()}:"
    with redis.Redis.from_url(REDIS) as server:
        try:
            server.ping()
        except redis.ConnectionError as error:
            _missing("Redis", "NEXTHINK_TEST_REDIS", REDIS, error)
        try:
            yield prefix
        finally:
            for key in server.scan_iter(match=f"{prefix}*"):
                server.delete(key)


@contextmanager
def squid() -> Iterator[Squid]:
    """Give a squid, a proxy, that runs for the test."""
    if not can_inspect():
        _fail_or_skip("there is no squid that inspects TLS (Debian package squid-openssl)")
    with running_squid() as running:
        yield running


def _name() -> str:
    return f"nexthink_test_{uuid.uuid4().hex[:12]}"


def _missing(service: str, variable: str, address: str, error: Exception) -> None:
    where = urlsplit(address)
    reason = f"{service} is not there at {where.hostname}:{where.port} (set {variable}): {type(error).__name__}"
    _fail_or_skip(reason)


def _fail_or_skip(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
