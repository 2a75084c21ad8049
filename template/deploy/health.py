"""Whether a process of the platform answers: `python deploy/health.py code` or `webserver`.

`dagster api grpc-health-check` asks the same, and imports Dagster for it each time.
"""

import sys
from urllib.request import urlopen

_SECONDS = 8


def code(port: int = 4000) -> bool:
    """Whether the code server is serving: the standard health service of gRPC, for Dagster's service."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        name = b"DagsterApi"
        answer = check(bytes([0x0A, len(name)]) + name, timeout=_SECONDS, wait_for_ready=False)
    return bool(answer == b"\x08\x01")


def webserver(port: int = 3000) -> bool:
    """Whether the webserver answers."""
    with urlopen(f"http://127.0.0.1:{port}/server_info", timeout=_SECONDS) as answer:
        return bool(answer.status == 200)


def main(name: str, *port: str) -> int:
    """0 if it answers."""
    return int(not {"code": code, "webserver": webserver}[name](*map(int, port)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
