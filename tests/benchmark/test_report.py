import base64
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sonido_bench.benchmark.charts import Sample, arm_styles, bar, chart, nice_ticks
from sonido_bench.benchmark.figures import _lines_of_panels, leaderboard_figure
from sonido_bench.benchmark.leaderboard import build_leaderboard
from sonido_bench.benchmark.report import render_report, write_report
from sonido_bench.benchmark.results import save_result
from sonido_bench.errors import ResultError
from tests.benchmark.fabricate import make_benchmark, make_result

CHROMIUM = shutil.which("chromium")
VOID = {"meta", "line", "circle", "path", "rect", "br"}
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    for result in make_benchmark(("key", "instruments", "transcription"), seeds=range(5)):
        save_result(folder, result)
    (folder / "examples").mkdir()
    (folder / "examples" / "clip-0000.ogg").write_bytes(b"OggS-not-really")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report" / "index.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags that are opened and closed, what links out, and ids."""

    def __init__(self):
        super().__init__()
        self.stack, self.links, self.ids, self.unlabelled = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [value for name, value in attrs if name in {"src", "href"}]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "svg" and not (attributes.get("aria-label") or attributes.get("aria-hidden") == "true"):
            self.unlabelled.append(attributes)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def outline(page):
    parser = Outline()
    parser.feed(page)
    assert parser.stack == []
    return parser


def test_it_needs_nothing_from_elsewhere(page):
    parsed = outline(page)
    anchors = [link for link in parsed.links if link.startswith("#")]
    assert {anchor[1:] for anchor in anchors} == set(parsed.ids)
    assert all(link.startswith("data:audio/ogg;base64,") for link in parsed.links if link not in anchors)
    assert "http://" not in page
    assert "https://" not in page
    assert parsed.unlabelled == []


def test_it_shows_every_row_and_what_was_found(page, folder):
    assert page.count('<td class="boost"') == 3 * 2 * 2 * 2
    assert "Of 12 comparisons with the same network without features, 6 show a boost" in page
    assert "Of 6 boosts by a trained model that has an untrained control, 6 also beat it (p &lt; 0.05" in page
    assert "Less training data" in page
    assert "90 runs, 5 seeds, 40 test items." in page
    for text in ("2.11.0", "a1b2c3d", "d" * 64, "35,000,000", "tiny@random", "5 %"):
        assert text in page


def test_examples_have_sound_labels_and_notes(page):
    sound = base64.b64encode(b"OggS-not-really").decode()
    assert page.count(sound) == 3  # one of each task
    assert page.count("Piano roll of 20 notes; the reference has 20.") == 3
    assert 'class="chip missed"' in page
    assert 'class="chip right"' in page


def test_the_same_results_give_the_same_page(folder, page):
    assert write_report(folder).read_text(encoding="utf-8") == page


def test_hostile_names_stay_text(tmp_path):
    results = make_benchmark(("key", "transcription"), effects={"tiny": 0.3})
    hostile = []
    for run in results:
        experiment = replace(run.experiment, arm=run.experiment.arm.replace("tiny", HOSTILE), task=f"{HOSTILE}key")
        items = replace(run.items, examples={HOSTILE: {"reference": [HOSTILE], "estimate": [HOSTILE]}})
        hostile.append(replace(run, experiment=experiment, items=items, environment={HOSTILE: HOSTILE}))
    page = render_report([run for run in hostile if run.primary.name == "accuracy"], HOSTILE, tmp_path)
    outline(page)
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") > 20
    assert page.count("<script>") == 1


def test_a_clip_name_cannot_reach_outside_of_the_folder(tmp_path):
    (tmp_path / "secret.ogg").write_bytes(b"secret")
    example = {"../secret": {"reference": ["a"], "estimate": ["a"]}}
    results = [replace(run, items=replace(run.items, examples=example)) for run in make_benchmark(("key",))]
    page = render_report(results, "quick", tmp_path / "examples")
    assert "../secret" in page
    assert base64.b64encode(b"secret").decode() not in page


def test_recordings_of_each_arm_are_played(tmp_path):
    folder = tmp_path / "examples"
    (folder / "run").mkdir(parents=True)
    (tmp_path / "secret.ogg").write_bytes(b"secret")
    for name in ("input", "wanted", "found"):
        (folder / "run" / f"{name}.ogg").write_bytes(name.encode())
    example = {
        "input": "run/input.ogg",
        "reference": {"vocals": "run/wanted.ogg"},
        "estimate": {"vocals": "run/found.ogg", "drums": "../secret.ogg", "bass": "run/missing.ogg"},
    }
    run = replace(make_result(), items=replace(make_result().items, examples={"track": example}))
    page = render_report([run], "sounds", folder)
    outline(page)
    for name in ("input", "wanted", "found"):
        assert page.count(base64.b64encode(name.encode()).decode()) == 1
    assert base64.b64encode(b"secret").decode() not in page
    assert page.count("no recording") == 2


@pytest.fixture(scope="module")
def two_grids():
    """Two tasks with two fractions and five seeds, one with one fraction and three seeds."""
    return [*make_benchmark(seeds=range(5)), *make_benchmark(("transcription",), fractions=(0.1,), seeds=range(3))]


def test_tasks_with_different_grids(two_grids, tmp_path):
    page = render_report(two_grids, "grids", tmp_path)
    outline(page)
    assert "69 runs, 3 to 5 seeds, 40 test items." in page
    assert "Of a single training fraction, and so without a curve: transcription." in page
    titles = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    assert [title for title in titles if title in ("key", "instruments", "transcription")] == ["instruments", "key"]
    learning = [title for title in titles if title.endswith("of the training clips")]
    assert learning == [
        "instruments, 10 % of the training clips", "instruments, 100 % of the training clips",
        "key, 10 % of the training clips", "key, 100 % of the training clips",
        "transcription, 10 % of the training clips",
    ]  # fmt: skip
    assert page.count('<br><span class="soft">5 seeds</span></td>') == 2 * 2 * 2 * 2  # arms, fractions, tasks, metrics
    assert page.count('<br><span class="soft">3 seeds</span></td>') == 2 * 2
    examples = page.split('<section id="examples">')[1].split("</section>")[0]
    assert re.findall(r"<h3>(.*?)</h3>", examples) == ["instruments", "key", "transcription"]


def test_the_same_grid_everywhere_is_said_once(page):
    assert "seeds</span>" not in page
    assert "without a curve" not in page


def test_little_to_show(tmp_path):
    bare = replace(make_result(), history=[], items=replace(make_result().items, examples={}))
    page = render_report([bare], "bare", tmp_path)
    outline(page)
    for text in ("nothing can be said", "single training fraction", "no validation history", "no examples"):
        assert text in page


def test_predictions_of_other_kinds_are_printed(tmp_path):
    examples = {"a": {"reference": {"bpm": 120}, "estimate": "<i>fast</i>"}, "b": {"reference": [], "estimate": []}}
    run = replace(make_result(), items=replace(make_result().items, examples=examples))
    page = render_report([run], "odd", tmp_path)
    assert "{&#34;bpm&#34;: 120}" in page
    assert "&lt;i&gt;fast" in page
    assert '<p class="soft">nothing</p>' in page


def test_no_results(tmp_path):
    with pytest.raises(ResultError, match="no results in"):
        write_report(tmp_path)


def chromium(url, *options, profile):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=3000", *options, url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_chromium_opens_it_without_a_complaint(folder, tmp_path):
    run = chromium((folder / "report" / "index.html").as_uri(), "--dump-dom", profile=tmp_path)
    assert "</html>" in run.stdout
    assert "CONSOLE" not in run.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_chromium_sorts_a_column(page, tmp_path):
    click = "<script>document.querySelectorAll('table')[0].querySelectorAll('th button')[3].click();</script></body>"
    copy = tmp_path / "sorted.html"
    copy.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", click), encoding="utf-8")
    text = chromium(copy.as_uri(), "--dump-dom", profile=tmp_path / "profile").stdout.split("</table>")[0]
    boosts = [float(value) for value in re.findall(r'<td class="boost" data-value="([^"]+)"', text)]
    assert len(boosts) == 12
    assert boosts == sorted(boosts)
    assert 'aria-sort="ascending"' in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_chromium_runs_no_script_but_ours(page, tmp_path):
    copy = tmp_path / "injected.html"
    copy.write_text(page.replace("</body>", "<script>document.title = 'owned'</script></body>"), encoding="utf-8")
    run = chromium(copy.as_uri(), "--dump-dom", profile=tmp_path / "profile")
    assert "<title>owned" not in run.stdout
    assert "Content Security Policy" in run.stderr


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.5, 1]), (0.52, 0.68, [0.5, 0.55, 0.6, 0.65, 0.7]), (3, 3, [1, 2, 3, 4, 5]), (0, 0, [-0.5, 0, 0.5])],
)
def test_ticks_enclose_the_data(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_a_chart_keeps_order_and_scale():
    curve = [Sample(0.01, 0.2, 0.1, 0.3), Sample(0.1, 0.4, 0.3, 0.5), Sample(1.0, 0.6, None, None)]
    drawn = chart("t", "share", "score", {"none": curve}, arm_styles(["none"], "none"), per_cent=True)
    xs, ys = ([getattr(mark, axis) for mark in drawn.lines[0].marks] for axis in "xy")
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])  # logarithmic
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert drawn.lines[0].marks[0].low > ys[0] > drawn.lines[0].marks[0].high  # down is up
    assert [tick.label for tick in drawn.x_ticks] == ["1 %", "10 %", "100 %"]


def test_arms_share_a_colour_with_their_controls():
    styles = arm_styles(["none", "a", "a@random", "b", "b@random", "b@tokenizer"], "none")
    assert styles["a"].colour == styles["a@random"].colour != styles["b"].colour
    assert styles["a@random"].dash == styles["b@random"].dash != styles["b@tokenizer"].dash
    many = arm_styles([f"arm{index}" for index in range(20)], "none")
    assert all(style.colour in {f"c{k}" for k in range(6)} | {"baseline"} for style in many.values())


def test_bars_have_zero_in_the_middle():
    assert bar(0.0, None, None, 0.0).zero == bar(0.2, 0.1, 0.3, 0.3).zero
    assert bar(0.2, 0.1, 0.3, 0.3).value > bar(0.2, 0.1, 0.3, 0.3).zero


def test_panels_of_one_grid_stand_beside_each_other(two_grids):
    rows = build_leaderboard(two_grids, resamples=20).rows
    lines = _lines_of_panels(rows)
    assert [list(panels) for _, panels in lines] == [["instruments\nmap", "key\naccuracy"], ["transcription\nnote_f1"]]
    assert [names for names, _ in lines] == [
        (("tiny", 0.1), ("tiny", 1.0), ("tiny@random", 0.1), ("tiny@random", 1.0)),
        (("tiny", 0.1), ("tiny@random", 0.1)),
    ]
    many = [replace(row, task=f"task {index}") for row in rows[:1] for index in range(7)]
    assert [len(panels) for _, panels in _lines_of_panels(many)] == [5, 2]


def test_the_figure_is_written(tmp_path):
    rows = build_leaderboard(make_benchmark(), resamples=50).rows
    leaderboard_figure(rows, tmp_path / "boosts.svg")
    first = (tmp_path / "boosts.svg").read_text()
    assert "<svg" in first
    leaderboard_figure(rows, tmp_path / "boosts.png")
    assert (tmp_path / "boosts.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ResultError, match="no row to draw"):
        leaderboard_figure([], tmp_path / "none.svg")
