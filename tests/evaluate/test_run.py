"""A run: asked, killed, gone on with, scored, written, compared; and what it refuses."""

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lalm.data.sample import ask, write_manifest
from lalm.evaluate.answer_settings import Decoding
from lalm.evaluate.answering import Endpoint
from lalm.evaluate.collecting import Share, Wanted, collect
from lalm.evaluate.compare import CompareError, compare
from lalm.evaluate.controls import CONTROLS, Impossible, asked
from lalm.evaluate.items import open_task, put, question_of
from lalm.evaluate.metrics import METRICS, Metric
from lalm.evaluate.metrics.intervals import mean_of
from lalm.evaluate.recorded import Recorded
from lalm.evaluate.run import Job, RunError, read_card, run
from lalm.evaluate.said import Key, Said, rows_of
from lalm.evaluate.task import TaskError, known_tasks, read_tasks
from lalm.inference.options import Options
from lalm.synthesis.completions import CompletionError, EndpointWriter
from lalm.systems.acdc import prompts
from lalm.systems.apt.prompts import prompts as apt_prompts

SAMPLES = Path(__file__).parents[2] / "samples"
NAMES = ("applause", "bell", "bird", "chainsaw", "horse", "train", "water")


def clip(name: str) -> str:
    return str(SAMPLES / f"{name}{'.flac' if name == 'bell' else '.ogg'}")


