"""litellm against a server: python litellm_chat.py URL MODEL; prints what it got as JSON."""

import asyncio
import json
import sys

import litellm

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


def calls_of(message: litellm.Message) -> list[tuple[str, object]]:
    """Name and arguments of each."""
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


def main(url: str, model: str) -> None:
    server = {"model": f"openai/{model}", "api_base": url, "api_key": "any", "num_retries": 0}
    question = {"role": "user", "content": "How warm is it in Füßen?"}
    called = litellm.completion(messages=[question], tools=[WEATHER], **server)
    message = called.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "21.5"} for call in message.tool_calls]
    chunks = list(litellm.completion(messages=[question], tools=[WEATHER], stream=True, **server))
    streamed = litellm.stream_chunk_builder(chunks, messages=[question]).choices[0].message
    plain = litellm.completion(messages=[question], stream=True, **server)
    found = {
        "plain": litellm.completion(messages=[question], **server).choices[0].message.content,
        "asynchronous": asyncio.run(litellm.acompletion(messages=[question], **server)).choices[0].message.content,
        "stream": "".join(chunk.choices[0].delta.content or "" for chunk in plain),
        "calls": calls_of(message),
        "streamed_calls": calls_of(streamed),
        "answer": litellm.completion(messages=[question, message, *results], tools=[WEATHER], **server)
        .choices[0]
        .message.content,
        "tokens": called.usage.completion_tokens,
        "reasoning": message.reasoning_content,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
