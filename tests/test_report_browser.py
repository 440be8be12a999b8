"""The report in a real browser: it runs without complaint, sorts, filters, fits, and is readable in both schemes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import Browser, find_chromium
from results_folder import SCRIPT, write_results

from nestrec_recbole.bench.report import write_report

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path (apt-get install chromium)")
WIDTHS = (1280, 400)

# Elements that reach beyond the window, but for those in boxes that scroll by themselves.
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(one => {
  if (one.closest('.scroll table, .history ol, pre, .skip, svg, script, [hidden]')) return false;
  const box = one.getBoundingClientRect();
  return box.width && box.height && (box.right > innerWidth + 1 || box.left < -1);
}).map(one => `${one.tagName} ${one.className} ${one.textContent.slice(0, 40)}`)
"""
# WCAG's contrast of every colour of text against the two grounds it stands on; 4.5 is asked of small text.
LEAST_CONTRAST = """
(() => {
  const probe = document.body.appendChild(document.createElement('i'));
  const light = name => {
    probe.style.color = `var(${name})`;
    const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
      .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const inks = ['--ink', '--quiet', '--accent', '--good', '--bad'].map(light);
  const found = Math.min(...['--paper', '--raised'].flatMap(ground => inks.map(ink => ratio(ink, light(ground)))));
  probe.remove();
  return found;
})()
"""
NAMES = "[...document.querySelectorAll('#table tbody tr:not([hidden])')].map(row => row.cells[0].innerText)"
SIZES = "[...document.querySelectorAll('p')].map(p => parseFloat(getComputedStyle(p).fontSize))"


def column(number: int) -> str:
    return f"[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[{number}].dataset.sort)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_results(tmp_path_factory.mktemp("results") / "tiny"))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(str(find_chromium()), tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Browser, report: Path) -> Browser:
    """The report, opened anew."""
    chromium.complaints.clear()
    chromium.open(report)
    assert chromium.run("document.documentElement.dataset.ready") == "yes", chromium.complaints
    return chromium


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_nothing_complains(width: int, dark: bool, page: Browser, report: Path) -> None:
    page.open(report, width, dark)
    page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(OVERFLOWING) == []
    drawn = page.run("[...document.querySelectorAll('.chart')].map(one => one.querySelectorAll('.trace').length)")
    assert len(drawn) == 9 and min(drawn) >= 3, drawn
    wider = "filter(one => one.querySelector('svg').clientWidth > one.clientWidth).map(one => one.parentNode.innerText)"
    assert page.run(f"[...document.querySelectorAll('.chart')].{wider}") == []
    assert page.run(f"Math.min(...{SIZES})") > 12
    assert page.run(LEAST_CONTRAST) >= 4.5
    assert page.complaints == []


def test_a_wide_table_scrolls_in_its_box_and_keeps_the_models_in_sight(page: Browser, tmp_path: Path) -> None:
    folder = write_results(tmp_path / "wide", datasets=("small",))
    many = [*("ndcg@10", "ndcg@10_f", "recall@10", "recall@10_f", "coverage@10", "novelty@10", "diversity@10")]
    for metrics, fits in ((many, True), (many * 2, False)):
        suite = yaml.safe_load((folder / "suite.yaml").read_text())
        (folder / "suite.yaml").write_text(yaml.safe_dump({**suite, "metrics": metrics}, sort_keys=False))
        page.open(write_report(folder))
        box = "document.querySelector('#table').parentNode"
        assert page.run(f"{box}.scrollWidth <= {box}.clientWidth") == fits
        assert page.run("document.documentElement.scrollWidth") <= 1280
        left = "document.querySelector('#table tbody th').getBoundingClientRect().left"
        before = page.run(left)
        page.run(f"{box}.scrollLeft = 200")
        assert page.run(f"{box}.scrollLeft > 0") != fits and page.run(left) == before


def test_colours_follow_the_scheme_charts_too(page: Browser) -> None:
    look = """[getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector('#chart-loss .xtick text')).fill,
      document.querySelector('#chart-loss .js-line').style.stroke]"""
    light = page.run(look)
    page.scheme(dark=True)
    dark = page.run(f"new Promise(done => setTimeout(() => done({look}), 500))")
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert page.complaints == []


def test_heads_sort_both_ways_and_leave_what_is_missing_last(page: Browser) -> None:
    head = "document.querySelectorAll('#table thead th')[3]"  # NDCG@10 U, which the published row has not
    for order, reverse in (("descending", True), ("ascending", False)):
        page.run(f"{head}.querySelector('button').click()")
        values = page.run(column(3))
        assert values[-1] == "" and len(values) == 7
        numbers = [float(value) for value in values[:-1]]
        assert numbers == sorted(numbers, reverse=reverse)
        assert page.run(f"{head}.getAttribute('aria-sort')") == order
    page.run("document.querySelector('#table thead th button').click()")
    names = [name.split("\n")[0] for name in page.run(NAMES)]
    assert names[0].startswith("BSARec") and names[-1].startswith("SASRec")