def sample(name: str, question: str, task: str, *references: str, choices: tuple[str, ...] = ()):
    made = ask([clip(name)], question)
    return type(made)(
        made.messages,
        id=f"{task}-{name}",
        task=task,
        references=references,
        choices=choices,
        origin={"recording": name, "caption": f"a {name}"},
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two tasks over the seven recordings that come with the package."""
    path = tmp_path / "questions.jsonl"
    rows = [sample(n, f"Is there a {n}?", "presence", "yes" if i % 2 else "no") for i, n in enumerate(NAMES)]
    rows += [sample(n, "What is it?", "own", n, choices=NAMES) for n in NAMES]
    write_manifest(path, rows)
    return path


class Parrot:
    """Says yes, or the recording's name; counts what it was asked and may break down."""

    name = "parrot"

    def __init__(self, wrong: str = "", breaks_after: int = 99) -> None:
        self.wrong, self.left, self.asked = wrong, breaks_after, 0

    def answer(self, keys, samples, decoding):
        if self.left <= 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += len(samples)
        replies = ["Yes." if k.task == "presence" else f"It is a {k.id.split('-')[1]}." for k in keys]
        return [
            Said("???" if self.wrong and self.wrong in k.id else r, (1.0,), (0.5,))
            for k, r in zip(keys, replies, strict=True)
        ]


def job(manifest: Path, out: Path, **more) -> Job:
    return Job(open_task(f"manifest={manifest}", Path()), out, **more)


class Dying(BaseHTTPRequestHandler):
    """An endpoint that answers ``left`` requests and then none; it counts those that it answered."""

    left = answered = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        alive = Dying.left > 0
        Dying.left, Dying.answered = Dying.left - 1, Dying.answered + alive
        answer = b'{"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}'
        self.send_response(200 if alive else 503)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        return


def test_answers_of_an_endpoint_that_dies_are_kept_and_not_paid_for_twice(manifest, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dying)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    answerer = Endpoint(EndpointWriter(url, "m", tries=2, pause_s=0.01, concurrency=2, bare=False))
    Dying.left, Dying.answered, told = 5, 0, []
    with pytest.raises(CompletionError, match="HTTP 503"):
        run(job(manifest, tmp_path / "out"), answerer, progress=lambda done, total: told.append(done))
    assert told == [0, 1, 2, 3, 4, 5]
    assert len(rows_of(tmp_path / "out" / "predictions.jsonl")) == 5
    Dying.left = 99
    run(job(manifest, tmp_path / "out"), answerer)
    assert Dying.answered == 2 * len(NAMES)
    server.shutdown()
    server.server_close()


def test_a_run_is_scored_and_written(manifest, tmp_path):
    result = run(job(manifest, tmp_path / "out", controls=CONTROLS), Parrot(wrong="own-bell"))
    tasks = read_card(tmp_path / "out")["tasks"]
    assert tasks["presence"]["metrics"]["accuracy"]["mean"] == pytest.approx(3 / 7)
    assert tasks["own"]["metrics"]["accuracy"]["mean"] == pytest.approx(6 / 7)
    assert tasks["own"]["unreadable"]["mean"] == pytest.approx(1 / 7) and tasks["own"][
        "chance"
    ] == pytest.approx(1 / 7)
    assert tasks["own"]["seconds_given"] == 7.0 and tasks["own"]["seconds_heard"] == 3.5
    silent = tasks["own"]["controls"]["silent"]
    assert silent["minus"]["accuracy"]["mean"] == 0 and "impossible" in tasks["own"]["controls"]["reordered"]
    row = next(r for _, r in rows_of(tmp_path / "out" / "predictions.jsonl") if r["id"] == "own-bell")
    assert row["text"] == "???" and row["read"] is None and row["heard_s"] == [0.5]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<audio") == page.count("data:audio/mpeg;base64,") == 14  # the seven of each task
    assert "own-bell" in page and "unreadable" in page and 'src="http' not in page and "<built" not in page
    assert result.card["finished"] and len(tasks["own"]["data"]) == 32


def test_the_spread_over_orders_and_wordings_is_shown(tmp_path):
    task = tmp_path / "letters.yaml"
    task.write_text(
        'letters: {about: x, prompts: ["{question} {options}", "Choose: {options}"], parser: choice, '
        "metrics: [accuracy]}"
    )
    rows = [sample(n, "What is it?", "", n, choices=(n, "a goat", "a ship")) for n in NAMES]
    write_manifest(tmp_path / "rows.jsonl", rows)

    class FirstLetter(Parrot):
        def answer(self, keys, samples, decoding):
            return [Said("A") for _ in keys]

    opened = open_task(f"{task}={tmp_path / 'rows.jsonl'}", tmp_path)
    entry = run(Job(opened, tmp_path / "out", CONTROLS), FirstLetter()).card["tasks"]["letters"]
    assert entry["metrics"]["accuracy"]["mean"] == 1.0
    assert entry["controls"]["reordered"]["metrics"]["accuracy"]["mean"] == 0.0
    assert entry["controls"]["paraphrased"]["metrics"]["accuracy"]["mean"] == 1.0
    assert entry["spread"] == {"accuracy": 1.0}
    assert "Spread of accuracy" in (tmp_path / "out" / "report.html").read_text()
    assert run(Job(opened, tmp_path / "plain"), FirstLetter()).card["tasks"]["letters"]["spread"] == {}


def test_a_killed_run_goes_on_where_it_stopped(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("lalm.evaluate.collecting.CHUNK", 4)
    with pytest.raises(KeyboardInterrupt):
        run(job(manifest, tmp_path), Parrot(breaks_after=2))
    log = tmp_path / "predictions.jsonl"
    assert len(log.read_text().splitlines()) == 8 and not read_card(tmp_path)["finished"]
    log.write_text(log.read_text() + '{"task": "own", "id": "half a li')
    parrot = Parrot()
    resumed = run(job(manifest, tmp_path), parrot).card
    assert parrot.asked == 6 and resumed["finished"]
    assert resumed["tasks"] == run(job(manifest, tmp_path / "whole"), Parrot()).card["tasks"]


def test_a_run_whose_page_fails_is_not_finished(manifest, tmp_path, monkeypatch):
    def full(*parts):
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("lalm.evaluate.run.write_page", full)
        with pytest.raises(OSError, match="no space left"):
            run(job(manifest, tmp_path), Parrot())
    assert not read_card(tmp_path)["finished"]
    with pytest.raises(CompareError, match="is not finished"):
        compare(tmp_path, tmp_path)
    again = Parrot()
    assert run(job(manifest, tmp_path), again).card["finished"] and again.asked == 0


def test_a_metric_that_breaks_does_not_take_the_others_with_it(manifest, tmp_path, monkeypatch):
    def broken(answers, resources):
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setitem(METRICS, "accuracy", Metric(broken))
    monkeypatch.setitem(METRICS, "names", Metric(lambda answers, _: mean_of([float("nan")] * len(answers))))
    task = tmp_path / "mine.yaml"
    task.write_text("mine: {about: x, metrics: [accuracy, names, rouge_l]}\n")
    tasks = open_task(f"{task}={manifest}", tmp_path)
    entry = run(Job(tasks, tmp_path / "out", CONTROLS), Parrot()).card["tasks"]["mine"]
    assert entry["failed"]["accuracy"] == "ZeroDivisionError: nothing to divide by"
    assert entry["failed"]["names"] == "it is undefined on these answers"
    assert set(entry["metrics"]) == {"rouge_l"} == set(entry["controls"]["silent"]["minus"])
    assert "accuracy failed: ZeroDivisionError" in (tmp_path / "out" / "report.html").read_text()


def test_another_run_into_the_same_folder_is_refused(manifest, tmp_path):
    run(job(manifest, tmp_path), Parrot())
    other = Parrot()
    other.name = "jackdaw"
    with pytest.raises(
        RunError, match="holds a run of parrot with another model: name another folder with --out"
    ):
        run(job(manifest, tmp_path), other)
    with pytest.raises(RunError, match="other tasks"):
        run(Job(job(manifest, tmp_path).tasks[:1], tmp_path), Parrot())
    lines = manifest.read_text().replace('"no"', '"yes"')
    manifest.write_text(lines)
    with pytest.raises(RunError, match="presence with another data"):
        run(job(manifest, tmp_path), Parrot())


def test_recorded_answers_score_as_the_run_that_gave_them(manifest, tmp_path):
    first = run(job(manifest, tmp_path / "a"), Parrot(wrong="own-bell")).card
    again = run(job(manifest, tmp_path / "b"), Recorded(tmp_path / "a" / "predictions.jsonl")).card
    assert first["tasks"] == again["tasks"] and again["model"]["kind"] == "predictions"
    (tmp_path / "few.jsonl").write_text('{"id": "own-bell", "text": "bell"}\n')
    with pytest.raises(ValueError, match=r"no answer to 'presence-applause' of presence, nor to 6 others"):
        run(job(manifest, tmp_path / "c"), Recorded(tmp_path / "few.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl:1: an answer needs an id and a text"):
        Recorded(tmp_path / "bad.jsonl")


def test_runs_are_compared_on_the_same_items_only(manifest, tmp_path):
    run(job(manifest, tmp_path / "a"), Parrot())
    run(job(manifest, tmp_path / "b"), Parrot(wrong="own-b"))
    rows = {(row.task, row.metric): row for row in compare(tmp_path / "a", tmp_path / "b")}
    own = rows["own", "accuracy"]
    assert (own.a, own.b) == (1.0, pytest.approx(5 / 7)) and own.difference.mean == pytest.approx(2 / 7)
    assert rows["presence", "accuracy"].difference.mean == 0
    manifest.write_text(manifest.read_text().replace("Is there", "Do you hear"))
    run(job(manifest, tmp_path / "c"), Parrot())
    with pytest.raises(CompareError, match="presence cannot be compared: the runs differ in prompts"):
        compare(tmp_path / "a", tmp_path / "c")
    with pytest.raises(RunError, match=r"it has no card\.json"):
        compare(tmp_path / "a", tmp_path)


def test_prompts_take_question_choices_and_options(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "mine:\n  about: x\n  parser: choice\n  metrics: [accuracy]\n"
        '  prompts: ["{question} {choices}?\\n{options}", "Or: {question}\\n{options}"]\n'
    )
    (task,) = read_tasks(path).values()
    item = sample("bell", "What is it?", "mine", "bell", choices=("bell", "a horse", "rain"))
    assert question_of(put(task, item)) == "What is it? bell, a horse or rain?\nA. bell\nB. a horse\nC. rain"
    assert question_of(put(task, item, 1)) == "Or: What is it?\nA. bell\nB. a horse\nC. rain"
    (again,) = asked(task, [item], "reordered")
    assert "A. a horse\nB. rain\nC. bell" in question_of(again) and again.choices[2] == "bell"
    (other,) = asked(task, [item], "paraphrased")
    assert question_of(other).startswith("Or:")
    (told,) = asked(task, [item], "cascade")
    assert not told.audios and told.messages[0]["content"][0] == {"type": "caption", "text": "a bell"}
    with pytest.raises(Impossible, match="one recording only"):
        asked(task, [item], "shuffled")
    several = [item, sample("horse", "What is it?", "mine", "a horse", choices=("bell", "a horse"))]
    shuffled = asked(task, several, "shuffled")
    assert [s.audios[0]["audio"] for s in shuffled] == [clip("horse"), clip("bell")]
    (silent, _) = asked(task, several, "silent")
    assert not silent.audios[0]["audio"].any() and len(silent.audios[0]["audio"]) == pytest.approx(
        2.8 * 16000, rel=0.02
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("mine: {about: x}", r"mine\.metrics: Field required"),
        ("mine: {about: x, metrics: [nothing]}", "there is no metric 'nothing'"),
        ("mine: {about: x, metrics: [wer], parser: odd}", "there is no parser 'odd'"),
        ("mine: {about: x, metrics: [wer], odd: 1}", r"mine\.odd: Extra inputs"),
        ("mine: {like: nothing}", r"mine\.like: 'nothing' is no task whose keys could be taken"),
        ("mine: {like: esc50, protocol: nobody/tags}", r"mine\.protocol: there is no protocol 'nobody'"),
        ("- a", "not a mapping of task names"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_task_file_says_what_is_wrong(tmp_path, text, error):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TaskError, match=error):
        read_tasks(path)


def test_tasks_that_cannot_be_asked_say_why(manifest, tmp_path):
    for spec, error in (
        ("odd", "there is no task 'odd'; `lalm tasks` lists those there are"),
        ("cloto", r"there is no task 'cloto' \(did you mean clotho\?\)"),
        ("manifest", "needs its file: --task manifest=FILE.jsonl"),
        ("manifest=nowhere.jsonl", "there is no manifest 'nowhere.jsonl'"),
        ("presence", "needs its file"),
        ("presence=nowhere.jsonl", "presence: there is no 'nowhere.jsonl'"),
    ):
        with pytest.raises(TaskError, match=error):
            open_task(spec, tmp_path)
    text = manifest.read_text().replace("bell.flac", "gone.flac")
    manifest.write_text(text)
    opened = open_task(f"manifest={manifest}", tmp_path)
    assert [(o.task.name, len(o.samples), o.missing) for o in opened] == [("own", 6, 1), ("presence", 6, 1)]
    assert len(open_task(f"manifest={manifest}", tmp_path, limit=2, seed=1)[0].samples) == 2


def test_answers_come_in_chunks_of_one_limit(tmp_path):
    items = [Wanted(Key("t", "audio", str(i)), ask([], "?"), Decoding(8 if i % 2 else 4)) for i in range(6)]
    limits = []

    class Noting(Parrot):
        def answer(self, keys, samples, decoding):
            limits.append((len(keys), decoding))
            return [Said("x") for _ in keys]

    assert len(collect(items, Noting(), tmp_path)) == 6
    assert limits == [(3, Decoding(4)), (3, Decoding(8))]


def test_a_papers_protocol_is_what_is_asked(tiny):
    """AC/DC and APT as their papers ask: system text, wording right behind the audio, beams and penalty."""
    tasks, clip = known_tasks(), "samples/bell.flac"
    _, processor = tiny("acdc")
    shown, _ = processor.render(put(tasks["acdc_aqa"], ask([clip], "Is it loud?")))
    assert "<|audio|>. Question: Is it loud?,<" in shown and "caption within 10 words.<" in shown
    shown, _ = processor.render(put(tasks["acdc_aac"], ask([clip], "")))
    assert "<|audio|>.<" in shown and "system\nDescribe the audio content in one 10-word sentence.<" in shown
    assert prompts.QUESTION_PROMPT["system"] == tasks["acdc_aqa"].system
    assert tasks["acdc_aac"].system == prompts.CAPTION_SYSTEM and tasks["acdc_aac"].decoding.beams == 4
    trained = {name: apt_prompts()[name][:1] for name in ("tags", "caption")}
    assert tasks["apt_tagging"].prompts == trained["tags"] == ("Summarize the audio with key words.",)
    assert tasks["apt_caption"].prompts == trained["caption"] == ("Describe the audio clip concisely.",)
    assert {tasks[f"apt_{n}"].decoding for n in ("tagging", "caption", "few_shot")} == {Decoding(256, 5, 1.5)}


def test_a_task_without_a_beam_is_what_an_endpoint_can_be_asked():
    keys, clips = [Key("acdc_aqa", "audio", "1")], [ask([], "?")]
    with pytest.raises(ValueError, match="acdc_aqa asks for 4 for beams"):
        Endpoint(None).answer(keys, clips, Decoding(64, 4))


def test_a_task_says_how_its_answers_are_generated_and_the_card_how_they_ended(manifest, tmp_path):
    task = tmp_path / "mine.yaml"
    task.write_text(
        "mine: {about: x, metrics: [names], stop: [END], top_k: 5, min_p: 0.1, min_tokens: 2, "
        "no_repeat_ngram_size: 3, temperature: 0.5}"
    )
    opened = open_task(f"{task}={manifest}", tmp_path)
    decoding = opened[0].task.decoding
    assert decoding == Decoding(128, 1, 1.0, 0.5, 1.0, 5, 0.1, 3, ("END",), 2)
    assert Options(**decoding._asdict()).stop == ("END",)
    assert Decoding(128)._asdict() == {k: getattr(Options(), k) for k in Decoding._fields}

    class Cut(Parrot):
        def answer(self, keys, samples, decoding):
            reasons = ["length", "repetition", *["stop"] * len(keys)]
            return [Said("A horn.", finish_reason=r) for _, r in zip(keys, reasons, strict=False)]

    entry = run(Job(opened, tmp_path / "out"), Cut()).card["tasks"]["mine"]
    assert (entry["cut_off"], entry["repeating"]) == (1, 1)
    assert entry["stop"] == ["END"] and entry["top_k"] == 5 and "beams" not in entry
    assert {r["finish_reason"] for _, r in rows_of(tmp_path / "out" / "predictions.jsonl")} > {"length"}


def test_every_task_that_comes_along_is_whole():
    tasks = known_tasks()
    assert "presence" in tasks and all(task.about and task.metrics for task in tasks.values())


def test_processes_share_the_answers_and_the_first_scores(manifest, tmp_path):
    barrier = threading.Barrier(2)
    parrots = [Parrot(), Parrot()]
    shares = [Share(rank, 2, barrier.wait) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        work = [
            pool.submit(run, job(manifest, tmp_path / "two"), parrot, None, None, None, share)
            for parrot, share in zip(parrots, shares, strict=True)
        ]
        first, second = (part.result(timeout=60) for part in work)
    assert second is None and [parrot.asked for parrot in parrots] == [7, 7]
    assert first.card["tasks"] == run(job(manifest, tmp_path / "one"), Parrot()).card["tasks"]
    assert [path.name for path in (tmp_path / "two").glob("predictions*")] == ["predictions.jsonl"]
