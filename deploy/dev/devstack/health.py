"""Health questions, each asked in the server's own protocol. A probe returns None when healthy, else what is wrong."""
import http.client
import socket
import struct
from urllib.parse import urlsplit


def http_ok(url, timeout_s=2.0, body=None):
    """GET answers 2xx (and exactly `body`, when given)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", (parts.path or "/") + ("?" + parts.query if parts.query else ""))
        answer = connection.getresponse()
        text = answer.read(4096)
    except (OSError, http.client.HTTPException) as error:
        return "no answer from {}: {}".format(url, error or type(error).__name__)
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        return "{} answers {}".format(url, answer.status)
    if body is not None and text != body:
        return "{} answers {!r}".format(url, text[:80])
    return None


def redis_ok(port, password, timeout_s=2.0):
    """AUTH and PING are answered (while it loads its log, PING is not)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as link:
            link.sendall("AUTH {}\r\nPING\r\n".format(password).encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                more = link.recv(512)
                if not more:
                    break
                answer += more
    except OSError as error:
        return "no answer on port {}: {}".format(port, error)
    return None if answer == b"+OK\r\n+PONG\r\n" else "answers {!r}".format(answer[:80])


def kafka_ok(port, timeout_s=3.0):
    """A Metadata request (version 1, no topics) names this broker and an active controller."""
    header = struct.pack(">hhih", 3, 1, 1, 10) + b"soma-stack"
    request = header + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as link:
            link.settimeout(timeout_s)
            link.sendall(struct.pack(">i", len(request)) + request)
            size = struct.unpack(">i", _exactly(link, 4))[0]
            answer = _exactly(link, size)
    except (OSError, struct.error) as error:
        return "no answer on port {}: {}".format(port, error)
    brokers = struct.unpack_from(">i", answer, 4)[0]
    if brokers < 1:
        return "no broker is registered yet"
    at = 8
    for _ in range(brokers):
        at += 4
        host = struct.unpack_from(">h", answer, at)[0]
        at += 2 + host + 4
        rack = struct.unpack_from(">h", answer, at)[0]
        at += 2 + max(rack, 0)
    controller = struct.unpack_from(">i", answer, at)[0]
    return None if controller >= 0 else "no controller is active yet"


def _exactly(link, count):
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise OSError("closed the connection")
        data += more
    return data