def test_heads_sort_by_keyboard(page: Browser) -> None:
    page.run("document.querySelectorAll('#table thead th button')[2].focus()")
    page.press("Enter", 13, "\r")
    page.press("Enter", 13, "\r")
    values = [float(value) for value in page.run(column(2))]
    assert values == sorted(values)
    page.press("Tab", 9)
    assert page.run("document.activeElement === document.querySelectorAll('#table thead th button')[3]")


def type_into(page: Browser, words: str) -> list[str]:
    page.run(
        f"(() => {{ const box = document.getElementById('filter'); box.value = {words!r};"
        "box.dispatchEvent(new Event('input')); })()"
    )
    return page.run(NAMES)


def test_words_and_dataset_filter(page: Browser) -> None:
    assert len(type_into(page, "better")) == 2
    assert page.run("document.getElementById('n-rows').textContent") == "2 of 7 rows"
    assert len(type_into(page, "nestrec small")) == 2
    choose(page, "only-dataset", 2)
    assert type_into(page, "small") == [] and len(type_into(page, "")) == 3


def choose(page: Browser, select: str, place: int) -> None:
    page.run(
        f"(() => {{ const one = document.getElementById('{select}'); one.selectedIndex = {place};"
        "one.dispatchEvent(new Event('change')); })()"
    )


def test_titles_are_text(page: Browser) -> None:
    shown: set[str] = set()
    for dataset in range(2):
        choose(page, "example-dataset", dataset)
        for user in range(8):
            choose(page, "example-user", user)
            shown |= set(page.run("[...document.querySelectorAll('#example .item span')].map(one => one.textContent)"))
    assert SCRIPT in shown
    assert page.run("document.title").startswith("tiny")
    assert page.run("document.querySelector('#example script')") is None
    assert page.complaints == []


def test_examples_show_two_models_side_by_side_with_the_target_marked(page: Browser) -> None:
    lists = "[...document.querySelectorAll('#example .lists > div')]"
    assert page.run(f"{lists}.map(one => one.querySelectorAll('li').length)") == [10, 10]
    places = page.run(f"{lists}.map(one => one.getBoundingClientRect().top)")
    assert places[0] == places[1]
    assert page.run("document.querySelectorAll('#example .taken').length") >= 1
    assert page.run("[...document.querySelectorAll('#example img')].every(one => one.complete && one.naturalWidth > 0)")
    choose(page, "example-right", 2)
    assert page.run(f"{lists}[1].querySelector('h3').textContent") == "SASRec"


def test_settings_that_differ(page: Browser) -> None:
    rows = "[...document.querySelectorAll('#difference tbody tr')]"
    cells = page.run(f"{rows}.map(row => [...row.cells].map(cell => cell.innerText))")
    assert ["learning_rate", "0.002", "0.001"] in cells
    assert ["item_fields.title.modality", "text", "\N{EN DASH}"] in cells
    assert not [row for row in cells if row[0] in ("hidden_size", "epochs")]
    choose(page, "settings-right", page.run("document.getElementById('settings-left').selectedIndex"))
    assert page.run("document.getElementById('difference').textContent").startswith("0 of ")


def test_charts_follow_the_legend_and_the_dataset(page: Browser) -> None:
    lines = "document.querySelectorAll('#chart-score .js-line').length"
    assert page.run(lines) == 5  # one of six runs failed
    page.run("document.querySelector('#legend button').click()")
    assert page.run(lines) == 3
    assert page.run("document.querySelector('#legend button').getAttribute('aria-pressed')") == "false"
    choose(page, "chart-dataset", 1)
    assert page.run(lines) == 4
    choose(page, "trade-metric", 5)
    assert page.run("document.querySelector('#chart-trade .xtitle').textContent") == page.run(
        "document.getElementById('trade-metric').selectedOptions[0].text"
    )
    assert page.complaints == []


def test_a_row_leads_to_its_command(page: Browser) -> None:
    page.run("document.querySelector('#table tbody a').click()")
    shown: Any = page.run(
        "new Promise(done => setTimeout(() => done([...document.querySelectorAll('details.run[open] code')]"
        ".map(one => one.textContent)), 300))"
    )
    assert any(command.startswith("nestrec run --model NestRec --dataset small") for command in shown)


def test_a_folder_without_a_finished_run_complains_of_nothing(page: Browser, tmp_path: Path) -> None:
    folder = write_results(tmp_path / "one", (1,), {"SASRec": 0.0}, ("small", "SASRec", 1), ("small",))
    page.open(write_report(folder))
    assert page.run("document.documentElement.dataset.ready") == "yes"
    assert page.run("document.querySelector('#chart-score').textContent") == "No run has these values."
    assert page.run("document.getElementById('chart-dataset').offsetParent") is None  # there is nothing to choose
    assert page.complaints == []
