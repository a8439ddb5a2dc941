"""openai-agents and langchain-openai over the Responses API: python agents_responses.py URL MODEL; prints JSON."""

import asyncio
import json
import sys
from typing import Any

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

QUESTION = "How warm is it in Füßen?"
# What coding agents send, too.
SETTINGS = ModelSettings(
    store=False, reasoning=Reasoning(effort="low", summary="auto"), verbosity="low", parallel_tool_calls=True,
    tool_choice="auto", response_include=["reasoning.encrypted_content"], metadata={"a": "b"}, top_logprobs=2,
)  # fmt: skip


@function_tool
def get_weather(town: str, days: int) -> str:
    """Weather of a town."""
    return "21.5"


@function_tool
def now() -> str:
    """The time."""
    return "12:00"


@tool
def weather(town: str) -> str:
    """Weather of a town."""
    return "21.5"


async def agents(url: str, model: str) -> dict[str, Any]:
    set_tracing_disabled(True)
    served = OpenAIResponsesModel(model, AsyncOpenAI(base_url=url, api_key="any", max_retries=0))
    agent = Agent(name="A", instructions="Be brief.", model=served, tools=[get_weather, now], model_settings=SETTINGS)
    whole = await Runner.run(agent, QUESTION)
    streamed = Runner.run_streamed(agent, QUESTION)
    async for _ in streamed.stream_events():
        pass
    kinds = [type(item).__name__ for item in whole.new_items]
    return {"agent": whole.final_output, "streamed_agent": streamed.final_output, "kinds": kinds}


def langchain(url: str, model: str) -> dict[str, Any]:
    plain = ChatOpenAI(base_url=url, api_key="any", model=model, max_retries=0, use_responses_api=True, store=False)
    asking = plain.bind_tools([weather])
    called = asking.invoke([HumanMessage(QUESTION)])
    results = [ToolMessage("21.5", tool_call_id=call["id"]) for call in called.tool_calls]
    return {
        "plain": plain.invoke(QUESTION).text,
        "stream": "".join(chunk.text for chunk in plain.stream(QUESTION)),
        "calls": [(call["name"], call["args"]) for call in called.tool_calls],
        "answer": asking.invoke([HumanMessage(QUESTION), called, *results]).text,
    }


if __name__ == "__main__":
    print(json.dumps({**asyncio.run(agents(*sys.argv[1:])), **langchain(*sys.argv[1:])}))
