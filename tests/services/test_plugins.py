"""The example plug-ins, installed as the package that they are, in `LLM` and in the services."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from quire.clients.client import Client
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import CacheParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from support.stacks import launch

PACKAGE = Path(__file__).parents[2] / "examples" / "plugins"
NAMES = {
    "capacity_policy": "SHORTEST_PROMPT_FIRST",
    "micro_batch_policy": "LAST_COME_FIRST_SERVED",
    "kv_cache_manager": "KEEP_SYSTEM_PROMPTS",
    "resource_managers": ("TENANT_BUDGET",),
}
PROMPTS = [f"def f{index}(" + "x, " * (40 * (index % 3)) for index in range(12)]
GREEDY = SamplingParams(temperature=0, max_tokens=12)
IN_LLM = f"""
from quire import LLM, SamplingParams
from quire.engine.config import SchedulerConfig

with LLM(dtype="float32", device="cpu", scheduler=SchedulerConfig(**{NAMES!r})) as llm:
    for output in llm.generate({PROMPTS!r}, SamplingParams(temperature=0, max_tokens=12)):
        print(repr(output.text))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the examples in it."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    # The build leaves nothing in the checkout.
    source = tmp_path_factory.mktemp("source") / "plugins"
    subprocess.run(["cp", "-r", str(PACKAGE), str(source)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("TENANT_TOKENS", "300")


def plain() -> list[str]:
    script = IN_LLM.replace(f", scheduler=SchedulerConfig(**{NAMES!r})", "")
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split("\n")


def test_in_llm_and_in_the_services_the_answers_are_the_same(installed: None) -> None:
    answers = subprocess.run([sys.executable, "-c", IN_LLM], check=True, capture_output=True, text=True).stdout
    assert answers.split("\n") == plain()
    with launch(DEMO_MODEL, scheduler=NAMES) as stack, Client(stack.frontend) as client:
        served = [repr(client.generate(prompt, GREEDY).text) for prompt in PROMPTS]
        assert served == answers.splitlines()
        options = RequestOptions(cache=CacheParams(salt="a tenant"))
        with pytest.raises(InvalidRequest, match=r"max_tokens: with the prompt must be at most 300 tokens, .* got 400"):
            client.generate("x", SamplingParams(max_tokens=400), options=options)


def test_a_logits_processor_of_a_package(installed: None) -> None:
    wishes = {"NO_IMMEDIATE_REPEAT": True}
    greedy = replace(GREEDY, max_tokens=40, ignore_eos=True, logit_bias={5: 100.0})
    settings = "temperature=0, max_tokens=40, ignore_eos=True, logit_bias={5: 100.0}"
    script = f"""
import json
from quire import LLM, SamplingParams
with LLM(dtype="float32", device="cpu", logits_processors=["NO_IMMEDIATE_REPEAT"]) as llm:
    params = SamplingParams({settings}, logits_processors={wishes!r})
    print(json.dumps(llm.generate("x", params)[0].token_ids))
"""
    made = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    executor = {"logits_processors": ["NO_IMMEDIATE_REPEAT"]}
    with launch(DEMO_MODEL, executor=executor) as stack, Client(stack.frontend) as client:
        plain = client.generate("x", greedy).token_ids
        served = client.generate("x", replace(greedy, logits_processors=wishes)).token_ids
        little = client.generate("x", replace(greedy, logits_processors={"NO_IMMEDIATE_REPEAT": 1.0})).token_ids
        with pytest.raises(InvalidRequest, match="logits_processors: must be NO_IMMEDIATE_REPEAT, got 'OTHER'"):
            client.generate("x", replace(greedy, logits_processors={"OTHER": None}))
    assert set(plain) == set(little) == {5}
    assert list(served) == json.loads(made)
    assert served[::2] == (5,) * 20
    assert all(left != right for left, right in pairwise(served))


BROKEN = """
from quire.engine.scheduling.capacity.guaranteed_no_evict import GuaranteedNoEvict


class Broken(GuaranteedNoEvict):
    def reservation(self, sequence):
        return 0
"""
ENTRY = "[quire.capacity_policies]\nBROKEN = broken_policy:Broken\n"


def test_a_broken_one_ends_the_scheduler_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_policy.py").write_text(BROKEN)
    metadata = tmp_path / "broken_policy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-policy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    script = """
from quire import LLM
from quire.engine.api.errors import RequestError
from quire.engine.config import SchedulerConfig

with LLM(dtype="float32", device="cpu", scheduler=SchedulerConfig(capacity_policy="BROKEN")) as llm:
    try:
        llm.generate("x")
    except RequestError as error:
        print(error)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    wanted = "plug-in broken_policy.Broken broke the invariant: a reservation covers the context of 1 blocks, got 0"
    assert wanted in ended.stdout + ended.stderr
