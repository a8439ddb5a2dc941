"""OpenAI's completions API with the standard library: a whole answer, then a stream of server-sent events."""

import json
import sys
from http.client import HTTPConnection, HTTPResponse
from typing import Any


def post(connection: HTTPConnection, **body: Any) -> HTTPResponse:
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def main(address: str = "127.0.0.1:8000") -> None:
    connection = HTTPConnection(address, timeout=60)
    request = {"prompt": "def fibonacci(n):", "max_tokens": 24, "temperature": 0}
    with post(connection, **request) as response:
        print(json.load(response)["choices"][0]["text"])
    with post(connection, **request, stream=True) as response:
        for line in response:
            data = line.decode().removeprefix("data: ").strip()
            if data and data != "[DONE]":
                print(json.loads(data)["choices"][0]["text"], end="", flush=True)
    print()
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
