"""langchain-openai against a server: python langchain_chat.py URL MODEL; prints what it got as JSON."""

import asyncio
import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(town: str, days: int = 1) -> str:
    """Weather of a town."""
    return f"21.5 in {town}"


def main(url: str, model: str) -> None:
    plain = ChatOpenAI(base_url=url, api_key="any", model=model, max_retries=0, temperature=0)
    asking = plain.bind_tools([get_weather])
    question = HumanMessage("How warm is it in Füßen?")
    called = asking.invoke([question])
    results = [ToolMessage("21.5", tool_call_id=call["id"]) for call in called.tool_calls]
    streamed = None
    for chunk in asking.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    found = {
        "plain": plain.invoke([question]).content,
        "asynchronous": asyncio.run(plain.ainvoke([question])).content,
        "stream": "".join(chunk.content for chunk in plain.stream([question])),
        "calls": [(call["name"], call["args"]) for call in called.tool_calls],
        "streamed_calls": [(call["name"], call["args"]) for call in streamed.tool_calls],
        "answer": asking.invoke([question, called, *results]).content,
        "tokens": called.usage_metadata["output_tokens"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
