"""One answer over gRPC, what it cost, and what a refusal looks like."""

import sys

from quire import SamplingParams
from quire.clients import Client
from quire.engine.api.errors import InvalidRequest


def main(address: str = "127.0.0.1:8001") -> None:
    with Client(address, timeout=60) as client:
        client.ready(timeout=60)
        completion = client.generate("def fibonacci(n):", SamplingParams(temperature=0, max_tokens=48))
        print(completion.text)
        if completion.usage is not None:
            print(f"{completion.usage.prompt_tokens} tokens in, {completion.usage.generated_tokens} out")
        try:
            client.generate("def fibonacci(n):", SamplingParams(top_p=7))
        except InvalidRequest as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
