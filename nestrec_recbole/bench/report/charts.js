// The charts: each is drawn anew from the page's data when the dataset, the models shown or the colours change.
const page = JSON.parse(document.getElementById('page').textContent);
const SYMBOLS = ['circle', 'square', 'triangle-up', 'diamond', 'triangle-down', 'star', 'cross', 'x'];
const SIGNS = ['●', '■', '▲', '◆', '▼', '★', '✚', '✖'];
const DASHES = ['solid', 'dash', 'dot', 'dashdot'], PATTERNS = ['', '/', 'x', '.'];
const STEPS = [-1, 0, 1, 2, 3, 4, 5].flatMap(power => [1, 2, 5].map(digit => Number(`${digit}e${power}`)));
const LOWER_IS_BETTER = /^(averagepopularity|giniindex)/;
const hiddenRows = new Set();
const element = id => document.getElementById(id);
const cssColour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function look(name) {
  const place = page.rows.indexOf(name), turn = Math.floor(place / 8);  // the ninth has the first's colour, and else not
  return {
    colour: `--c${place % 8}`,
    symbol: SYMBOLS[(place + 3 * turn) % 8],
    sign: SIGNS[(place + 3 * turn) % 8],
    dash: DASHES[turn % 4],
    pattern: PATTERNS[turn % 4],
  };
}

// Plotly reads a few tags in what it writes, so that a name with < must not reach it as it is.
const plain = text => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');

function fillSelect(select, labels, chosen = 0) {
  select.replaceChildren(...labels.map((label, place) => new Option(label, place)));
  if (labels.length) select.selectedIndex = Math.min(chosen, labels.length - 1);
}

function draw(id, traces, x, y, more = {}) {
  const place = typeof id === 'string' ? element(id) : id;
  if (!traces.length) {
    if (place.data) Plotly.purge(place);
    const note = document.createElement('p');
    note.className = 'empty';
    note.textContent = 'No run has these values.';
    place.replaceChildren(note);
    return;
  }
  place.querySelector('.empty')?.remove();
  const grid = cssColour('--grid');
  const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: cssColour('--line'), automargin: true, fixedrange: true };
  const layout = {
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false, dragmode: false,
    margin: { l: 8, r: 16, t: 12, b: 8 }, hovermode: 'closest',
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: cssColour('--ink') },
    hoverlabel: { bgcolor: cssColour('--raised'), bordercolor: cssColour('--line'), font: { color: cssColour('--ink') } },
    ...more,
    xaxis: { ...axis, title: { text: plain(x), standoff: 8 }, ...more.xaxis },
    yaxis: { ...axis, title: { text: plain(y), standoff: 8 }, ...more.yaxis },
  };
  Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true });
}

const shownRows = dataset => dataset.rows.filter(row => !hiddenRows.has(row.name));

function curveTraces(dataset, x, y) {
  return shownRows(dataset).flatMap(row => row.curves.map(curve => {
    const { colour, dash } = look(row.name);
    return {
      type: 'scatter', mode: curve[x].length > 1 ? 'lines' : 'markers', x: curve[x], y: curve[y],
      name: `${plain(row.name)}, seed ${curve.seed}`, line: { color: cssColour(colour), width: 1.75, dash },
      marker: { color: cssColour(colour) }, hovertemplate: 'epoch %{x}: %{y:.4f}',
    };
  })).filter(trace => trace.y.some(value => value !== null && value !== undefined));
}

function pointTraces(dataset, xOf, yOf) {
  return shownRows(dataset).map(row => [row, xOf(row), yOf(row)])
    .filter(([, x, y]) => typeof x === 'number' && typeof y === 'number')
    .map(([row, x, y]) => ({
      type: 'scatter', mode: 'markers', x: [x], y: [y], name: plain(row.name),
      marker: { color: cssColour(look(row.name).colour), symbol: look(row.name).symbol, size: 13 },
      hovertemplate: '%{x:.4g}, %{y:.4f}',
    }));
}

