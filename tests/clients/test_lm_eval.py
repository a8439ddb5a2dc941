"""lm-eval, unmodified: over HTTP it must find what its own `hf` backend finds in the same model."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from quire.engine.demo_model import DEMO_MODEL
from support.stacks import RunningStack, launch

pytestmark = pytest.mark.clients
# `make test-clients` makes it.
TOOLS: Final = Path(os.environ.get("QUIRE_EVALS", ".venv/evals/bin")).absolute()
# The paths in its tasks are of this folder.
TASKS: Final = Path(__file__).parent / "lm_eval_tasks"
CHOICES: Final = "quire_completions"
TEXTS: Final = "quire_functions"
TEMPLATE: Final = Path(__file__).parents[1] / "support" / "chat_templates" / "chatml.jinja"
# It takes the id 0, this model's <s>, for none.
REMOTE: Final = "custom_prefix_token_id=0"

Samples = list[dict[str, Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a chat template."""
    folder = shutil.copytree(DEMO_MODEL, tmp_path_factory.mktemp("models") / "demo")
    shutil.copy(TEMPLATE, folder / "chat_template.jinja")
    return folder


@pytest.fixture(scope="module")
def stack(model: Path) -> Iterator[RunningStack]:
    with launch(model, executor={"num_blocks": 512}) as made:
        yield made


def evaluate(folder: Path, kind: str, settings: str, tasks: str, *flags: str) -> dict[str, Samples]:
    """What lm-eval has for each document, by task."""
    command = [TOOLS / "lm_eval", "run", "--include_path", ".", "--tasks", tasks, "--log_samples"]
    command += ["--output_path", folder, "--model", kind, "--model_args", settings, *flags]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "OPENAI_API_KEY": "any"}
    done = subprocess.run(command, cwd=TASKS, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "API request failed" not in done.stderr
    found: dict[str, Samples] = {}
    for task in tasks.split(","):
        (file,) = folder.glob(f"*/samples_{task}_*.jsonl")
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found[task] = sorted(samples, key=lambda sample: sample["doc_id"])
    return found


@pytest.fixture(scope="module")
def reference(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Samples]:
    """Of the `hf` backend."""
    settings = f"pretrained={model},dtype=float32"
    return evaluate(tmp_path_factory.mktemp("hf"), "hf", settings, f"{CHOICES},{TEXTS}", "--device", "cpu")


def likelihoods(sample: dict[str, Any]) -> tuple[list[float], list[str]]:
    """Of a document's choices the log-likelihoods, and whether each is what greedy sampling gives."""
    values, are_greedy = zip(*sample["filtered_resps"], strict=True)
    return [float(value) for value in values], list(are_greedy)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        (REMOTE, ()),
        (f"{REMOTE},tokenized_requests=False", ()),
        ("tokenizer_backend=huggingface", ("--batch_size", "8")),
        ("tokenizer_backend=huggingface,tokenized_requests=False,num_concurrent=4", ("--batch_size", "4")),
    ],
)
def test_completions_score_and_generate_as_the_hf_backend(
    stack: RunningStack,
    model: Path,
    reference: dict[str, Samples],
    tmp_path: Path,
    settings: str,
    flags: tuple[str, ...],
) -> None:
    server = f"model={model.name},tokenizer={model},base_url=http://{stack.http}/v1/completions,{settings}"
    found = evaluate(tmp_path, "local-completions", server, f"{CHOICES},{TEXTS}", *flags)
    for ours, theirs in zip(found[CHOICES], reference[CHOICES], strict=True):
        (values, are_greedy), (expected, expected_greedy) = likelihoods(ours), likelihoods(theirs)
        assert values == pytest.approx(expected, abs=1e-3), ours["doc"]
        assert are_greedy == expected_greedy, ours["doc"]
        # Whether the likeliest choice is the right one, as it is and for its length.
        assert [ours[name] for name in ("acc", "acc_norm")] == [theirs[name] for name in ("acc", "acc_norm")]
        assert values.index(max(values)) == expected.index(max(expected))
    assert [sample["resps"] for sample in found[TEXTS]] == [sample["resps"] for sample in reference[TEXTS]]


def test_the_tasks_tell_models_apart(reference: dict[str, Samples]) -> None:
    right = [sample["acc_norm"] for sample in reference[CHOICES]]
    assert 0.5 < sum(right) / len(right) < 1
    greedy = {flag for sample in reference[CHOICES] for flag in likelihoods(sample)[1]}
    assert greedy == {"True", "False"}
    assert len({sample["resps"][0][0] for sample in reference[TEXTS]}) == len(reference[TEXTS])


def test_chats_generate_as_the_hf_backend(stack: RunningStack, model: Path, tmp_path: Path) -> None:
    settings = f"pretrained={model},dtype=float32"
    expected = evaluate(tmp_path / "hf", "hf", settings, TEXTS, "--apply_chat_template", "--device", "cpu")
    server = f"model={model.name},base_url=http://{stack.http}/v1/chat/completions"
    found = evaluate(tmp_path / "quire", "local-chat-completions", server, TEXTS, "--apply_chat_template")
    assert [sample["resps"] for sample in found[TEXTS]] == [sample["resps"] for sample in expected[TEXTS]]
