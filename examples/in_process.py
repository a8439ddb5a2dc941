"""The engine in this process: a batch, then a stream. No services, no Redis."""

from quire import LLM, SamplingParams


def main() -> None:
    params = SamplingParams(temperature=0, max_tokens=24)
    with LLM() as llm:  # the demo model; LLM("folder-or-hub-id") for another
        for completion in llm.generate(["def add(a, b):", "class Stack:"], params):
            print(repr(completion.text))
        for piece in llm.generate_stream("def fibonacci(n):", params):
            print(piece.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