function drawSlices(dataset) {
  const grid = element('chart-slices');
  for (const chart of grid.querySelectorAll('.chart')) if (chart.data) Plotly.purge(chart);
  grid.replaceChildren();
  if (!dataset.slices.length) {
    const note = document.createElement('p');
    note.className = 'empty';
    note.textContent = 'There are no ranks of single users to divide.';
    grid.append(note);
  }
  // All places first: a chart takes the width that its place has when it is drawn.
  const charts = dataset.slices.map(slicing => {
    const figure = document.createElement('figure'), caption = document.createElement('figcaption');
    const chart = document.createElement('div');
    caption.textContent = `By ${slicing.name}`;
    chart.className = 'chart';
    figure.append(caption, chart);
    grid.append(figure);
    return chart;
  });
  for (const [place, slicing] of dataset.slices.entries()) {
    const labels = slicing.labels.map((label, i) => `${broken(label, slicing.labels.length > 3 ? 8 : 12)}<br>n = ${slicing.counts[i].toLocaleString('en')}`);
    const traces = slicing.rows.filter(row => !hiddenRows.has(row.name)).map(row => ({
      type: 'bar', x: labels, y: row.values, name: plain(row.name),
      marker: { color: cssColour(look(row.name).colour), pattern: { shape: look(row.name).pattern } },
      hovertemplate: '%{y:.4f}',
    }));
    draw(charts[place], traces, '', '', { bargap: .3, bargroupgap: .08, xaxis: { type: 'category', tickangle: 0 } });
  }
}

// A label of several words stands on several lines, so that it need not be turned.
function broken(label, width) {
  const lines = [''];
  for (const word of label.split(' ')) {
    if (lines.at(-1) && (lines.at(-1) + word).length > width) lines.push('');
    lines[lines.length - 1] += (lines.at(-1) ? ' ' : '') + word;
  }
  return lines.map(plain).join('<br>');
}

// Axes of epochs have whole numbers.
function epochs(dataset) {
  const last = Math.max(1, ...dataset.rows.flatMap(row => row.curves.flatMap(curve => curve.epochs)));
  return { xaxis: last <= 12 ? { dtick: 1, tick0: 1 } : { rangemode: 'tozero' } };
}

function drawCharts() {
  const dataset = page.datasets[element('chart-dataset').selectedIndex];
  const names = Object.keys(page.metrics);
  const other = names[element('trade-metric').selectedIndex], quality = names[element('time-metric').selectedIndex];
  draw('chart-loss', curveTraces(dataset, 'epochs', 'loss'), 'epoch', 'training loss', epochs(dataset));
  draw('chart-score', curveTraces(dataset, 'scored', 'score'), 'epoch', 'validation score', epochs(dataset));
  draw('chart-trade', pointTraces(dataset, row => row.means[other], row => row.means[page.tested]),
    page.metrics[other], page.metrics[page.tested]);
  draw('chart-time', pointTraces(dataset, row => row.train === null ? null : Math.max(row.train, .01), row => row.means[quality]),
    'seconds', page.metrics[quality], { xaxis: { type: 'log', tickvals: STEPS, ticktext: STEPS.map(String) } });
  element('trade-caption').textContent =
    `Above and to the ${LOWER_IS_BETTER.test(other) ? 'left' : 'right'} is better in both`;
  drawSlices(dataset);
}

function drawLegend() {
  const named = new Set(page.datasets.flatMap(dataset => dataset.rows.map(row => row.name)));
  element('legend').replaceChildren(...page.rows.filter(name => named.has(name)).map(name => {
    const button = document.createElement('button'), sign = document.createElement('span');
    const { colour, sign: shape } = look(name);
    sign.textContent = shape;
    sign.setAttribute('aria-hidden', 'true');
    sign.style.color = `var(${colour})`;
    button.type = 'button';
    button.append(sign, name);
    button.setAttribute('aria-pressed', 'true');
    button.addEventListener('click', () => {
      if (!hiddenRows.delete(name)) hiddenRows.add(name);
      button.setAttribute('aria-pressed', String(!hiddenRows.has(name)));
      drawCharts();
    });
    return button;
  }));
}

function startCharts() {
  const names = Object.keys(page.metrics);
  fillSelect(element('chart-dataset'), page.datasets.map(dataset => dataset.label));
  const beyond = names.findIndex(name => /^(diversity|averagepopularity|coverage|itemcoverage|novelty)/.test(name));
  fillSelect(element('trade-metric'), Object.values(page.metrics), Math.max(beyond, 0));
  fillSelect(element('time-metric'), Object.values(page.metrics), names.indexOf(page.tested));
  for (const id of ['chart-dataset', 'trade-metric', 'time-metric']) element(id).addEventListener('change', drawCharts);
  drawLegend();
  drawCharts();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawCharts);
}
