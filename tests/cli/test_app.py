"""The command line as a whole: its size, its help, its shared options, its errors and exit codes."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from persona.cli import adapters as adapter_commands
from persona.cli import ask, benchmarks, evaluate, serve, store, train
from persona.cli.app import app, split_shared
from persona.cli.config import settings_of
from persona.errors import StoreError
from persona.eval.benchmarks.registry import BENCHMARKS
from persona.records import Record
from persona.settings import Settings
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import SAMPLE, Run

ROOT = Path(__file__).resolve().parents[2]

DIALECT = (
    r"\b(so many|at most so|kept aside|looks?|told|mend|lent|plug|echo|slot|whose kind|who is published|"
    r"for good|names again and again)\b"
)
"""Words that a help page says in plain English instead; ``persona-plug`` is a name."""


def leaves(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, by its words."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, (*path, name))


def groups(command: Any = None) -> Iterator[Any]:
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        yield command
        for inner in command.commands.values():
            yield from groups(inner)


def options(command: Any) -> list[str]:
    """The options of a command, ``--help`` among them."""
    return [*(each.opts[-1] for each in command.params if each.param_type_name == "option"), "--help"]


COMMANDS = dict(leaves())


def test_the_command_line_stays_small() -> None:
    assert len(COMMANDS) <= 30
    assert sum(len(options(command)) for command in (*COMMANDS.values(), *groups())) <= 220
    assert all(len(options(command)) <= 16 for command in COMMANDS.values())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_in_plain_words(run: Run, path: tuple[str, ...]) -> None:
    shown = run(*path, "--help")
    assert (shown.code, shown.err) == (0, "")
    words = " ".join(shown.out.split())
    assert all(option in words for option in options(COMMANDS[path]))
    assert not re.search(DIALECT, words.replace("persona-plug", ""), flags=re.IGNORECASE)
    (summary, *_) = (COMMANDS[path].help or "").split("\n")
    assert summary.endswith(".")
    assert len(summary) <= 50
    for parameter in COMMANDS[path].params:
        assert parameter.help[:1].isupper() or not parameter.help[:1].isalpha(), (parameter.name, parameter.help)


def test_help_needs_no_torch_and_less_than_a_second() -> None:
    code = "import sys; from persona.cli.app import main; sys.argv = ['persona', 'ask', '--help']\n"
    code += "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules, 'pydantic_settings' in sys.modules)"
    begun = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "False False"
    assert time.perf_counter() - begun < 5  # a busy machine; 0.2 s on a free one


def test_the_settings_that_a_help_page_names_are_there() -> None:
    for path, defaults in (
        (("retrieve",), ask._retrieval),
        (("ask",), ask._personalization),
        (("summarize",), store._summaries),
    ):
        (parameter,) = [each for each in COMMANDS[path].params if "--set" in each.opts]
        named = set(re.findall(r"\w+", parameter.help.partition(".")[0])) - {"One", "of", "and"}
        flags = {each.name for each in COMMANDS[path].params} | {"relevance", "retriever"}
        assert named == {each.name for each in settings_of(defaults())} - flags


def test_help_and_version(run: Run) -> None:
    shown = run("--help").out
    assert all(path[0] in shown for path in COMMANDS)
    assert run("-h").out == shown
    assert run("--version").out.startswith("persona 0.")


def commands_in_the_docs() -> Iterator[tuple[str, list[str]]]:
    """Every line of a shell block that calls persona, with its continuation lines."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                call = re.match(r"\s*(?:\w+=\S+ )*persona (.+)", line)
                if call:
                    yield (
                        f"{page.name}: {line.strip()}",
                        shlex.split(call[1].replace("[", "").replace("]", ""), comments=True),
                    )


DEFAULTS = {
    ("retrieve",): ask._retrieval,
    ("ask",): ask._personalization,
    ("summarize",): store._summaries,
    ("train", "user-embedder"): train._embedder_defaults,
    ("train", "adapters"): adapter_commands._defaults,
    ("train", "filter"): train._filter_defaults,
    ("eval", "lamp"): evaluate._lamp_defaults,
    ("eval", "restraint"): evaluate._restraint_defaults,
    ("eval", "run"): benchmarks._defaults,
    ("eval", "bench"): benchmarks._bench_defaults,
    ("serve",): serve._settings,
}


