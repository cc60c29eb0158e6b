"""An SMTP server on loopback that keeps what it is sent."""

from __future__ import annotations

import json
import socketserver
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Self


class MailServer:
    """Takes mails without a password; a context manager. ``mails`` has what was sent, ``recipients`` to whom."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.rejects = False
        """Whether mails are turned down."""
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def airflow_connection(self) -> str:
        """The connection of Airflow to this server, as JSON."""
        host, port = self._server.server_address[:2]
        extra = {"disable_tls": True, "disable_ssl": True, "from_email": "airflow@example.com"}
        return json.dumps({"conn_type": "smtp", "host": host, "port": port, "extra": extra})


def _handler(server: MailServer) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.reply(220, "ready")
            for line in self.rfile:
                match line.decode().strip().upper().split(":")[0].split():
                    case ["RCPT", *_]:
                        server.recipients.append(line.decode().strip().split(":", 1)[1].strip("<> "))
                        self.reply(*((550, "no such mailbox") if server.rejects else (250, "ok")))
                    case ["DATA"]:
                        self.reply(354, "go on")
                        self.take_mail()
                        self.reply(250, "ok")
                    case ["QUIT"]:
                        self.reply(221, "bye")
                        return
                    case _:
                        self.reply(250, "ok")

        def take_mail(self) -> None:
            lines = []
            for line in self.rfile:
                if line == b".\r\n":
                    break
                lines.append(line.removeprefix(b"."))
            mail = message_from_bytes(b"".join(lines), policy=policy.default)
            assert isinstance(mail, EmailMessage)
            server.mails.append(mail)

        def reply(self, code: int, text: str) -> None:
            self.wfile.write(f"{code} {text}\r\n".encode())

    return Handler
