"""A stand-in for an OpenAI-compatible endpoint, on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandIn:
    """``answers`` are (status, headers, content) for the next calls.

    When they are used up, it answers with a question that names the passage. ``seen`` are path,
    headers and body of every call; ``before`` is done before each answer.
    """

    def __init__(self):
        self.answers, self.seen, self.before = [], [], lambda: None
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.seen.append((self.path, dict(self.headers), body))
                stand_in.before()
                default = (200, {}, completion(f"第{passage(body)}个房东不还钱怎么办？"))
                status, headers, content = (stand_in.answers or [default]).pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def passage(body):
    return body["messages"][0]["content"].split("第")[-1][0]


def completion(text, tokens=(100, 10), finish="stop"):
    usage = dict(zip(("prompt_tokens", "completion_tokens"), tokens, strict=True))
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "finish_reason": finish, "message": message}]
    return json.dumps({"choices": choices, "usage": usage}).encode()
