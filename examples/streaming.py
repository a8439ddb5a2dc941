"""Text as it is made. The last piece says why it ended."""

import sys

from quire import SamplingParams
from quire.clients import Client


def main(address: str = "127.0.0.1:8001") -> None:
    params = SamplingParams(temperature=0, max_tokens=64, stop=("\n",))
    with Client(address, timeout=60) as client:
        for piece in client.generate_stream("def fibonacci(n):\n    return", params):
            print(piece.text, end="", flush=True)
            if piece.finish_reason is not None:
                print(f"\n[{piece.finish_reason.name.lower()}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
