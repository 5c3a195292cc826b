"""A Prometheus that says what a test wants it to say, in the shapes that Prometheus 2.42 answers in."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs

NOW = 1_795_654_882.9
Series = list[tuple[dict[str, str], float]]


@contextmanager
def prometheus(values: dict[str, Series], rates: list[float]) -> Iterator[tuple[str, list[str]]]:
    """(its address, the queries it got). `values`: by the name of a metric, the first that a query contains."""
    asked: list[str] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            words = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            query = words["query"][0]
            asked.append(query)
            if "((" in query.replace("sum((", "("):
                return self._answer(400, {"status": "error", "errorType": "bad_data", "error": "parse error: unclosed"})
            self._answer(200, {"status": "success", "data": self._data(query)})

        def _data(self, query: str) -> dict[str, Any]:
            if query == "time()":
                return {"resultType": "scalar", "result": [NOW, str(NOW)]}
            if "rate(" in query:
                pairs = [[NOW + i, str(rate)] for i, rate in enumerate(rates)]
                return {"resultType": "matrix", "result": [{"metric": {}, "values": pairs}] if pairs else []}
            found = next((series for name, series in values.items() if name in query), [])
            rows = [{"metric": labels, "value": [NOW, str(value)]} for labels, value in found]
            return {"resultType": "vector", "result": rows}

        def _answer(self, status: int, data: dict[str, Any]) -> None:
            self.send_response_only(status)
            self.end_headers()
            self.wfile.write(json.dumps(data).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