def unknown(words: list[str]) -> set[str]:
    """What of a call the command line does not know: its command, options, names of settings."""
    if words[0] == "records" and words[1] not in ("list", "add", "edit", "delete"):
        words = ["records", "list", *words[1:]]
    if words[0] == "eval" and words[1] in BENCHMARKS:
        words = ["eval", "run", *words[1:]]
    if words == ["keys"]:  # lists them
        return set()
    path = next((path for path in COMMANDS if tuple(words[: len(path)]) == path), None)
    if path is None:
        return {" ".join(words)}
    _, own = split_shared(words[len(path) :])
    options = {name for each in COMMANDS[path].params for name in (*each.opts, *each.secondary_opts)}
    wrong = {word.partition("=")[0] for word in own if word.startswith("--")} - options
    given = {own[place + 1].partition("=")[0] for place, word in enumerate(own) if word == "--set"}
    known = settings_of(DEFAULTS[path]()) if given else []
    return wrong | given - {name for each in known for name in (each.key, each.name)}


def test_the_commands_in_the_docs_are_there() -> None:
    called = dict(commands_in_the_docs())
    assert len(called) > 30
    assert {line: wrong for line, words in called.items() if (wrong := unknown(words))} == {}


@pytest.mark.parametrize(
    ("arguments", "shared", "others"),
    [
        (["ask", "ana", "hi", "--json"], ["--json"], ["ask", "ana", "hi"]),
        (["show", "ana", "--store", "u", "--debug"], ["--store", "u", "--debug"], ["show", "ana"]),
        (["--store=u", "show", "ana"], ["--store=u"], ["show", "ana"]),
        (["ask", "ana", "--", "--json"], [], ["ask", "ana", "--", "--json"]),
        (["ask", "ana", "--dtype", "bfloat16", "hi"], ["--dtype", "bfloat16"], ["ask", "ana", "hi"]),
        (["ask", "ana", "hi", "--store"], ["--store"], []),
    ],
)
def test_shared_options_stand_anywhere(arguments: list[str], shared: list[str], others: list[str]) -> None:
    assert split_shared(arguments) == (shared, others)


def test_a_store_that_nothing_opens_is_refused(run: Run) -> None:
    assert "`demo` opens no store: leave --store out, was: 'x'" in run("demo", "--store", "x").error
    assert "leave the user, --adapters and --store out" in run("show", "--trained", "x", "--store", "y").error


