"""Real receivers of alerts: an SMTP server and a webhook's, small, in threads of the test.
``python receivers.py smtp|webhook PORT FOLDER`` runs one for ever: the lab does that."""

import http.server
import json
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar


class Mails(socketserver.StreamRequestHandler):
    """RFC 5321 as far as one client needs it. ``answer`` replaces what DATA gets at its end."""

    def handle(self) -> None:
        self._say("220 test")
        recipients: list[str] = []
        while line := self.rfile.readline().decode().rstrip("\r\n"):
            word = line.split(":")[0].split(" ")[0].upper()
            if word in ("EHLO", "HELO"):
                self._say("250 test")
            elif word == "RCPT":
                recipients.append(line.split(":", 1)[1].strip().strip("<>"))
                self._say("250 ok")
            elif word == "DATA":
                self._say("354 go on")
                text = []
                while (line := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    text.append(line[1:] if line.startswith("..") else line)
                server: Any = self.server
                answer = server.answers.pop(0) if server.answers else "250 taken"
                if answer.startswith("2"):
                    server.took({"to": recipients, "text": "\n".join(text)})
                self._say(answer)
            elif word == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class Posts(http.server.BaseHTTPRequestHandler):
    """Takes every POST."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        status = int(server.answers.pop(0)) if server.answers else 204
        if status < 300:
            server.took({"headers": dict(self.headers), "json": json.loads(body)})
        self.send_response(status)
        if status in (301, 302):
            self.send_header("Location", self.path)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Receiver:
    """A server on a free port of this host; what it took is in ``taken``, with the time."""

    KINDS: ClassVar[dict[str, Any]] = {"smtp": Mails, "webhook": Posts}

    def __init__(self, kind: str, port: int = 0, folder: Path | None = None) -> None:
        self.taken: list[dict[str, Any]] = []
        self._folder = folder
        socketserver.ThreadingTCPServer.allow_reuse_address = True
        server: Any = socketserver.ThreadingTCPServer(("127.0.0.1", port), self.KINDS[kind])
        server.daemon_threads = True
        server.took, server.answers = self._took, []
        self.answers: list[str] = server.answers
        self._server = server
        self.port: int = server.server_address[1]

    def _took(self, what: dict[str, Any]) -> None:
        what["at"] = time.time()
        self.taken.append(what)
        if self._folder is not None:
            name = self._folder / f"{time.time_ns()}.json"
            name.with_suffix(".tmp").write_text(json.dumps(what))
            name.with_suffix(".tmp").rename(name)

    def start(self) -> "Receiver":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    Receiver(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))._server.serve_forever()
