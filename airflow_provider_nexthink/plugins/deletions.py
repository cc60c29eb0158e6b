"""The page "Nexthink deletions": the runs of the last weeks, and the outcome of each device.

Airflow's API server serves its static files. They contain no data: the browser fetches it from Airflow's public API
(``/api/v2``), with the session of the logged-in user.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

URL_PREFIX = "/nexthink"
URL_ROUTE = "nexthink-deletions"

# The browser may run and load the page's own files, send requests to this server, and embed the page in its pages.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; require-trusted-types-for 'script'"
    ),
    "Cache-Control": "no-cache",  # revalidate: an upgrade shows at once
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class StaticPages:
    """Serves the page's files. Imports Starlette on the first request: every component imports plugins."""

    def __init__(self) -> None:
        self._files: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._files is None:
            self._files = _static_files()
        await self._files(scope, receive, send)


def _static_files() -> ASGIApp:
    from starlette.staticfiles import StaticFiles

    class Files(StaticFiles):
        def file_response(self, *args: Any, **kwargs: Any) -> Any:
            response = super().file_response(*args, **kwargs)
            response.headers.update(HEADERS)
            return response

    return Files(directory=Path(__file__).parent / "static", html=True)


class NexthinkDeletionsPlugin(AirflowPlugin):
    """Adds the page to the menu *Browse*."""

    name = "nexthink_deletions"
    fastapi_apps: list[Any] = [  # noqa: RUF012 - as Airflow declares it
        {"name": "Nexthink deletions", "app": StaticPages(), "url_prefix": URL_PREFIX},
    ]
    # URLs without a leading slash are relative to Airflow's base URL, which may have a path prefix.
    external_views: list[Any] = [  # noqa: RUF012 - as Airflow declares it
        {
            "name": "Nexthink deletions",
            "href": "nexthink/",
            "destination": "nav",
            "category": "browse",
            "url_route": URL_ROUTE,
            "icon": "nexthink/icon.svg",
            "icon_dark_mode": "nexthink/icon-dark.svg",
        },
    ]