def test_a_device_and_a_dtype_without_an_llm_are_refused(run: Run) -> None:
    assert "`show` loads no LLM: leave --device, --dtype out" in run("show", "--device", "cpu", "--dtype=float32").error


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--device", "toaster"), "`device` 'toaster' cannot be used here"),
        (("--dtype", "int3"), "`dtype` must be auto, float32, float16, bfloat16, float64, was: 'int3'"),
        (("--quantize", "3bit"), "`quantize` must be one of 4bit, 8bit, was: '3bit'"),
        (("--llm", "openai:m", "--dtype", "float32"), "an endpoint as an LLM takes"),
    ],
)
def test_where_the_llm_computes_reaches_it(
    stocked: Run, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert said in stocked("ask", "mara", "Hello.", *given).error


def test_the_default_llm_is_one_for_everyday_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSONA_LLM")
    assert Settings().llm == "smollm2"


ERRORS = {
    "ingest none.jsonl": "none.jsonl",
    "retrieve mara film": "persona.db: create one with `persona ingest FILE`",
    "embed-users": "persona.db: create one with",
    "ask mara Hello.": "persona.db: create one with",
    "ask mara '  '": "the prompt must not be empty",
    "summarize --llm no/such": "persona.db: create one with",
    "show mara --limit 3": "--after and --limit are for the list of users",
    "show --trained .": "no user embedder could be loaded from '.': there is no config.json in it",
    "show --trained nope": "there is no such folder, and a hub id is `owner/name`",
    "export-adapters out": "persona.db: create one with",
    "import-adapters nowhere": "persona.db: create one with",
    "export --all out.jsonl": "persona.db: create one with",
    "export out.jsonl": "name a user and a file, or --all and a file",
    "export --all mara out.jsonl": "name a user and a file, or --all and a file",
    "import nowhere": "nowhere: the file cannot be read: No such file",
    "import films/dev_outputs.json": "is no export of `persona export`",
    "eval lamp nowhere --llm none": "nowhere",
    "eval lamp films --methods bm52 --llm none": "a method must be one of",
    "eval lamp films --k one --llm none": "`ks` must be a list, each a whole number, was: 'one'",
    "eval lamp films --split test --llm none": "test_questions.json",
    "eval lamp films --llm no/such-folder": "no/such-folder",
    "eval lamp films --split foo": "`split` must be one of train, dev, test, was: 'foo'",
    "eval lamp films --methods user-embedder --llm no/such": "--user-embedder",
    "eval lamp films --set methds=none": "there is no setting 'methds'; did you mean 'methods'?",
    "eval lamp films --config nope.toml": "nope.toml: No such file or directory",
    "eval lamp films --out films/dev_outputs.json": "--out must be a folder, was a file",
    "eval locomo nowhere": "nowhere: there is no such file or folder; get data/locomo10.json",
    "eval run lokomo films": "a benchmark must be one of",
    "eval locomo films --methods bm52": "a method must be one of none, full,",
    "eval compare films films": "films/results.json: the file cannot be read",
    "eval restraint films --methods none --llm no/such": "the row 'none' is always there",
    "eval restraint films --set split=test": "`split` must be one of train, dev",
    "eval restraint films --set judge=record": "`judge` says what a filter judges, and there is none",
    "eval restraint films --out films/dev_outputs.json": "--out must be a folder, was a file",
    "train user-embedder films --out x --set mode=foo": "`mode` must be one of attention, persona-plug",
    "train user-embedder films --out x --set retriever=foo": "a retriever must be one of",
    "train user-embedder films --out x --set steps": "--set takes NAME=VALUE, was: 'steps'",
    "train user-embedder films --out films/dev_outputs.json": "--out must be a folder, was a file",
    "train filter films --out films/dev_outputs.json": "--out must be a folder, was a file",
    "train adapters --out x": "--out is for a task adapter, and needs DATA",
    "train adapters films --llm no/such": "from DATA a task adapter is trained into --out FOLDER, or a generator over",
    "train adapters films --out x --all": "nothing of DATA goes into a store; --all: leave it out",
    "train adapters --set users.kind=one-pass": "users.kind=one-pass needs a task adapter with a generator",
    "train adapters films --out films/dev_outputs.json": "--out must be a folder, was a file",
    "train adapters films --out x --llm openai:m@http://127.0.0.1:1/v1": "training needs a transformers model",
    "forget mara --yes --exports nope": "must be a folder that is there, was: 'nope'; nothing was erased",
    "embed-users --export nope/x.parquet": "nope: No such file or directory",
}


@pytest.mark.parametrize("line", ERRORS)
def test_an_error_is_one_line_and_exit_code_1(
    run: Run, films: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert ERRORS[line] in run(*shlex.split(line)).error


IN_A_STORE = {
    "ask mara Hello. --summary nope": "`summary` must be one of stats, llm, both",
    "ask mara Hello. --adapters --set missing_adapter=foo": "`missing_adapter` must be one of error, prior, base",
    "ask mara Hello. --set missing_adapter=prior": "`family` and `missing_adapter` are for adapters",
    "ask mara Hello. --task LaMP_33": "a LaMP task must be one of",
    "ask mara Hello. --retriever foo": "a retriever must be one of",
    "ask mara Hello. --adapters": "`persona train adapters`",
    "ask mara Hello. --set num_beam=4": "there is no setting 'num_beam'; did you mean 'num_beams'?",
    "ask mara Hello. --set num_beams=four": "`generation.num_beams` must be a whole number, was: 'four'",
    "embed-users --view foo": "`view` must be one of",
    "retrieve mara film --filter ''": "a filter must be 'untrained' or a folder, was: ''",
    "ask Mora Hello.": "did you mean 'mara'? `persona show` lists all (--new-user answers without a history)",
    "retrieve nobody film": "the store holds nothing on 'nobody'",
    "records nobody": "the store holds nothing on 'nobody'",
    "records mara --where label": "a filter is FIELD OP VALUE",
    "records edit mara none --text x": "'mara' has no record 'none': `persona records USER` lists them",
    "records edit mara none": "name what to change: --text, --target",
    "records delete mara none": "'mara' has no record 'none'",
    "records add mara ' '": "a record's `text` must not be empty",
    "records add mara x --time soon": "a time must be like",
    "records add mara x --metadata film": "--metadata takes NAME=VALUE, was: 'film'",
    "show nobody": "the store holds nothing on 'nobody'",
    "show nobody --adapters": "the store holds nothing on 'nobody'",
    "export-adapters out": "no adapters",
    "import-adapters nowhere --llm tiny": "holds no PEFT adapter",
    "export nobody out.jsonl": "the store holds nothing on 'nobody'",
    "export mara nope/out.jsonl": "nope/.out.jsonl",
    "ingest none.jsonl": "none.jsonl",
    "summarize --set form=x": "one of instruct, task, was: 'x'",
    "summarize --task LaMP_9": "LaMP_9",
    "summarize --set form=task": "needs a LaMP task",
    "train adapters --task LaMP_1": "LaMP_1 names two papers",
    "train adapters --llm tiny --set lora.targets=out_proj": "was: 'out_proj'",
    "train adapters --set learning=1": "there is no setting 'learning'; did you mean 'learning_rate'?",
}


@pytest.mark.parametrize("line", IN_A_STORE)
def test_options_are_checked_before_the_llm_is_loaded(stocked: Run, line: str) -> None:
    llm = ("--llm", "no/such") if line.split()[0] in ("ask", "summarize") else ()
    assert IN_A_STORE[line] in stocked(*shlex.split(line), *llm).error


def test_debug_shows_the_traceback(run: Run) -> None:
    with pytest.raises(StoreError):
        run("retrieve", "mara", "film", "--debug")


@pytest.mark.parametrize("line", ["no-such-command", "retrieve mara", "retrieve mara film --k 0", "lora list"])
def test_wrong_usage_is_exit_code_2(run: Run, line: str) -> None:
    assert run(*line.split()).code == 2


def test_a_reader_that_goes_away_is_no_error(stocked: Run) -> None:
    show = shlex.join([sys.executable, "-m", "persona", "show", "mara", "--json"])
    done = subprocess.run(["bash", "-c", f"{show} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert done.returncode in (0, 1)  # 0 if all was written before the reader went
    assert "Traceback" not in done.stderr


def test_a_full_disk_behind_stdout_is_one_line(stocked: Run) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    for records in (1, 1000):  # less and more than Python writes at once
        with ProfileStore("sqlite:///persona.db") as store:
            store.upsert(("full", Record(f"text {number}")) for number in range(records))
        command = [sys.executable, "-m", "persona", "show", "full"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "persona: error: standard output: No space left on device\n")


def test_closed_streams_are_no_error(stocked: Run) -> None:
    assert stocked("show", "mara").code == 0
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        shown = f"{shlex.quote(sys.executable)} -m persona show mara {closed}"
        done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True)
        assert (done.returncode, done.stderr, bool(done.stdout)) == (0, "", closed == "2>&-")


@pytest.mark.slow
def test_control_c_leaves_a_usable_store(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "many.jsonl").open("w") as file:
        for number in range(400_000):
            file.write(json.dumps({"user_id": f"u{number // 20}", "text": f"record number {number}"}) + "\n")
    # A test run in the background has SIGINT ignored, and so would have its children.
    code = "import signal, persona.cli.app as app; signal.signal(signal.SIGINT, signal.default_int_handler); app.main()"
    command = [sys.executable, "-c", code, "ingest", "many.jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "persona.db").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in err
    assert run("ingest", SAMPLE, "--json").json["store"] == {"users": 4, "records": 29}


_ASKED = """
import atexit, sys, threading, time
import torch
import persona.cli.app as app
from persona.__main__ import main


def command():
    atexit.register(print, "all else is done")
    threading.Thread(target=lambda: (time.sleep(0.2), print("threads end"))).start()
    run()


run, app.main = app.main, command
sys.argv = ["persona", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(("ingest", str(SAMPLE)), 0), (("show", "nobody"), 1), (("show", "-x"), 2)]
)
def test_a_process_that_ends_without_taking_torch_apart_has_done_all_else(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    out = tmp_path / "out"
    with out.open("w") as file:  # no terminal: written at the end
        done = subprocess.run(
            [sys.executable, "-c", _ASKED, *arguments], stdout=file, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == code, done.stderr
    said = out.read_text().splitlines()
    assert "threads end" in said
    assert said[-1] == "all else is done"
    assert bool(done.stderr) == bool(code)


_INTERRUPTED = """
import sys
from importlib.abc import MetaPathFinder


class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt


sys.meta_path.insert(0, Interrupt())
sys.argv = ["persona", "ask", "ana", "Hi", "--llm", "tiny"]
from persona.__main__ import main

main()
"""


@pytest.mark.parametrize("module", ["persona.cli.app", "typer", "persona.assembly"])
def test_an_interrupt_during_imports_is_one_line(module: str) -> None:
    code = _INTERRUPTED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "persona: interrupted\n")
