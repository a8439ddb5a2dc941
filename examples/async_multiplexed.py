"""Many requests over one call, as a gateway makes them. Each ends, fails or is cancelled alone."""

import asyncio
import sys

from quire import SamplingParams
from quire.clients import AsyncClient

PARAMS = SamplingParams(temperature=0, max_tokens=16)


async def run(address: str) -> None:
    prompts = [f"def f{index}(" for index in range(8)]
    async with AsyncClient(address, timeout=60, multiplex=True) as client:
        completions = await asyncio.gather(*(client.generate(prompt, PARAMS) for prompt in prompts))
    for prompt, completion in zip(prompts, completions, strict=True):
        print(prompt, repr(completion.text))


def main(address: str = "127.0.0.1:8001") -> None:
    asyncio.run(run(address))


if __name__ == "__main__":
    main(*sys.argv[1:])
