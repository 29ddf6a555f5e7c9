"""A job server of the tests' own: Ray's HTTP interface as far as a client sees it, without any Ray."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import ray

TOKEN = "0123456789" * 4


class FakeCluster:
    """What the server answers from; tests change it as they please."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict] = {}  # by id, as Ray describes them
        self.packages: dict[str, int] = {}  # bytes by name
        self.logs: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.token = ""  # that it asks for
        self.is_silent = False  # takes connections and says nothing
        self.failure = ""  # what every request ends with
        self.before_sending = lambda: None  # called when a job is about to be taken
        self.dead: set[str] = set()  # said to run, until the job manager is asked for something
        self.on_stop = lambda job: job.update(status="STOPPED", end_time=_now())
        self.address = ""

    def add(self, job_id: str, status: str = "RUNNING", **changes) -> dict:
        self.jobs[job_id] = {
            "type": "SUBMISSION",
            "submission_id": job_id,
            "status": status,
            "entrypoint": "true",
            "metadata": {},
            "start_time": _now(),
            **changes,
        }
        return self.jobs[job_id]

    def look_after_jobs(self) -> None:
        """What Ray's job manager does as soon as it is asked for anything."""
        for job_id in self.dead:
            self.jobs[job_id].update(status="FAILED", end_time=_now())
        self.dead.clear()


class _Handler(BaseHTTPRequestHandler):
    cluster: FakeCluster

    def do_GET(self) -> None:
        self._take("GET")

    def do_POST(self) -> None:
        self._take("POST")

    def do_PUT(self) -> None:
        self._take("PUT")

    def log_message(self, *args) -> None:
        pass

    def _take(self, method: str) -> None:
        cluster = self.cluster
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        cluster.requests.append((method, self.path))
        given = self.headers.get("Authorization", "")
        while cluster.is_silent:
            time.sleep(0.05)
        if cluster.token and not given:
            self._answer(401, "Unauthorized: Missing authentication token")
        elif cluster.token and given != f"Bearer {cluster.token}":
            self._answer(403, "Forbidden: Invalid authentication token")
        elif cluster.failure:
            self._answer(500, cluster.failure)
        else:
            self._answer(*self._found(method, body))

    def _found(self, method: str, body: bytes) -> tuple[int, object]:
        cluster = self.cluster
        parts = self.path.strip("/").split("/")
        if self.path == "/api/version":
            return 200, {"version": "4", "ray_version": ray.__version__, "ray_commit": "0"}
        if parts[:2] == ["api", "packages"]:
            name = parts[-1]
            if method == "PUT":
                cluster.packages[name] = len(body)
            return (200, {}) if name in cluster.packages else (404, "no such package")
        if parts[:2] != ["api", "jobs"]:
            return 404, "no such page"
        if len(parts) == 2:
            return (
                self._send(json.loads(body))
                if method == "POST"
                else (200, [*cluster.jobs.values()])
            )
        job = cluster.jobs.get(parts[2])
        if job is None:
            return 404, f"Job {parts[2]} does not exist"
        if parts[3:] == ["stop"]:
            cluster.look_after_jobs()
            is_live = job["status"] in ("PENDING", "RUNNING")
            if is_live:
                cluster.on_stop(job)
            return 200, {"stopped": is_live}
        if parts[3:] == ["logs"]:
            return 200, {"logs": cluster.logs.get(parts[2], "")}
        return 200, job

    def _send(self, order: dict) -> tuple[int, object]:
        cluster = self.cluster
        cluster.look_after_jobs()
        job_id = order["submission_id"]
        cluster.before_sending()
        if job_id in cluster.jobs:
            return 400, f"Traceback\nValueError: Job with submission_id {job_id} already exists."
        known = ("entrypoint", "metadata", "runtime_env")
        cluster.add(job_id, "PENDING", **{key: order[key] for key in known if key in order})
        return 200, {"job_id": job_id, "submission_id": job_id}

    def _answer(self, code: int, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        with suppress(ConnectionError):  # whoever asked has given up
            self.send_response(code)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())


def _now() -> int:
    return int(time.time() * 1000)


@contextmanager
def running() -> Iterator[FakeCluster]:
    """A server on a port of its own, until the context ends."""
    cluster = FakeCluster()
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        cluster.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield cluster
        finally:
            cluster.is_silent = False
            server.shutdown()
            thread.join()


def without_token(monkeypatch) -> None:
    """Send no token, as where there is none: a Ray that another test has started here made one."""
    headers = "ray.dashboard.modules.dashboard_sdk.get_auth_headers_if_auth_enabled"
    monkeypatch.setattr(headers, lambda _: {})
